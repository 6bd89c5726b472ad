"""What makes a bundle's files and its card right.

No network, no torch unless weights are among the files, and nothing of the bundle runs. Functions
yield problems, one line each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from cxrzoo.data.overlap import load_overlap
from cxrzoo.submit.bundle import CARD, MANIFEST, RECORDS, Bundle
from cxrzoo.submit.container import BundleError, sha256_of
from cxrzoo.submit.strict import parse_json
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Card, parse_card, split_front_matter

_MAX_CARD_BYTES = 200_000
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONFIG_KEYS = {"architecture", "num_classes", "num_features", "golden"}
_SHOWN = {"name", "license", "license_name", "license_link", "base_model"}
_PLAIN = re.compile(r"[^<>|`\n]{0,200}")
_CARD_PATH = f"{CARD}/{CARD_FILE}"
_CONFIG_PATH = f"{CARD}/{CONFIG_FILE}"


def read_card(bundle: Bundle) -> Card:
    """The card of a bundle; raises BundleError or CardError when it is not a valid one."""
    if _CARD_PATH not in bundle.files:
        raise BundleError(f"{_CARD_PATH}: missing; a submission needs the encoder's card")
    content = bundle.files[_CARD_PATH]
    if len(content) > _MAX_CARD_BYTES:
        raise BundleError(f"{_CARD_PATH}: larger than {_MAX_CARD_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig")
        front, _ = split_front_matter(text)
    except ValueError as error:
        raise BundleError(f"{_CARD_PATH}: {error}") from None
    hidden = _HIDDEN.search(text)
    if hidden:
        raise BundleError(
            f"{_CARD_PATH}: holds {hidden.group()!r}, which a terminal obeys or which turns text "
            "around; take it out"
        )
    return parse_card(front, _CARD_PATH)


def check_files(bundle: Bundle, card: Card) -> Iterator[str]:
    """Nothing but the card's files, and a record with its predictions for each cell."""
    weights = f"{CARD}/{card.weights.file}" if card.weights and card.weights.file else ""
    if _CONFIG_PATH not in bundle.files:
        yield f"{_CONFIG_PATH}: missing; it lies beside the encoder's card"
    for name, content in bundle.files.items():
        place = PurePosixPath(name)
        if name == weights:
            yield from _check_weights(content, name)
            if sha256_of(content) != bundle.manifest.weights_sha256:
                yield f"{name}: are other weights (sha256) than the bundle and its card name"
        elif place.parts[0] == RECORDS and place.suffix in (".json", ".npz"):
            other = str(place.with_suffix(".npz" if place.suffix == ".json" else ".json"))
            if other not in bundle.files:
                yield f"{name}: {other} is missing; a record and its predictions go together"
        elif name not in (MANIFEST, _CARD_PATH, _CONFIG_PATH):
            yield f"{name}: is no part of a bundle, and is not opened; take it out"


def check_card(bundle: Bundle, card: Card) -> Iterator[str]:
    """Whether the card is of the encoder that the bundle names, and says what it has seen."""
    manifest = bundle.manifest
    if card.name != manifest.encoder:
        yield f"{_CARD_PATH}: is the card of {card.name}, and the bundle of {manifest.encoder}"
    stated = card.weights.sha256 if card.weights else None
    if stated is None:
        yield f"{_CARD_PATH}: weights.sha256 is missing; it is that of the weights file"
    elif stated != manifest.weights_sha256:
        yield (
            f"{_CARD_PATH}: says weights.sha256 {stated}, and the bundle is of "
            f"{manifest.weights_sha256}"
        )
    if card.pretraining_data is None:
        yield (
            f"{_CARD_PATH}: pretraining_data is missing, so exposure is not declared: list the "
            "datasets that the weights have seen, or write [] if there are none"
        )
    yield from _check_texts(card)
    yield from _check_strategy(card)
    if _CONFIG_PATH in bundle.files:
        config = parse_json(bundle.files[_CONFIG_PATH], _CONFIG_PATH)
        architecture = config.get("architecture") if isinstance(config, dict) else None
        if architecture != card.arch:
            yield f"{_CONFIG_PATH}: has architecture {architecture!r:.60}, the card {card.arch}"
        elif set(config) != _CONFIG_KEYS:
            known = ", ".join(sorted(_CONFIG_KEYS))
            yield f"{_CONFIG_PATH}: holds more or less than {known}; `cxrzoo convert` writes it"
        elif not _is_golden(config["golden"]):
            yield f"{_CONFIG_PATH}: has no golden output as `cxrzoo convert` writes it"


def _check_texts(card: Card) -> Iterator[str]:
    """Whether what tables show of a card is one short line without marks of Markdown or HTML."""
    data = [data.model_dump() for data in card.pretraining_data or ()]
    parts = [card.model_dump(include=_SHOWN), *(s.model_dump() for s in card.strategy), *data]
    for part in parts:
        for key, value in part.items():
            if isinstance(value, str) and not _PLAIN.fullmatch(value):
                yield (
                    f"{_CARD_PATH}: {key} {value[:40]!r} is no line of at most 200 characters "
                    "without < > | and `"
                )


def _check_strategy(card: Card) -> Iterator[str]:
    """Whether the card hides what its own strategy says the weights have seen."""
    seen = {data.dataset for data in card.pretraining_data or ()}
    if card.pretraining_data == () and any(stage.method != "none" for stage in card.strategy):
        yield (
            f"{_CARD_PATH}: pretraining_data is [], but its strategy trains: {card.chain:.200}; "
            "list the datasets"
        )
    elif card.pretraining_data is not None:
        words = set(re.findall(r"[\w.-]+", card.strategy[-1].data or ""))
        left_out = sorted(words & set(load_overlap().datasets) - seen)
        if left_out:
            yield (
                f"{_CARD_PATH}: pretraining_data leaves out {', '.join(left_out)}, which the last "
                "stage of its strategy was trained on"
            )
    for init in sorted({stage.init for stage in card.strategy}):
        if init == card.name:
            yield f"{_CARD_PATH}: a stage starts from {init}, the encoder itself; name the other"
        elif card.data_of_all_stages and init in registry.list_encoders():
            parent, _ = registry.find(init)
            more = sorted({data.dataset for data in parent.pretraining_data or ()} - seen)
            if more:
                yield (
                    f"{_CARD_PATH}: data_of_all_stages, but pretraining_data leaves out "
                    f"{', '.join(more)}, which {init} has seen"
                )


def _is_golden(golden: Any) -> bool:
    """Whether a golden output is one by its shape; whether it comes out, loading the weights
    shows."""
    features = golden.get("features") if isinstance(golden, dict) else None
    return (
        isinstance(features, list)
        and set(golden) <= {"input", "stride", "features"}
        and golden.get("input") == "cxrzoo.zoo.encoder.golden_input"
        and all(type(value) in (int, float) for value in features)
    )


def _check_weights(content: bytes, name: str) -> Iterator[str]:
    from cxrzoo.zoo.weights import check_header, looks_like_pickle  # torch, only for weights

    if looks_like_pickle(content):
        yield f"{name}: is a pickle, whatever its name says; it is not opened"
        return
    try:
        check_header(content)
    except (ValueError, RecursionError) as error:
        yield f"{name}: is no safetensors file ({error})"
