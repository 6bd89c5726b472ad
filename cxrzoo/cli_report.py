"""What reads records: ``cxrzoo table`` and ``compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cxrzoo.cli_shared import DATA_ROOT, JSON, REQUIRE_CLEAN

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


def column_bar(title: str) -> Callable[[int, int], None]:
    """A progress bar on stderr, for ``measure``; none where stderr is not a terminal."""
    from tqdm import tqdm

    bar: tqdm[Any] = tqdm(desc=title, unit="column", file=sys.stderr, disable=None, leave=False)

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
@REQUIRE_CLEAN
@DATA_ROOT
@SEED
@RESAMPLES
def table_command(
    directories: tuple[Path, ...],
    format_name: str,
    require_clean: bool,
    data_root: Path | None,
    seed: int,
    resamples: int,
) -> None:
    """Print the records below one or more folders as a table.

    Labels and patients come from the benchmarks below --data-root. Where a benchmark is not at
    hand its intervals are over seeds only, and a note says so.
    """
    from cxrzoo.evaluation.record import read_records
    from cxrzoo.evaluation.verification import tiers
    from cxrzoo.report.cells import Evidence
    from cxrzoo.report.tables import table

    submitted = any(True for d in directories for _ in d.rglob("bundle.json"))
    text = table(
        read_records(directories),
        format_name,
        require_clean=require_clean,
        evidence=Evidence(directories, data_root),
        verified=tiers(directories) if submitted else None,
        resamples=resamples,
        seed=seed,
        on_column=column_bar("intervals"),
    )
    click.echo(text)


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
