"""Where rows and images come from: one entrance to torchxrayvision, Hugging Face datasets,
folders and the phantom. Rows are cached until one of their files changes."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from cxrzoo import resources
from cxrzoo.data import hubset, phantom, xrv_rows
from cxrzoo.data.folder import FolderSource, folder_layout
from cxrzoo.data.hubset import HubImages, HubSource, place_of, read_hub
from cxrzoo.data.rows import UNCERTAIN, FileImages, Images, Rows, hash_lines, stamp
from cxrzoo.data.xrv import XrvSource
from cxrzoo.data.xrv_rows import read_xrv
from cxrzoo.errors import DataError
from cxrzoo.files import sha256_of_file, sha256_of_json, write_atomically
from cxrzoo.schema import Strict


class PhantomSource(Strict):
    """The digital phantom, rendered from a seed."""

    kind: Literal["phantom"]


Source = XrvSource | HubSource | FolderSource | PhantomSource


def needs_root(source: Source) -> bool:
    """Whether the source's files can only lie below a data root."""
    if isinstance(source, HubSource):
        return source.repo_id is None
    return isinstance(source, XrvSource)


def origin(source: Source, root: Path) -> str:
    """Where the images were read from, if not from below the data root; else empty."""
    place = place_of(source, root) if isinstance(source, HubSource) else None
    return f"read from the Hub, {place}" if place and place.revision else ""


def folders(source: Source) -> list[str]:
    """Folders below the data root that the source reads."""
    if isinstance(source, XrvSource):
        return [part.folder for part in source.parts]
    return [source.folder] if isinstance(source, HubSource) else []


def covariates(source: Source) -> list[str]:
    """Names of the columns of ``Rows.covariates``."""
    return source.covariates if isinstance(source, XrvSource) else []


def is_undecided(source: Source, labels: np.ndarray) -> np.ndarray:
    """Which labels a label policy must decide: those called uncertain, or read differently."""
    undecided = np.zeros(labels.shape, dtype=bool)
    if isinstance(source, XrvSource):
        undecided |= source.has_uncertain & (labels == UNCERTAIN)
        undecided |= source.has_readers & (labels > 0) & (labels < 1)
    return undecided


def read(source: Source, labels: tuple[str, ...], root: Path) -> Rows:
    """The rows of a source, from the cache when none of its files has changed since.

    Raises:
        DataError: a folder, file, column or label is missing or malformed.
    """
    if isinstance(source, PhantomSource):
        return _read_phantom(labels)
    if isinstance(source, FolderSource):
        return folder_layout(Path(source.path)).rows()
    reader: Callable[[], Rows]
    if isinstance(source, XrvSource):
        stamps = _stamps(source, root)
        reader = partial(read_xrv, source, labels, root, stamps)
    else:
        place = place_of(source, root)
        stamps = {place.path: place.revision} if place.revision else _stamps(source, root)
        reader = partial(read_hub, source, labels, place, stamps)
    versions = [importlib.metadata.version(p) for p in ("torchxrayvision", "datasets")]
    # the readers' own source: an edit to them may change a row
    versions += [sha256_of_file(Path(str(module.__file__))) for module in (hubset, xrv_rows)]
    key = sha256_of_json([source.model_dump(mode="json"), labels, str(root.resolve()),
                          sorted(stamps.items()), versions])  # fmt: skip
    return _cached(key, reader)


def images(source: Source, root: Path, rows: Rows) -> Images:
    """The images of ``rows``."""
    if isinstance(source, PhantomSource):
        return PhantomImages(rows.ids)
    if isinstance(source, HubSource):
        place = place_of(source, root)
        return HubImages(place, source.image_column, rows.ids, rows.files, rows.stamps)
    base = Path(source.path) if isinstance(source, FolderSource) else root
    return FileImages(base, rows.files, rows.stamps)


class PhantomImages:
    """Images rendered from the phantom's studies."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids

    @cached_property
    def _studies(self) -> dict[str, phantom.Study]:
        return {s.image_id: s for s in phantom.studies()}

    def grey(self, index: int) -> np.ndarray:
        return phantom.render(self._studies[str(self._ids[index])])

    def colour(self, index: int) -> np.ndarray:
        return np.repeat(self.grey(index)[:, :, None], 3, axis=2)

    def take(self, index: np.ndarray) -> PhantomImages:
        return PhantomImages(self._ids[index])

    @property
    def key(self) -> str:
        return hash_lines(self._ids, np.full(len(self._ids), _phantom_stamp()))

    @property
    def missing(self) -> int:
        return 0


def _read_phantom(labels: tuple[str, ...]) -> Rows:
    studies = phantom.studies()
    if labels != phantom.LABELS:
        raise DataError(f"the phantom's labels are {phantom.LABELS}, not {labels}")
    ids = np.array([s.image_id for s in studies])
    return Rows(
        ids=ids,
        files=ids,
        origins=ids,
        patients=np.array([s.patient_id for s in studies]),
        labels=np.array([s.labels for s in studies], dtype=np.float32),
        splits=np.full(len(ids), "", dtype="U16"),
        stamps=np.full(len(ids), _phantom_stamp()),
        covariates=np.empty((len(ids), 0), dtype=str),
    )


def _phantom_stamp() -> str:
    """The renderer's own source: any change to it may change a pixel."""
    return sha256_of_file(Path(phantom.__file__))[:16]


def _stamps(source: XrvSource | HubSource, root: Path) -> dict[str, str]:
    """Size and time of every file the source reads, by path below the root."""
    found: dict[str, str] = {}
    for folder in dict.fromkeys(folders(source)):
        if not (root / folder).is_dir():
            raise DataError(f"{root / folder} does not exist: no images of this benchmark there")
        for directory, names in _walk(root / folder):
            relative = os.path.relpath(directory, root)
            for entry in names:
                found[f"{relative}/{entry}"] = stamp(Path(directory) / entry)
    return found


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Directories and their files; links are followed, but into no directory twice."""
    seen: set[str] = set()
    for directory, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        yield directory, names


def _cached(key: str, reader: Callable[[], Rows]) -> Rows:
    """Rows by key: importing torchxrayvision alone takes seconds."""
    path = resources.cache_dir() / "rows" / f"{key[:32]}.json"
    try:
        stored = json.loads(path.read_text())
        rows = {name: np.array(value, dtype=str) for name, value in stored["text"].items()}
        shape = (len(rows["ids"]), -1)
        labels = np.frombuffer(bytes.fromhex(stored["labels"]), dtype="<f4").reshape(shape)
        return Rows(labels=labels, **rows)
    except (OSError, ValueError, KeyError):
        rows_read = reader()
    text = {f.name: getattr(rows_read, f.name).tolist() for f in fields(Rows) if f.name != "labels"}
    content = {"text": text, "labels": rows_read.labels.astype("<f4").tobytes().hex()}
    write_atomically(path, json.dumps(content).encode())
    return rows_read
