"""What a finished training leaves: a card directory that can be published, and ``run.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from lightning.fabric import Fabric
from safetensors.torch import save as serialise
from tabulate import tabulate
from torch import nn

from cxrzoo.data.overlap import load_overlap
from cxrzoo.data.rows import hash_lines
from cxrzoo.errors import CxrzooError
from cxrzoo.files import write_atomically
from cxrzoo.pretrain.methods import find_method
from cxrzoo.pretrain.plan import Plan
from cxrzoo.pretrain.train import LOG, Outcome
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import CARD_FILE, Card, card_text, parse_card, read_card, split_front_matter
from cxrzoo.zoo.convert import compact_state, write_config
from cxrzoo.zoo.encoder import Encoder, config_of, load_from
from cxrzoo.zoo.hub import WEIGHTS_FILE
from cxrzoo.zoo.weights import create_backbone, load_strictly, read_safetensors

RUN_FILE = "run.json"
_GONE = object()


def find_finished(plan: Plan) -> Encoder | None:
    """The very encoder of the plan, if it is there, whole."""
    try:
        written = json.loads((plan.training / RUN_FILE).read_text())
        encoder = load_from(read_card(plan.directory), plan.directory)
        is_it = (written["key"], written["weights_sha256"]) == (plan.key, encoder.weights_sha256)
    except (OSError, ValueError, KeyError, TypeError, CxrzooError):
        return None
    return encoder if is_it else None


def write_encoder(plan: Plan, backbone: nn.Module, outcome: Outcome, fabric: Fabric) -> None:
    """Write the card directory, and load the encoder back with every check."""
    card, directory = plan.card, plan.directory
    facts = _facts(plan, outcome, fabric)
    front, body = _front_matter(plan, facts)
    content = serialise(compact_state(backbone.cpu().float()))
    sha256 = hashlib.sha256(content).hexdigest()
    front["weights"] = {"file": WEIGHTS_FILE, "sha256": sha256}
    facts["weights_sha256"] = sha256
    made = parse_card(front, str(directory / CARD_FILE))
    stored = create_backbone(card.arch, card.input.channels)
    # rounded as they are stored, so that the golden output is that of the file
    load_strictly(stored, read_safetensors(content, WEIGHTS_FILE), WEIGHTS_FILE)
    write_atomically(directory / WEIGHTS_FILE, content)
    write_atomically(directory / CARD_FILE, card_text(front, body).encode())
    write_config(directory, config_of(Encoder(made, stored, sha256)))
    load_from(made, directory)
    # last, because a training with this file is finished
    write_atomically(plan.training / RUN_FILE, (json.dumps(facts, indent=1) + "\n").encode())


def _facts(plan: Plan, outcome: Outcome, fabric: Fabric) -> dict[str, Any]:
    """What the card and ``run.json`` say of the training."""
    recipe, settings, parent, pool = plan.recipe, plan.settings, plan.parent, plan.pool
    images_seen = settings.steps * settings.batch_size
    data = load_overlap().datasets.get(pool.dataset)
    return {
        "key": plan.key,
        "recipe": f"{recipe.method}-{recipe.tier}, {plan.start}",
        "recipe_title": recipe.title,
        "changes": list(plan.changes),
        "settings": settings.model_dump(mode="json"),
        "sources": recipe.sources_of(plan.card.strategy[-1].data or "", plan.start),
        "pool": pool.name,
        "pool_called": f"{pool.name} of {data.part_of}" if data and data.part_of else pool.name,
        "caution": data.caution if data else None,
        "seen": _seen(plan),
        "images": len(pool),
        "ids_sha256": hash_lines(pool.ids),
        "pixels_sha256": plan.pixels.sha256,
        "parent": None if parent is None else parent.card.name,
        "parent_sha256": None if parent is None else parent.weights_sha256,
        "images_seen": images_seen,
        "epochs": round(images_seen / len(pool), 2),
        "seconds": round(outcome.seconds, 1),
        "processes": fabric.world_size,
        "device": fabric.device.type,
        "final_loss": outcome.final_loss,
        "diagnostics": outcome.diagnostics,
        "watched": plan.request.watch,
        "seed": plan.request.seed,
        "versions": {p: version(p) for p in ("cxrzoo", "torch", "timm", "lightly", "lightning")},
    }


def _seen(plan: Plan) -> list[dict[str, Any]] | None:
    """All that the weights have seen, the parent's data too; None where that is not known."""
    labels_seen = find_method(plan.recipe.method).needs_labels
    own = {"dataset": plan.pool.dataset, "split": plan.pool.split, "labels_seen": labels_seen}
    if plan.parent is None:
        return [own]
    if plan.parent.card.pretraining_data is None:
        return None
    return [*(d.model_dump(mode="json") for d in plan.parent.card.pretraining_data), own]


