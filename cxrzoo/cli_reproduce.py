"""``cxrzoo reproduce``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cxrzoo.cli_report import column_bar
from cxrzoo.cli_shared import DATA_ROOT, JSON, OFFLINE, WORKERS, complete_names, print_rows

if TYPE_CHECKING:
    from cxrzoo.evaluation.sweep import Planned, Sweep
    from cxrzoo.zoo.card import Card

_ONLY_RUNS = ("output", "device", "workers", "exclude_bad", "dry_run", "offline")


@click.command("reproduce")
@click.argument("directories", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@DATA_ROOT
@click.option("--tier", help="lite or resnet50; each tier of the records by default, lite to run.")
@click.option("--protocol", default="linear-v1", show_default=True, help="Never mixed.")
@click.option(
    "-e",
    "--encoder",
    "encoders",
    multiple=True,
    shell_complete=complete_names("encoders"),
    help="Another encoder to run, such as encoders/moco-cxr; with DIR, one whose card tells on "
    "how many images it was trained, which older records do not.",
)
@click.option(
    "--resamples",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Draws of the test patients.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="runs", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@WORKERS
@click.option("--exclude-bad", is_flag=True, help="Leave bad images out; records will say so.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and how long it would take.")
@OFFLINE
@click.option("--brief", is_flag=True, help="Only effects over all benchmarks, and verdicts.")
@JSON
@click.pass_context
def reproduce_command(
    context: click.Context,
    /,
    directories: tuple[Path, ...],
    data_root: Path | None,
    tier: str | None,
    protocol: str,
    encoders: tuple[str, ...],
    resamples: int,
    seed: int,
    output: Path,
    dry_run: bool,
    offline: bool,
    brief: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Test the three claims of arXiv:2211.12931 and print a verdict for each.

    With DIR, on the records below one or more folders. Without, the paper's grid is run first, or
    gone on with: the strategies and the benchmarks of real radiographs at hand, six label budgets,
    five draws each. Verdicts are supported, not supported or undecided (needs ...); each tier has
    its own. The phantom gives none.
    """
    _check_options(context, directories, tier)
    from cxrzoo.errors import RecordError
    from cxrzoo.evaluation import protocol as protocols
    from cxrzoo.evaluation.record import Record, read_records
    from cxrzoo.report.cells import Evidence
    from cxrzoo.report.findings import assess
    from cxrzoo.report.findings.text import as_objects, as_text

    name, failures, records = protocols.find(protocol).name, None, list[Record]()
    if not directories:
        if offline:
            from cxrzoo.zoo.hub import go_offline

            go_offline()
        grid = _grid(tier or "lite", name, encoders, data_root, output, settings)
        if dry_run:
            return _print_plan(grid, as_json)
        if grid is not None:
            failures = grid.run(grid.plan())
        directories = (output,) if grid is not None else ()
    if directories:
        try:
            records = read_records(directories)
        except RecordError:
            if failures is not None:  # every cell failed, which says more than that none is there
                failures.raise_failures()
            raise
    reports = assess(
        records,
        Evidence(directories, data_root),
        cards=_cards(encoders),
        tier=tier,
        protocol=name,
        resamples=resamples,
        seed=seed,
        on_column=column_bar("intervals"),
    )
    if as_json:
        click.echo(json.dumps(as_objects(reports), indent=1, ensure_ascii=False))
    else:
        click.echo("\n\n\n".join(as_text(report, brief=brief) for report in reports))
    if failures is not None:
        failures.raise_failures()


def _check_options(context: click.Context, directories: tuple[Path, ...], tier: str | None) -> None:
    from cxrzoo.pretrain.tier import find_tier

    if tier is not None:
        find_tier(tier)
    for name in _ONLY_RUNS if directories else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} is for running the grid: leave DIR out")


