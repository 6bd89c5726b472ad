"""Records with predictions, as a run writes them, of made-up logits on the phantom's test set."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.evaluation import metrics, record

LIMIT = 60


@cache
def phantom(limit: int | None = LIMIT) -> Table:
    table = open_benchmark("phantom", require_images=False)
    return table if limit is None else table.limited(limit)


def write(
    directory: Path, encoder: str = "a", skill: float = 1.0, seed: int = 0, **changes: Any
) -> record.Record:
    """One sealed record below ``directory``; higher ``skill`` scores better.

    ``changes``: ``without`` (ids left out), and parts of the spec or of the record.
    """
    table = changes.get("table", phantom())
    table = table.without(changes["without"]) if "without" in changes else table
    labels = table.labels[table.rows("test")]
    draws = np.random.default_rng([seed, len(encoder), ord(encoder[0])])
    logits = (np.nan_to_num(labels) * skill + draws.standard_normal(labels.shape)).astype("f2")
    tests = {"test": metrics.score(logits.astype(float), labels, table.benchmark.labels)}
    tests["test"]["macro"]["auroc"] += changes.get("raised", 0)
    made = record.seal(
        _spec(table, encoder, seed, changes),
        {"notes": list(table.notes), "exposure": changes.get("exposure", CLEAN)},
        {
            "status": "ok",
            "tests": tests,
            "predictions_sha256": record.predictions_sha256({"test": logits}),
        },
        {},
        {},
    )
    record.write(made, {"test": logits}, directory)
    return made


CLEAN = {"state": "clean", "reason": ""}


def _spec(table: Table, encoder: str, seed: int, changes: dict[str, Any]) -> record.Spec:
    return record.Spec.model_validate(
        {
            "encoder": {
                "name": encoder,
                "arch": "a",
                "weights_sha256": changes.get("weights", "0" * 64),
                "input": {"size_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
            },
            "benchmark": {
                "name": table.benchmark.name,
                "version": table.benchmark.version,
                "labels": table.benchmark.labels,
                "label_policy": table.benchmark.label_policy.name,
                "manifest_sha256": changes.get("manifest", table.manifest_sha256),
                "pixels_sha256": changes.get("pixels", "2" * 64),
                "excluded": record.ExcludedSpec.of(table.excluded),
                "limit": changes.get("limit", table.limit),
            },
            "budget": {
                "size": changes.get("budget", 20),
                "n": 20,
                "subset_sha256": changes.get("subset", "3" * 64),
            },
            "protocol": {"name": "linear-v1"} | changes.get("protocol", {}),
            "seed": seed,
            "precision": "float32",
            "control": changes.get("control", "none"),
        }
    )
