"""``cxrzoo compare``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cxrzoo.cli_shared import DATA_ROOT, JSON


@click.command("compare")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@DATA_ROOT
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws.")
@click.option(
    "--resamples",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Draws of the test patients.",
)
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
