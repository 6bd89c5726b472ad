"""``linear-v1``: all labels and all regularisation strengths of a cell solved together.

Dimension letters: N images, D features, L labels, C strengths, P = L x C problems, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cxrzoo.evaluation.protocol import LinearV1

_MAX_STEPS = 500
_HISTORY = 8
_ARMIJO = 1e-4


@dataclass(frozen=True)
class LinearModel:
    """Logistic regressions on raw features: logits = x @ weight + bias.

    ``weight`` is (D, L, C) and ``bias`` (L, C), float64.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) to (N, L, C)."""
        flat = features.double() @ self.weight.flatten(1)
        return flat.view(len(features), *self.bias.shape) + self.bias


@dataclass(frozen=True)
class Probe:
    """A fitted and selected probe.

    ``model`` has one strength (C = 1); ``log_loss`` is the cross-validated one of ``strength``,
    and ``curve`` that of every strength.
    """

    model: LinearModel
    strength: float
    log_loss: float
    curve: tuple[float, ...]


def fit_probe(features: Tensor, labels: Tensor, folds: np.ndarray, protocol: LinearV1) -> Probe:
    """Choose the strength over the folds inside the budget, and refit on the whole budget.

    Args:
        features: (N, D) of the budget's images.
        labels: (N, L) of 0, 1 and NaN.
        folds: (N,) fold of each image.
        protocol: strengths and tolerance.
    """
    losses, tolerance = [], protocol.solver_tolerance
    for fold in range(protocol.folds):
        held_out = torch.from_numpy(folds == fold).to(features.device)
        model = fit(
            features[~held_out], labels[~held_out], protocol.strengths, protocol.solver_tolerance
        )
        losses.append(_summed_log_loss(model.logits(features[held_out]), labels[held_out]))
    curve = (torch.stack(losses).sum(0) / _known(labels).sum()).tolist()
    best = int(np.argmin(curve))
    strength = protocol.strengths[best]
    model = fit(features, labels, (strength,), tolerance)
    return Probe(model, strength, curve[best], tuple(curve))


def fit(
    features: Tensor, labels: Tensor, strengths: tuple[float, ...], tolerance: float
) -> LinearModel:
    """One L2 logistic regression for each label and strength, on standardised features.

    The optimum lies in the span of the data, so the problem is solved in its R principal
    directions, and in coordinates where the Hessian at zero is the identity: a few dozen
    steps of L-BFGS serve every strength. A label without both classes gets zero weights and
    its smoothed log-odds, so that it predicts the same for every image.

    Args:
        features: (N, D).
        labels: (N, L) of 0, 1 and NaN; NaN counts for nothing.
        strengths: C values, as scikit-learn's C.
        tolerance: largest gradient entry at the end, in those coordinates, per image.
    """
    mean, scale = _standardisation(features)
    x = (features.double() - mean) / scale
    basis, singular = _principal_directions(x)
    scores = x @ basis
    targets, mask = torch.nan_to_num(labels).double(), _known(labels).double()
    positives, count = (targets * mask).sum(0), mask.sum(0)
    log_odds = torch.log((positives + 0.5) / (count - positives + 0.5))
    learnable = (positives > 0) & (positives < count)

    penalty = 1.0 / torch.tensor(strengths, dtype=torch.float64, device=x.device)
    num_labels, num_strengths = labels.shape[1], len(strengths)
    problem = _Problem(
        scores=scores,
        targets=targets.repeat_interleave(num_strengths, dim=1),
        mask=mask.repeat_interleave(num_strengths, dim=1),
        penalty=penalty.repeat(num_labels),
        singular=singular,
    )
    start = log_odds.repeat_interleave(num_strengths)
    v, bias = _lbfgs(problem, start, tolerance)
    w = problem.unscale(v).view(-1, num_labels, num_strengths)
    w = torch.where(learnable[:, None], w, 0.0)
    bias = torch.where(learnable[:, None], bias.view(num_labels, -1), log_odds[:, None])
    weight = (basis @ w.flatten(1)).view(-1, num_labels, num_strengths) / scale[:, None, None]
    return LinearModel(weight, bias - torch.einsum("d,dlc->lc", mean, weight))


class _Problem:
    """Masked logistic losses of P problems at once, in preconditioned coordinates.

    Coordinates: v = w * sqrt(s^2 / 4 + penalty) and u = bias * sqrt(N / 4), because
    s^2 / 4 + penalty bounds the Hessian of w from above in the principal directions.
    """

    def __init__(
        self, scores: Tensor, targets: Tensor, mask: Tensor, penalty: Tensor, singular: Tensor
    ) -> None:
        self.scores, self.targets, self.mask, self.penalty = scores, targets, mask, penalty
        self.scale = torch.sqrt(singular[:, None] ** 2 / 4 + penalty)  # (R, P)
        self.bias_scale = (len(scores) / 4) ** 0.5

    def unscale(self, v: Tensor) -> Tensor:
        """Weights in the principal directions."""
        return v / self.scale

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) losses and (R + 1, P) gradients at z = [v; u]."""
        w, bias = z[:-1] / self.scale, z[-1] / self.bias_scale
        logits = torch.addmm(bias, self.scores, w)
        loss = (self.mask * (functional.softplus(logits) - self.targets * logits)).sum(0)
        residual = self.mask * (torch.sigmoid(logits) - self.targets)
        gradient_w = (self.scores.T @ residual + self.penalty * w) / self.scale
        gradient_bias = residual.sum(0, keepdim=True) / self.bias_scale
        loss = loss + 0.5 * (self.penalty * w.square()).sum(0)
        return loss, torch.cat([gradient_w, gradient_bias])

    def select(self, columns: Tensor) -> _Problem:
        """The problems at ``columns`` alone."""
        part = object.__new__(_Problem)
        part.scores, part.bias_scale = self.scores, self.bias_scale
        part.targets, part.mask = self.targets[:, columns], self.mask[:, columns]
        part.penalty, part.scale = self.penalty[columns], self.scale[:, columns]
        return part


