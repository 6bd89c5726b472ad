"""What a copy of a benchmark holds: for ``cxrzoo data status`` and ``cxrzoo data check``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrzoo.data import sources
from cxrzoo.data.benchmark import find
from cxrzoo.data.store import prepare
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import DataError


@dataclass(frozen=True)
class Status:
    """Whether a benchmark's images are there.

    ``state`` is embedded, present, partial, absent or broken; ``detail`` says how many images,
    what is wrong, or how to get them.
    """

    name: str
    state: str
    detail: str


def status(name: str, data_root: Path | None) -> Status:
    """Look for a benchmark's files; never raises for a bad copy."""
    benchmark = find(name)
    wanted = sources.folders(benchmark.source)
    if wanted and (data_root is None or not all((data_root / f).is_dir() for f in wanted)):
        return Status(name, "absent", benchmark.get)
    try:
        table = open_benchmark(name, data_root, require_images=False)
    except DataError as error:
        return Status(name, "broken", str(error))
    missing = table.images.missing
    there, total = len(table) - missing, benchmark.complete_images
    if isinstance(benchmark.source, sources.PhantomSource):
        return Status(name, "embedded", f"{there:,} images")
    if missing or (total and there < total):
        of = f" of {total or len(table):,}"
        gone = f", {missing:,} rows without an image" if missing else ""
        return Status(name, "partial", f"{there:,}{of} images{gone}; {table.split_name}")
    return Status(name, "present", f"{there:,} images; {table.split_name}")


@dataclass(frozen=True)
class Check:
    """A benchmark opened and every image decoded.

    ``problems`` name every missing or unreadable image; the splits have been checked for
    patients in common when the benchmark was opened. ``prevalence`` is the share of positives
    among known labels, by split and label.
    """

    name: str
    version: int
    images: int
    patients: int
    split: str
    splits: dict[str, dict[str, int]]
    prevalence: dict[str, dict[str, float | None]]
    manifest_sha256: str
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def check(name: str, data_root: Path | None, size_px: int, workers: int | None = None) -> Check:
    """Open a benchmark and decode all of it; missing and unreadable images become problems.

    Raises:
        DataError: the benchmark cannot be opened at all, or a patient is in two splits.
    """
    table = open_benchmark(name, data_root, exclude_bad=True)
    problems = [f"{image}: no such file" for image in table.excluded]
    prepared = prepare(table, size_px, "bilinear", workers=workers, exclude_bad=True)
    unreadable = sorted(set(prepared.table.excluded) - set(table.excluded))
    problems += [f"{image}: not a readable image" for image in unreadable]
    table = prepared.table
    splits, prevalence = {}, {}
    for split in ["train", *table.test_sets]:
        rows = table.rows(split)
        splits[split] = {"images": len(rows), "patients": len(np.unique(table.patients[rows]))}
        prevalence[split] = {
            label: None if np.isnan(column).all() else round(float(np.nanmean(column)), 4)
            for label, column in zip(table.benchmark.labels, table.labels[rows].T, strict=True)
        }
    return Check(
        name=name,
        version=table.benchmark.version,
        images=len(table),
        patients=len(np.unique(table.patients)),
        split=table.split_name,
        splits=splits,
        prevalence=prevalence,
        manifest_sha256=table.manifest_sha256,
        problems=tuple(problems),
    )
