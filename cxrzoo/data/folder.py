"""A user's own folder of images as a benchmark."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cxrzoo.data.rows import Rows, stamp
from cxrzoo.errors import DataError
from cxrzoo.schema import Strict

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm")
_NEGATIVE_CLASSES = {"normal", "negative", "no finding", "no_finding", "healthy", "control", "0"}


class FolderSource(Strict):
    """A user's own folder: ``metadata.csv``, or one folder per class."""

    kind: Literal["imagefolder"]
    path: str


@dataclass(frozen=True)
class FolderLayout:
    """What a user's folder holds, before it becomes rows."""

    path: Path
    labels: tuple[str, ...]
    patient_key: str
    has_split: bool
    entries: tuple[tuple[str, str, str, tuple[float, ...]], ...]
    """file below ``path``, patient, split, labels"""

    def rows(self) -> Rows:
        """The folder as rows; an image's id is its path below the folder."""
        stamps = [stamp(self.path / file) for file, *_ in self.entries]
        files = np.array([e[0] for e in self.entries], dtype=str)
        return Rows(
            ids=files,
            files=files,
            origins=files,
            patients=np.array([e[1] for e in self.entries], dtype=str),
            labels=np.array([e[3] for e in self.entries], dtype=np.float32).reshape(
                len(files), len(self.labels)
            ),
            splits=np.array([e[2] for e in self.entries], dtype="U16"),
            stamps=np.array(stamps, dtype=str),
            covariates=np.empty((len(files), 0), dtype=str),
        )


def folder_layout(path: Path) -> FolderLayout:
    """Understand a user's folder.

    Either ``metadata.csv`` with a column ``file_name``, optionally ``patient_id`` and ``split``
    (train or test), and one column of 0, 1 or empty per label; or ``[train|test/]CLASS/image``.
    """
    if not path.is_dir():
        raise DataError(f"imagefolder: {path} does not exist or is not a directory")
    return _csv_layout(path) if (path / "metadata.csv").is_file() else _class_layout(path)


def _csv_layout(path: Path) -> FolderLayout:
    where = path / "metadata.csv"
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            columns, *cells = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: not a CSV file in UTF-8 ({error})") from None
    twice = [c for i, c in enumerate(columns) if c in columns[:i]]
    if twice:
        raise DataError(f"{where}: column '{twice[0]}' occurs twice")
    for n, row in enumerate(cells, start=2):
        if len(row) != len(columns):
            raise DataError(f"{where} line {n}: {len(row)} cells, not {len(columns)}")
    lines = [dict(zip(columns, row, strict=True)) for row in cells]
    if "file_name" not in columns:
        raise DataError(f"{where}: no column 'file_name'; there are {', '.join(columns)}")
    labels = tuple(c for c in columns if c not in ("file_name", "patient_id", "split"))
    if not labels:
        raise DataError(f"{where}: no label column besides file_name, patient_id and split")
    entries = [
        (
            line["file_name"],
            line.get("patient_id", line["file_name"]),
            line.get("split", ""),
            tuple(_label(line[c], f"{where} line {n}: label column '{c}'") for c in labels),
        )
        for n, line in enumerate(lines, start=2)
    ]
    for n, (name, *_) in enumerate(entries, start=2):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{where} line {n}: file_name '{name}' leads out of the folder")
    for n, (_, _, split, _) in enumerate(entries, start=2):
        if "split" in columns and split not in ("train", "test"):
            raise DataError(f"{where} line {n}: split is '{split}', not train or test")
    key = "patient_id" if "patient_id" in columns else "per-image"
    return FolderLayout(path, labels, key, "split" in columns, tuple(entries))


def _label(text: str, where: str) -> float:
    if text.strip().lower() in ("", "nan"):
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{where} holds text ('{text}'); labels must be 0, 1 or empty") from None


def _class_layout(path: Path) -> FolderLayout:
    has_split = (path / "train").is_dir() and (path / "test").is_dir()
    bases = {"train": path / "train", "test": path / "test"} if has_split else {"": path}
    found = [
        (str(file.relative_to(path)), split, file.relative_to(base).parts[0])
        for split, base in bases.items()
        for file in sorted(base.glob("*/**/*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    classes = sorted({name for *_, name in found})
    if len(classes) < 2:
        raise DataError(
            f"imagefolder: {path} holds {len(classes)} class folders with images; it needs two or "
            "more, or a metadata.csv with a column file_name and one column per label"
        )
    labels = tuple(classes)
    if len(classes) == 2:  # one label suffices: the class that is not the normal one
        abnormal = [c for c in classes if c.lower() not in _NEGATIVE_CLASSES]
        labels = tuple((abnormal or classes)[-1:])
    entries = [
        (file, file, split, tuple(float(name == label) for label in labels))
        for file, split, name in found
    ]
    return FolderLayout(path, labels, "per-image", has_split, tuple(entries))
