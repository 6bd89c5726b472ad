"""What a record says of itself besides its numbers; tables and pages show it to everybody.

So it has one shape, and every text in it is the card's, the benchmark's or this package's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, ValidationError

from cxrzoo.data.benchmark import find as find_benchmark
from cxrzoo.evaluation.exposure import State, exposure
from cxrzoo.evaluation.record import Record
from cxrzoo.schema import Strict, plain_lines
from cxrzoo.submit.container import BundleError
from cxrzoo.submit.grid import Rows
from cxrzoo.zoo.card import Card, PretrainingData, Stage

_WORD = re.compile(r"[\x20-\x3b\x3d\x3f-\x7e]{0,100}")  # plain ASCII, without < and >
_KEY = re.compile(r"[a-z0-9_]{1,40}")
_TWINS = re.compile(r"[1-9][0-9]{0,6} test images are in the training split too, pixel for pixel")
"""The one note that depends on the pixels (``data.store``), so that no grid can pin it."""


class _Exposure(Strict):
    state: State
    reason: str
    images: int | None
    labels_seen: bool | None


class Declared(Strict):
    """``Record.declared``, as ``run_cell`` writes it; records from before have no ``stages``."""

    tier: str | None
    strategy: str
    stages: list[Stage] | None = None
    license: str | None
    pin: (
        Annotated[
            str,
            Field(
                pattern=r"^hf:[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*@[0-9a-f]{40}$"
            ),
        ]
        | None
    )
    pretraining_data: list[PretrainingData] | None
    exposure: _Exposure
    split: str
    patient_key: str
    notes: list[str]


def parse_declared(record: Record, where: str) -> Declared:
    """The declarations of a record in their one shape; raises BundleError."""
    try:
        return Declared.model_validate(record.declared, strict=True)
    except ValidationError as error:
        raise BundleError(plain_lines(error, f"{where}: declared")) from None


def check_declared(record: Record, name: str, card: Card, rows: Rows) -> Iterator[str]:
    """Whether a record says of encoder and benchmark what card and rows say."""
    declared = parse_declared(record, name)
    benchmark = find_benchmark(record.spec.benchmark.name)
    if declared.split != rows.split:
        yield f"{name}: says split {declared.split!r:.80}, and its rows have {rows.split!r}"
    found, stated = exposure(card, benchmark, rows.split_id), declared.exposure
    if stated.state != found.state:
        yield (
            f"{name}: declares exposure {stated.state!r}, and by the card it is {found.state}: "
            f"{found.reason}"
        )
    elif stated.model_dump() != asdict(found):
        yield f"{name}: gives other reasons for its exposure than follow from the card"
    for key, value in _expected(card, benchmark.patient_key).items():
        if getattr(declared, key) not in (value, *_older(key)):
            yield f"{name}: declares another {key} than the card; evaluate again after a change"
    yield from _check_details(record, name)
    last = declared.notes[-1:]
    twins = len(last) if _TWINS.fullmatch("".join(last)) else 0  # comes once, behind the others
    theirs = declared.notes[: len(declared.notes) - twins]
    if theirs != list(rows.notes):
        yield f"{name}: has other notes than the benchmark: {theirs!r:.200}"


def _check_details(record: Record, name: str) -> Iterator[str]:
    """What a record says of its making: numbers and short texts."""
    for part, details in (("cost", record.cost), ("env", record.env)):
        for key, value in details.items():
            if not _KEY.fullmatch(key):
                yield f"{name}: {part} names {key!r:.60}, which nothing measures"
            plain = value is None or isinstance(value, int | float)
            if not plain and not (isinstance(value, str) and _WORD.fullmatch(value)):
                yield f"{name}: {part}.{key:.40} is no number and no short text"
            elif part == "cost" and not (isinstance(value, int | float) and 0 <= value < 1e12):
                yield f"{name}: cost.{key:.40} is {value!r:.40}, which nothing costs"


def _older(key: str) -> tuple[None, ...]:
    """What a record may hold instead that was made before it was to say this."""
    return (None,) if key == "stages" else ()


def _expected(card: Card, patient_key: str) -> dict[str, Any]:
    data = card.pretraining_data
    return {
        "tier": card.tier,
        "strategy": card.chain,
        "stages": list(card.strategy),
        "license": card.license,
        "pretraining_data": None if data is None else list(data),
        "patient_key": patient_key,
    }
