"""The command line: parses, calls the library, prints. Heavy imports stay inside commands.

Results go to stdout, progress and messages to stderr. Exit status 2 is wrong usage, 1 anything
else that failed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrzoo import __version__
from cxrzoo.allocator import keep_freed_memory
from cxrzoo.cli_data import data_group
from cxrzoo.cli_hub import convert_command, fetch_command, publish_command
from cxrzoo.cli_pretrain import pretrain_command
from cxrzoo.cli_report import (
    column_bar,
    compare_command,
    figures_command,
    report_command,
    table_command,
)
from cxrzoo.cli_reproduce import reproduce_command
from cxrzoo.cli_shared import (
    DATA_ROOT,
    JSON,
    OFFLINE,
    REQUIRE_CLEAN,
    WORKERS,
    budget,
    catalogue,
    complete_names,
    print_rows,
)  # fmt: skip
from cxrzoo.cli_submit import submit_command, validate_command
from cxrzoo.errors import CxrzooError

if TYPE_CHECKING:
    from cxrzoo.zoo.card import Card


class _Group(click.Group):
    """Prints this package's own errors as one plain message."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CxrzooError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo(
                "interrupted; what was finished is kept, run the same command again to go on",
                err=True,
            )
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Chest-X-ray encoders, one per pretraining strategy, compared at fixed label budgets."""
    keep_freed_memory()


for _command in (
    data_group,
    convert_command,
    fetch_command,
    publish_command,
    pretrain_command,
    table_command,
    compare_command,
    reproduce_command,
    figures_command,
    report_command,
    submit_command,
    validate_command,
):
    main.add_command(_command)


@main.command("list")
@click.argument(
    "kind",
    type=click.Choice(["encoders", "benchmarks", "protocols", "recipes", "exposure"]),
    default="encoders",
)
@JSON
def list_command(kind: str, as_json: bool) -> None:
    """List encoders, benchmarks, protocols, recipes, or what encoders have seen of benchmarks."""
    rows = {
        "encoders": _encoder_rows,
        "benchmarks": _benchmark_rows,
        "protocols": _protocol_rows,
        "recipes": _recipe_rows,
        "exposure": _exposure_rows,
    }
    print_rows(rows[kind](), as_json)


@main.command("info")
@click.argument("name", shell_complete=complete_names("encoders"))
@JSON
def info_command(name: str, as_json: bool) -> None:
    """Show the card of an encoder, a benchmark's description or a protocol's settings."""
    import yaml

    content = _info(name)
    if as_json:
        click.echo(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=96).rstrip())


@main.command("eval")
@click.option(
    "-e", "--encoder", "encoders", multiple=True, shell_complete=complete_names("encoders")
)
@click.option(
    "-b", "--benchmark", "benchmarks", multiple=True, shell_complete=complete_names("benchmarks")
)
@click.option("--budget", "budgets", multiple=True, required=True, help="Images, or full.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--protocol", help="linear, finetune, or a version; on a CPU linear by default.")
@DATA_ROOT
@click.option("-o", "--output", type=click.Path(path_type=Path), default="runs", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@WORKERS
@click.option("--overwrite", is_flag=True, help="Compute finished cells again.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and how long it would take.")
@click.option("--limit", type=click.IntRange(10), help="Images of each split, for a quick look.")
@OFFLINE
@click.option("--exclude-bad", is_flag=True, help="Leave bad images out; records will say so.")
@click.option(
    "--control",
    default="none",
    show_default=True,
    help="shuffled-labels, or a column such as view or source to predict in place of the labels.",
)
@REQUIRE_CLEAN
@JSON
def eval_command(
    encoders: tuple[str, ...],
    benchmarks: tuple[str, ...],
    budgets: tuple[str, ...],
    protocol: str | None,
    device: str,
    dry_run: bool,
    offline: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Adapt encoders to benchmarks at label budgets and print the table.

    Without -e every encoder whose weights are at hand; without -b every benchmark whose images
    are at hand, else the phantom. Finished cells are not computed again.
    """
    from cxrzoo.zoo.hub import go_offline

    if offline:
        go_offline()
    started = time.perf_counter()
    from cxrzoo.device import peak_memory_mb, pick
    from cxrzoo.evaluation import estimate, sweep
    from cxrzoo.evaluation import protocol as protocols
    from cxrzoo.report.cells import Evidence
    from cxrzoo.report.tables import table

    place = pick(device)
    grid = sweep.Sweep(
        encoders=encoders or None,
        benchmarks=benchmarks or None,
        budgets=[budget(b) for b in budgets],
        protocol=protocols.find(protocol or ("linear" if place.type == "cpu" else "finetune")),
        device=place,
        **settings,
    )
    planned = grid.plan(decode=not dry_run)
    if dry_run:
        return _print_plan(planned, estimate.describe(grid, planned), as_json)
    if protocol is None:
        click.echo(estimate.default_protocol_note(grid, planned), err=True)
    result = grid.run(planned)
    click.echo(
        f"{result.computed} cells computed, {result.cached} already there, "
        f"{len(result.failures)} failed; {time.perf_counter() - started:.1f} s, peak memory "
        f"{peak_memory_mb(place):,.0f} MB; records in {grid.output}",
        err=True,
    )
    if result.records:
        evidence = Evidence([grid.output], grid.data_root)
        format_name = "json" if as_json else "github"
        bar = column_bar("intervals")
        click.echo(table(result.records, format_name, evidence=evidence, on_column=bar))
    result.raise_failures()


