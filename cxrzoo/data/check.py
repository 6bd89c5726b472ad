"""``cxrzoo data check``: everything about a copy that would make a result untrue.

Every image is decoded once, into a fingerprint; nothing is compared pair by pair.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrzoo.data import duplicates
from cxrzoo.data.duplicates import Duplicates
from cxrzoo.data.fingerprints import fingerprint
from cxrzoo.data.pool import open_pool
from cxrzoo.data.split import TRAIN, is_inside
from cxrzoo.data.table import Table, open_benchmark

_SIGMAS = 5.0
"""A prevalence further from the published one than so many standard errors is worth a word."""


@dataclass(frozen=True)
class Twins:
    """Two images that show the same, by id; ``where`` are their splits or pools.

    ``distance`` is that of their perceptual hashes in bits of 256.
    """

    first: str
    second: str
    where: tuple[str, str]
    exact: bool
    distance: int


@dataclass(frozen=True)
class Check:
    """What was found in a copy.

    ``problems`` make a score untrue: missing and unreadable images, and test images that are in
    the training split too, or in a pool. ``findings`` are worth knowing. ``prevalence`` is the
    share of positives among known labels, by split and label, and ``published`` that of the
    complete set. ``twins`` are all pairs of images that show the same, within the benchmark
    (one link less than images in each group of equal ones) and between it and the pools.
    """

    name: str
    version: int
    images: int
    patients: int
    patient_key: str
    split: str
    splits: dict[str, dict[str, int]]
    prevalence: dict[str, dict[str, float | None]]
    published: dict[str, float]
    manifest_sha256: str
    twins: tuple[Twins, ...]
    problems: tuple[str, ...]
    findings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for a reader, problems left out."""
        parts = ", ".join(f"{s} {n['images']:,}" for s, n in self.splits.items())
        head = (
            f"{self.name} v{self.version}: {self.images:,} images, {self.patients:,} patients "
            f"({self.patient_key}); {self.split}; {parts}"
        )
        prevalence = [
            f"  {label:28}"
            + "  ".join(f"{s} {_percent(p[label])}" for s, p in self.prevalence.items())
            + (f"  published {_percent(self.published[label])}" if label in self.published else "")
            for label in next(iter(self.prevalence.values()))
        ]
        return [head, *prevalence, *(f"  {finding}" for finding in self.findings)]


def check(
    name: str,
    data_root: Path | None,
    *,
    against: tuple[str, ...] = (),
    workers: int | None = None,
) -> Check:
    """Open a benchmark, decode all of it, and compare its images with each other and with pools.

    Args:
        name: a benchmark.
        data_root: folder that holds the data.
        against: pools as ``open_pool`` takes them.
        workers: decoding threads.

    Raises:
        DataError: the benchmark or a pool cannot be opened at all, or a patient is in two splits.
    """
    table = open_benchmark(name, data_root, exclude_bad=True)
    pools = [open_pool(pool, data_root) for pool in against]
    problems = [f"{image}: no such file" for image in table.excluded]
    prints = fingerprint(table.images, len(table), name, workers=workers)
    problems += [text for _, text in sorted(prints.bad.items())]
    found = duplicates.within(prints)
    inside = _twins(found, table, table.ids, table.splits)
    findings = [_summary(found), *_label_conflicts(found, table)]
    problems += _leaks(inside)
    crossing: list[Twins] = []
    for pool in pools:
        other = fingerprint(pool.images, len(pool), pool.name, workers=workers)
        links = duplicates.between(prints, other)
        crossing += _twins(links, table, pool.ids, np.full(len(pool), pool.name))
        findings.append(_pool_summary(links, table, pool.name, len(pool), len(other.bad)))
    problems += [
        f"{t.first} ({t.where[0]}) is in pool {t.where[1]} as {t.second} ({_how(t)})"
        for t in crossing
        if t.where[0] != TRAIN
    ]
    usable = np.ones(len(table), dtype=bool)
    usable[list(prints.bad)] = False
    table = table.without(table.ids[~usable].tolist()) if prints.bad else table
    published = _published(table)
    prevalence = {s: _prevalence(table, table.rows(s)) for s in [TRAIN, *table.test_sets]}
    findings += _unlike_published(table, published)
    return Check(
        name=name,
        version=table.benchmark.version,
        images=len(table),
        patients=len(np.unique(table.patients)),
        patient_key=table.benchmark.patient_key,
        split=table.split_name,
        splits={s: _counts(table, s) for s in prevalence},
        prevalence=prevalence,
        published=published,
        manifest_sha256=table.manifest_sha256,
        twins=(*inside, *crossing),
        problems=tuple(problems),
        findings=tuple(findings),
    )


