"""``cxrzoo pretrain``: a strategy's stages one after the other, each an encoder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from safetensors.torch import save as serialise
from torch import nn

from cxrzoo import arrays, images, resources
from cxrzoo.data.pool import Pool, open_pool
from cxrzoo.errors import PretrainError, RecipeError, WeightsError
from cxrzoo.files import safe_name, sha256_of_json, write_atomically
from cxrzoo.pretrain.methods import find_method
from cxrzoo.pretrain.recipe import Recipe, Settings, find_recipe
from cxrzoo.pretrain.train import LOG, Outcome, Run, train
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import CARD_FILE, Card, card_text, parse_card, read_card, split_front_matter
from cxrzoo.zoo.convert import compact_state, write_config
from cxrzoo.zoo.encoder import Encoder, config_of, load_from
from cxrzoo.zoo.hub import WEIGHTS_FILE
from cxrzoo.zoo.weights import create_backbone, load_strictly, read_safetensors

POOLS = {"imagenet": "natural-pool", "cxr": "cxr-pool"}
"""What a strategy's data are called below the data root, unless ``--pool`` says otherwise."""
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Request:
    """What is to be trained, and with what."""

    tier: str
    data_root: Path | None
    output: Path
    pools: dict[str, str]
    images_seen: int | None = None
    seed: int = 0
    workers: int | None = None


def fabric_for(device: str) -> Fabric:
    """Fabric on one device; bfloat16 on a GPU."""
    accelerator, _, index = device.partition(":")
    gpu = torch.cuda.is_available() and accelerator in ("auto", "cuda")
    fabric = Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else 1,
        precision="bf16-mixed" if gpu else "32-true",
    )
    fabric.launch()
    return fabric


def pretrain(name: str, request: Request, fabric: Fabric) -> Encoder:
    """Train the strategy called ``name`` and every encoder it starts from that has no weights.

    Each is a card directory below ``request.output``, ready for ``publish``; one that is there
    with the same key is not trained again, and an interrupted one goes on.

    Raises:
        UnknownNameError: no such strategy, or no recipe for it.
        RecipeError: the strategy cannot be trained.
        PretrainError, StorageError: see ``train``.
    """
    card, _ = registry.find(name)
    stage = card.strategy[-1]
    if stage.method in ("none", "unknown") or stage.data is None or not card.verified:
        raise RecipeError(f"'{name}' is no strategy that can be trained: {card.chain}")
    parent = _parent(stage.init, request, fabric)
    recipe = find_recipe(stage.method, request.tier)
    settings = _settings(recipe, parent, request)
    pool = open_pool(request.pools.get(stage.data, POOLS.get(stage.data, stage.data)),
                     request.data_root)  # fmt: skip
    pixels = _pixels(pool, settings, colour=stage.data == "imagenet", workers=request.workers)
    key = _key(recipe, settings, parent, pixels.sha256, request)
    directory = request.output / name
    if _is_finished(directory, key):
        return load_from(read_card(directory), directory)
    backbone = _backbone(card, parent, request.seed)
    run = Run(key, pixels.data, settings, card.input)
    method = _method(recipe.method, backbone, settings, request.seed)
    outcome = train(run, method, _training_of(directory), fabric)
    if parent is not None and settings.average_with_start:
        _average(method.backbone, parent.backbone, settings.average_with_start)
    facts = _facts(card, recipe, settings, parent, pool, pixels, outcome, request)
    return _write(card, directory, method.backbone, key, facts)


def _parent(init: str, request: Request, fabric: Fabric) -> Encoder | None:
    """The encoder a stage starts from: of the zoo if it has weights, else trained first."""
    if init == "random":
        return None
    card, directory = registry.find(init)
    if card.has_weights:
        return load_from(card, directory)
    return pretrain(init, request, fabric)


def _settings(recipe: Recipe, parent: Encoder | None, request: Request) -> Settings:
    settings = recipe.settings("scratch" if parent is None else "continued")
    if request.images_seen is not None:
        settings = settings.model_copy(update={"images_seen": request.images_seen})
    return settings