def _encoder_rows() -> list[dict[str, Any]]:
    from cxrzoo.zoo.registry import at_hand, read_all

    return [
        {
            "name": card.name,
            "weights": _where(card, at_hand(card, folder)),
            "tier": card.tier,
            "strategy": card.chain,
        }
        for card, folder in read_all()
    ]


def _where(card: Card, here: bool) -> str:
    if here:
        return "at hand"
    if not card.has_weights:
        return "none yet" if card.verified else "to convert"
    return "on the Hub" if card.verified else "on the Hub, unverified"


def _benchmark_rows() -> list[dict[str, Any]]:
    from cxrzoo.data.benchmark import read_all

    return [
        {
            "name": b.name,
            "version": b.version,
            "labels": len(b.labels),
            "patients": "per image" if b.per_image else "known",
            "split": b.split.rule,
            "access": b.access,
            "tried on": b.verified,
            "title": b.title,
        }
        for b in read_all()
    ]


def _exposure_rows() -> list[dict[str, Any]]:
    from cxrzoo.data.benchmark import read_all as read_benchmarks
    from cxrzoo.evaluation.exposure import exposure
    from cxrzoo.zoo.registry import read_all

    benchmarks = read_benchmarks()
    return [
        {"encoder": card.name} | {b.name: exposure(card, b).state for b in benchmarks}
        for card, _ in read_all()
    ]


def _protocol_rows() -> list[dict[str, Any]]:
    from cxrzoo.evaluation.protocol import PROTOCOLS

    return [{"name": p.name, "trials": p.trials, "summary": p.summary} for p in PROTOCOLS.values()]


def _recipe_rows() -> list[dict[str, Any]]:
    from cxrzoo.pretrain.recipe import find_recipe, list_recipes

    found = [find_recipe(*name.rsplit("-", 1)) for name in list_recipes()]
    return [
        {
            "method": r.method,
            "tier": r.tier,
            "images seen: imagenet": r.imagenet.images_seen,
            "cxr": r.cxr.images_seen,
            "continued": r.continued.images_seen,
            "title": r.title,
            "note": r.note,
        }
        for r in found
    ]


def _info(name: str) -> dict[str, Any]:
    from cxrzoo.data.benchmark import find as find_benchmark
    from cxrzoo.data.benchmark import read_all as read_benchmarks
    from cxrzoo.errors import UnknownNameError
    from cxrzoo.evaluation.exposure import exposure

    if name in catalogue("benchmarks"):
        return find_benchmark(name).model_dump(mode="json")
    if name in catalogue("protocols"):
        from cxrzoo.evaluation.protocol import find as find_protocol

        return find_protocol(name).model_dump(mode="json")
    from cxrzoo.zoo.registry import locate

    try:
        card, directory = locate(name)
    except UnknownNameError:
        choices = [n for kind in ("encoders", "benchmarks", "protocols") for n in catalogue(kind)]
        raise UnknownNameError("name", name, choices) from None
    seen = {}
    for benchmark in read_benchmarks():
        found = exposure(card, benchmark)
        seen[benchmark.name] = f"{found.state}: {found.reason}"
    return {**card.model_dump(mode="json"), "directory": str(directory), "exposure": seen}


def _print_plan(planned: list[Any], lines: list[str], as_json: bool) -> None:
    keys = ("encoder", "benchmark", "budget", "seed", "state", "reason")
    rows = [{key: getattr(entry, key) for key in keys} for entry in planned]
    if as_json:
        click.echo(json.dumps({"cells": rows, "estimate": lines}, indent=1))
        return
    print_rows(rows, as_json=False)
    states = [entry.state for entry in planned]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("cached", "missing", "blocked"))
    click.echo("\n".join(["", f"{len(states)} cells: {counts}", *lines]))
