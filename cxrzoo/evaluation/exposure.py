"""What an encoder's pretraining has seen of a benchmark, from its card and ``overlap.yaml``.

A clean bill is given only where it is established; what is not documented is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from cxrzoo.data.benchmark import Benchmark
from cxrzoo.data.overlap import OFFICIAL, Relation, relation
from cxrzoo.errors import UnknownNameError
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import Card, PretrainingData

State = Literal["clean", "exposed", "unknown"]
_Seen = tuple[str, str | None, bool | None]
_NO_PATIENTS = "patients are not known, so test patients may be among them"
_RANK: dict[State, int] = {"clean": 0, "unknown": 1, "exposed": 2}


@dataclass(frozen=True)
class Exposure:
    """What pretraining has seen of a benchmark.

    ``exposed``: a test image, a test patient, or labels of any of its images. ``clean``: it is
    established that it saw neither; training images without labels are allowed. ``unknown``:
    everything else.
    """

    state: State
    reason: str
    images: int | None
    labels_seen: bool | None


def exposure(card: Card, benchmark: Benchmark, split_id: str | None = None) -> Exposure:
    """What the encoder of ``card``, or an encoder it starts from, has seen of ``benchmark``.

    ``split_id`` is that of the split in use, where it is not the benchmark's own: a partial copy
    of a benchmark with an official split is split by hash. Image counts are those of complete
    copies.
    """
    dataset = benchmark.dataset or benchmark.name
    split_id = split_id or benchmark.split_id
    if dataset != benchmark.name and split_id != OFFICIAL:
        # hashes are salted with the benchmark's name: one dataset, two benchmarks, two splits
        split_id = f"{benchmark.name}/{split_id}"
    found: dict[_Seen, Exposure] = {}
    for owner, data in _lineage(card, set()):
        origin = "" if owner == card.name else f"starts from {owner}, which is "
        if isinstance(data, str):
            found[owner, None, None] = Exposure("unknown", data, None, None)
            continue
        key = (data.dataset, data.split, data.labels_seen)
        seen = relation(data.dataset, data.split, dataset, split_id)
        if benchmark.per_image and seen.seen is not False and seen.test is False:
            seen = replace(seen, test=None, reason=f"{seen.reason}, but {_NO_PATIENTS}")
        one = _of_entry(data, seen)
        found.setdefault(key, replace(one, reason=origin + one.reason))
    if not found:
        return Exposure("clean", "not pretrained, so it has seen no image", 0, False)
    return _worst(found)


def _lineage(card: Card, visited: set[str]) -> Iterator[tuple[str, PretrainingData | str]]:
    """(owner, data seen) of the encoder and of those it starts from; a str says what is missing."""
    visited.add(card.name)
    if card.pretraining_data is None:
        yield card.name, f"the card of {card.name} does not say what it was pretrained on"
    for data in card.pretraining_data or ():
        yield card.name, data
    if card.data_of_all_stages and card.pretraining_data is not None:
        return
    for init in sorted({stage.init for stage in card.strategy} - {"random"} - visited):
        try:
            parent, _ = registry.find(init)
        except UnknownNameError:
            yield init, f"starts from '{init}', which is not in the zoo, so its data is not known"
        else:
            yield from _lineage(parent, visited)


def _of_entry(data: PretrainingData, seen: Relation) -> Exposure:
    """The exposure that one pretraining dataset brings."""
    labels = _both(data.labels_seen, seen.seen)
    state: State = "unknown"
    if seen.test or labels:
        state = "exposed"
    elif seen.test is False and labels is False:
        state = "clean"
    words = {True: " with labels", False: " without labels", None: ", labels or not is not stated"}
    split = data.split or "split not stated"
    reason = f"pretrained on {data.dataset} ({split}){words[data.labels_seen]}: {seen.reason}"
    return Exposure(state, reason, None if state == "unknown" else seen.images, labels)


def _both(one: bool | None, other: bool | None) -> bool | None:
    """Three-valued and."""
    if one is False or other is False:
        return False
    return True if one and other else None


def _worst(found: dict[_Seen, Exposure]) -> Exposure:
    """The worst state with its reason; images and labels over all of ``found``."""
    worst = max(found.values(), key=lambda one: (_RANK[one.state], one.images != 0))
    # two datasets may show the same images, so that their counts do not add up
    shown = {(key[:2], one.images) for key, one in found.items() if one.images != 0}
    images = 0 if not shown else next(iter(shown))[1] if len(shown) == 1 else None
    labels = {one.labels_seen for one in found.values()}
    seen = True if True in labels else None if None in labels else False
    return replace(worst, images=images, labels_seen=seen)
