"""Pools: images for pretraining, with labels where they have any, and for comparing a benchmark
with them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrzoo import arrays, resources
from cxrzoo import images as pixels
from cxrzoo.data import phantom
from cxrzoo.data.benchmark import list_benchmarks
from cxrzoo.data.folder import IMAGE_SUFFIXES
from cxrzoo.data.hubset import (
    HubImages,
    Place,
    classes_of,
    image_column,
    load_splits,
    split_names,
)
from cxrzoo.data.rows import EncodedImages, FileImages, Images, hash_lines, stamp
from cxrzoo.data.sources import PhantomImages
from cxrzoo.data.split import TRAIN
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import DataError
from cxrzoo.files import safe_name, sha256_of_json

_ALL = "all"
_SPLIT_FOLDERS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}
"""Folders of these names are parts of a set, not classes."""
_CHUNK = 4096
"""Sizes a line of the journal."""


@dataclass(frozen=True)
class Pool:
    """N images, their ids, and labels where they have any.

    Attributes:
        name: what the user calls it.
        ids: (N,) image ids.
        images: how to get the N images.
        dataset: what a card calls it, for the exposure of benchmarks to it.
        split: what a card calls the part of it, or ``all``.
        labels: (N,) int64 classes, ``NO_CLASS`` (-1) where one is not known; or a benchmark's
            (N, L) float32 of 0, 1 and NaN (unknown); None without labels.
        label_names: of the classes, or of the L columns; empty without labels.
    """

    name: str
    ids: np.ndarray
    images: Images
    dataset: str
    split: str = _ALL
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, mask: np.ndarray) -> Pool:
        """The pool with the images where ``mask`` (N,) is true."""
        return replace(
            self,
            ids=self.ids[mask],
            images=self.images.take(np.flatnonzero(mask)),
            labels=None if self.labels is None else self.labels[mask],
        )


def open_pool(name: str, data_root: Path | None) -> Pool:
    """Open a pool with everything in it, to compare a benchmark with it.

    Args:
        name: a benchmark (``nih14``), or a folder, below the data root or anywhere: of image
            files, or in the shape of a Hugging Face dataset. Of a benchmark and of such a
            dataset, ``NAME:SPLIT`` is one split.
        data_root: folder that holds the data.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    benchmark, _, split = name.partition(":")
    if benchmark in list_benchmarks():
        return _not_empty(_benchmark_pool(name, benchmark, split, data_root))
    return _not_empty(_folder_pool(name, data_root, training=False))


def training_pool(name: str, data_root: Path | None) -> Pool:
    """Open a pool to train on: of a benchmark, and of a dataset with a ``train`` split, only that.

    A folder of files is taken whole, and so is a split of a dataset that is asked for by name;
    what they share with a benchmark is a matter of exposure.

    Args:
        name: as for ``open_pool``.
        data_root: folder that holds the data.

    Raises:
        DataError: as ``open_pool``; or another split of a benchmark than ``train`` is asked for.
    """
    benchmark, _, split = name.partition(":")
    if benchmark not in list_benchmarks():
        return _not_empty(_folder_pool(name, data_root, training=True))
    train = f"{benchmark}:{TRAIN}"
    if split not in ("", TRAIN):
        raise DataError(
            f"pool '{name}': scores on a benchmark's test patients mean nothing once a "
            f"pretraining has seen them, so write '{train}'"
        )
    return _not_empty(_benchmark_pool(train, benchmark, TRAIN, data_root))


def sizes(pool: Pool, workers: int | None = None) -> np.ndarray:
    """Height and width of every image by its header, read once and kept in the cache.

    An image that breaks off behind its header has a size; decoding it is what fails.

    Args:
        pool: any.
        workers: threads that read; defaults to the number of cores.

    Returns:
        (N, 2) int32, in pixels.

    Raises:
        DataError: images cannot be read; it names the first ones.
        StorageError: the disk is full; sizes read so far are kept.
    """
    key = sha256_of_json([pool.images.key, pixels.VERSION])
    built = arrays.open_or_build(
        resources.cache_dir() / "sizes" / f"{safe_name(pool.name)}-{key[:24]}",
        shape=(len(pool), 2),
        dtype="int32",
        chunk=_CHUNK,
        fill=arrays.in_threads(lambda index: _size(pool.images, index), (2,), "int32", workers),
        label=f"sizes of {pool.name}",
    )
    refuse_unreadable(pool, built)
    return np.array(built.data)


