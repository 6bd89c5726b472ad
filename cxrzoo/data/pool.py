"""Pools: images without labels, for pretraining and for comparing a benchmark with one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrzoo.data.benchmark import list_benchmarks
from cxrzoo.data.folder import IMAGE_SUFFIXES
from cxrzoo.data.hubset import HubImages, Place, image_column, row_counts
from cxrzoo.data.rows import FileImages, Images, hash_lines, stamp
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import DataError


@dataclass(frozen=True)
class Pool:
    """N images and their ids.

    ``dataset`` and ``split`` are what a card calls them, for the exposure of benchmarks to them.
    """

    name: str
    ids: np.ndarray
    images: Images
    dataset: str
    split: str = "all"

    def __len__(self) -> int:
        return len(self.ids)


def open_pool(name: str, data_root: Path | None) -> Pool:
    """Open a pool.

    Args:
        name: a benchmark (``nih14``), one of its splits (``nih14:train``), or a folder, below the
            data root or anywhere: of image files, or in the shape of a Hugging Face dataset.
        data_root: folder that holds the data.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    benchmark, _, split = name.partition(":")
    if benchmark in list_benchmarks():
        table = open_benchmark(benchmark, data_root, exclude_bad=True)
        if split:
            table = table.keep(table.splits == split)
        dataset = table.benchmark.dataset or table.benchmark.name
        seen = f"{table.split_id}-{split}" if split else "all"
        pool = Pool(name, table.ids, table.images, dataset, seen)
    else:
        folder = next((f for f in _candidates(name, data_root) if f.is_dir()), None)
        if folder is None:
            raise DataError(f"pool '{name}' is no benchmark, and no folder of that name is there")
        pool = _hub_pool(name, folder) if list(folder.rglob("*.parquet")) else _files(name, folder)
    if not len(pool):
        raise DataError(f"pool '{name}': no images found")
    return pool


def _candidates(name: str, data_root: Path | None) -> list[Path]:
    return [*([data_root / name] if data_root else []), Path(name)]


def _hub_pool(name: str, folder: Path) -> Pool:
    place = Place(str(folder))
    files = np.array(
        [f"{split}:{row}" for split, rows in row_counts(place).items() for row in range(rows)],
        dtype=str,
    )
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))
    mark = hash_lines(np.array(paths), np.array([stamp(folder / path) for path in paths]))[:16]
    stamps = np.full(len(files), mark)
    made = HubImages(place, image_column(place), files, files, stamps)
    return Pool(name, files, made, Path(name).name)


def _files(name: str, folder: Path) -> Pool:
    found = sorted(
        os.path.relpath(os.path.join(directory, file), folder)
        for directory, _, names in os.walk(folder, followlinks=True)
        for file in names
        if file.lower().endswith(IMAGE_SUFFIXES)
    )
    files = np.array(found, dtype=str)
    stamps = np.array([stamp(folder / file) for file in found], dtype=str)
    return Pool(name, files, FileImages(folder, files, stamps), Path(name).name)
