"""``cxrzoo pretrain``: a strategy's stages one after the other, each an encoder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from pydantic import ValidationError
from torch import nn

from cxrzoo.data.pool import training_pool
from cxrzoo.errors import HubError, PretrainError, RecipeError, WeightsError, storage_errors
from cxrzoo.pretrain.figure import draw_log
from cxrzoo.pretrain.layers import freeze_stages
from cxrzoo.pretrain.methods import Method, find_method
from cxrzoo.pretrain.plan import Plan, Request, decoded, labelled, large_enough
from cxrzoo.pretrain.product import is_finished, write_encoder
from cxrzoo.pretrain.recipe import Start, find_recipe, with_changes
from cxrzoo.pretrain.tier import find_tier, name_at
from cxrzoo.pretrain.train import LOG, Run, train
from cxrzoo.pretrain.watch import Watch
from cxrzoo.schema import plain_lines
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import read_card
from cxrzoo.zoo.encoder import Encoder, load, load_from
from cxrzoo.zoo.weights import create_backbone

FIGURE = "loss.png"


def fabric_for(device: str) -> Fabric:
    """Fabric on the processes that torchrun has started, or on one device without it; bfloat16 on
    a GPU."""
    accelerator, _, index = device.partition(":")
    gpu = torch.cuda.is_available() and accelerator in ("auto", "cuda")
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    fabric = Fabric(
        accelerator=accelerator,
        devices=int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else [int(index)] if index else 1,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)) if torchrun else 1,
        # statistics are those of the global batch on every process already
        strategy=DDPStrategy(broadcast_buffers=False) if torchrun else "auto",
        precision="bf16-mixed" if gpu else "32-true",
    )
    fabric.launch()
    return fabric


def pretrain(name: str, request: Request, fabric: Fabric) -> Encoder:
    """Train the strategy called ``name`` and every encoder it starts from that has no weights.

    Each is a card directory below ``request.output``, ready for ``publish``; one that is there
    with the same key is not trained again, and an interrupted one goes on.

    Raises:
        UnknownNameError: no such strategy or tier, or no recipe for it.
        RecipeError: the strategy cannot be trained.
        DataError: a pool cannot be used.
        PretrainError, StorageError: see ``train``.
    """
    plan = _plan(name, request, fabric)
    if not is_finished(plan):
        with _one_at_a_time(plan.training, fabric):
            _train(plan, fabric)
    return load_from(read_card(plan.directory), plan.directory)


def _plan(name: str, request: Request, fabric: Fabric) -> Plan:
    card, _ = registry.find(name)
    stage = card.strategy[-1]
    if stage.method in ("none", "unknown") or stage.data is None or not card.verified:
        raise RecipeError(f"'{name}' is no strategy that can be trained: {card.chain}")
    tier = find_tier(request.tier)
    at_tier = {"name": name_at(name, request.tier), "arch": tier.arch, "input": tier.contract}
    card = card.model_copy(update={**at_tier, "tier": request.tier})
    recipe = find_recipe(stage.method, request.tier)
    start: Start = "scratch" if stage.init == "random" else "continued"
    settings = with_changes(recipe.settings(stage.data, start), request.changes)
    parent = None if stage.init == "random" else _parent(stage.init, request, fabric)
    if parent is not None and parent.card.arch != card.arch:
        raise WeightsError(
            f"'{card.name}' is {card.arch}, but '{parent.card.name}' is {parent.card.arch}"
        )
    wanted = request.pools.get(stage.data, tier.pools.get(stage.data, stage.data))
    pool = training_pool(wanted, request.data_root)
    pool = labelled(pool) if find_method(stage.method).needs_labels else pool
    with fabric.rank_zero_first():
        pool = large_enough(pool, settings, request.workers)
        colour = stage.data.startswith("imagenet")
        pixels = decoded(pool, settings, colour=colour, workers=request.workers)
    return Plan(name, card, recipe, start, settings, parent, pool, pixels, request)


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
        return pretrain(init, request, fabric)
    try:
        return load(stand_in)
    except HubError as error:
        raise HubError(f"{error}; or name another to start from with --init {init}=DIR") from None


def _train(plan: Plan, fabric: Fabric) -> None:
    settings, request = plan.settings, plan.request
    if request.restart and fabric.is_global_zero:
        shutil.rmtree(plan.training, ignore_errors=True)
    fabric.barrier()
    method = _method(plan)
    watch = None
    if request.watch is not None:
        with fabric.rank_zero_first():
            watch = Watch(request.watch, request.data_root, plan.card)
    labels = plan.pool.labels if method.needs_labels else None
    run = Run(plan.key, plan.pixels.data, settings, plan.card.input, labels, watch)
    outcome = train(run, method, plan.training, fabric)
    if plan.parent is not None and settings.average_with_start:
        _average(method.backbone, plan.parent.backbone, settings.average_with_start)
    if fabric.is_global_zero:
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
    lock = FileLock(training.with_suffix(".lock"), timeout=0)
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
    made = find_method(plan.recipe.method)
    try:
        own = made.Settings.model_validate(settings.method)
    except ValidationError as error:
        raise RecipeError(plain_lines(error, f"{card.name}: method")) from None
    if settings.views.local is not None and not made.multi_crop:
        raise RecipeError(f"{made.name} takes no local views (views.local)")
    num_classes = len(plan.pool.label_names) or None
    backbone = create_backbone(card.arch, card.input.channels, plan.request.seed)
    if plan.parent is not None:
        backbone.load_state_dict(plan.parent.backbone.state_dict(), strict=True)
    if settings.frozen_stages:
        freeze_stages(backbone, settings.frozen_stages)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.request.seed)
        return made(backbone, own, steps=settings.steps, num_classes=num_classes)


def _average(backbone: nn.Module, start: nn.Module, share: float) -> None:
    """Move the weights a share of the way back to where they began."""
    begin = start.state_dict()
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            if value.is_floating_point():
                value.lerp_(begin[name].to(value), share)
