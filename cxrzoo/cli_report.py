"""What reads records: ``cxrzoo table``, ``figures``, ``report`` and ``compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cxrzoo.cli_shared import DATA_ROOT, JSON, REQUIRE_CLEAN, budget, complete_names

DIRECTORIES = click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR..."
)
SEED = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws."
)
RESAMPLES = click.option(
    "--resamples",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Draws of the test patients.",
)


def column_bar(title: str, unit: str = "column") -> Callable[[int, int], None]:
    """A progress bar on stderr, for ``measure``; none where stderr is not a terminal."""
    from tqdm import tqdm

    bar: tqdm[Any] = tqdm(desc=title, unit=unit, file=sys.stderr, disable=None, leave=False)

    def advance(done: int, of: int) -> None:
        bar.total = of
        bar.update(done - bar.n)
        if done == of:
            bar.close()

    return advance


@click.command("table")
@DIRECTORIES
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["github", "latex", "html", "csv", "json"]),
    default="github",
    show_default=True,
)
@click.option(
    "-b",
    "--benchmark",
    "benchmarks",
    multiple=True,
    shell_complete=complete_names("benchmarks"),
    help="Only this; may be repeated, as the next two.",
)
@click.option("--budget", "budgets", multiple=True, help="Images, or full.")
@click.option(
    "--protocol", "protocols", multiple=True, help="linear, finetune, or a version of them."
)
@REQUIRE_CLEAN
@DATA_ROOT
@SEED
@RESAMPLES
def table_command(
    directories: tuple[Path, ...],
    format_name: str,
    benchmarks: tuple[str, ...],
    budgets: tuple[str, ...],
    protocols: tuple[str, ...],
    require_clean: bool,
    data_root: Path | None,
    seed: int,
    resamples: int,
) -> None:
    """Print the records below one or more folders as a table.

    Labels and patients come from the benchmarks below --data-root. Where a benchmark is not at
    hand its intervals are over seeds only, and a note says so. Of a part of the records, mean
    ranks are those of that part.
    """
    from cxrzoo.evaluation import protocol
    from cxrzoo.evaluation.record import read_records, select
    from cxrzoo.evaluation.verification import tiers
    from cxrzoo.report.cells import Evidence
    from cxrzoo.report.tables import table

    submitted = any(True for d in directories for _ in d.rglob("bundle.json"))
    chosen = select(
        read_records(directories),
        benchmarks=benchmarks,
        budgets=[budget(b) for b in budgets],
        protocols=[protocol.find(p).name for p in protocols],
    )
    text = table(
        chosen,
        format_name,
        require_clean=require_clean,
        evidence=Evidence(directories, data_root),
        verified=tiers(directories) if submitted else None,
        resamples=resamples,
        seed=seed,
        on_column=column_bar("intervals"),
    )
    click.echo(text)


@click.command("figures")
@DIRECTORIES
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="figures", show_default=True
)
@DATA_ROOT
@SEED
@RESAMPLES
def figures_command(
    directories: tuple[Path, ...],
    output: Path,
    data_root: Path | None,
    seed: int,
    resamples: int,
) -> None:
    """Draw the records below one or more folders, as PNG and PDF, and print the files' names.

    Label-efficiency curves, mean ranks, and cost against score, for each protocol. Intervals are
    those of cxrzoo table.
    """
    from cxrzoo.evaluation.record import read_records
    from cxrzoo.report import figures
    from cxrzoo.report.cells import Evidence
    from cxrzoo.report.grid import measure

    grid = measure(
        read_records(directories),
        Evidence(directories, data_root),
        resamples=resamples,
        seed=seed,
        on_column=column_bar("intervals"),
    )
    for path in figures.write(grid, output):
        click.echo(path)


@click.command("report")
@DIRECTORIES
@click.option(
    "-o", "--output", "site", type=click.Path(path_type=Path), required=True, metavar="SITE"
)
@DATA_ROOT
@SEED
@RESAMPLES
def report_command(
    directories: tuple[Path, ...],
    site: Path,
    data_root: Path | None,
    seed: int,
    resamples: int,
) -> None:
    """Make a leaderboard of the records below one or more folders: static pages in folder SITE.

    The pages open from disk, without a network or a server. SITE is new, empty, or a leaderboard
    made before, which is replaced when the new one is whole. Intervals are those of cxrzoo table.
    """
    from cxrzoo.evaluation.record import read_records
    from cxrzoo.evaluation.verification import tiers
    from cxrzoo.report import page
    from cxrzoo.report.cells import Evidence
    from cxrzoo.report.grid import measure

    page.check_site(site, directories)
    grid = measure(
        read_records(directories),
        Evidence(directories, data_root),
        verified=tiers(directories),
        resamples=resamples,
        seed=seed,
        on_column=column_bar("intervals"),
    )
    notes = page.build(grid, site, directories, on_page=column_bar("pages", "page"))
    for note in notes:
        click.echo(note, err=True)
    click.echo(site / "index.html")


@click.command("compare")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@DIRECTORIES
@DATA_ROOT
@SEED
@RESAMPLES
@JSON
def compare_command(
    a: str,
    b: str,
    directories: tuple[Path, ...],
    data_root: Path | None,
    seed: int,
    resamples: int,
    as_json: bool,
) -> None:
    """Compare encoders A and B wherever both have records below one or more folders.

    Differences are paired by seed and test patient; labels and patients come from the benchmarks
    below --data-root. Without them intervals are over seeds only, and a note says so.
    """
    from cxrzoo.report.compare import compare_encoders
    from cxrzoo.report.comparison import as_objects, as_text

    result = compare_encoders(a, b, directories, data_root, resamples=resamples, seed=seed)
    if as_json:
        click.echo(json.dumps(as_objects(result), indent=1, ensure_ascii=False))
        click.echo("\n".join(result.notes), err=True)
    else:
        click.echo(as_text(result))