def refuse_unreadable(pool: Pool, built: arrays.DiskArray) -> None:
    """Raise DataError where something that was built of each image of the pool lacks some."""
    if built.notes:
        shown = "; ".join(list(built.notes.values())[:3])
        raise DataError(
            f"pool {pool.name}: {len(built.notes)} image(s) cannot be read ({shown}): "
            "mend them or take them out"
        )


def _size(images: Images, index: int) -> np.ndarray:
    """(2,) height and width of an image."""
    if isinstance(images, EncodedImages):
        return np.array(images.size(index))
    if isinstance(images, PhantomImages):  # rendering it would take 6 ms
        return np.array([phantom.SIZE_PX, phantom.SIZE_PX])
    return np.array(images.grey(index).shape)


def _not_empty(pool: Pool) -> Pool:
    if not len(pool):
        raise DataError(f"pool '{pool.name}': no images found")
    return pool


def _benchmark_pool(name: str, benchmark: str, split: str, data_root: Path | None) -> Pool:
    table = open_benchmark(benchmark, data_root, exclude_bad=True)
    if split:
        table = table.keep(table.splits == split)
    return Pool(
        name=name,
        ids=table.ids,
        images=table.images,
        dataset=table.benchmark.dataset or table.benchmark.name,
        split=f"{table.split_id}-{split}" if split else _ALL,
        labels=table.labels,
        label_names=table.benchmark.labels,
    )


def _folder_pool(name: str, data_root: Path | None, *, training: bool) -> Pool:
    folder, split = _find_folder(name, data_root)
    if any(folder.rglob("*.parquet")):
        return _hub_pool(name, folder, split, training=training)
    if split:
        raise DataError(f"pool '{name}': {folder} is no Hugging Face dataset and has no splits")
    return _files(name, folder)


def _find_folder(name: str, data_root: Path | None) -> tuple[Path, str]:
    """The folder that a name means, and the split behind its last colon, or an empty text."""
    before, _, split = name.rpartition(":")
    for path, part in ((name, ""), (before, split)):
        for folder in [*([data_root / path] if data_root else []), Path(path)]:
            if path and folder.is_dir():
                return folder, part
    raise DataError(f"pool '{name}' is no benchmark, and no folder of that name is there")


def _hub_pool(name: str, folder: Path, split: str, *, training: bool) -> Pool:
    place = Place(str(folder))
    names = split_names(place)
    if split and split not in names:
        raise DataError(f"pool '{name}': no split '{split}'; there are {', '.join(names)}")
    if training and not split and TRAIN in names and len(names) > 1:
        name, split = f"{name}:{TRAIN}", TRAIN
    loaded = load_splits(place, [split] if split else names)
    datasets = list(loaded.values())
    files = np.array([f"{s}:{row}" for s, rows in loaded.items() for row in range(len(rows))], str)
    stamps = np.full(len(files), _mark(folder))
    images = HubImages(place, image_column(place, datasets[0]), files, files, stamps)
    labels, label_names = classes_of(datasets) or (None, ())
    seen = split if len(names) > len(loaded) else _ALL
    return Pool(name, files, images, folder.resolve().name, seen, labels, label_names)


def _mark(folder: Path) -> str:
    """Changes when a parquet file below the folder does; stands for every image in them."""
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))
    return hash_lines(np.array(paths), np.array([stamp(folder / path) for path in paths]))[:16]


def _files(name: str, folder: Path) -> Pool:
    found = sorted(
        os.path.relpath(os.path.join(directory, file), folder)
        for directory, _, names in os.walk(folder, followlinks=True)
        for file in names
        if file.lower().endswith(IMAGE_SUFFIXES)
    )
    files = np.array(found, dtype=str)
    stamps = np.array([stamp(folder / file) for file in found], dtype=str)
    labels, label_names = _folder_classes(found) or (None, ())
    images = FileImages(folder, files, stamps)
    return Pool(name, files, images, folder.resolve().name, _ALL, labels, label_names)


def _folder_classes(files: list[str]) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Classes (N,) int64 and names of files that all are CLASS/image, numbered as torchvision's
    ImageFolder does; None where the folder has another shape."""
    parents = [Path(file).parent.parts for file in files]
    if any(len(parts) != 1 for parts in parents):
        return None
    names, classes = np.unique([folder for (folder,) in parents], return_inverse=True)
    if len(names) < 2 or {name.lower() for name in names.tolist()} <= _SPLIT_FOLDERS:
        return None
    return classes.astype(np.int64), tuple(names.tolist())
