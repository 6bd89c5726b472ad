"""AUROC of many resamples at once, by ranks, exact in integers. Numpy only.

A resample is how often each image counts. Letters: N images, L labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLOCK = 128
"""Resamples scored at once: bounds the memory, and bootstrap draws depend on it."""


def auroc(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC of every label on every resample, ties counted half; NaN without both classes.

    Args:
        scores: (N, L) finite numbers.
        labels: (N, L) of 0, 1 and NaN; NaN is left out.
        counts: (R, N) integers, how often an image counts.

    Returns:
        (R, L).
    """
    plans = [plan(*column) for column in zip(scores.T, labels.T, strict=True)]
    parts = [
        by_label(plans, pack(counts[i : i + BLOCK]))[: len(counts) - i]
        for i in range(0, len(counts), BLOCK)
    ]
    return np.concatenate(parts)


class Plan(NamedTuple):
    """One label of one prediction, cut into runs of one class in ascending order of score.

    ``order``: images with a known label, ascending, of equal scores the negatives first.
    ``starts``: where the runs begin in ``order``. ``positive``: whether a run is. ``tied``: the
    positive runs whose score is also that of the run before, which is negative.
    """

    order: np.ndarray
    starts: np.ndarray
    positive: np.ndarray
    tied: np.ndarray


def plan(scores: np.ndarray, labels: np.ndarray) -> Plan:
    """Runs are as long as can be: they end where the class changes, and around a mixed tie."""
    known = np.flatnonzero(~np.isnan(labels))
    order = known[np.lexsort((labels[known], scores[known]))]
    value, positive = scores[order], labels[order] == 1
    if not len(order):
        return Plan(order, order, positive, order)
    new_value, new_class = value[1:] != value[:-1], positive[1:] != positive[:-1]
    mixes = new_class & ~new_value  # negatives come first, so here begin a mixed tie's positives
    group = np.r_[0, np.cumsum(new_value)]
    mixed = np.isin(group, group[1:][mixes])
    begins = new_class | (new_value & (mixed[1:] | mixed[:-1]))
    starts = np.flatnonzero(np.r_[True, begins])
    return Plan(order, starts, positive[starts], np.flatnonzero(np.r_[False, mixes][starts]))


class Words(NamedTuple):
    """Counts of images, several resamples in one 64-bit word: one addition serves them all.

    ``words`` (N, W) with ``lane`` the type of one resample's count, wide enough for the sum over
    all images, so that nothing is ever carried from one resample into the next.
    """

    words: np.ndarray
    lane: type[np.unsignedinteger]


def pack(counts: np.ndarray) -> Words:
    """From (R, N) counts; resamples of no image fill the last word."""
    largest = int(counts.sum(axis=1, dtype=np.int64).max(initial=0))
    lane = np.uint16 if largest < 2**16 else np.uint32
    if largest >= 2**32 or counts.min(initial=0) < 0:
        raise ValueError("counts must be 0 or more, with a sum below 2**32")
    padded = np.zeros((counts.shape[1], -(-len(counts) // 4) * 4), lane)
    padded[:, : len(counts)] = counts.T
    return Words(padded.view(np.uint64), lane)


def by_label(plans: Sequence[Plan], words: Words) -> np.ndarray:
    """(R, L) AUROC; R is rounded up to whole words."""
    return np.column_stack([_label(plan, words) for plan in plans])


def _label(plan: Plan, words: Words) -> np.ndarray:
    """(R,) pairs in the right order, ties half, over all pairs of a positive and a negative."""
    lanes = words.words.shape[1] * 8 // np.dtype(words.lane).itemsize
    if not plan.positive.any() or plan.positive.all():
        return np.full(lanes, np.nan)
    runs = np.add.reduceat(words.words.take(plan.order, axis=0), plan.starts, axis=0)
    below = np.cumsum(np.where(plan.positive[:, None], np.uint64(0), runs), axis=0)
    runs, below = runs.view(words.lane), below.view(words.lane)
    positives = runs[plan.positive].astype(float)
    right = np.einsum("ij,ij->j", positives, below[plan.positive].astype(float))
    if len(plan.tied):
        ties = runs[plan.tied].astype(float), runs[plan.tied - 1].astype(float)
        right -= np.einsum("ij,ij->j", *ties) / 2
    pairs = positives.sum(axis=0) * below[-1]
    return _ratio(right, pairs)


def macro(values: np.ndarray) -> np.ndarray:
    """(R, L) to (R,): the mean over defined labels, NaN when there is none."""
    defined = ~np.isnan(values)
    n = defined.sum(axis=1)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return _ratio(total, n)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where ``below`` is 0."""
    out = np.full(len(below), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
