"""Rows from torchxrayvision's dataset classes, with everything odd about them kept in here:
seeding of global generators, silent filters, ``imgpath`` conventions, fake patients."""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import string
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cxrzoo.data.rows import UNCERTAIN, Rows, column_of, in_archive, stamp, text_column
from cxrzoo.data.xrv import Column, Lookup, Part, Readers, XrvSource
from cxrzoo.errors import DataError

_TAIL_BYTES = 1 << 20
"""Enough of the end of a table to hold its last line."""


def read_xrv(
    source: XrvSource, labels: tuple[str, ...], root: Path, stamps: dict[str, str]
) -> Rows:
    """The rows of all parts; ``stamps`` of the files below ``root`` tell which images exist."""
    return Rows.concatenate(
        [_Reader(part, root, stamps).rows(labels, source.covariates) for part in source.parts]
    )


class _Reader:
    """Reads one part."""

    def __init__(self, part: Part, root: Path, stamps: dict[str, str]) -> None:
        self.part, self.stamps = part, stamps
        self.root, self.folder = root, root / part.folder
        self.dataset = self._construct()

    def rows(self, labels: tuple[str, ...], covariates: list[str]) -> Rows:
        part, ids = self.part, self._text(self.part.image)
        files, stamps = self._locate(ids)
        origins = self._look_up(part.origins) if part.origins else ids
        values = self._labels(labels, ids)
        nothing = np.full(len(ids), "")
        columns = [
            self._text(part.covariates[c]) if c in part.covariates else nothing for c in covariates
        ]
        rows = Rows(
            ids=ids,
            files=files,
            origins=origins,
            patients=self._patients(ids, origins),
            labels=values,
            splits=self._splits(len(ids)),
            stamps=stamps,
            covariates=np.array(columns, dtype=str).reshape(len(covariates), len(ids)).T,
        )
        return _merged(rows) if part.repeated else rows

    def _construct(self) -> Any:
        """torchxrayvision's dataset object, with our generators as they were."""
        part, folder = self.part, self.folder
        if not (folder / part.images).exists():
            raise DataError(f"{folder / part.images} does not exist; it should hold the images")
        with untouched_generators():
            import torchxrayvision as xrv

            made = getattr(xrv.datasets, part.dataset)
            given = self._given_files(inspect.signature(made).parameters)
            with _paths_without_train(given) as paths:
                arguments = {**part.arguments, **paths}
                if "imgpath" in inspect.signature(made).parameters:
                    arguments["imgpath"] = str(folder / (part.imgpath or part.images))
                try:
                    return made(**arguments)
                except Exception as error:  # its classes raise whatever pandas and numpy raise
                    place = ", ".join(map(str, given.values())) or folder
                    raise DataError(
                        f"{place}: torchxrayvision's {part.dataset} cannot read it "
                        f"({type(error).__name__}: {error})"
                    ) from error

    def _given_files(self, parameters: Any) -> dict[str, Path]:
        found = {}
        for argument, names in self.part.files.items():
            path = next((self.folder / n for n in names if (self.folder / n).is_file()), None)
            if path is not None:
                _check_last_line(path)
                found[argument] = path
            elif not self.part.bundled or parameters[argument].default is inspect.Parameter.empty:
                raise DataError(f"{self.folder}: there is no {' or '.join(names)}")
        return found

    def _text(self, column: Column) -> np.ndarray:
        """A column as text, or the part of it that the pattern picks."""
        raw = text_column(self.dataset.csv, column.column, self.folder)
        return raw if column.pattern is None else _picked(raw, column, self.folder)

    def _locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each image's file and its stamp, empty where no file is."""
        part = self.part
        prefix = os.path.normpath(os.path.join(part.folder, part.images))
        if part.images.endswith(".zip"):
            there = self._members(prefix)
        elif part.anywhere:
            there = self._by_name(prefix, ids)
        else:
            there = {}
        columns = {
            name: text_column(self.dataset.csv, name, self.folder)
            for template in part.file
            for _, name, _, _ in string.Formatter().parse(template)
            if name and name != "id"
        }
        files, stamps = [], []
        for row, image_id in enumerate(ids):
            values = {name: column[row] for name, column in columns.items()}
            names = [template.format(id=image_id, **values) for template in part.file]
            places = [there.get(name, f"{prefix}/{name}") for name in names]
            place = next((p for p in places if p in self.stamps), places[0])
            files.append(place)
            stamps.append(self.stamps.get(place, ""))
        return np.array(files, dtype=str), np.array(stamps, dtype=str)

    def _by_name(self, prefix: str, ids: np.ndarray) -> dict[str, str]:
        """Paths below ``prefix`` by file name; those of images must be unique."""
        wanted = {template.format(id=i) for template in self.part.file for i in ids}
        found: dict[str, str] = {}
        for path in self.stamps:
            name = os.path.basename(path)
            if path.startswith(f"{prefix}/") and name in wanted:
                other = found.setdefault(name, path)
                if other != path:
                    raise DataError(f"{self.folder}: two files of one name: {other} and {path}")
        return found

    def _members(self, archive: str) -> dict[str, str]:
        """Place of each member of a zip file by name; their stamps are the archive's."""
        path = self.root / archive
        try:
            with zipfile.ZipFile(path) as file:
                names = file.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a readable zip file ({error})") from None
        places = {name: in_archive(archive, name) for name in names}
        self.stamps = {**self.stamps, **dict.fromkeys(places.values(), stamp(path))}
        return places

    def _labels(self, labels: tuple[str, ...], ids: np.ndarray) -> np.ndarray:
        """(N, L) of the values that ``Rows.labels`` may hold."""
        known = [str(p) for p in self.dataset.pathologies]
        for label in labels:
            if label not in known:
                raise DataError(
                    f"{self.folder}: {self.part.dataset} has no label '{label}'; "
                    f"it has {', '.join(known)}"
                )
        if self.part.readers:
            return self._shares(self.part.readers, labels, ids)
        values = np.array(self.dataset.labels, dtype=np.float32).reshape(len(ids), len(known))
        values = values[:, [known.index(label) for label in labels]]
        for label, rule in self.part.negative.items():
            text = np.char.strip(text_column(self.dataset.csv, rule.column, self.folder))
            positive = np.where(np.isin(text, rule.values), 0.0, 1.0)
            values[:, labels.index(label)] = np.where(text == "", np.nan, positive)
        if self.part.uncertain:
            for column, label in enumerate(labels):
                raw = column_of(
                    self.dataset.csv, self.part.uncertain.columns.get(label, label), self.folder
                )
                values[np.asarray(raw == self.part.uncertain.value), column] = UNCERTAIN
        return values

    def _shares(self, readers: Readers, labels: tuple[str, ...], ids: np.ndarray) -> np.ndarray:
        """(N, L) share of an image's readers who marked the label, by the class's own wording."""
        frame, mapping = self.dataset.rawcsv, getattr(self.dataset, "mapping", {})
        keys = [readers.image, readers.reader]
        for name in (*keys, readers.finding):
            column_of(frame, name, self.folder)
        finding = frame[readers.finding].str.lower()
        reads = frame[keys].drop_duplicates().groupby(readers.image).size()
        shares = np.zeros((len(ids), len(labels)), dtype=np.float32)
        for column, label in enumerate(labels):
            words = "|".join(re.escape(w.lower()) for w in (label, *mapping.get(label, ())))
            marks = frame[finding.str.contains(words)][keys].drop_duplicates()
            votes = marks.groupby(readers.image).size() / reads
            shares[:, column] = votes.reindex(ids).fillna(0.0)
        return shares

    def _patients(self, ids: np.ndarray, origins: np.ndarray) -> np.ndarray:
        column = self.part.patient
        if column is None:
            return ids
        if self.part.origins:
            return _picked(origins, column, self.folder)
        return self._text(column)

    def _splits(self, count: int) -> np.ndarray:
        rule = self.part.split
        if isinstance(rule, str):
            return np.full(count, rule, dtype="U64")
        if rule.lookup:
            theirs = self._look_up(rule.lookup)
        else:
            theirs = text_column(self.dataset.csv, str(rule.column), self.folder)
        for name in np.unique(theirs):
            if name not in rule.values:
                raise DataError(
                    f"{self.folder}: unknown split '{name}'; known: {', '.join(rule.values)}"
                )
        return np.array([rule.values[name] for name in theirs], dtype="U64")

    def _look_up(self, lookup: Lookup) -> np.ndarray:
        path = next((self.folder / n for n in lookup.files if (self.folder / n).is_file()), None)
        if path is None:
            raise DataError(f"{self.folder}: there is no {' or '.join(lookup.files)}")
        table = _read_table(path)
        keys, values = (text_column(table, c, path) for c in (lookup.key, lookup.value))
        known = dict(zip(keys.tolist(), values.tolist(), strict=True))
        wanted = text_column(self.dataset.csv, lookup.by, self.folder).tolist()
        absent = [key for key in wanted if key not in known]
        if absent:
            raise DataError(f"{path}: no row for {absent[0]} ({len(absent)} such rows)")
        return np.array([known[key] for key in wanted], dtype=str)


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Restore numpy's and torch's global generators: torchxrayvision seeds both."""
    import torch

    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def _picked(raw: np.ndarray, column: Column, where: Path) -> np.ndarray:
    """The first group of the column's pattern in each text."""
    found = [re.match(str(column.pattern), value) for value in raw]
    for value, match in zip(raw, found, strict=True):
        if match is None and value:
            raise DataError(f"{where}: '{value}' in {column.column} is not like {column.pattern}")
    return np.array([match.group(1) if match else "" for match in found], dtype=str)


