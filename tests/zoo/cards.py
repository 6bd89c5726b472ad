"""Copies of packaged cards for tests to break."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from cxrzoo import resources
from cxrzoo.zoo.card import CARD_FILE, split_front_matter


def copy_card(name: str, parent: Path) -> Path:
    return Path(shutil.copytree(resources.MODEL_CARDS / name, parent / name))


def edit_card(directory: Path, **changes: Any) -> None:
    """Set top-level fields of the front matter; None takes a field out."""
    path = directory / CARD_FILE
    front, body = split_front_matter(path.read_text())
    front = {k: v for k, v in (front | changes).items() if v is not None}
    path.write_text(f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{body}")
