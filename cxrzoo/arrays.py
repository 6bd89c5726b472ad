"""Large arrays built chunk by chunk on disk: resumable after a kill, safe for two builders.

A directory holds ``data.bin`` (rows in C order), ``journal.jsonl`` (one line a finished
chunk, with its checksum) while it grows, and ``meta.json`` once it is whole. Going on checks
every chunk of the journal against the data, so that nothing has to wait for the disk but the end.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from cxrzoo.errors import ImageError, StorageError, storage_errors
from cxrzoo.files import sha256_of_file, write_atomically

_GROUP = 16
"""Rows a thread takes at a time; handing them out one by one costs a quarter of the speed."""

Fill = Callable[[int, int], tuple[np.ndarray, dict[str, str]]]
"""``fill(start, stop)`` returns rows ``start:stop`` and notes by row index, e.g. what failed."""


@dataclass(frozen=True)
class DiskArray:
    """A finished array: ``data`` is a read-only memory map."""

    data: np.ndarray
    sha256: str
    notes: dict[int, str]


def open_finished(directory: Path) -> DiskArray | None:
    """The finished array in ``directory``, or None where there is none."""
    try:
        meta = json.loads((directory / "meta.json").read_text())
        size = (directory / "data.bin").stat().st_size
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    shape, dtype = tuple(meta["shape"]), np.dtype(meta["dtype"])
    if size != dtype.itemsize * int(np.prod(shape)):
        return None
    data = (
        np.memmap(directory / "data.bin", dtype=dtype, mode="r", shape=shape)
        if size
        else np.zeros(shape, dtype)
    )
    return DiskArray(data, meta["sha256"], {int(k): v for k, v in meta["notes"].items()})


def open_or_build(
    directory: Path,
    *,
    shape: tuple[int, ...],
    dtype: str,
    chunk: int,
    fill: Fill,
    label: str,
) -> DiskArray:
    """Open the array in ``directory``; build what is missing of it first, ``chunk`` rows a time.

    ``label`` names it in the progress bar and in errors. Raises StorageError when the disk
    is full; finished chunks stay, and the next call goes on behind them.
    """
    if (finished := open_finished(directory)) is not None:
        return finished
    with storage_errors(directory, label):
        directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "build.lock"):
        if open_finished(directory) is None:
            _build(directory, shape, dtype, chunk, fill, label)
    finished = open_finished(directory)
    if finished is None:
        raise StorageError(f"{label}: {directory} was changed while it was built; run again")
    return finished


def in_threads(
    one: Callable[[int], np.ndarray], row: tuple[int, ...], dtype: str, workers: int | None
) -> Fill:
    """A ``fill`` whose rows are made one by one in threads; a row that raises ImageError is zero,
    and its note the message.

    Threads, not processes: Pillow releases the lock while it decodes and resizes, nothing has to
    be pickled, and a script that calls this needs no ``__main__`` guard.

    Args:
        one: ``one(index)`` makes the row at ``index``.
        row: shape of a row.
        dtype: of the rows.
        workers: threads; defaults to the number of cores.
    """

    def attempt(index: int) -> np.ndarray | str:
        try:
            return one(index)
        except ImageError as error:
            return str(error)

    def group(first: int, stop: int) -> list[np.ndarray | str]:
        return [attempt(index) for index in range(first, min(first + _GROUP, stop))]

    def fill(start: int, stop: int) -> tuple[np.ndarray, dict[str, str]]:
        rows = np.zeros((stop - start, *row), dtype=dtype)
        bad: dict[str, str] = {}
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            groups = pool.map(lambda first: group(first, stop), range(start, stop, _GROUP))
            for offset, result in enumerate(chain.from_iterable(groups)):
                if isinstance(result, str):
                    bad[str(start + offset)] = result
                else:
                    rows[offset] = result
        return rows, bad

    return fill


def _build(
    directory: Path, shape: tuple[int, ...], dtype: str, chunk: int, fill: Fill, label: str
) -> None:
    row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
    done, notes = _read_journal(directory, row_bytes)
    _require_space(directory, (shape[0] - done) * row_bytes, label)
    mode = "r+b" if done else "wb"
    with (
        # unbuffered, so that closing the file after an error has nothing left to write
        (directory / "data.bin").open(mode, buffering=0) as data,
        (directory / "journal.jsonl").open("ab" if done else "wb", buffering=0) as journal,
        tqdm(total=shape[0], initial=done, desc=label, unit="img", leave=False) as bar,
    ):
        data.truncate(done * row_bytes)
        data.seek(done * row_bytes)
        for start in range(done, shape[0], chunk):
            stop = min(start + chunk, shape[0])
            rows, chunk_notes = fill(start, stop)
            content = np.ascontiguousarray(rows, dtype=dtype).tobytes()
            entry = {"stop": stop, "crc32": zlib.crc32(content), "notes": chunk_notes}
            with storage_errors(directory, label):
                _append(data, content)
                _append(journal, json.dumps(entry).encode() + b"\n")
            notes.update(chunk_notes)
            bar.update(stop - start)
        with storage_errors(directory, label):
            os.fsync(data.fileno())
    meta: dict[str, Any] = {
        "shape": shape,
        "dtype": dtype,
        "sha256": sha256_of_file(directory / "data.bin"),
        "notes": notes,
    }
    write_atomically(directory / "meta.json", json.dumps(meta).encode())
    (directory / "journal.jsonl").unlink(missing_ok=True)


def _append(file: IO[bytes], content: bytes) -> None:
    """Write all of ``content``; an unbuffered file may take it in parts."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _read_journal(directory: Path, row_bytes: int) -> tuple[int, dict[str, str]]:
    """Rows finished so far and their notes, up to the first chunk that the data do not hold."""
    done, notes, valid = 0, {}, ""
    path = directory / "journal.jsonl"
    if not path.exists() or not (directory / "data.bin").exists():
        return 0, {}
    with (directory / "data.bin").open("rb") as data:
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            length = (entry["stop"] - done) * row_bytes
            content = data.read(length)
            if len(content) != length or zlib.crc32(content) != entry["crc32"]:
                break
            done = entry["stop"]
            notes.update(entry["notes"])
            valid += line + "\n"
    write_atomically(path, valid.encode())
    return done, notes


def _require_space(directory: Path, needed: int, label: str) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise StorageError(
            f"{label} needs {needed / 1e6:,.0f} MB at {directory}, but only "
            f"{free / 1e6:,.0f} MB are free: free some space or point CXRZOO_CACHE elsewhere"
        )