def _cards(encoders: tuple[str, ...]) -> dict[str, Card]:
    """Cards of the zoo and of ``encoders``, by the sha256 of their weights."""
    from cxrzoo.report.findings.roles import cards_by_weights
    from cxrzoo.zoo import registry

    own = [card for card, _ in registry.read_all()]
    local = [name for name in encoders if ":" not in name.split("/")[0]]  # no hf: and timm:
    return cards_by_weights([*own, *(registry.locate(name)[0] for name in local)])


def _grid(
    tier: str,
    protocol: str,
    encoders: tuple[str, ...],
    data_root: Path | None,
    output: Path,
    settings: dict[str, Any],
) -> Sweep | None:
    """The paper's grid with what is at hand; None where no benchmark of radiographs is."""
    from cxrzoo.data.benchmark import at_hand
    from cxrzoo.data.table import open_benchmark
    from cxrzoo.device import pick
    from cxrzoo.evaluation import protocol as protocols
    from cxrzoo.evaluation.sweep import Sweep
    from cxrzoo.report.findings.claims import load_claims
    from cxrzoo.report.findings.needs import Catalogue

    claims = load_claims()
    catalogue = Catalogue(claims)
    real = [name for name in at_hand(data_root) if not catalogue.why_not(name)]
    if not real:
        where = "no data root: name it with --data-root" if data_root is None else str(data_root)
        click.echo(f"no benchmark of real radiographs at hand ({where}): nothing to run", err=True)
        return None
    names = list(dict.fromkeys([*_at_hand(tier), *encoders]))
    if not names:
        click.echo(
            f"no encoder of tier {tier} at hand: nothing to run; name some with -e", err=True
        )
        return None
    exclude_bad = settings["exclude_bad"]
    largest = max(
        len(open_benchmark(name, data_root, exclude_bad=exclude_bad).rows("train")) for name in real
    )
    return Sweep(
        encoders=names,
        benchmarks=real,
        budgets=[b for b in claims.budgets if b == "full" or b <= largest],
        seeds=claims.seeds,
        protocol=protocols.find(protocol),
        data_root=data_root,
        output=output,
        device=pick(settings["device"]),
        workers=settings["workers"],
        exclude_bad=exclude_bad,
    )


def _at_hand(tier: str) -> list[str]:
    """Encoders of the tier that a claim is about and whose weights are here."""
    from cxrzoo.report.findings.claims import load_claims
    from cxrzoo.report.findings.roles import role_of, tier_of
    from cxrzoo.zoo import registry

    return [
        card.name
        for card, directory in registry.read_all()
        if registry.at_hand(card, directory)
        and tier_of(card.name, card.tier) == tier
        and role_of(card.strategy, load_claims())[0] != "none"
    ]


def _print_plan(grid: Sweep | None, as_json: bool) -> None:
    if grid is None:
        return click.echo("[]") if as_json else None
    from cxrzoo.evaluation import estimate

    planned = grid.plan(decode=False)
    rows = _plan_rows(planned)
    lines = estimate.describe(grid, planned)
    if as_json:
        click.echo(json.dumps({"cells": rows, "estimate": lines}, indent=1))
    else:
        print_rows(rows, as_json=False)
        click.echo("\n".join(["", *lines, "after that, the three claims are tested"]))


def _plan_rows(planned: list[Planned]) -> list[dict[str, Any]]:
    """A row for each encoder and benchmark: budgets that fit, and cells by state."""
    rows = {}
    for key in dict.fromkeys((p.encoder, p.benchmark) for p in planned):
        entries = [p for p in planned if (p.encoder, p.benchmark) == key]
        fitting = dict.fromkeys(str(p.budget) for p in entries if p.state != "blocked")
        states = Counter(p.state for p in entries if p.state != "blocked")
        rows[key] = {
            "encoder": key[0],
            "benchmark": key[1],
            "budgets": ", ".join(fitting),
            "cells to run": states["missing"],
            "already there": states["cached"],
        }
    return list(rows.values())
