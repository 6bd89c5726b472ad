"""Signs that a self-supervised training has collapsed, from a batch of features.

Uniformity: Wang and Isola, ICML 2020 (arXiv:2005.10242). Effective rank: Roy and
Vetterli, EUSIPCO 2007, on singular values as in RankMe (arXiv:2210.02885).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MIN_STD = 1e-3
"""Standard deviation of normalised features over a batch, times the root of their number: 1 for
features spread evenly over the sphere, 0 when all images look the same."""
MIN_RANK = 2.0


def diagnose(features: Tensor) -> dict[str, float]:
    """Measures of one batch of features, (N, D).

    Returns:
        ``feature_std``, ``effective_rank``, ``uniformity``; NaN where features are not finite.
    """
    x = features.detach().float()
    z = functional.normalize(x, dim=1)
    spread = z.std(0).mean() * z.shape[1] ** 0.5
    singular = (
        torch.linalg.svdvals(x - x.mean(0)) if torch.isfinite(x).all() else x[:, 0] * torch.nan
    )
    shares = singular / singular.sum().clamp_min(1e-12)
    entropy = -(shares * torch.log(shares.clamp_min(1e-12))).sum()
    distances = torch.pdist(z).square() if len(z) > 1 else z.new_zeros(1)
    return {
        "feature_std": float(spread),
        "effective_rank": float(torch.exp(entropy)),
        "uniformity": float(torch.log(torch.exp(-2 * distances).mean().clamp_min(1e-30))),
    }


def verdict(measures: dict[str, float]) -> str:
    """Why a batch looks collapsed, in words; empty when it does not."""
    if not all(value == value for value in measures.values()):
        return "features are not finite"
    if measures["feature_std"] < MIN_STD:
        return f"features hardly differ between images (spread {measures['feature_std']:.2g})"
    if measures["effective_rank"] < MIN_RANK:
        return f"features lie on a line (effective rank {measures['effective_rank']:.2g})"
    return ""
