"""``cxrzoo data``: status, prepare and check."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from cxrzoo.cli_shared import DATA_ROOT, JSON, WORKERS, catalogue, complete_names, print_rows
from cxrzoo.errors import CxrzooError


@click.group("data")
def data_group() -> None:
    """See, prepare and check the benchmarks' images."""


@data_group.command("status")
@click.argument("names", nargs=-1, shell_complete=complete_names("benchmarks"))
@DATA_ROOT
@JSON
def data_status(names: tuple[str, ...], data_root: Path | None, as_json: bool) -> None:
    """Say for each benchmark whether its images are there, and how to get them."""
    from dataclasses import asdict

    from cxrzoo.data.inspect import status

    rows = [asdict(status(n, data_root)) for n in names or catalogue("benchmarks")]
    print_rows(rows, as_json, widths=[None, None, 84])


@data_group.command("prepare")
@click.argument("names", nargs=-1, shell_complete=complete_names("benchmarks"))
@DATA_ROOT
@click.option("--size", "size_px", default=128, show_default=True, help="Side in pixels.")
@WORKERS
@click.option("--exclude-bad", is_flag=True, help="Leave bad images out; records will say so.")
def data_prepare(
    names: tuple[str, ...],
    data_root: Path | None,
    size_px: int,
    workers: int | None,
    exclude_bad: bool,
) -> None:
    """Decode and resize all images once."""
    from cxrzoo.data.benchmark import at_hand
    from cxrzoo.data.store import prepare
    from cxrzoo.data.table import open_benchmark

    for name in names or at_hand(data_root):
        table = open_benchmark(name, data_root, exclude_bad=exclude_bad)
        started = time.perf_counter()
        prepare(table, size_px, "bilinear", workers=workers, exclude_bad=exclude_bad)
        seconds = time.perf_counter() - started
        click.echo(f"{name}: {len(table):,} images at {size_px} px in {seconds:.1f} s")


@data_group.command("check")
@click.argument("names", nargs=-1, shell_complete=complete_names("benchmarks"))
@DATA_ROOT
@click.option(
    "--against",
    multiple=True,
    metavar="POOL",
    help="Look for its images in a pool too: a folder, a benchmark, or BENCHMARK:train.",
)
@WORKERS
@JSON
def data_check(
    names: tuple[str, ...],
    data_root: Path | None,
    against: tuple[str, ...],
    workers: int | None,
    as_json: bool,
) -> None:
    """Check images, labels, patients and splits; exit 1 when something makes a score untrue.

    Decodes every image, looks for copies of one image within the set, across train and test and
    in pools, and compares the share of positives with the published one.
    """
    from cxrzoo.data.benchmark import at_hand
    from cxrzoo.data.check import check

    found, failures = [], []
    for name in names or at_hand(data_root):
        try:
            found.append(check(name, data_root, against=against, workers=workers))
            failures += [f"{name}: {problem}" for problem in found[-1].problems]
        except CxrzooError as error:
            failures.append(str(error))
    if as_json:
        click.echo(json.dumps([c.as_dict() for c in found], indent=1))
    else:
        click.echo("\n".join(line for result in found for line in result.lines()))
    if failures:
        raise CxrzooError("\n".join([f"{len(failures)} problems:", *failures]))
