"""Write the required grids of submissions from the data at hand.

    python benchmarks/pin_grid.py [GRID...] [--data-root DIR]

Benchmarks whose images are not at hand, and versions of rows that the file has already and the
data at hand are not, stay as they are. The phantom is always at hand.
"""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from cxrzoo import resources
from cxrzoo.data.benchmark import at_hand
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.evaluation import protocol as protocols
from cxrzoo.submit import grid as grids
from cxrzoo.submit.grid import Entry, Grid, Rows, Size

SEEDS = 5
BUDGETS: dict[str, dict[str, tuple[Size, ...]]] = {
    "phantom": {"phantom": (100, 1000)},
    "open": {"nlmtb": (100, "full"), "nih14": (100, 1000), "kermany": (100, 1000)},
}
DESCRIPTIONS = {
    "phantom": "the embedded phantom, for trying the machinery; no evidence for any claim",
    "open": "the sets that anybody may download",
}


@click.command()
@click.argument("names", metavar="GRID...", nargs=-1)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="CXRZOO_DATA")
def main(names: tuple[str, ...], data_root: Path | None) -> None:
    for name in names or BUDGETS:
        path = resources.BENCHMARKS / "grids" / f"{name}.yaml"
        old = grids.read(path) if path.is_file() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text(text_of(pinned(name, data_root, old)))
        click.echo(f"{path}: written")


def pinned(name: str, data_root: Path | None, old: Grid | None = None) -> Grid:
    """The grid with the rows at hand, and those that ``old`` has besides."""
    return Grid(
        schema="cxrzoo.grid/1",
        name=name,
        description=DESCRIPTIONS[name],
        trial=name == "phantom",
        protocol="linear-v1",
        protocol_sha256=grids.protocol_sha256(protocols.find("linear-v1")),
        seeds=SEEDS,
        benchmarks={
            benchmark: Entry(budgets=budgets, rows=_versions(benchmark, budgets, data_root, old))
            for benchmark, budgets in BUDGETS[name].items()
        },
    )


def _versions(
    benchmark: str, budgets: tuple[Size, ...], data_root: Path | None, old: Grid | None
) -> tuple[Rows, ...]:
    known = old.benchmarks[benchmark].rows if old and benchmark in old.benchmarks else ()
    if benchmark != "phantom" and benchmark not in at_hand(data_root):
        return known
    table = open_benchmark(benchmark, data_root)
    new = grids.pin(table, budgets, SEEDS, _description(table))
    return (new, *(rows for rows in known if rows.manifest_sha256 != new.manifest_sha256))


def _description(table: Table) -> str:
    """How complete the copy is, by its images outside external test sets."""
    complete = table.benchmark.complete
    count = sum(len(table.rows(split)) for split in ("train", "test", "unused"))
    if complete is None or count == complete.images:
        return f"complete, {count:,} images"
    return f"{count:,} of {complete.images:,} images"


def text_of(grid: Grid) -> str:
    """The file of a grid."""
    content = grid.model_dump(mode="json", by_alias=True)
    header = "# Written by benchmarks/pin_grid.py from the data.\n"
    return header + yaml.safe_dump(content, sort_keys=False, width=100)


if __name__ == "__main__":
    main()
