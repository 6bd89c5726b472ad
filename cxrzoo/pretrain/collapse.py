"""Signs that a self-supervised training has collapsed, from a batch of features.

Alignment and uniformity: Wang and Isola, ICML 2020 (arXiv:2005.10242). Effective rank: Roy and
Vetterli, EUSIPCO 2007, on singular values as in RankMe (arXiv:2210.02885).

N is the batch, D the number of features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

MIN_STD = 1e-3
"""Standard deviation of normalised features over a batch, times the root of their number: 1 for
features spread evenly over the sphere, 0 when all images look the same."""
MIN_RANK = 2.0
KNN_CHANCE = 0.5
KNN_GOOD = 0.6
"""The AUROC from which a k-NN classifier's score is more than chance, and its loss means much."""
KNN_KEPT = 0.25
"""Share of the best score's lead over chance below which the features are taken for lost."""


def diagnose(features: Tensor, partners: Tensor | None = None) -> dict[str, float]:
    """Measures of one batch of features, (N, D).

    Args:
        features: of one view of each image.
        partners: (N, D) of another view of the same images.

    Returns:
        ``feature_std``, ``effective_rank``, ``uniformity`` and, with ``partners``, ``alignment``,
        from 0, when views of an image are alike, to 4; NaN where features are not finite.
    """
    x = features.detach().float()
    z = functional.normalize(x, dim=1)
    measures = {
        "feature_std": float(z.std(0).mean() * z.shape[1] ** 0.5),
        "effective_rank": _effective_rank(x),
        "uniformity": _uniformity(z),
    }
    if partners is not None:
        other = functional.normalize(partners.detach().float(), dim=1)
        measures["alignment"] = float((z - other).square().sum(1).mean())
    return measures


def _effective_rank(x: Tensor) -> float:
    """Exponential of the entropy of the singular values' shares, of centred ``x`` (N, D)."""
    if not torch.isfinite(x).all():
        return math.nan
    singular = torch.linalg.svdvals(x - x.mean(0))
    shares = singular / singular.sum().clamp_min(1e-12)
    return float(torch.exp(-(shares * torch.log(shares.clamp_min(1e-12))).sum()))


def _uniformity(z: Tensor) -> float:
    """Logarithm of the mean Gaussian potential of pairs of unit vectors ``z`` (N, D)."""
    distances = torch.pdist(z).square() if len(z) > 1 else z.new_zeros(1)
    return float(torch.log(torch.exp(-2 * distances).mean().clamp_min(1e-30)))


def verdict(measures: dict[str, float], knn: Sequence[float] = ()) -> str:
    """Why a training looks collapsed, in words; empty when it does not.

    Args:
        measures: what ``diagnose`` found; those that are absent are not judged.
        knn: macro AUROCs of a k-NN classifier on a watched benchmark, from first to last.
    """
    if any(math.isnan(value) for value in measures.values()):
        return "features are not finite"
    spread, rank = measures.get("feature_std", math.inf), measures.get("effective_rank", math.inf)
    if spread < MIN_STD:
        return f"features hardly differ between images (spread {spread:.2g})"
    if rank < MIN_RANK:
        return f"features lie on a line (effective rank {rank:.2g})"
    return _knn_verdict(knn)


def _knn_verdict(knn: Sequence[float]) -> str:
    best, last = max(knn, default=0.0), knn[-1] if knn else 0.0
    if best < KNN_GOOD or last - KNN_CHANCE >= KNN_KEPT * (best - KNN_CHANCE):
        return ""
    return f"the k-NN score on the watched benchmark fell from {best:.2f} to {last:.2f}"
