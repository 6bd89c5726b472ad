"""``cxrzoo pretrain``: a strategy's stages one after the other, each an encoder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from pydantic import ValidationError
from torch import Tensor, nn

from cxrzoo.data.pool import training_pool
from cxrzoo.errors import (
    HubError,
    PretrainError,
    RecipeError,
    UnknownNameError,
    WeightsError,
    storage_errors,
)
from cxrzoo.pretrain.figure import draw_log
from cxrzoo.pretrain.layers import freeze_stages, settle_statistics, silence_residual_branches
from cxrzoo.pretrain.methods import Method, find_method
from cxrzoo.pretrain.plan import Plan, Request, decoded, labelled, large_enough
from cxrzoo.pretrain.product import find_finished, write_encoder
from cxrzoo.pretrain.recipe import Settings, Start, Views, find_recipe, with_changes
from cxrzoo.pretrain.tier import find_tier, name_at
from cxrzoo.pretrain.train import LOG, Run, train
from cxrzoo.pretrain.views import as_input, augment
from cxrzoo.pretrain.watch import Watch
from cxrzoo.schema import plain_lines
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import Card, read_card
from cxrzoo.zoo.encoder import Encoder, load, load_from
from cxrzoo.zoo.weights import create_backbone

FIGURE = "loss.png"
_SETTLING, _SETTLING_BATCH = 1024, 64
"""Images whose statistics BatchNorm is given after a training without any."""


def fabric_for(device: str) -> Fabric:
    """Fabric on the processes that torchrun has started, or on one device without it; bfloat16 on
    a GPU.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        PretrainError: there is no such device here.
    """
    accelerator, _, index = device.partition(":")
    if accelerator not in ("auto", "cpu", "cuda", "mps") or (
        index and not (accelerator == "cuda" and index.isdecimal())
    ):
        raise PretrainError(f"device '{device}': expected auto, cpu, cuda, cuda:N or mps")
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if torchrun and index:
        raise PretrainError(f"device '{device}': torchrun gives every process its own, say cuda")
    alone = [int(index)] if index.isdecimal() else 1
    gpu = torch.cuda.is_available() and accelerator in ("auto", "cuda")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else alone,
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)) if torchrun else 1,
            # statistics are those of the global batch on every process already
            strategy=DDPStrategy(broadcast_buffers=False) if torchrun else "auto",
            precision="bf16-mixed" if gpu else "32-true",
        )
        fabric.launch()
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise PretrainError(f"device '{device}' cannot be used here ({reason})") from None
    return fabric


def pretrain(request: Request, fabric: Fabric) -> Encoder:
    """Train the strategy of ``request`` and every encoder it starts from that has no weights.

    Each is a card directory below ``request.output``, ready for ``publish``; one that is there
    with the same key is not trained again, and an interrupted one goes on.

    Raises:
        UnknownNameError: no such strategy or tier, or no recipe for it.
        RecipeError: the strategy cannot be trained, or not with these settings.
        DataError: a pool cannot be used.
        PretrainError, StorageError: see ``train``.
    """
    _check_request(request)
    return _encoder_of(request.strategy, request, fabric)


def _encoder_of(strategy: str, request: Request, fabric: Fabric) -> Encoder:
    plan = _plan(strategy, request, fabric)
    restart = request.restart and strategy == request.strategy
    finished = None if restart else find_finished(plan)
    if finished is None:
        with _one_at_a_time(plan.training, fabric):
            _train(plan, fabric, restart=restart)
    return finished or load_from(read_card(plan.directory), plan.directory)


def _check_request(request: Request) -> None:
    """Refuse what would be ignored: pools, encoders and settings that nothing asks for."""
    names: list[str] = [request.strategy]
    data: list[str] = []
    while names[-1] != "random":
        stage = registry.find(names[-1])[0].strategy[-1]
        names.append(stage.init)
        data += [stage.data] if stage.data else []
    for key in request.pools:
        if key not in data:
            raise UnknownNameError(f"data of {request.strategy} for --pool", key, data)
    for key in request.inits:
        if key not in names[1:-1]:
            raise UnknownNameError(f"start of {request.strategy} for --init", key, names[1:-1])
    for change in request.changes:
        of, colon, _ = change.partition("=")[0].partition(":")
        if colon and of not in names[:-1]:
            raise UnknownNameError(f"stage of {request.strategy} for --set", of, names[:-1])


def _plan(strategy: str, request: Request, fabric: Fabric) -> Plan:
    """Decide a stage; what it starts from is trained last, when nothing else can be wrong."""
    card, _ = registry.find(strategy)
    stage = card.strategy[-1]
    if stage.method in ("none", "unknown") or stage.data is None or not card.verified:
        raise RecipeError(f"'{strategy}' is no strategy that can be trained: {card.chain}")
    tier = find_tier(request.tier)
    at_tier = {"name": name_at(strategy, request.tier), "arch": tier.arch, "input": tier.contract}
    card = card.model_copy(update={**at_tier, "tier": request.tier})
    recipe = find_recipe(stage.method, request.tier)
    start: Start = "scratch" if stage.init == "random" else "continued"
    changes = request.changes_of(strategy)
    settings = with_changes(recipe.settings(stage.data, start), changes)
    made = _check_settings(recipe.method, settings, fabric.world_size, card)
    wanted = request.pools.get(stage.data, tier.pools.get(stage.data, stage.data))
    pool = training_pool(wanted, request.data_root)
    pool = labelled(pool) if made.needs_labels else pool
    with fabric.rank_zero_first():
        pool = large_enough(pool, settings, request.workers)
        colour = stage.data.startswith("imagenet")
        pixels = decoded(pool, settings, colour=colour, workers=request.workers)
    parent = None if start == "scratch" else _parent(stage.init, request, fabric)
    if parent is not None and parent.card.arch != card.arch:
        raise WeightsError(
            f"'{card.name}' is {card.arch}, but '{parent.card.name}' is {parent.card.arch}"
        )
    return Plan(strategy, card, recipe, start, settings, changes, parent, pool, pixels, request)


def _check_settings(method: str, settings: Settings, processes: int, card: Card) -> type[Method]:
    """The method; raises RecipeError for settings that would fail only once it is trained."""
    made = find_method(method)
    try:
        own = made.Settings.model_validate(settings.method)
    except ValidationError as error:
        raise RecipeError(plain_lines(error, f"{card.name}: method")) from None
    if settings.views.local is not None and not made.multi_crop:
        raise RecipeError(f"{made.name} takes no local views (views.local)")
    if getattr(own, "frozen_steps", 0) >= settings.steps:
        raise RecipeError(
            f"method.frozen_steps: {own.model_dump()['frozen_steps']:,} leave nothing of a "
            f"training of {settings.steps:,} steps"
        )
    if settings.batch_size % processes:
        raise RecipeError(
            f"batch_size: {settings.batch_size} images cannot be divided among {processes} "
            "processes"
        )
    backbone = create_backbone(card.arch, card.input.channels)
    freeze_stages(backbone, settings.frozen_stages)
    if settings.silent_residuals:
        silence_residual_branches(backbone)
    return made


def _parent(init: str, request: Request, fabric: Fabric) -> Encoder:
    """The encoder a stage starts from: the one given, else of the zoo if it has weights at this
    tier, else trained first."""
    if init in request.inits:
        return load(request.inits[init])
    card, directory = registry.find(init)
    if card.has_weights and card.tier == request.tier:
        return load_from(card, directory)
    stand_in = find_tier(request.tier).stand_ins.get(init)
    if stand_in is None:
        return _encoder_of(init, request, fabric)
    try:
        return load(stand_in)
    except HubError as error:
        raise HubError(f"{error}; or name another to start from with --init {init}=DIR") from None


def _train(plan: Plan, fabric: Fabric, *, restart: bool) -> None:
    settings, request = plan.settings, plan.request
    if restart and fabric.is_global_zero:
        shutil.rmtree(plan.training, ignore_errors=True)
    fabric.barrier()
    method = _method(plan)
    watch = None
    if request.watch is not None:
        with fabric.rank_zero_first():
            watch = Watch(request.watch, request.data_root, plan.card)
    run = Run(plan.key, plan.pixels.data, settings, plan.card.input, plan.labels, watch)
    outcome = train(run, method, plan.training, fabric)
    if plan.parent is not None and settings.average_with_start:
        _average(method.backbone, plan.parent.backbone, settings.average_with_start)
    if fabric.is_global_zero:
        if plan.parent is None and settings.batchnorm == "frozen":
            settle_statistics(method.backbone, _images(plan, fabric.device))
        write_encoder(plan, method.backbone, outcome, fabric)
        draw_log(plan.training / LOG, plan.training / FIGURE, title=plan.card.name)
    fabric.barrier()


@contextmanager
def _one_at_a_time(training: Path, fabric: Fabric) -> Iterator[None]:
    """Refuse a second training of the same encoder at the same place."""
    if not fabric.is_global_zero:
        yield
        return
    with storage_errors(training, "the training"):
        training.mkdir(parents=True, exist_ok=True)
    lock = FileLock(training.with_name(f"{training.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise PretrainError(f"{training}: another process is training this encoder") from None
    try:
        yield
    finally:
        lock.release()


def _method(plan: Plan) -> Method:
    """The method around a backbone with the parent's weights, or random ones; heads are drawn
    from the seed."""
    card, settings = plan.card, plan.settings
    num_classes = len(plan.pool.label_names) or None
    backbone = create_backbone(card.arch, card.input.channels, plan.request.seed)
    if plan.parent is not None:
        backbone.load_state_dict(plan.parent.backbone.state_dict(), strict=True)
    elif settings.silent_residuals:
        silence_residual_branches(backbone)
    freeze_stages(backbone, settings.frozen_stages)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.request.seed)
        made = find_method(plan.recipe.method)
        return made(backbone, plan.method_settings, steps=settings.steps, num_classes=num_classes)


def _images(plan: Plan, device: torch.device) -> Iterator[Tensor]:
    """A thousand images of the pool, or all, whole and at the size of the encoder's input."""
    contract = plan.card.input
    whole = Views(size_px=contract.size_px, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    size = min(_SETTLING_BATCH, len(plan.pool))
    rows = np.linspace(0, len(plan.pool), min(_SETTLING, len(plan.pool)), endpoint=False)
    for start in range(0, len(rows) - size + 1, size):
        found = torch.from_numpy(plan.pixels.data[rows[start : start + size].astype(int)])
        pixels = found.permute(0, 3, 1, 2) if found.ndim == 4 else found
        yield as_input(augment(pixels.to(device), whole, torch.Generator()), contract)


def _average(backbone: nn.Module, start: nn.Module, share: float) -> None:
    """Move the weights a share of the way back to where they began."""
    begin = start.state_dict()
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            if value.is_floating_point():
                value.lerp_(begin[name].to(value), share)
