from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cxrzoo.evaluation.metrics import auroc
from cxrzoo.evaluation.probe import fit, fit_probe
from cxrzoo.evaluation.protocol import LinearV1

STRENGTHS = LinearV1().strengths
TOLERANCE = LinearV1().solver_tolerance


def problem(n: int, d: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * rng.uniform(0.1, 5, size=d) + rng.normal(size=d)
    truth = rng.normal(size=(d, labels)) / np.sqrt(d)
    y = ((x - x.mean(0)) / x.std(0) @ truth + rng.normal(size=(n, labels)) > 0.5).astype(np.float32)
    return x.astype(np.float32), y


def sklearn_logits(x: np.ndarray, y: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    model = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000)
    model.fit((x - mean) / std, y)
    return model.decision_function((test - mean) / std)


@pytest.mark.parametrize(("n", "d"), [(60, 100), (300, 40)], ids=["wide", "tall"])
def test_every_label_and_strength_agrees_with_scikit_learn(n, d):
    x, y = problem(2 * n, d, labels=3)
    model = fit(torch.from_numpy(x[:n]), torch.from_numpy(y[:n]), STRENGTHS, TOLERANCE)
    ours = model.logits(torch.from_numpy(x[n:])).numpy()
    for label in range(3):
        for c, strength in enumerate(STRENGTHS):
            theirs = sklearn_logits(x[:n], y[:n, label], x[n:], strength)
            scale = max(1.0, np.abs(theirs).max())
            assert np.abs(ours[:, label, c] - theirs).max() < 0.01 * scale
            difference = auroc(ours[:, label, c], y[n:, label]) - auroc(theirs, y[n:, label])
            assert abs(difference) < 0.003


def test_unknown_labels_are_as_if_the_images_were_not_there_but_for_standardisation():
    x, y = problem(120, 30, labels=1)
    x = (x - x.mean(0)) / x.std(0)
    known = np.arange(120) % 3 > 0
    masked = np.where(known[:, None], y, np.nan).astype(np.float32)
    model = fit(torch.from_numpy(x), torch.from_numpy(masked), (0.01,), 1e-7)
    theirs = LogisticRegression(C=0.01, tol=1e-10, max_iter=10_000).fit(x[known], y[known, 0])
    expected = theirs.decision_function(x)
    assert np.allclose(model.logits(torch.from_numpy(x)).numpy()[:, 0, 0], expected, atol=1e-3)


def test_a_label_without_both_classes_predicts_its_smoothed_log_odds():
    x, y = problem(50, 20, labels=2)
    y[:, 1] = 0
    logits = fit(torch.from_numpy(x), torch.from_numpy(y), STRENGTHS, TOLERANCE).logits(
        torch.from_numpy(x)
    )
    assert torch.allclose(logits[:, 1], torch.tensor(np.log(0.5 / 50.5)))
    assert logits[:, 0, 0].std() > 0


def test_constant_and_duplicated_features_change_nothing_that_breaks():
    x, y = problem(80, 10, labels=1)
    wide = np.concatenate([x, x[:, :3], np.full((80, 2), 7, np.float32)], axis=1)
    model = fit(torch.from_numpy(wide), torch.from_numpy(y), (0.01,), TOLERANCE)
    assert torch.isfinite(model.weight).all()
    assert model.weight[-2:].abs().max() == 0


def test_the_strength_with_the_lowest_cross_validated_log_loss_is_chosen_and_refitted():
    x, y = problem(100, 60, labels=2)
    folds = np.arange(100) % 5
    protocol = LinearV1()
    found = fit_probe(torch.from_numpy(x), torch.from_numpy(y), folds, protocol)
    total = np.zeros(len(STRENGTHS))
    for fold in range(5):
        train, held = folds != fold, folds == fold
        for c, strength in enumerate(STRENGTHS):
            for label in range(2):
                z = sklearn_logits(x[train], y[train, label], x[held], strength)
                total[c] += (np.logaddexp(0, z) - y[held, label] * z).sum()
    assert found.curve == pytest.approx(total / y.size, rel=1e-3)
    assert found.strength == STRENGTHS[int(total.argmin())]
    refit = fit(torch.from_numpy(x), torch.from_numpy(y), (found.strength,), TOLERANCE)
    assert torch.equal(refit.weight, found.model.weight)


def test_fitting_twice_gives_the_same_bits():
    x, y = problem(90, 50, labels=3)
    first = fit(torch.from_numpy(x), torch.from_numpy(y), STRENGTHS, TOLERANCE)
    second = fit(torch.from_numpy(x), torch.from_numpy(y), STRENGTHS, TOLERANCE)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