def _front_matter(plan: Plan, facts: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The strategy's card with the facts of its training."""
    _, directory = registry.find(plan.strategy)
    front, _ = split_front_matter((directory / CARD_FILE).read_text(encoding="utf-8"))
    front |= plan.card.model_dump(mode="json", include={"name", "arch", "tier", "input"})
    own = front["strategy"][-1] | {
        "pool": facts["pool_called"],
        "caution": facts["caution"],
        "num_images": facts["images"],
        "resolution_px": facts["settings"]["views"]["size_px"],
        "epochs": facts["epochs"],
    }
    front["strategy"] = [own]
    if plan.parent is not None:
        parent = plan.parent.card.model_dump(mode="json")
        front["strategy"] = [*parent["strategy"], own | {"init": parent["name"]}]
        # what is made of weights is under their terms
        front |= {key: parent[key] for key in ("license", "license_name", "license_link")}
    front["pretraining_data"] = facts["seen"]
    front["data_of_all_stages"] = facts["seen"] is not None
    front["provenance"] = _provenance(facts)
    front.pop("model-index", None)
    return front, _body(parse_card(front, plan.strategy), facts)


def _provenance(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    changed = f" with {', '.join(facts['changes'])}" if facts["changes"] else ""
    parent = (
        f", from {facts['parent']} (sha256 {facts['parent_sha256']})" if facts["parent"] else ""
    )
    return (
        f"Trained with recipe {facts['recipe']}{changed}: {facts['images_seen']:,} images seen of "
        f"{facts['images']:,} ({facts['pool']}, ids sha256 {facts['ids_sha256']}) in "
        f"{facts['seconds']:,.0f} s on {facts['processes']} x {facts['device']}, final loss "
        f"{facts['final_loss']:.4g}, seed {facts['seed']}{parent}; {versions}."
    )


def _body(card: Card, facts: dict[str, Any]) -> str:
    settings = facts["settings"]
    diagnostics = "; ".join(f"{k} {v:.3g}" for k, v in facts["diagnostics"].items())
    watched = f" (k-NN on training images of {facts['watched']})" if facts["watched"] else ""
    rows = _setting_rows(settings, facts["sources"], facts["changes"])
    lines: Sequence[str] = (
        f"# {card.name}",
        "",
        f"Strategy: {card.chain}.",
        "",
        f"- Recipe: {facts['recipe']} ({facts['recipe_title']}).",
        f"- Data: {facts['images']:,} images of `{facts['pool']}`; {facts['epochs']:g} epochs at "
        f"{settings['views']['size_px']} px. A folder is known by its name alone. What it shares "
        "with a benchmark is in `benchmarks/overlap.yaml`; where it is not known, exposure is "
        "unknown.",
        *(f"- Caution: {stage.caution}." for stage in card.strategy if stage.caution),
        f"- End of training: loss {facts['final_loss']:.4g}; {diagnostics}{watched}.",
        f"- Every step is in `{LOG}` of the training's folder, which is not part of the encoder.",
        "- Not a medical device. It says nothing about a patient.",
        "",
        "## Settings",
        "",
        tabulate(rows, headers=("setting", "value", "source"), tablefmt="github"),
        "",
    )
    return "\n".join(lines)


def _setting_rows(
    settings: dict[str, Any], sources: dict[str, str], changes: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Every setting that the recipe states or the user changed, with where its value is from."""
    changed = {change.partition("=")[0] for change in changes}
    rows = []
    for path in sorted({*sources, *changed}):
        value: Any = settings
        for key in path.split("."):
            value = value.get(key, _GONE) if isinstance(value, dict) else _GONE
        if value is _GONE:  # of local views, where they were switched off
            continue
        source = "changed for this training" if path in changed else sources[path]
        rows.append((path, json.dumps(value), source))
    return rows
