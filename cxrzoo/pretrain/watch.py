"""k-NN score of a benchmark's training images, to watch a training by.

Leave-one-out over training images alone, so that no choice made by it has seen a test image. It is
cheap, has nothing to tune, and falls when features are forgotten (Wu et al., arXiv:1805.01978).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrzoo.data.store import prepare
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import DataError
from cxrzoo.evaluation.features import embed
from cxrzoo.evaluation.metrics import score
from cxrzoo.zoo.card import Card
from cxrzoo.zoo.encoder import Encoder

NEIGHBOURS = 20
TEMPERATURE = 0.07
MAX_IMAGES = 1000


class Watch:
    """Images and labels of a benchmark, ready to be embedded again and again.

    Args:
        name: a benchmark; at most a thousand of its training images are taken, always the same.
        data_root: folder that holds the data.
        card: of the encoder in training; it says how images enter.

    Raises:
        UnknownNameError, DataError: no such benchmark, or too few images of it.
    """

    def __init__(self, name: str, data_root: Path | None, card: Card) -> None:
        table = open_benchmark(name, data_root, exclude_bad=True)
        rows = np.random.default_rng(0).permutation(table.rows("train"))[:MAX_IMAGES]
        table = table.keep(np.isin(np.arange(len(table)), rows))
        if len(table) <= NEIGHBOURS:
            raise DataError(f"'{name}' has {len(table)} training images, too few to watch by")
        prepared = prepare(table, card.input.size_px, card.input.interpolation, exclude_bad=True)
        self.name, self._card = name, card
        self._pixels = prepared.pixels(np.arange(len(prepared.table)))
        self._labels = prepared.table.labels
        self._names = prepared.table.benchmark.labels
        _, self._patients = np.unique(prepared.table.patients, return_inverse=True)

    def score(self, backbone: nn.Module) -> float:
        """Macro AUROC of the k-NN classifier on the backbone's features, in eval mode."""
        device = next(backbone.parameters()).device
        with _evaluating(backbone):
            encoder = Encoder(self._card, backbone, "in training").to(device)
            features = torch.from_numpy(embed(encoder, self._pixels, device))
        votes = knn_votes(functional.normalize(features, dim=1), self._labels, self._patients)
        macro = score(votes, self._labels, self._names)["macro"]["auroc"]
        return float("nan") if macro is None else float(macro)


def knn_votes(features: Tensor, labels: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """What the nearest images of other patients say of each image.

    Args:
        features: (N, D) of length 1.
        labels: (N, L) of 0, 1 and NaN.
        patients: (N,) numbers; images of one patient do not vote for each other.

    Returns:
        (N, L) shares of votes, weighted by exp(similarity / temperature); 0.5 where no
        neighbour's label is known.
    """
    similarity = features @ features.T
    same = torch.from_numpy(patients[:, None] == patients[None, :]).to(features.device)
    similarity.masked_fill_(same, -torch.inf)
    nearest = similarity.topk(min(NEIGHBOURS, len(features) - 1), dim=1)
    weights = (nearest.values / TEMPERATURE).exp().double().cpu().numpy()[:, :, None]
    voters = labels[nearest.indices.cpu().numpy()]
    weights = np.where(np.isnan(voters), 0.0, weights)
    total = weights.sum(1)
    votes = (weights * np.nan_to_num(voters)).sum(1)
    shares: np.ndarray = np.divide(votes, total, out=np.full_like(total, 0.5), where=total > 0)
    return shares


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every part is in the mode it was in, frozen BatchNorm too."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