@contextmanager
def _paths_without_train(files: dict[str, Path]) -> Iterator[dict[str, str]]:
    """The paths as text, by links where a folder above is called like a training set.

    torchxrayvision's CheX_Dataset takes any path that holds 'train' for one of the training table.
    """
    with tempfile.TemporaryDirectory(prefix="cxrzoo-") as place:
        paths = {}
        for argument, path in files.items():
            paths[argument] = str(path)
            if "train" in str(path.parent) and "train" not in path.name:
                link = Path(place) / path.name
                link.symlink_to(path.resolve())
                paths[argument] = str(link)
        yield paths


def _check_last_line(path: Path) -> None:
    """Refuse a CSV that ends within a line: pandas would fill the line up with empty cells, and a
    class may drop it for them."""
    if path.suffix != ".csv":
        return
    with path.open("rb") as file:
        header = file.readline()
        file.seek(0, os.SEEK_END)
        file.seek(max(len(header), file.tell() - _TAIL_BYTES))
        tail = file.read()
    if not tail or tail.endswith((b"\n", b"\r")):
        return
    first, last = (
        next(csv.reader([line.decode("utf-8", "replace")]), [])
        for line in (header, tail.splitlines()[-1])
    )
    if len(last) < len(first):
        raise DataError(
            f"{path}: the last line has {len(last)} of {len(first)} cells and no line end: "
            "the file was cut off; fetch it again"
        )


def _read_table(path: Path) -> Any:
    import pandas as pd

    try:
        if path.suffix == ".json":
            return pd.DataFrame(json.loads(path.read_text(encoding="utf-8-sig")))
        return pd.read_csv(path, dtype=str)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from None


def _merged(rows: Rows) -> Rows:
    """One row an image; positive where any of its rows is."""
    _, first, owner = np.unique(rows.ids, return_index=True, return_inverse=True)
    labels = np.full((len(first), rows.labels.shape[1]), -np.inf, dtype=np.float32)
    np.maximum.at(labels, owner, rows.labels)
    kept = rows.take(first)
    return Rows(**{**vars(kept), "labels": labels})