def _lbfgs(problem: _Problem, bias: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Minimise all problems by batched L-BFGS; finished ones leave the batch.

    Returns:
        (R, P) preconditioned weights and (P,) biases.
    """
    rank, count = problem.scale.shape
    z = torch.zeros(rank + 1, count, dtype=torch.float64, device=bias.device)
    z[-1] = bias * problem.bias_scale
    result = z.clone()
    columns = torch.arange(count, device=bias.device)
    limit = tolerance * len(problem.scores) ** 0.5
    loss, gradient = problem.loss_and_gradient(z)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(_MAX_STEPS):
        active = gradient.abs().amax(0) > limit
        if not active.all():
            result[:, columns[~active]] = z[:, ~active]
            if not active.any():
                break
            columns, problem = columns[active], problem.select(active)
            z, loss, gradient = z[:, active], loss[active], gradient[:, active]
            history = [(s[:, active], y[:, active], r[active]) for s, y, r in history]
        direction = _two_loop(gradient, history)
        step, new_loss, new_gradient = _line_search(problem, z, loss, gradient, direction)
        difference = new_gradient - gradient
        curvature = (step * difference).sum(0)
        inverse = torch.where(curvature > 1e-12, 1.0 / curvature.clamp_min(1e-12), 0.0)
        history = [*history[-(_HISTORY - 1) :], (step, difference, inverse)]
        z, loss, gradient = z + step, new_loss, new_gradient
    else:
        result[:, columns] = z
    return result[:-1], result[-1] / (problem.bias_scale)


def _two_loop(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The L-BFGS direction for each problem; a pair with ``inverse`` 0 has no effect."""
    q = gradient.clone()
    alphas = []
    for s, y, inverse in reversed(history):
        alpha = inverse * (s * q).sum(0)
        q -= alpha * y
        alphas.append(alpha)
    if history:
        s, y, inverse = history[-1]
        gamma = (s * y).sum(0) / y.square().sum(0).clamp_min(1e-30)
        q *= torch.where(inverse > 0, gamma, 1.0)
    for (s, y, inverse), alpha in zip(history, reversed(alphas), strict=True):
        q += s * (alpha - inverse * (y * q).sum(0))
    return -q


def _line_search(
    problem: _Problem, z: Tensor, loss: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each problem's step until its loss falls enough; returns step, loss, gradient."""
    slope = (gradient * direction).sum(0)
    direction = torch.where(slope < 0, direction, -gradient)
    slope = torch.where(slope < 0, slope, -gradient.square().sum(0))
    size = torch.ones_like(loss)
    for _ in range(30):
        new_loss, new_gradient = problem.loss_and_gradient(z + size * direction)
        # the last term forgives rounding once a problem stands at its minimum
        enough = new_loss <= loss + _ARMIJO * size * slope + 1e-12 * loss.abs()
        if enough.all():
            break
        size = torch.where(enough, size, size / 2)
    return size * direction, new_loss, new_gradient


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) mean and standard deviation; a constant feature keeps its scale."""
    x = features.double()
    scale = x.std(0, correction=0)
    return x.mean(0), torch.where(scale > 1e-8, scale, 1.0)


def _principal_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """(D, R) orthonormal directions that span the rows of ``x``, and their singular values."""
    wide = x.shape[0] < x.shape[1]
    gram = x @ x.T if wide else x.T @ x
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values[-1].clamp_min(1e-30) * 1e-10
    singular = values[kept].sqrt()
    basis = x.T @ (vectors[:, kept] / singular) if wide else vectors[:, kept]
    return basis, singular


def _known(labels: Tensor) -> Tensor:
    return ~torch.isnan(labels)


def _summed_log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(C,) log-loss summed over images and labels that are known; logits are (N, L, C)."""
    targets = torch.nan_to_num(labels).double()[:, :, None]
    loss = functional.softplus(logits) - targets * logits
    return (loss * _known(labels)[:, :, None]).sum((0, 1))
