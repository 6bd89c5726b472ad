"""Multi-label metrics with unknown labels: NaN is left out, and undefined stays undefined.

A metric is one function from (N,) scores and (N,) labels of 0 and 1 to a float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve by midranks (Mann-Whitney U); needs both classes.

    Args:
        scores: (N,) finite numbers, higher is more positive.
        labels: (N,) of 0 and 1.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    midranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = labels == 1
    n_pos, n_neg = int(positives.sum()), int((~positives).sum())
    u = midranks[positives].sum() - n_pos * (n_pos + 1) / 2
    return float(u / (n_pos * n_neg))


def auprc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision: precision at each distinct score, weighted by the recall it adds."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(labels[order] == 1)
    last_of_tie = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    precision = hits[last_of_tie] / (last_of_tie + 1)
    recall = hits[last_of_tie] / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"auroc": auroc, "auprc": auprc}


def score(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Every metric for every label, and macro means over the labels that are defined.

    Args:
        logits: (N, L) predictions.
        labels: (N, L) of 0, 1 and NaN.
        names: L label names.

    Returns:
        ``labels``: by name ``status`` (ok or undefined), ``n_pos``, ``n_neg`` and metrics;
        ``macro``: by metric, None when no label is defined; ``n_defined``; ``n_images``.
    """
    per_label = {name: _score_label(logits[:, i], labels[:, i]) for i, name in enumerate(names)}
    defined = [entry for entry in per_label.values() if entry["status"] == "ok"]
    macro = {
        metric: float(np.mean([entry[metric] for entry in defined])) if defined else None
        for metric in METRICS
    }
    return {
        "labels": per_label,
        "macro": macro,
        "n_defined": len(defined),
        "n_images": len(labels),
    }


def _score_label(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    known = ~np.isnan(labels)
    logits, labels = logits[known], labels[known]
    n_pos = int((labels == 1).sum())
    entry: dict[str, Any] = {"status": "ok", "n_pos": n_pos, "n_neg": len(labels) - n_pos}
    if n_pos in (0, len(labels)):
        return entry | {"status": "undefined"}
    return entry | {name: metric(logits, labels) for name, metric in METRICS.items()}
