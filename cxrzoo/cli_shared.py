"""What the commands share: options, completion, and how rows are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
DATA_ROOT = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    envvar="CXRZOO_DATA",
    help="Folder that holds one folder of images per benchmark; else CXRZOO_DATA.",
)
REQUIRE_CLEAN = click.option(
    "--require-clean",
    is_flag=True,
    help="Refuse encoders that have seen the benchmark, or of which nobody knows.",
)
WORKERS = click.option("--workers", type=click.IntRange(1), help="Decoding threads.")
OFFLINE = click.option("--offline", is_flag=True, help="Never ask the Hub.")


def complete_names(kind: str) -> Any:
    """Completion of encoder or benchmark names, from the catalogue on disk."""

    def complete(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
        return [CompletionItem(n) for n in catalogue(kind) if n.startswith(start)]

    return complete


def catalogue(kind: str) -> list[str]:
    if kind == "encoders":
        from cxrzoo.zoo.registry import list_encoders

        return list_encoders()
    if kind == "benchmarks":
        from cxrzoo.data.benchmark import list_benchmarks

        return list_benchmarks()
    from cxrzoo.evaluation.protocol import PROTOCOLS

    return list(PROTOCOLS)


def print_rows(
    rows: list[dict[str, Any]], as_json: bool, widths: list[int | None] | None = None
) -> None:
    from tabulate import tabulate

    if as_json:
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        click.echo(
            tabulate(
                rows,
                headers="keys",
                tablefmt="simple",
                disable_numparse=True,
                maxcolwidths=widths,
            )
        )


def budget(text: str) -> int | str:
    """A value of ``--budget``: a number of images, or ``full``."""
    if text == "full":
        return text
    if not text.isdigit() or int(text) == 0:
        message = f"'{text}' is neither a number of images nor full"
        raise click.BadParameter(message, param_hint="--budget")
    return int(text)