def _twins(
    links: Duplicates, table: Table, other_ids: np.ndarray, other_places: np.ndarray
) -> list[Twins]:
    return [
        Twins(
            first=str(table.ids[a]),
            second=str(other_ids[b]),
            where=(str(table.splits[a]), str(other_places[b])),
            exact=bool(exact),
            distance=int(distance),
        )
        for a, b, exact, distance in zip(
            links.first, links.second, links.exact, links.distance, strict=True
        )
    ]


def _summary(links: Duplicates) -> str:
    equal = [len(group) for group in links.take(links.exact).groups()]
    near = len(links) - int(links.exact.sum())
    return (
        f"images that show the same: {sum(n * (n - 1) // 2 for n in equal)} pairs of equal "
        f"pixels, {near} near ones, in {len(links.groups())} groups"
    )


def _leaks(twins: list[Twins]) -> list[str]:
    """Pairs with one image in training and one in a test set."""
    return [
        f"{t.first} ({t.where[0]}) and {t.second} ({t.where[1]}) show the same image ({_how(t)})"
        for t in twins
        if t.where[0] != t.where[1] and TRAIN in t.where
    ]


def _how(twins: Twins) -> str:
    return "equal pixels" if twins.exact else f"hashes {twins.distance} of 256 bits apart"


def _label_conflicts(links: Duplicates, table: Table) -> list[str]:
    """Images that show the same under other labels, or under other patients."""
    one, other = table.labels[links.first], table.labels[links.second]
    known = ~(np.isnan(one) | np.isnan(other))
    labels = int(((one != other) & known).any(axis=1).sum())
    patients = int((table.patients[links.first] != table.patients[links.second]).sum())
    said = []
    if labels:
        said.append(f"{labels} of these pairs have different labels")
    if patients and not table.benchmark.per_image:
        said.append(f"{patients} of these pairs are filed under two patients")
    return said


def _pool_summary(links: Duplicates, table: Table, pool: str, count: int, unreadable: int) -> str:
    shared = np.unique(links.first)
    in_train = int((table.splits[shared] == TRAIN).sum())
    bad = f", {unreadable} of them unreadable" if unreadable else ""
    return (
        f"pool {pool} ({count:,} images{bad}): shares {len(shared)} images, {in_train} of them "
        f"in train and {len(shared) - in_train} in test"
    )


def _counts(table: Table, split: str) -> dict[str, int]:
    rows = table.rows(split)
    return {"images": len(rows), "patients": len(np.unique(table.patients[rows]))}


def _prevalence(table: Table, rows: np.ndarray) -> dict[str, float | None]:
    return {
        label: None if np.isnan(column).all() else round(float(np.nanmean(column)), 4)
        for label, column in zip(table.benchmark.labels, table.labels[rows].T, strict=True)
    }


def _published(table: Table) -> dict[str, float]:
    """Share of positives among all images of the complete set, by label."""
    complete = table.benchmark.complete
    if complete is None or complete.positives is None:
        return {}
    return {k: round(n / complete.images, 4) for k, n in complete.positives.items()}


def _unlike_published(table: Table, published: dict[str, float]) -> list[str]:
    """Labels whose share of positives among all images is far from the published one."""
    labels = table.labels[is_inside(table.splits)]
    said = []
    for label, share in published.items():
        column = labels[:, table.benchmark.labels.index(label)]
        found, error = float((column == 1).mean()), math.sqrt(share * (1 - share) / len(column))
        if abs(found - share) > _SIGMAS * error + 1e-4:
            said.append(f"{label}: {found:.1%} of the images are positive, published {share:.1%}")
    return said


def _percent(share: float | None) -> str:
    return "  -  " if share is None else f"{100 * share:.1f}%"
