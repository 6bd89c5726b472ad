"""Controls: the same adaptation with other labels, so that a score that proves nothing shows.

``shuffled-labels`` permutes the labels of the budget's images among them; what is scored above
chance then was leaked. A covariate (``view``, ``source``: what the benchmark file declares) is
predicted in place of the findings; where features tell it and it tells the label, a high score of
the label need not mean that disease was recognised.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from cxrzoo.data.budget import Budget
from cxrzoo.data.split import TRAIN
from cxrzoo.data.store import Prepared
from cxrzoo.data.table import Table
from cxrzoo.evaluation import metrics

NONE = "none"
SHUFFLED = "shuffled-labels"
_MIN_IMAGES = 10
"""Training images of a value from which on it is predicted; rarer ones are negatives only."""


def missing_column(table: Table, control: str) -> str:
    """Why ``control`` does not apply to a benchmark; empty when it does."""
    if control in (NONE, SHUFFLED) or _values(table, control):
        return ""
    known = ", ".join(c for c in table.covariates if _values(table, c)) or "none"
    return (
        f"{table.benchmark.name} has no column '{control}' with two values or more; it has {known}"
    )


def apply(prepared: Prepared, budget: Budget, control: str) -> Prepared:
    """``prepared`` with the labels that the control trains and tests on."""
    table = prepared.table
    if control == NONE:
        return prepared
    if control == SHUFFLED:
        labels = table.labels.copy()
        labels[budget.rows] = labels[_generator(table, budget).permutation(budget.rows)]
        return replace(prepared, table=replace(table, labels=labels))
    values, column = _values(table, control), table.covariates[control]
    labels = np.stack([column == value for value in values], axis=1).astype(np.float32)
    labels[column == ""] = np.nan
    benchmark = table.benchmark.model_copy(update={"labels": tuple(values)})
    return replace(prepared, table=replace(table, labels=labels, benchmark=benchmark))


def shortcut(table: Table, budget: Budget, control: str) -> dict[str, Any]:
    """How far the covariate alone predicts the labels, without an image.

    Each test image gets the share of positives (with one pseudo-image of the overall share) among
    the budget's images with its value; the scores are those of ``metrics.score``, by test set.
    """
    column = table.covariates[control]
    in_budget, labels = column[budget.rows], table.labels[budget.rows]
    shares = {value: _share(labels[in_budget == value], labels) for value in np.unique(in_budget)}
    unseen = _share(labels[:0], labels)
    return {
        name: metrics.score(
            np.stack([shares.get(value, unseen) for value in column[rows]]),
            table.labels[rows],
            table.benchmark.labels,
        )
        for name in table.test_sets
        for rows in [table.rows(name)]
    }


def _share(chosen: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """(L,) smoothed share of positives among known labels."""
    positives, known = (everything == 1).sum(0), (~np.isnan(everything)).sum(0)
    overall = (positives + 0.5) / (known + 1)
    share: np.ndarray = ((chosen == 1).sum(0) + overall) / ((~np.isnan(chosen)).sum(0) + 1)
    return share


def _values(table: Table, control: str) -> list[str]:
    """Values of a covariate common enough in training, sorted; none where it is constant."""
    if control not in table.covariates:
        return []
    found, counts = np.unique(table.covariates[control][table.rows(TRAIN)], return_counts=True)
    common = [str(v) for v, n in zip(found, counts, strict=True) if v and n >= _MIN_IMAGES]
    return common if len(found) > 1 else []


def _generator(table: Table, budget: Budget) -> np.random.Generator:
    """From benchmark, budget and seed, never the encoder: all of them get one shuffle."""
    text = f"{table.benchmark.name}|{budget.size}|{budget.seed}|{SHUFFLED}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
