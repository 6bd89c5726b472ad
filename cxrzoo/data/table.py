"""Benchmarks opened: rows, labels, patients and splits, checked before anything uses them.

A ``Table`` is in canonical order (sorted by image id), so nothing that follows depends on
the order of a CSV or of a directory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cxrzoo import resources
from cxrzoo.data import sources
from cxrzoo.data.benchmark import Benchmark, find
from cxrzoo.data.rows import Images, Rows
from cxrzoo.errors import DataError

TRAIN, TEST, UNUSED = "train", "test", "unused"
_COMPLETE = 0.99
"""Share of a dataset's images from which on a copy counts as complete."""


@dataclass(frozen=True)
class Table:
    """The rows of a benchmark, sorted by image id.

    Attributes:
        ids: (N,) image ids, unique.
        patients: (N,) patient keys.
        labels: (N, L) float32 of 0, 1 and NaN (unknown), columns as ``benchmark.labels``.
        splits: (N,) ``train``, ``test``, ``unused`` or the name of an external test set.
        images: how to get the N images.
        notes: what every table that shows this benchmark must say.
        split_name: which split was used, in words.
        excluded: ids left out on the user's explicit word.
        limit: at most so many images of each split were kept; None for all.
    """

    benchmark: Benchmark
    ids: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    images: Images
    notes: tuple[str, ...]
    split_name: str
    excluded: tuple[str, ...] = ()
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> np.ndarray:
        """Indices of the rows in ``split``."""
        return np.flatnonzero(self.splits == split)

    @property
    def test_sets(self) -> list[str]:
        """``test`` and the external test sets, in that order."""
        return [TEST, *sorted(set(self.splits.tolist()) - {TRAIN, TEST, UNUSED})]

    @cached_property
    def manifest_sha256(self) -> str:
        """Hash of every row's id, patient, split and labels; independent of file order."""
        labels = np.nan_to_num(self.labels, nan=2).astype("U1")
        rows = zip(self.ids, self.patients, self.splits, map("".join, labels), strict=True)
        header = f"{self.benchmark.name}\t{self.benchmark.version}\t{self.benchmark.labels}\n"
        text = header + "\n".join(map("\t".join, rows))
        return hashlib.sha256(text.encode()).hexdigest()

    def keep(self, mask: np.ndarray) -> Table:
        """The table with the rows where ``mask`` is true, images included."""
        return replace(
            self,
            ids=self.ids[mask],
            patients=self.patients[mask],
            labels=self.labels[mask],
            splits=self.splits[mask],
            images=self.images.take(np.flatnonzero(mask)),
        )

    def without(self, ids: list[str]) -> Table:
        """The table without ``ids``, which are remembered as excluded."""
        kept = self.keep(~np.isin(self.ids, ids))
        return replace(kept, excluded=tuple(sorted({*self.excluded, *ids})))

    def limited(self, limit: int) -> Table:
        """At most ``limit`` images of each split, by hash: for a quick look, never for a result."""
        order = np.argsort([_unit_hash("limit", i) for i in self.ids], kind="stable")
        mask = np.zeros(len(self), dtype=bool)
        for split in np.unique(self.splits):
            mask[order[self.splits[order] == split][:limit]] = True
        return replace(self.keep(mask), limit=limit)


def open_benchmark(
    name: str,
    data_root: Path | str | None = None,
    *,
    exclude_bad: bool = False,
    require_images: bool = True,
) -> Table:
    """Open a benchmark: its rows, labels, patients and split, checked.

    Args:
        name: a benchmark's name, or ``imagefolder:DIR``.
        data_root: folder that holds one folder per benchmark; defaults to ``CXRZOO_DATA``.
        exclude_bad: leave rows out whose image file is missing, and record that.
        require_images: False opens the rows alone, to plan without a download.

    Raises:
        UnknownNameError: no such benchmark.
        DataError: files are missing, labels are not 0, 1 or empty, an id occurs twice, or a
            patient is in train and in test.
    """
    benchmark = find(name)
    root = _root_for(benchmark, data_root)
    rows = _sorted(sources.read(benchmark.source, benchmark.labels, root))
    _check_rows(benchmark, rows)
    missing = rows.ids[rows.stamps == ""].tolist()
    if missing and require_images:
        if not exclude_bad:
            raise DataError(
                f"{benchmark.name}: {len(missing)} of {len(rows.ids)} images are missing "
                f"({', '.join(missing[:3])}{', ...' if missing[3:] else ''}): complete the copy, "
                "or leave them out with --exclude-bad (the records will say so)"
            )
        rows = rows.take(np.flatnonzero(rows.stamps != ""))
    splits, split_name, notes = _split(benchmark, rows, root)
    table = Table(
        benchmark=benchmark,
        ids=rows.ids,
        patients=rows.patients,
        labels=rows.labels,
        splits=splits,
        images=sources.images(benchmark.source, root, rows),
        notes=(*benchmark.notes, *notes),
        split_name=split_name,
        excluded=tuple(missing) if require_images else (),
    )
    _check_split(table)
    return table


