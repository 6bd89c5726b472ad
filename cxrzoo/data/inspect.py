"""Whether a benchmark's images are there: for ``cxrzoo data status``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrzoo.data import sources
from cxrzoo.data.benchmark import Benchmark, find
from cxrzoo.data.hubset import HubSource, fetch_command
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
        return Status(name, "absent", how_to_get(benchmark))
    try:
        table = open_benchmark(name, data_root, require_images=False)
    except DataError as error:
        return Status(name, "broken", str(error))
    missing = table.images.missing
    there = len(table) - missing
    if isinstance(benchmark.source, sources.PhantomSource):
        return Status(name, "embedded", f"{there:,} images")
    complete = benchmark.complete
    public = complete.images + sum(complete.external.values()) if complete else 0
    total = max(public, len(table))
    if there < total:
        gone = f", {missing:,} rows without an image" if missing else ""
        words = f"{there:,} of {total:,} images{gone}; {table.split_name}"
        return Status(name, "partial", words)
    return Status(name, "present", f"{there:,} images; {table.split_name}")


def how_to_get(benchmark: Benchmark) -> str:
    """Where the images come from, on which terms, and where they go."""
    text = f"{benchmark.get} Access: {benchmark.access}."
    source = benchmark.source
    if isinstance(source, HubSource) and source.repo_id:
        text += f" Below the data root: {fetch_command(source)}"
    return text