def _pixels(
    pool: Pool, settings: Settings, *, colour: bool, workers: int | None
) -> arrays.DiskArray:
    """The pool decoded once, (N, S, S) grey or (N, S, S, 3) colour uint8.

    Raises:
        PretrainError: images of it cannot be read; it names the first ones.
    """
    size = settings.store_px
    row = (size, size, 3) if colour else (size, size)

    def one(index: int) -> np.ndarray:
        image = pool.images.colour(index) if colour else pool.images.grey(index)
        return images.fit(image, size)

    key = sha256_of_json([pool.images.key, size, colour, images.VERSION])
    built = arrays.open_or_build(
        resources.cache_dir() / "pools" / f"{safe_name(pool.name)}-{size}-{key[:24]}",
        shape=(len(pool), *row),
        dtype="uint8",
        chunk=512,
        fill=arrays.in_threads(one, row, "uint8", workers),
        label=f"decode {pool.name} at {size} px",
    )
    if built.notes:
        shown = "; ".join(list(built.notes.values())[:3])
        raise PretrainError(
            f"pool {pool.name}: {len(built.notes)} images cannot be read ({shown}): a training "
            "would see black squares in their place; take them out"
        )
    return built


def _key(
    recipe: Recipe,
    settings: Settings,
    parent: Encoder | None,
    pixels_sha256: str,
    request: Request,
) -> str:
    """sha256 of everything that can change the weights."""
    return sha256_of_json(
        [
            recipe.method,
            recipe.tier,
            settings.model_dump(mode="json"),
            None if parent is None else parent.weights_sha256,
            pixels_sha256,
            request.seed,
        ]
    )


def _training_of(directory: Path) -> Path:
    """Checkpoints and log lie beside the card directory, which holds an encoder alone."""
    return directory.parent / "training" / directory.name


