"""``cxrzoo pretrain``."""

from __future__ import annotations

from pathlib import Path

import click

from cxrzoo.cli_shared import DATA_ROOT, WORKERS, complete_names
from cxrzoo.errors import CxrzooError


@click.command("pretrain")
@click.argument("name", shell_complete=complete_names("encoders"))
@click.option("--tier", default="lite", show_default=True, help="Scale: lite or resnet50.")
@DATA_ROOT
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="DATA=POOL",
    help="What a strategy's data are, e.g. cxr=nih14:train; by default those of the tier.",
)
@click.option(
    "--init",
    "inits",
    multiple=True,
    metavar="STRATEGY=ENCODER",
    help="An encoder to start from, e.g. supervised-imagenet=./mine.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="encoders", show_default=True
)
@click.option("--images-seen", type=click.IntRange(2), help="Instead of the recipe's number.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="[STRATEGY:]SETTING=VALUE",
    help="Another value than NAME's recipe has, e.g. optimiser.learning_rate=3e-4, or that of a "
    "STRATEGY it starts from; the card says so.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--watch",
    default="phantom",
    show_default=True,
    help="Benchmark whose training images give a k-NN score now and then, or none.",
)
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help="Go on from NAME's last checkpoint, or throw it and what was finished away.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@WORKERS
def pretrain_command(
    name: str,
    tier: str,
    data_root: Path | None,
    pools: tuple[str, ...],
    inits: tuple[str, ...],
    output: Path,
    images_seen: int | None,
    changes: tuple[str, ...],
    seed: int,
    watch: str,
    resume: bool,
    device: str,
    workers: int | None,
) -> None:
    """Train a strategy of the zoo, and what it starts from where that has no weights.

    Each stage becomes a card directory below OUTPUT. A finished one is not trained again; an
    interrupted one goes on when the same command is run again. On several devices:
    torchrun --nproc-per-node 8 -m cxrzoo pretrain NAME ...
    """
    if images_seen is not None:
        changes = (*changes, f"images_seen={images_seen}")
    given_pools, given_inits = _pairs(pools, "--pool"), _pairs(inits, "--init")
    try:
        from cxrzoo.pretrain.chain import fabric_for, pretrain
        from cxrzoo.pretrain.plan import Request
    except ImportError as error:
        raise CxrzooError(f"pretraining: {error}; pip install 'cxrzoo[pretrain]'") from error

    request = Request(
        strategy=name,
        tier=tier,
        data_root=data_root,
        output=output,
        pools=given_pools,
        inits=given_inits,
        changes=changes,
        seed=seed,
        watch=None if watch == "none" else watch,
        restart=not resume,
        workers=workers,
    )
    fabric = fabric_for(device)
    encoder = pretrain(request, fabric)
    if fabric.is_global_zero:
        path = output / encoder.card.name
        click.echo(f"{encoder.card.name}: {path} sha256 {encoder.weights_sha256}")


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """``KEY=VALUE`` options as a mapping."""
    pairs = {}
    for text in texts:
        key, is_given, value = text.partition("=")
        if not is_given or not key or not value:
            raise click.BadParameter(f"'{text}' is not KEY=VALUE", param_hint=option)
        pairs[key] = value
    return pairs
