"""Macro AUROC on resamples of test patients against a loop of scikit-learn, in one run.

    python benchmarks/speed/bootstrap.py [--images 25596] [--resamples 1000] [--loop 2]

Two encoders, five seeds, 14 labels, the size of the NIH test list; predictions are float16 as
records store them, so ties are common. Both score the same resamples. The loop calls
``roc_auc_score`` once for each label, with the counts as weights and unknown labels left out,
and is measured on the first few resamples only (``--loop``); its time for all is extrapolated
in proportion, as each resample costs it the same.
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc

import numpy as np
from sklearn.metrics import roc_auc_score
from tabulate import tabulate

from cxrzoo.report.statistics import Resamples, bootstrap, compare, interval

LABELS, SEEDS, ENCODERS = 14, 5, 2


def problem(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(E, S, N, L) float16 predictions, (N, L) labels of which some are NaN, (N,) patients."""
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(0, max(1, n // 9), n))  # NIH: 25,596 images, 2,797 patients
    labels = (rng.random((n, LABELS)) < np.geomspace(0.004, 0.25, LABELS)).astype(float)
    labels[rng.random(labels.shape) < 0.01] = np.nan
    signal = 1.2 * np.nan_to_num(labels) + rng.normal(size=labels.shape)
    noise = rng.normal(size=(ENCODERS, SEEDS, *labels.shape))
    return (signal + 0.5 * noise - 3).astype(np.float16), labels, patients


def loop(predictions: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R, E, S) macro AUROC by scikit-learn."""
    out = np.empty((len(counts), ENCODERS, SEEDS))
    for r, e, s in np.ndindex(out.shape):
        values = []
        for i in range(LABELS):
            kept = ~np.isnan(labels[:, i]) & (counts[r] > 0)
            y, weights = labels[kept, i], counts[r, kept]
            if 0 < y.sum() < len(y):
                values.append(roc_auc_score(y, predictions[e, s, kept, i], sample_weight=weights))
        out[r, e, s] = np.mean(values)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=25_596)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=2, help="resamples the loop is measured on")
    arguments = parser.parse_args()
    predictions, labels, patients = problem(arguments.images)

    start = time.perf_counter()
    resamples = Resamples(patients, arguments.resamples)
    a, b = (bootstrap(p, labels, resamples, range(SEEDS)) for p in predictions)
    our_seconds = time.perf_counter() - start
    start = time.perf_counter()
    result = compare(a, b)
    compare_seconds = time.perf_counter() - start

    # again on one block of resamples, as being watched slows it down; the peak is the same
    tracemalloc.start()
    bootstrap(predictions[0], labels, Resamples(patients, 128), range(SEEDS))
    peak_mb = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()

    counts = next(resamples.blocks())[: arguments.loop]
    start = time.perf_counter()
    theirs = loop(predictions, labels, counts)
    measured = time.perf_counter() - start
    their_seconds = measured * arguments.resamples / len(counts)

    ours = np.stack([a.resampled, b.resampled], axis=1)[: len(counts)]
    print(
        f"{arguments.resamples} paired resamples of {resamples.n_patients} patients, "
        f"{arguments.images} images, {LABELS} labels, {ENCODERS} encoders, {SEEDS} seeds; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    rows = [
        (f"scikit-learn loop, from {len(counts)} resamples", their_seconds, 1.0),
        ("cxrzoo.report.statistics", our_seconds, their_seconds / our_seconds),
    ]
    print(tabulate(rows, ["", "seconds", "ratio"], tablefmt="github", floatfmt=",.1f"))
    print(f"largest difference in macro AUROC: {np.abs(ours - theirs).max():.1e}")
    print(f"peak memory above the arguments: {peak_mb:.0f} MB")
    print(f"compare: {1000 * compare_seconds:.0f} ms: {result}")
    print(f"interval of the first: {interval(a)}")


if __name__ == "__main__":
    main()
