"""``linear-v1`` against a loop of scikit-learn's LogisticRegression, in one run.

    python benchmarks/speed/probe.py [--labels 14] [--features 1280] [--images 1000]

Both fit every label at every strength of the protocol on the same standardised features; the
largest difference in test AUROC is shown. scikit-learn runs with its default solver and
tolerance and enough iterations to converge.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from tabulate import tabulate

from cxrzoo.evaluation.metrics import auroc
from cxrzoo.evaluation.probe import fit
from cxrzoo.evaluation.protocol import LinearV1


def problem(n: int, d: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """(2n, d) correlated, non-negative features like a network's, and (2n, labels) of 0 and 1."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(2 * n, 64))
    x = np.maximum(latent @ rng.normal(size=(64, d)) / 8 + rng.normal(size=(2 * n, d)) / 2, 0)
    noise = 2 * rng.normal(size=(2 * n, labels))
    y = latent[:, :labels] + noise > 1.5 + rng.random(labels)
    return x.astype(np.float32), y.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=14)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    n, strengths, tolerance = arguments.images, LinearV1().strengths, LinearV1().solver_tolerance
    x, y = problem(n, arguments.features, arguments.labels)

    torch.linalg.eigh(torch.eye(2, dtype=torch.float64))  # loads the library; not our speed
    start = time.perf_counter()
    model = fit(torch.from_numpy(x[:n]), torch.from_numpy(y[:n]), strengths, tolerance)
    ours = model.logits(torch.from_numpy(x[n:])).numpy()
    our_seconds = time.perf_counter() - start

    start = time.perf_counter()
    mean, std = x[:n].mean(0), x[:n].std(0)
    train, test = (x[:n] - mean) / std, (x[n:] - mean) / std
    theirs = np.empty_like(ours)
    for label in range(arguments.labels):
        for c, strength in enumerate(strengths):
            regression = LogisticRegression(C=strength, max_iter=10_000).fit(train, y[:n, label])
            theirs[:, label, c] = regression.decision_function(test)
    their_seconds = time.perf_counter() - start

    worst = max(
        abs(auroc(ours[:, i, c], y[n:, i]) - auroc(theirs[:, i, c], y[n:, i]))
        for i in range(arguments.labels)
        for c in range(len(strengths))
    )
    sizes = f"{n} images, {arguments.features} features, {arguments.labels} labels"
    print(f"{sizes}, {len(strengths)} strengths")
    rows = [
        ("scikit-learn loop", their_seconds, 1.0),
        ("linear-v1", our_seconds, their_seconds / our_seconds),
    ]
    print(tabulate(rows, ["", "seconds", "ratio"], tablefmt="github", floatfmt=".2f"))
    print(f"largest difference in AUROC: {worst:.4f}")


if __name__ == "__main__":
    main()
