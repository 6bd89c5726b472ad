"""Small tables, images and folders for the tests of ``cxrzoo.data``."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from cxrzoo import resources
from cxrzoo.data.benchmark import Benchmark, SplitRule
from cxrzoo.data.rows import hash_lines
from cxrzoo.data.sources import PhantomSource
from cxrzoo.data.table import Table
from cxrzoo.errors import ImageError


@dataclass(frozen=True)
class MemoryImages:
    """Images that are arrays; None stands for one that cannot be read."""

    names: np.ndarray
    arrays: tuple[np.ndarray | None, ...]

    def grey(self, index: int) -> np.ndarray:
        image = self.arrays[index]
        if image is None:
            raise ImageError(f"{self.names[index]}: not a readable image")
        return image

    def take(self, index: np.ndarray) -> MemoryImages:
        return MemoryImages(self.names[index], tuple(self.arrays[i] for i in index))

    @property
    def key(self) -> str:
        return hash_lines(self.names)

    @property
    def missing(self) -> int:
        return 0


def make_table(
    patients: list[str],
    splits: list[str] | None = None,
    labels: np.ndarray | None = None,
    name: str = "synthetic",
) -> Table:
    """A table with one image for each entry of ``patients``, rows sorted by id."""
    seen: dict[str, int] = {}
    ids = []
    for patient in patients:
        seen[patient] = seen.get(patient, 0) + 1
        ids.append(f"{patient}_{seen[patient]:02d}.png")
    count = len(ids)
    labels = np.zeros((count, 1)) if labels is None else labels
    table = Table(
        benchmark=Benchmark(
            name=name,
            version=1,
            title="synthetic",
            source=PhantomSource(kind="phantom"),
            labels=tuple(f"label{n}" for n in range(labels.shape[1])),
            patient_key="made up",
            split=SplitRule(rule="given"),
            verified="images",
            access="own",
            licence="none",
            get="nothing to get",
            citation="none",
        ),
        ids=np.array(ids, dtype=str),
        patients=np.array(patients, dtype=str),
        labels=labels.astype(np.float32),
        splits=np.array(splits or ["train"] * count, dtype="U16"),
        images=MemoryImages(
            np.array(ids, dtype=str),
            tuple(np.full((4, 4), n % 256, dtype=np.uint8) for n in range(count)),
        ),
        notes=(),
        split_name="made up",
        split_id="official",
    )
    return permuted(table, np.argsort(table.ids))


def permuted(table: Table, order: np.ndarray) -> Table:
    """The same table with its rows in another order."""
    return replace(
        table,
        ids=table.ids[order],
        patients=table.patients[order],
        labels=table.labels[order],
        splits=table.splits[order],
        images=table.images.take(order),
    )


def png(pixels: np.ndarray) -> bytes:
    """The PNG file of an array: uint8 grey, colour or RGBA, or uint16 grey."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_image(path: Path, pixels: np.ndarray | int = 0) -> Path:
    """Write a PNG; a number is the grey level of an 8 x 8 image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((8, 8), pixels, np.uint8) if isinstance(pixels, int) else pixels
    path.write_bytes(png(array))
    return path


def write_metadata(folder: Path, lines: list[list[Any]], *, images: bool = True) -> str:
    """Write ``metadata.csv``, its header first, and an 8 x 8 image for each file it names.

    Returns the folder's name as a benchmark.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    if images:
        for level, line in enumerate(lines[1:]):
            write_image(folder / line[0], level)
    return f"imagefolder:{folder}"


def use_benchmark(monkeypatch: Any, folder: Path, fields: dict[str, Any]) -> str:
    """Make a benchmark file of ``fields`` the only one there is; returns its name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{fields['name']}.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.setattr(resources, "BENCHMARKS", folder)
    return str(fields["name"])


def packaged_fields(name: str) -> dict[str, Any]:
    """The fields of a packaged benchmark file, to be varied."""
    fields: dict[str, Any] = yaml.safe_load((resources.BENCHMARKS / f"{name}.yaml").read_text())
    return fields
