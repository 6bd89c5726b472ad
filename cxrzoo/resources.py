"""Where things are: the packaged cards and benchmarks, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_data"
_HOME = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent

MODEL_CARDS = _HOME / "model_cards"
BENCHMARKS = _HOME / "benchmarks"
RECIPES = _HOME / "recipes"
OVERLAP = BENCHMARKS / "overlap.yaml"


def cache_dir() -> Path:
    """The folder for decoded images and features: ``CXRZOO_CACHE``, else the user's cache."""
    if own := os.environ.get("CXRZOO_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxrzoo"


def default_data_root() -> Path | None:
    """``CXRZOO_DATA``, the folder that holds one folder of images per benchmark."""
    root = os.environ.get("CXRZOO_DATA")
    return Path(root) if root else None
