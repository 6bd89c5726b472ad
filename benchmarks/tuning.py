"""Compare encoders on training images only, to choose a recipe without looking at a test image.

    python benchmarks/tuning.py ENCODER... [-b nih14 -b nlmtb -b kermany] [--data-root DIR]

The training images of each benchmark (at most 1,800, drawn once) are split five times by patients
into two thirds and one third. ``linear-v1`` learns from the first 100 and 1,000 images of the
larger part, or as many as there are; printed is the mean macro AUROC on the smaller part, and its
standard deviation over the splits. All encoders see the same splits. Made for
``recipes/README.md``.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from tabulate import tabulate

from cxrzoo import device
from cxrzoo.data.budget import FOLDS
from cxrzoo.data.store import prepare
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.evaluation.features import extract
from cxrzoo.evaluation.metrics import score
from cxrzoo.evaluation.probe import fit_probe
from cxrzoo.evaluation.protocol import LinearV1
from cxrzoo.zoo.encoder import Encoder, load

BUDGETS = (100, 1000)
SPLITS = 5
MAX_IMAGES = 1800
MIN_POSITIVES = 5  # of a label in the smaller part, for it to count


@click.command()
@click.argument("encoders", nargs=-1, required=True)
@click.option("-b", "--benchmark", "names", multiple=True, default=("nih14", "nlmtb", "kermany"))
@click.option("--data-root", type=click.Path(path_type=Path), envvar="CXRZOO_DATA")
def main(encoders: tuple[str, ...], names: tuple[str, ...], data_root: Path | None) -> None:
    tables = [training_images(name, data_root) for name in names]
    rows = []
    for encoder in map(load, encoders):
        scores = [result for table in tables for result in judge(encoder, table)]
        means = [float(np.mean(values)) for values in scores]
        cells = [f"{np.mean(values):.3f} ± {np.std(values):.3f}" for values in scores]
        rows.append([encoder.card.name, *cells, f"{np.mean(means):.4f}"])
    heads = [f"{name} @{budget}" for name in names for budget in BUDGETS]
    click.echo(tabulate(rows, headers=["encoder", *heads, "mean"], tablefmt="github"))


def training_images(name: str, data_root: Path | None) -> Table:
    table = open_benchmark(name, data_root, exclude_bad=True)
    rows = np.random.default_rng(0).permutation(table.rows("train"))[:MAX_IMAGES]
    return table.keep(np.isin(np.arange(len(table)), rows))


def judge(encoder: Encoder, table: Table) -> list[list[float]]:
    """Macro AUROC of every split, for each budget."""
    contract = encoder.card.input
    prepared = prepare(table, contract.size_px, contract.interpolation, exclude_bad=True)
    features = torch.from_numpy(extract(encoder, prepared, torch.device(device.pick())))
    labels = torch.from_numpy(np.asarray(prepared.table.labels, dtype=np.float32))
    names = prepared.table.benchmark.labels
    _, patients = np.unique(prepared.table.patients, return_inverse=True)
    scores: list[list[float]] = [[] for _ in BUDGETS]
    for number in range(SPLITS):
        draws = np.random.default_rng(number)
        order = draws.permutation(patients.max() + 1)
        held = np.isin(patients, order[: len(order) // 3])
        training = draws.permutation(np.flatnonzero(~held))
        for budget, values in zip(BUDGETS, scores, strict=True):
            rows = training[:budget]
            probe = fit_probe(features[rows], labels[rows], _folds(patients[rows]), LinearV1())
            logits, truth = probe.model.logits(features[held])[..., 0].numpy(), labels[held].numpy()
            known = (np.nansum(truth, 0) >= MIN_POSITIVES) & (np.nansum(labels[rows], 0) > 0)
            kept = tuple(name for name, k in zip(names, known, strict=True) if k)
            values.append(score(logits[:, known], truth[:, known], kept)["macro"]["auroc"])
    return scores


def _folds(patients: np.ndarray) -> np.ndarray:
    """Folds inside a budget, a patient's images in one."""
    return np.unique(patients, return_inverse=True)[1] % FOLDS


if __name__ == "__main__":
    main()
