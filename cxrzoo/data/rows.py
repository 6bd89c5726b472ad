"""Rows and images as arrays: what every source of data delivers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cxrzoo import images as pixels
from cxrzoo.errors import DataError


@dataclass(frozen=True)
class Rows:
    """What a source knows of its N images, as arrays of length N.

    ``files`` locate the images for ``images``; ``stamps`` change when an image's bytes may
    have changed, and are empty for a missing file; ``splits`` are empty where the source
    has no opinion. ``labels`` is (N, L) float32 of 0, 1 and NaN.
    """

    ids: np.ndarray
    files: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    stamps: np.ndarray

    def take(self, index: np.ndarray) -> Rows:
        """The rows at ``index``."""
        return Rows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """One behind the other."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )


class Images(Protocol):
    """N images that can be decoded one by one, from several threads."""

    def grey(self, index: int) -> np.ndarray:
        """Image ``index`` as (H, W) uint8; raises ImageError naming it."""
        ...

    def take(self, index: np.ndarray) -> Images:
        """The images at ``index``."""
        ...

    @property
    def key(self) -> str:
        """Changes whenever a pixel might."""
        ...

    @property
    def missing(self) -> int:
        """How many of them have no file."""
        ...


class FileImages:
    """Images in files below a folder."""

    def __init__(self, root: Path, files: np.ndarray, stamps: np.ndarray) -> None:
        self._root, self._files, self._stamps = root, files, stamps

    def grey(self, index: int) -> np.ndarray:
        path = self._root / str(self._files[index])
        return pixels.read(path, str(path))

    def take(self, index: np.ndarray) -> FileImages:
        return FileImages(self._root, self._files[index], self._stamps[index])

    @property
    def key(self) -> str:
        return hash_lines(self._files, self._stamps)

    @property
    def missing(self) -> int:
        return int((self._stamps == "").sum())


def stamp(path: Path) -> str:
    """``size:mtime`` of a file; empty when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def hash_lines(*columns: np.ndarray) -> str:
    """sha256 of text columns of equal length, row by row."""
    text = "\n".join(map("\t".join, zip(*columns, strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()


def column_of(frame: Any, column: str, where: Path) -> Any:
    """A column of a pandas frame; raises DataError naming ``where`` and the columns there are."""
    if column not in frame.columns:
        raise DataError(f"{where}: no column '{column}'; there are {', '.join(frame.columns)}")
    return frame[column]


def text_column(frame: Any, column: str, where: Path) -> np.ndarray:
    """A column as text, empty where it has no value."""
    series = column_of(frame, column, where)
    values = zip(series, series.isna(), strict=True)
    return np.array(["" if missing else str(value) for value, missing in values], dtype=str)
