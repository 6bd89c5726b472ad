"""Rows and images as arrays: what every source of data delivers."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from cxrzoo import images as pixels
from cxrzoo.errors import DataError, ImageError

UNCERTAIN = -1.0
"""A label that its source calls uncertain; a benchmark's label policy decides what it becomes."""
_IN_ARCHIVE = "::"
"""Between a zip file and the name of a member of it."""


@dataclass(frozen=True)
class Rows:
    """What a source knows of its N images, as arrays of length N.

    ``files`` locate the images for ``images``; ``stamps`` change when an image's bytes may
    have changed, and are empty for a missing file; ``origins`` are the names by which published
    lists know the images; ``splits`` are empty where the source has no opinion.
    ``labels`` is (N, L) float32 of 0, 1, NaN (missing) and, where the source declares uncertain
    labels, ``UNCERTAIN`` or the share of readers who saw the finding. ``covariates`` is (N, K)
    text: view, source and the like.
    """

    ids: np.ndarray
    files: np.ndarray
    origins: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    stamps: np.ndarray
    covariates: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

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

    def colour(self, index: int) -> np.ndarray:
        """Image ``index`` as (H, W, 3) uint8; raises ImageError naming it."""
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


class EncodedImages:
    """Images that are files of some kind, each read when it is asked for."""

    def grey(self, index: int) -> np.ndarray:
        return pixels.read(*self._source(index))

    def colour(self, index: int) -> np.ndarray:
        return pixels.read_rgb(*self._source(index))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of image ``index`` in pixels, by its header."""
        return pixels.read_size(*self._source(index))

    def _source(self, index: int) -> tuple[Path | bytes, str]:
        """A path or encoded bytes, and the image's name."""
        raise NotImplementedError


class FileImages(EncodedImages):
    """Images in files below a folder, or in zip files there."""

    def __init__(self, root: Path, files: np.ndarray, stamps: np.ndarray) -> None:
        self._root, self._files, self._stamps = root, files, stamps
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._opening = Lock()

    def _source(self, index: int) -> tuple[Path | bytes, str]:
        file, _, member = str(self._files[index]).partition(_IN_ARCHIVE)
        path = self._root / file
        if not member:
            return path, str(path)
        return self._extract(path, member), f"{path} member {member}"

    def _extract(self, path: Path, member: str) -> bytes:
        """A member of a zip file; an archive is opened once and may be read by many threads."""
        try:
            with self._opening:
                if path not in self._archives:
                    self._archives[path] = zipfile.ZipFile(path)
            return self._archives[path].read(member)
        except (KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ImageError(f"{path} member {member}: not readable ({error})") from error

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


def in_archive(archive: str, member: str) -> str:
    """How ``Rows.files`` call a member of a zip file."""
    return f"{archive}{_IN_ARCHIVE}{member}"


def hash_lines(*columns: np.ndarray) -> str:
    """sha256 of text columns of equal length, row by row."""
    text = "\n".join(map("\t".join, zip(*columns, strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()


def column_of(frame: Any, column: str, where: object) -> Any:
    """A column of a pandas frame; raises DataError naming ``where`` and the columns there are."""
    if column not in frame.columns:
        raise DataError(f"{where}: no column '{column}'; there are {', '.join(frame.columns)}")
    return frame[column]


def text_column(frame: Any, column: str, where: object) -> np.ndarray:
    """A column as text, empty where it has no value."""
    series = column_of(frame, column, where)
    values = zip(series, series.isna(), strict=True)
    return np.array(["" if missing else str(value) for value, missing in values], dtype=str)
