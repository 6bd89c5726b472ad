"""Make from the records of ``benchmarks/results`` what is committed with them; a maintainer's tool.

    python benchmarks/write_results.py [benchmarks/results] --data-root DIR
    python benchmarks/write_results.py [benchmarks/results] --check

Writes the section of results of every encoder's card, and, in ``scores``, the scores on resamples
of the test patients, so that intervals come out the same without any dataset at hand. A card whose
weights have no record there loses its section. What the README shows of commands, between
``<!-- output: cxrzoo ... -->`` and ``<!-- end of output -->``, is printed by them anew, and its
figure is drawn. ``--check`` writes nothing, and exits with 1 when a card or the README does not
say what the records do.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click

from cxrzoo.cli_shared import DATA_ROOT
from cxrzoo.evaluation.record import read_records
from cxrzoo.files import write_atomically
from cxrzoo.report import figures
from cxrzoo.report.cells import Evidence, keep
from cxrzoo.report.grid import Grid, measure
from cxrzoo.report.own import scores_of
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import CARD_FILE, split_front_matter
from cxrzoo.zoo.results import with_section

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = "label-efficiency-linear-v1"
_OUTPUT = re.compile(r"(<!-- output: (cxrzoo [^>]+?) -->\n).*?(<!-- end of output -->)", re.DOTALL)


@click.command()
@click.argument("results", type=click.Path(path_type=Path), default=RESULTS)
@DATA_ROOT
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where a card differs.")
@click.pass_context
def main(context: click.Context, results: Path, data_root: Path | None, check: bool) -> None:
    grid = measure(read_records(results), Evidence([results], data_root))
    if not check:
        keep_scores(grid, results / "scores")
        draw(grid, results)
    differ = False
    for card, directory in registry.read_all():
        if card.weights is None or card.weights.sha256 is None:
            continue
        path = directory / CARD_FILE
        text = path.read_text(encoding="utf-8")
        _, body = split_front_matter(text)
        scores = scores_of(card.weights.sha256, grid)
        made = text.removesuffix(body) + with_section(body, scores)
        if made == text:
            continue
        differ = True
        click.echo(f"{card.name}: {len(scores)} results{' differ' if check else ''}")
        if not check:
            write_atomically(path, made.encode())
    if results.resolve() == RESULTS:
        readme = ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        made = with_outputs(text)
        if made != text:
            differ = True
            click.echo(f"README.md{' differs' if check else ''}")
            if not check:
                write_atomically(readme, made.encode())
    context.exit(check and differ)


def keep_scores(grid: Grid, folder: Path) -> None:
    """Those of the grid, and no others."""
    kept = {
        keep(cell.records, column.test_set, cell.scores, folder)
        for (_, column), cell in grid.cells.items()
    }
    for path in set(folder.glob("*.npz")) - kept:
        path.unlink()


def draw(grid: Grid, folder: Path) -> None:
    """The figure of the README, where the grid has enough cells for it."""
    found = figures.draw(grid)
    if FIGURE in found:
        write_atomically(folder / f"{FIGURE}.png", figures.content(found[FIGURE], "png"))


def with_outputs(text: str) -> str:
    """A Markdown text with what its marked commands print, run in the project without datasets."""
    return _OUTPUT.sub(lambda found: found[1] + _shown(found[2]) + found[3], text)


def _shown(command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "CXRZOO_DATA"}
    words = [sys.executable, "-m", *shlex.split(command)]
    printed = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if printed.startswith("|"):
        return f"```\n{command}\n```\n\n{printed}\n\n"
    return f"```\n$ {command}\n{printed}\n```\n\n"


if __name__ == "__main__":
    main()
