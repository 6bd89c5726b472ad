"""Which encoders there are: the packaged cards, and those that other packages bring.

Reads cards only; weights and torch belong to ``cxrzoo.zoo.encoder``.
"""

from __future__ import annotations

from pathlib import Path

from cxrzoo import resources
from cxrzoo.errors import UnknownNameError
from cxrzoo.plugins import with_plugins
from cxrzoo.zoo.card import CARD_FILE, Card, read_card

ENTRY_POINTS = "cxrzoo.encoders"
"""An entry point of this group names a folder of card directories, as a path or a callable."""


def list_encoders() -> list[str]:
    """Names of all encoders of the zoo, with or without weights, sorted."""
    return sorted(_directories())


def read_all() -> list[tuple[Card, Path]]:
    """Cards and directories of all encoders, by name: one look at the plugins for all of them."""
    return [(read_card(path), path) for _, path in sorted(_directories().items())]


def find(name: str) -> tuple[Card, Path]:
    """The card of a zoo encoder and the directory it lies in; raises UnknownNameError."""
    directories = _directories()
    if name not in directories:
        raise UnknownNameError("encoder", name, directories)
    return read_card(directories[name]), directories[name]


def locate(name: str) -> tuple[Card, Path]:
    """The card of a zoo name or of a local card directory, and its directory."""
    if name not in list_encoders() and ("/" in name or Path(name).is_dir()):
        if ":" in name.split("/")[0]:
            raise UnknownNameError("encoder scheme", name.split(":")[0] + ":", ["timm:"])
        return read_card(Path(name)), Path(name)
    return find(name)


def at_hand(card: Card, directory: Path) -> bool:
    """Whether ``load`` needs no network: seeded weights, or a file beside the card."""
    if card.weights is None:
        return False
    return card.weights.file is None or (directory / card.weights.file).is_file()


def encoders_at_hand() -> list[str]:
    """Names of the encoders that load without the network, sorted."""
    return [card.name for card, directory in read_all() if at_hand(card, directory)]


def _directories() -> dict[str, Path]:
    return with_plugins(_cards(resources.MODEL_CARDS), ENTRY_POINTS, _checked_cards)


def _cards(folder: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in folder.glob(f"*/{CARD_FILE}")}


def _checked_cards(folder: Path) -> dict[str, Path]:
    found = _cards(folder)
    for directory in found.values():
        read_card(directory)
    return found
