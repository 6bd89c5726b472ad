"""Which records may be held against each other: those that measured the same thing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from cxrzoo.evaluation.record import BudgetSpec, Record


def measured(record: Record) -> dict[str, Any]:
    """What must be equal between any two records that are compared, by its name."""
    benchmark = record.spec.benchmark
    return {
        "version": benchmark.version,
        "labels": benchmark.labels,
        "label policy": benchmark.label_policy,
        "excluded images": benchmark.excluded,
        "limit": benchmark.limit,
        "rows (manifest)": benchmark.manifest_sha256,
        "protocol settings": record.spec.protocol,
    }


def mismatch(records: Sequence[Record]) -> str:
    """Why records of one place cannot be held against each other; empty when they can."""
    budgets: dict[int, BudgetSpec] = {}
    if any(budgets.setdefault(r.spec.seed, r.spec.budget) != r.spec.budget for r in records):
        return "different training images (subset) for one seed"
    return "different image files (pixels)" if pixel_versions(records) > 1 else ""


def pixel_versions(records: Iterable[Record]) -> int:
    """How many versions of the images one input size was measured on; 1 when all is well."""
    versions: dict[tuple[int, str], set[str]] = defaultdict(set)
    for record in records:
        view = record.spec.encoder.input
        versions[view.size_px, view.interpolation].add(record.spec.benchmark.pixels_sha256)
    return max(map(len, versions.values()))