def _is_finished(directory: Path, key: str) -> bool:
    try:
        return bool(json.loads((_training_of(directory) / RUN_FILE).read_text())["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _backbone(card: Card, parent: Encoder | None, seed: int) -> nn.Module:
    """A network to train: the parent's weights, or random ones."""
    backbone = create_backbone(card.arch, card.input.channels, seed)
    if parent is not None:
        if parent.card.arch != card.arch:
            raise WeightsError(
                f"'{card.name}' is {card.arch}, but '{parent.card.name}' is {parent.card.arch}"
            )
        backbone.load_state_dict(parent.backbone.state_dict(), strict=True)
    return backbone


def _method(name: str, backbone: nn.Module, settings: Settings, seed: int) -> Any:
    """The method around the backbone; its heads are drawn from the seed."""
    made = find_method(name)
    own = made.Settings.model_validate(settings.method)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return made(backbone, own, steps=settings.steps)


def _average(backbone: nn.Module, start: nn.Module, share: float) -> None:
    """Move the weights a share of the way back to where they began."""
    begin = start.state_dict()
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            if value.is_floating_point():
                value.lerp_(begin[name].to(value), share)


def _facts(
    card: Card,
    recipe: Recipe,
    settings: Settings,
    parent: Encoder | None,
    pool: Pool,
    pixels: arrays.DiskArray,
    outcome: Outcome,
    request: Request,
) -> dict[str, Any]:
    """What the card says of the training."""
    ids = hashlib.sha256("\n".join(pool.ids.tolist()).encode()).hexdigest()
    return {
        "recipe": f"{recipe.method}-{recipe.tier}, {'continued' if parent else 'scratch'}",
        "recipe_title": recipe.title,
        "settings": settings.model_dump(mode="json"),
        "pool": pool.name,
        "seen": _seen(card, parent, pool),
        "images": len(pool),
        "ids_sha256": ids,
        "pixels_sha256": pixels.sha256,
        "parent": None if parent is None else parent.card.name,
        "parent_sha256": None if parent is None else parent.weights_sha256,
        "images_seen": settings.steps * settings.batch_size,
        "epochs": round(settings.steps * settings.batch_size / len(pool), 2),
        "seconds": round(outcome.seconds, 1),
        "final_loss": outcome.final_loss,
        "diagnostics": outcome.diagnostics,
        "seed": request.seed,
        "versions": {p: version(p) for p in ("cxrzoo", "torch", "timm", "lightly")},
    }


def _seen(card: Card, parent: Encoder | None, pool: Pool) -> list[dict[str, Any]] | None:
    """All that the weights have seen, the parent's data too; None where that is not known."""
    own = {"dataset": pool.dataset, "split": pool.split, "labels_seen": False}
    if parent is None:
        return [own]
    if parent.card.pretraining_data is None:
        return None
    return [*(d.model_dump(mode="json") for d in parent.card.pretraining_data), own]


def _write(
    card: Card, directory: Path, backbone: nn.Module, key: str, facts: dict[str, Any]
) -> Encoder:
    """Write the card directory, and load the encoder back with every check."""
    front, body = _front_matter(card, facts)
    content = serialise(compact_state(backbone.cpu().float()))
    sha256 = hashlib.sha256(content).hexdigest()
    front["weights"] = {"file": WEIGHTS_FILE, "sha256": sha256}
    made = parse_card(front, str(directory / CARD_FILE))
    stored = create_backbone(card.arch, card.input.channels)
    # rounded as they are stored, so that the golden output is that of the file
    load_strictly(stored, read_safetensors(content, WEIGHTS_FILE), WEIGHTS_FILE)
    write_atomically(directory / WEIGHTS_FILE, content)
    write_atomically(directory / CARD_FILE, card_text(front, body).encode())
    write_config(directory, config_of(Encoder(made, stored, sha256)))
    encoder = load_from(made, directory)
    write_atomically(
        _training_of(directory) / RUN_FILE,
        (json.dumps({"key": key, **facts}, indent=1) + "\n").encode(),
    )
    return encoder


def _front_matter(card: Card, facts: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The strategy's card with the facts of its training."""
    _, directory = registry.find(card.name)
    front, _ = split_front_matter((directory / CARD_FILE).read_text(encoding="utf-8"))
    front["strategy"][-1] |= {
        "num_images": facts["images"],
        "resolution_px": facts["settings"]["views"]["size_px"],
        "epochs": facts["epochs"],
        "source": facts["recipe_title"],
    }
    front["pretraining_data"] = facts["seen"]
    front["data_of_all_stages"] = facts["seen"] is not None
    front["provenance"] = (
        f"Trained by cxrzoo {facts['versions']['cxrzoo']} with recipe {facts['recipe']}: "
        f"{facts['images_seen']:,} images seen of {facts['images']:,} ({facts['pool']}, ids sha256 "
        f"{facts['ids_sha256'][:16]}) in {facts['seconds']:,.0f} s, final loss "
        f"{facts['final_loss']:.4g}, seed {facts['seed']}"
        + (f", from {facts['parent']} (sha256 {facts['parent_sha256']})" if facts["parent"] else "")
        + f"; torch {facts['versions']['torch']}, timm {facts['versions']['timm']}."
    )
    return front, _body(card, facts)


def _body(card: Card, facts: dict[str, Any]) -> str:
    diagnostics = "; ".join(f"{k} {v:.3g}" for k, v in facts["diagnostics"].items())
    lines: Sequence[str] = (
        f"# {card.name}",
        "",
        f"Strategy: {card.chain}.",
        "",
        f"- Recipe: {facts['recipe']} ({facts['recipe_title']}).",
        f"- Data: {facts['images']:,} images of `{facts['pool']}`; {facts['epochs']:g} epochs at "
        f"{facts['settings']['views']['size_px']} px.",
        f"- End of training: loss {facts['final_loss']:.4g}; {diagnostics}.",
        f"- Every step is in `{LOG}` of the training's folder, which is not part of the encoder.",
        "- What the pool shares with a benchmark is in `benchmarks/overlap.yaml`; where it is not "
        "known, its exposure is unknown.",
        "- Not a medical device. It says nothing about a patient.",
        "",
    )
    return "\n".join(lines)
