"""Protocols: how an encoder is adapted and selected. Versioned; a change is a new version.

Pure values, no torch: a protocol's fields are part of every record's key. The constants are
ours; no recipe of arXiv:2211.12931 is public.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from cxrzoo.data.budget import FOLDS
from cxrzoo.errors import UnknownNameError
from cxrzoo.schema import Strict


class LinearV1(Strict):
    """Frozen features, one L2 logistic regression per label.

    ``strengths`` are scikit-learn's C: the weight of the summed loss against half the squared
    norm of the weights. One strength per cell, by masked log-loss over the five folds inside
    the budget; then refitted on the whole budget.
    """

    name: Literal["linear-v1"] = "linear-v1"
    summary: str = "frozen features, L2 logistic regression, strength by 5-fold CV in the budget"
    strengths: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-10, 1))
    folds: int = FOLDS
    selection_metric: Literal["log-loss"] = "log-loss"
    solver_tolerance: float = 3e-5

    @property
    def trials(self) -> int:
        """Settings tried per cell."""
        return len(self.strengths)


class FinetuneV1(Strict):
    """The whole network, AdamW with cosine decay, a number of steps fixed by the budget.

    Each learning rate is tried on folds 1 to 4 and judged by masked log-loss on fold 0; the
    best is refitted on the whole budget for the same number of steps.
    """

    name: Literal["finetune-v1"] = "finetune-v1"
    summary: str = "whole network, AdamW, learning rate by fold 0 of the budget, refit on all"
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    weight_decay: float = 0.05
    batch_size: int = 32
    warmup_percent: float = 10.0
    base_steps: int = 80
    min_epochs: float = 5.0
    rotation_deg: float = 10.0
    crop_scale: tuple[float, float] = (0.7, 1.0)
    brightness: float = 0.2
    contrast: float = 0.2
    validation_fold: int = 0
    selection_metric: Literal["log-loss"] = "log-loss"

    @property
    def trials(self) -> int:
        """Settings tried per cell."""
        return len(self.learning_rates)

    def steps(self, num_images: int) -> int:
        """Steps for a budget: 80 at 100 images, growing with its root, at least 5 epochs."""
        by_root = self.base_steps * math.sqrt(num_images / 100)
        by_epochs = self.min_epochs * num_images / self.batch_size
        return round(max(by_root, by_epochs))


Protocol = LinearV1 | FinetuneV1
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (LinearV1(), FinetuneV1())}
_NEWEST = {"linear": "linear-v1", "finetune": "finetune-v1"}


def find(name: str) -> Protocol:
    """A protocol by its name, or the newest version of ``linear`` or ``finetune``."""
    name = _NEWEST.get(name, name)
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, [*PROTOCOLS, *_NEWEST])
    return PROTOCOLS[name]


def spec(protocol: Protocol) -> dict[str, Any]:
    """Every setting that can change a number, as plain JSON values."""
    return protocol.model_dump(mode="json", exclude={"summary"})
