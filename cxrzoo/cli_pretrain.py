"""``cxrzoo pretrain``."""

from __future__ import annotations

from pathlib import Path

import click

from cxrzoo.cli_shared import DATA_ROOT, WORKERS, complete_names
from cxrzoo.errors import CxrzooError


@click.command("pretrain")
@click.argument("name", shell_complete=complete_names("encoders"))
@click.option("--tier", default="lite", show_default=True, help="Scale: which recipes are used.")
@DATA_ROOT
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="DATA=POOL",
    help="What a strategy's data are, e.g. cxr=nih14:train; by default folders of the data root.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="encoders", show_default=True
)
@click.option("--images-seen", type=click.IntRange(2), help="Instead of the recipe's number.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@WORKERS
def pretrain_command(
    name: str,
    tier: str,
    data_root: Path | None,
    pools: tuple[str, ...],
    output: Path,
    images_seen: int | None,
    seed: int,
    device: str,
    workers: int | None,
) -> None:
    """Train a strategy of the zoo, and what it starts from where that has no weights.

    Each stage becomes a card directory below OUTPUT. A finished one is not trained again; an
    interrupted one goes on when the same command is run again.
    """
    chosen = {}
    for text in pools:
        data, is_given, pool = text.partition("=")
        if not is_given or not pool:
            raise click.BadParameter(f"'{text}' is not DATA=POOL", param_hint="--pool")
        chosen[data] = pool
    try:
        from cxrzoo.pretrain.chain import Request, fabric_for, pretrain
    except ImportError as error:
        raise CxrzooError(f"pretraining: {error}; pip install 'cxrzoo[pretrain]'") from error

    request = Request(
        tier=tier,
        data_root=data_root,
        output=output,
        pools=chosen,
        images_seen=images_seen,
        seed=seed,
        workers=workers,
    )
    encoder = pretrain(name, request, fabric_for(device))
    click.echo(f"{encoder.card.name}: {output / name} sha256 {encoder.weights_sha256}")