def _root_for(benchmark: Benchmark, data_root: Path | str | None) -> Path:
    if not sources.needs_root(benchmark.source):
        return Path()
    root = Path(data_root) if data_root else resources.default_data_root()
    if root is None:
        raise DataError(
            f"{benchmark.name} needs images: say where they are with --data-root DIR or CXRZOO_DATA"
        )
    if not root.is_dir():
        raise DataError(f"data root {root} does not exist or is not a directory")
    return root


def _sorted(rows: Rows) -> Rows:
    return rows.take(np.argsort(rows.ids, kind="stable"))


def _check_rows(benchmark: Benchmark, rows: Rows) -> None:
    name = benchmark.name
    if not len(rows.ids):
        raise DataError(f"{name}: no images found. {benchmark.get}")
    twice = rows.ids[1:][rows.ids[1:] == rows.ids[:-1]].tolist()
    if twice:
        raise DataError(
            f"{name}: image id {twice[0]} occurs more than once ({len(twice)} such rows)"
        )
    nobody = rows.ids[np.isin(rows.patients, ["", "nan"])].tolist()
    if nobody:
        raise DataError(f"{name}: no patient id for {len(nobody)} images, first {nobody[0]}")
    for column, label in enumerate(benchmark.labels):
        values = rows.labels[:, column]
        odd = ~(np.isnan(values) | (values == 0) | (values == 1))
        if odd.any():
            first = int(np.argmax(odd))
            raise DataError(
                f"{name}: label '{label}' of image {rows.ids[first]} is {values[first]:g}; "
                "labels must be 0, 1 or empty"
            )
        if np.isnan(values).all():
            raise DataError(f"{name}: label column '{label}' is empty (NaN in every row)")


def _split(benchmark: Benchmark, rows: Rows, root: Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Split of each row, its name in words, and notes for tables."""
    rule, total = benchmark.split, benchmark.complete_images
    partial = total is not None and len(rows.ids) < _COMPLETE * total
    copy = f"{len(rows.ids):,} of {total or 0:,} images"
    if rule.rule == "official" and not partial:
        return _official(benchmark, rows, root), "official split", ()
    splits = rows.splits.astype("U64")
    undecided = splits == ""
    if rule.rule == "given":
        if undecided.any():
            raise DataError(f"{benchmark.name}: image {rows.ids[undecided][0]} has no split")
        return splits, "the dataset's own split", ((f"partial copy ({copy})",) if partial else ())
    splits[undecided] = _hashed(benchmark, rows.patients[undecided])
    if partial:
        return splits, f"partial, hashed split ({copy})", (f"partial, hashed split ({copy})",)
    return splits, "hashed split", ("hashed split",) if rule.rule == "official" else ()


def _hashed(benchmark: Benchmark, patients: np.ndarray) -> np.ndarray:
    unique, index = np.unique(patients, return_inverse=True)
    salt = f"{benchmark.name}/{benchmark.version}/split"
    in_test = np.array([_unit_hash(salt, p) < benchmark.split.test_fraction for p in unique])
    return np.where(in_test, TEST, TRAIN)[index]


def _unit_hash(salt: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{salt}|{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _official(benchmark: Benchmark, rows: Rows, root: Path) -> np.ndarray:
    splits = np.full(len(rows.ids), "", dtype="U16")
    for split, relative in ((TRAIN, benchmark.split.train_list), (TEST, benchmark.split.test_list)):
        path = root / str(relative)
        if not path.is_file():
            raise DataError(
                f"{benchmark.name}: the copy is complete but the official list {path} is missing; "
                f"it comes with the download. {benchmark.get}"
            )
        splits[np.isin(rows.ids, path.read_text().split())] = split
    unlisted = rows.ids[splits == ""].tolist()
    if unlisted:
        raise DataError(
            f"{benchmark.name}: {len(unlisted)} images are in no official list, first {unlisted[0]}"
        )
    return splits


def _check_split(table: Table) -> None:
    name = table.benchmark.name
    in_train = set(table.patients[table.rows(TRAIN)].tolist())
    for test_set in table.test_sets:
        rows = table.rows(test_set)
        if not len(rows):
            raise DataError(f"{name}: no image is in split '{test_set}'")
        both = sorted(in_train & set(table.patients[rows].tolist()))
        if both:
            raise DataError(
                f"{name}: patient {both[0]} is in train and in {test_set} "
                f"({len(both)} such patients): the score would be inflated"
            )
    if not in_train:
        raise DataError(f"{name}: no image is in split '{TRAIN}'")
