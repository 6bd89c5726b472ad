"""The store: every image of a benchmark decoded, converted and resized once.

A store is an (N, S, S) uint8 file keyed by everything that changes a pixel: the images and
their file stamps, the size, the interpolation, the conversion code and Pillow. It holds no
torch and no labels, so that building it is cheap to start and labels may change freely.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL

from cxrzoo import arrays, images, resources
from cxrzoo.data.split import TRAIN
from cxrzoo.data.table import Table
from cxrzoo.errors import DataError
from cxrzoo.files import safe_name, sha256_of_json, write_atomically

_CHUNK = 512
"""Images between two commits to disk: a kill loses at most so many."""


@dataclass(frozen=True)
class Prepared:
    """A table whose images are all decoded.

    Attributes:
        table: the usable rows; unreadable images are gone from it if that was asked for.
        store: (M, S, S) uint8, M >= N: one row for each image that was tried.
        positions: (N,) row of the store for each row of the table.
        pixels_sha256: hash of every pixel of the store.
    """

    table: Table
    store: np.ndarray
    positions: np.ndarray
    pixels_sha256: str

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """(n, S, S) uint8 of table rows, copied out of the memory map."""
        taken: np.ndarray = self.store[self.positions[rows]]
        return taken


def directory_for(table: Table, size_px: int, interpolation: str) -> Path:
    """The folder of a table's store; it need not exist."""
    key = sha256_of_json(
        [table.images.key, size_px, interpolation, images.VERSION, PIL.__version__]
    )
    return (
        resources.cache_dir() / "stores" / f"{safe_name(table.benchmark.name)}-{size_px}-{key[:24]}"
    )


def prepare(
    table: Table,
    size_px: int,
    interpolation: str,
    *,
    workers: int | None = None,
    exclude_bad: bool = False,
) -> Prepared:
    """Decode what is not decoded yet, and return pixels and usable rows.

    Args:
        table: an opened benchmark.
        size_px: side of the square images, in pixels.
        interpolation: how they are resized, see ``cxrzoo.images.INTERPOLATIONS``.
        workers: decoding threads; defaults to the number of cores.
        exclude_bad: leave unreadable images out, and record that.

    Raises:
        DataError: images cannot be read and ``exclude_bad`` is False; it names them.
        StorageError: the disk is full; finished images are kept.
    """
    directory = directory_for(table, size_px, interpolation)
    store = arrays.open_or_build(
        directory,
        shape=(len(table), size_px, size_px),
        dtype="uint8",
        chunk=_CHUNK,
        fill=arrays.in_threads(
            lambda index: images.fit(table.images.grey(index), size_px, interpolation),
            (size_px, size_px),
            "uint8",
            workers,
        ),
        label=f"decode {table.benchmark.name} at {size_px} px",
    )
    table = _with_twins_noted(table, _digests(directory, store))
    usable = np.ones(len(table), dtype=bool)
    usable[list(store.notes)] = False
    if store.notes and not exclude_bad:
        shown = "; ".join(list(store.notes.values())[:3])
        raise DataError(
            f"{table.benchmark.name}: {len(store.notes)} image(s) cannot be read: {shown}. "
            "Replace them, or leave them out with --exclude-bad (the records will say so)"
        )
    if store.notes:
        table = table.without(table.ids[~usable].tolist())
    return Prepared(table, store.data, np.flatnonzero(usable), store.sha256)


def _with_twins_noted(table: Table, digests: np.ndarray) -> Table:
    """The table, which says so if test images have a training image of equal pixels.

    ``cxrzoo data check`` names them, and finds near copies as well.
    """
    in_train = digests[table.rows(TRAIN)]
    twins = sum(int(np.isin(digests[table.rows(t)], in_train).sum()) for t in table.test_sets)
    if not twins:
        return table
    note = f"{twins} test images are in the training split too, pixel for pixel"
    return replace(table, notes=(*table.notes, note))


def _digests(directory: Path, store: arrays.DiskArray) -> np.ndarray:
    """(M,) a hash of each stored image, unique to a bad one; kept beside the store."""
    path = directory / "digests.npy"
    try:
        known: np.ndarray = np.load(path)
        if len(known) == len(store.data):
            return known
    except (OSError, ValueError, EOFError):
        pass
    found = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in store.data]
    for row in store.notes:
        found[row] = f"unreadable {row}"
    buffer = io.BytesIO()
    np.save(buffer, np.array(found, dtype="U32"))
    write_atomically(path, buffer.getvalue())
    return np.array(found, dtype="U32")


def peek(table: Table, size_px: int, interpolation: str, *, exclude_bad: bool) -> Prepared | None:
    """What ``prepare`` would return, if it would not have to decode anything; else None."""
    if arrays.open_finished(directory_for(table, size_px, interpolation)) is None:
        return None
    return prepare(table, size_px, interpolation, exclude_bad=exclude_bad)
