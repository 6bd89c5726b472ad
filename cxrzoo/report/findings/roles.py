"""Which encoder plays which part in the claims: from the stages of its training, not its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from cxrzoo.evaluation.record import Record
from cxrzoo.pretrain.tier import TIERS
from cxrzoo.report.findings.claims import Claims, Kind
from cxrzoo.report.naming import stages_of
from cxrzoo.zoo.card import Card, Method, Stage, chain_of

Role = Literal[
    "supervised-imagenet", "ssl-imagenet", "ssl-cxr", "ssl-imagenet-then-cxr", "continued", "none"
]
_SELF_SUPERVISED = frozenset(get_args(Method)) - {"none", "supervised", "unknown"}
_STAGE = re.compile(r"(?P<method>\w+) on (?P<data>[^()]+?)(?: \((?P<pool>[^()]+)\))?")


@dataclass(frozen=True)
class Participant:
    """An encoder of the records and its part.

    ``label`` is as in tables, ``method`` that of its self-supervised training. ``images`` is the
    size of the last stage's data and ``images_seen`` how many images that training drew; None
    where neither records nor a card at hand tell. ``reason`` says why it plays no part.
    """

    label: str
    chain: str
    tier: str
    role: Role
    method: str
    images: int | None
    images_seen: float | None
    reason: str


def participant(
    records: Sequence[Record], label: str, cards: Mapping[str, Card], claims: Claims
) -> Participant:
    """The part of an encoder with these records.

    A card at hand with the same weights tells most, then the stages that records declare, then
    the strategy's text, which is all that older records have. ``cards`` are by the weights' sha256.
    """
    record = records[0]
    card = cards.get(record.spec.encoder.weights_sha256)
    stages = card.strategy if card else next(filter(None, map(stages_of, records)), ())
    chain = chain_of(stages) if stages else record.declared.get("strategy") or ""
    stages = stages or parse_chain(chain)
    role, reason = role_of(stages, claims)
    last = stages[-1] if stages else None
    return Participant(
        label=label,
        chain=chain or "not told",
        tier=tier_of(record.spec.encoder.name, record.declared.get("tier")),
        role=role,
        method=last.method if last and role != "supervised-imagenet" else "",
        images=last.num_images if last else None,
        images_seen=_product(last.num_images, last.epochs) if last else None,
        reason=reason,
    )


def role_of(stages: Sequence[Stage], claims: Claims) -> tuple[Role, str]:
    """The part that an encoder with these stages plays, or ``none`` and why."""
    methods = [stage.method for stage in stages]
    kinds = [kind_of(stage.data or "", claims) for stage in stages]
    if not stages or "unknown" in methods:
        return "none", "its pretraining method is not told"
    if methods == ["none"]:
        return "none", "not pretrained"
    if None in kinds:
        return "none", "its pretraining data are neither ImageNet nor chest X-rays alone"
    if methods == ["supervised"] and kinds == ["imagenet"]:
        return "supervised-imagenet", ""
    if methods[-1] not in _SELF_SUPERVISED:
        return "none", "its last training is supervised, but not on ImageNet"
    found = _ROLES.get((methods[0] == "supervised", tuple(kinds)))
    if found is None or (len(methods) == 2 and methods[0] not in ("supervised", methods[1])):
        return "none", "no claim is about this order of methods and data"
    return found, ""


def kind_of(data: str, claims: Claims) -> Kind | None:
    """Whether data are ImageNet or chest X-rays; None where they are neither, or both."""
    parts = data.split(" + ")
    for kind, names in claims.kinds.items():
        known = {*names, *(_datasets() if kind == "cxr" else ())}
        if all(part in known for part in parts):
            return kind
    return None


def parse_chain(text: str) -> tuple[Stage, ...]:
    """The stages of ``Card.chain``; () where it is none. What they start from is not in it."""
    found = []
    for part in text.split(" -> "):
        match = _STAGE.fullmatch(part)
        if part == "random initialisation":
            found.append(Stage(method="none", data=None, init="random"))
        elif match is None or match["method"] not in get_args(Method):
            return ()
        else:
            found.append(Stage.model_validate({**match.groupdict(), "init": "random"}))
    return tuple(found)


def tier_of(encoder: str, declared: str | None) -> str:
    """The tier a record declares, or for which the encoder stands in; empty for neither."""
    stands_in = [name for name, tier in TIERS.items() if encoder in tier.stand_ins.values()]
    return declared or (stands_in[0] if stands_in else "")


def about(images: float | None) -> str:
    """A number of images that follows from rounded epochs, in words."""
    return "not known" if images is None else f"about {round(images, -2):,.0f}"


def cards_by_weights(cards: Iterable[Card]) -> dict[str, Card]:
    """Cards by the sha256 of their weights, where they state it."""
    return {c.weights.sha256: c for c in cards if c.weights and c.weights.sha256}


_ROLES: dict[tuple[bool, tuple[Kind | None, ...]], Role] = {
    (False, ("imagenet",)): "ssl-imagenet",
    (False, ("cxr",)): "ssl-cxr",
    (False, ("imagenet", "cxr")): "ssl-imagenet-then-cxr",
    (True, ("imagenet", "cxr")): "continued",
}
RIVALS: tuple[Role, ...] = ("ssl-imagenet", "ssl-cxr", "ssl-imagenet-then-cxr")


@cache
def _datasets() -> frozenset[str]:
    """Datasets of radiographs that the overlap file knows."""
    from cxrzoo.data.overlap import load_overlap

    overlap = load_overlap()
    return frozenset(name for name in overlap.datasets if overlap.only(name, "radiographs"))


def _product(images: int | None, epochs: float | None) -> float | None:
    return None if images is None or epochs is None else images * epochs
