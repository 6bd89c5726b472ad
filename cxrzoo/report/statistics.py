"""How sure a score is: bootstrap over seeds and test patients, and differences of two.

Pure functions on arrays, numpy only. Letters: S seeds, N test images, L labels, R resamples.
A score is the macro AUROC of one seed's predictions; a cell's score is its mean over seeds.

What is resampled. Test images come in patients, so patients are drawn with replacement and an
image counts as often as its patient was drawn. Every seed and encoder is scored on the same
draws (`Resamples`), so that differences are paired.

Why seeds are not drawn with replacement as well. Five seeds have five deviations from their
mean, and drawing them with replacement gives intervals too narrow twice over: the variance
falls short by (S-1)/S and percentiles are those of a normal, not of Student's t (Hesterberg 2015,
"What Teachers Should Know About the Bootstrap", The American Statistician 69(4)).
On the other side, rescoring the drawn seeds on drawn patients counts what belongs to both, a
seed's own luck with these images, more than once, which widens differences most (Owen & Eckles
2012, "Bootstrapping data arrays of arbitrary order", Annals of Applied Statistics 6(3)). So a
draw of the mean over seeds is a sum of two parts::

    mean + rho * (mean on drawn patients - mean) + sum_k m_k * score_k

``m`` are shared random multipliers with sum 0, for which the last term has exactly Student's t
distribution with S-1 degrees of freedom and the standard error of the mean over seeds as its
scale. That error already holds each seed's own luck with the images, so ``rho`` takes it out of
the first part: ``rho**2`` is the share of the mean's variance over drawn patients that is common
to all seeds, the mean covariance between two seeds. The parts are linear in the scores and
shared, so the same draws serve one encoder and a difference of two. A sum of a normal and a t
deviate read as an interval is the Behrens-Fisher solution, which errs on the safe side (Robinson
1976, Annals of Statistics 4(5)): with 5 seeds it covers 95 to 97 %, whichever part is larger, with
3 seeds up to 97.5 %. `tests/report/test_statistics.py` measures it. Small test sets with high
scores are the exception: 60 patients at an AUROC of 0.965 give 92 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from cxrzoo.report.auroc import BLOCK, by_label, macro, pack, plan

RESAMPLES = 1000
LEVEL = 0.95
_SEED_DRAWS = 8  # draws of the seeds for each draw of the patients; they cost next to nothing


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; None where it cannot be known.

    ``over`` names what the interval covers: ``seeds and patients``; ``patients`` (one seed: how
    training varies is not in it); ``seeds`` (no predictions: how the test set varies is not in
    it); ``benchmarks``; or ``nothing``, when there is no interval.
    """

    estimate: float | None
    low: float | None
    high: float | None
    over: str


@dataclass(frozen=True)
class Comparison:
    """A paired difference, first minus second, and its two-sided p value, not yet adjusted."""

    difference: Interval
    p: float | None
    n_patients: int
    n_seeds: int


class Resamples:
    """Draws of test patients with replacement, the same for everything scored on them.

    Args:
        patients: (N,) any values; images with the same value are drawn together.
        n: how many draws. More draws begin with the fewer ones.
        seed: of the random numbers.
    """

    def __init__(self, patients: np.ndarray, n: int = RESAMPLES, seed: int = 0) -> None:
        if n < 2:
            raise ValueError(f"need at least 2 resamples, got {n}")
        distinct, index = np.unique(patients, return_inverse=True)
        self.n, self.seed, self.n_patients, self.patient = n, seed, len(distinct), index.ravel()
        text = f"{n}|{seed}|{BLOCK}|".encode() + self.patient.astype("<i8").tobytes()
        self.key = hashlib.sha256(text).hexdigest()

    def blocks(self) -> Iterator[np.ndarray]:
        """(r, N) counts of each image in the next r resamples, in blocks of bounded size."""
        for start in range(0, self.n, BLOCK):
            rng = np.random.default_rng([self.seed, start])
            counts = np.empty((BLOCK, self.n_patients), np.int32)
            for row in counts:  # row by row: draws are eight bytes, counts only four
                drawn = rng.integers(self.n_patients, size=self.n_patients)
                row[:] = np.bincount(drawn, minlength=self.n_patients)
            yield counts[: self.n - start].take(self.patient, axis=1)


@dataclass(frozen=True)
class Scores:
    """One encoder in one cell: its macro AUROC by seed, as observed and on every resample.

    ``seeds`` (S,); ``observed`` (S,), NaN where no label is defined; ``resampled`` (R, S), with
    R = 0 when only scores are known; ``undefined`` (L,): on how many of the R resamples a label
    had one class only and was left out; ``key`` names the resamples.
    """

    seeds: tuple[int, ...]
    observed: np.ndarray
    resampled: np.ndarray
    undefined: np.ndarray
    n_patients: int
    key: str

    @classmethod
    def without_predictions(cls, seeds: Sequence[int], observed: Sequence[float]) -> Scores:
        """From the scores of records alone: intervals are over seeds, with these test images."""
        values = np.asarray(observed, float)
        empty = np.empty((0, len(values)))
        return cls(tuple(seeds), values, empty, np.zeros(0, int), 0, "")


def bootstrap(
    predictions: np.ndarray, labels: np.ndarray, resamples: Resamples, seeds: Sequence[int]
) -> Scores:
    """Score every seed's predictions, as they are and on every resample of the test patients.

    Args:
        predictions: (S, N, L) finite numbers, higher is more positive.
        labels: (N, L) of 0, 1 and NaN; those of the test set, the same for every seed.
        resamples: of the N images' patients, the same object for encoders to be compared.
        seeds: S names of the seeds; `compare` pairs by them.

    Memory: the order of the images for every seed and label (8 S N L bytes), and about
    20 N * 128 bytes for the block of resamples at work, whatever R is.
    """
    _check(predictions, labels, resamples, seeds)
    plans = [[plan(*column) for column in zip(p.T, labels.T, strict=True)] for p in predictions]
    ones = pack(np.ones((1, labels.shape[0]), np.int32))
    observed = np.array([macro(by_label(p, ones)[:1])[0] for p in plans])
    resampled = np.empty((resamples.n, len(plans)))
    undefined = np.zeros(labels.shape[1], int)
    start = 0
    for counts in resamples.blocks():
        words, rows = pack(counts), slice(start, start + len(counts))
        for s, columns in enumerate(plans):
            values = by_label(columns, words)[: len(counts)]
            resampled[rows, s] = macro(values)
        undefined += np.isnan(values).sum(axis=0)  # the same for every seed
        start += len(counts)
    n_patients, key = resamples.n_patients, resamples.key
    return Scores(tuple(seeds), observed, resampled, undefined, n_patients, key)


def interval(scores: Scores) -> Interval:
    """The mean over seeds of macro AUROC, and where it would lie with new seeds and patients.

    The limits are symmetric on the logit scale: near 1 an AUROC can fall further than rise, and
    the limits stay inside 0 and 1. In simulation this covered better than percentiles at 0.87
    and above (0.922 against 0.908 with 60 patients at 0.965; no different at 0.77).
    """
    mean, draws = float(scores.observed.mean()), _draws(scores)
    if draws is None or not 0 < mean < 1:  # a mean of 0 or 1 is all 0 or all 1, without a spread
        return _plain_interval(mean, draws, _over(scores))
    # a drawn test set may be separated perfectly, which the logit takes to infinity
    drawn = np.clip(mean + draws.patients, 1e-3 * mean, 1 - 1e-3 * (1 - mean))
    deviations = _logit(drawn) - _logit(mean) + draws.seeds / (mean * (1 - mean))
    half = np.quantile(np.abs(deviations), LEVEL)
    low, high = 1 / (1 + np.exp(-_logit(mean) - np.array([-half, half])))
    return Interval(mean, float(low), float(high), _over(scores))


def compare(a: Scores, b: Scores) -> Comparison:
    """The score of ``a`` minus that of ``b``, on their shared seeds and the same resamples.

    The interval lies between percentiles; the p value is the level at which it ends at zero, and
    is never below 2 / (R + 1): for Holm over many encoders take more resamples.
    """
    if a.key != b.key:
        raise ValueError("the two were not scored on the same resamples of the same test images")
    both = _difference(a, b)
    mean, draws = float(both.observed.mean()), _draws(both)
    difference = _plain_interval(mean, draws, _over(both))
    p = None if draws is None else _p_value(mean + draws.patients + draws.seeds)
    return Comparison(difference, p, a.n_patients, len(both.seeds))


def possible_best(scores: Sequence[Scores]) -> list[bool]:
    """Which encoders of one cell may be the best of it, at 95 % confidence.

    Multiple comparisons with the best (Hsu 1984, "Constrained simultaneous confidence intervals
    for multiple comparisons with the best", Annals of Statistics 12(3)): an encoder is kept
    unless some other is better by more than chance makes the luckiest of all others. The limit is
    a quantile, over the draws, of the largest standardised difference, so that it holds for any
    number of encoders; 97.5 %, so that of two encoders one is dropped when the 95 % interval of
    their difference lies to one side of zero, as `compare` would say. Differences are scaled by the
    median of their absolute draws, which Student's t with few seeds leaves finite.

    Test patients are drawn once for all rivals, but the error over seeds for each by itself:
    shared multipliers would rest on the S - 1 deviations alone, in which 100 rivals cannot vary as
    freely as they do, and with 3 seeds lost the best in 44 % of studies. Independence is the
    safe side, for differences from one encoder go together (Slepian 1962, Bell System Technical
    Journal 41(2)).

    Args:
        scores: of E encoders, all with the same seeds and resamples, no NaN among ``observed``.

    Returns:
        E booleans, at least one True; all True when there is nothing to draw from.
    """
    first = scores[0]
    if any((s.seeds, s.key) != (first.seeds, first.key) for s in scores):
        raise ValueError("the encoders were not scored with the same seeds and resamples")
    observed = np.array([s.observed for s in scores])
    resampled = np.stack([s.resampled for s in scores])
    resampled = resampled[:, ~np.isnan(resampled).any(axis=(0, 2))]
    if first.observed.size == 1 and resampled.shape[1] < 2:
        return [True] * len(scores)
    return [
        _may_be_best(
            np.delete(observed, e, axis=0) - observed[e],
            np.delete(resampled, e, axis=0) - resampled[e],
        )
        for e in range(len(scores))
    ]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: the chance of any false difference among all stays below p.

    None stays None and does not count. (Holm 1979, Scandinavian Journal of Statistics 6(2).)
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - step) * p))
        adjusted[i] = largest
    return adjusted


# AUROC on resamples: the images of a label are sorted once; a resample only changes counts.


def _check(
    predictions: np.ndarray, labels: np.ndarray, resamples: Resamples, seeds: Sequence[int]
) -> None:
    expected = (len(seeds), len(resamples.patient), labels.shape[1])
    if predictions.shape != expected or labels.shape != expected[1:]:
        raise ValueError(
            f"expected predictions {expected} and labels {expected[1:]}, from {len(seeds)} seeds "
            f"and {expected[1]} images' patients; got {predictions.shape} and {labels.shape}"
        )
    if len(set(seeds)) < len(seeds) or not len(seeds):
        raise ValueError(f"seeds must be one or more, each once; got {tuple(seeds)}")
    if not np.isfinite(predictions).all():
        raise ValueError("predictions hold NaN or infinity, which have no rank")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0, 1 or NaN")


# Draws and what is read from them.


class _Draws(NamedTuple):
    """What draws add to the mean over seeds; D draws of the seeds for each of the patients.

    ``patients`` (R, 1) and ``seeds`` (R, D).
    """

    patients: np.ndarray
    seeds: np.ndarray


def _draws(scores: Scores) -> _Draws | None:
    """None where there is nothing to draw from."""
    observed, mean = scores.observed, scores.observed.mean()
    resampled = scores.resampled[~np.isnan(scores.resampled).any(axis=1)]
    n_seeds, n = len(observed), len(resampled)
    if np.isnan(mean) or (n_seeds == 1 and n < 2):
        return None
    if n_seeds == 1:
        return _Draws(resampled - mean, np.zeros((n, 1)))
    patients = np.zeros(RESAMPLES)
    if n > 1:
        share = _common_shares(resampled[None])[0]
        patients = share * (resampled.mean(axis=1) - mean)
    of_seeds = _multipliers(len(patients) * _SEED_DRAWS, n_seeds) @ (observed - mean)
    return _Draws(patients[:, None], of_seeds.reshape(-1, _SEED_DRAWS))


def _may_be_best(observed: np.ndarray, resampled: np.ndarray) -> bool:
    """From the others' (E, S) and (E, R, S) scores less the encoder's own."""
    n_seeds = observed.shape[1]
    errors = observed.std(axis=1, ddof=min(1, n_seeds - 1)) / np.sqrt(n_seeds)
    # draws belong to a place in the order: it must not be that of the rows
    order = np.lexsort((errors, observed.mean(axis=1)))
    observed, resampled, errors = observed[order], resampled[order], errors[order]
    means = observed.mean(axis=1)
    if not (means > 0).any():
        return True
    draws = np.zeros((len(means), RESAMPLES))
    if resampled.shape[1] > 1:
        of_mean = resampled.mean(axis=2)
        draws = _common_shares(resampled)[:, None] * (of_mean - means[:, None])
    if n_seeds > 1:
        draws = draws + errors[:, None] * students_t(*draws.shape, n_seeds - 1)
    scale = np.median(np.abs(draws), axis=1)
    exact = scale == 0  # without any spread, more is more
    if (means[exact] > 0).any():
        return False
    means, draws, scale = means[~exact], draws[~exact], scale[~exact]
    limit = np.quantile((draws / scale[:, None]).max(axis=0), (1 + LEVEL) / 2)
    return bool((means <= limit * scale).all())


def _common_shares(resampled: np.ndarray) -> np.ndarray:
    """``rho`` of the module's formula for each of (E, R, S) scores on resamples.

    The S variances and S (S - 1) covariances of two seeds add up to S**2 variances of the mean.
    """
    n_seeds = resampled.shape[2]
    if n_seeds == 1:
        return np.ones(len(resampled))
    of_mean = resampled.mean(axis=2).var(axis=1, ddof=1)
    own = resampled.var(axis=1, ddof=1).sum(axis=1)
    common = (n_seeds**2 * of_mean - own) / (n_seeds * (n_seeds - 1))
    share = np.divide(common, of_mean, out=np.zeros_like(common), where=of_mean > 0)
    shares: np.ndarray = np.sqrt(np.clip(share, 0, 1))
    return shares


@cache
def _multipliers(n: int, k: int, seed: int = 0) -> np.ndarray:
    """(n, k) rows of sum 0 that make k numbers into their mean's t-distributed error.

    For fixed x, sum((u - mean(u)) * x) with u standard normal has variance sum((x - mean(x))**2);
    over sqrt(k * (k - 1)) that is the squared standard error of the mean. Dividing by the root
    of a chi-squared over its k - 1 degrees of freedom makes the normal Student's t.
    """
    rng = np.random.default_rng([seed, k])
    normal = rng.standard_normal((n, k))
    chi = np.sqrt(rng.chisquare(k - 1, (n, 1)) / (k - 1))
    multipliers: np.ndarray = normal - normal.mean(axis=1, keepdims=True)
    multipliers /= chi * np.sqrt(k * (k - 1))
    return multipliers


@cache
def students_t(n: int, draws: int, freedom: int, seed: int = 0) -> np.ndarray:
    """(n, draws) independent numbers, the first rows the same for any n."""
    return np.random.default_rng([seed, freedom]).standard_t(freedom, (n, draws))


def _difference(a: Scores, b: Scores) -> Scores:
    """Seed by seed and resample by resample, on the shared seeds."""
    shared = tuple(s for s in a.seeds if s in b.seeds)
    if not shared:
        raise ValueError(f"no shared seeds: {a.seeds} and {b.seeds}")
    of_a, of_b = [a.seeds.index(s) for s in shared], [b.seeds.index(s) for s in shared]
    return replace(
        a,
        seeds=shared,
        observed=a.observed[of_a] - b.observed[of_b],
        resampled=a.resampled[:, of_a] - b.resampled[:, of_b],
    )


def _over(scores: Scores) -> str:
    parts = ["seeds"] * (len(scores.seeds) > 1) + ["patients"] * (len(scores.resampled) > 0)
    return " and ".join(parts)


def _plain_interval(mean: float, draws: _Draws | None, over: str) -> Interval:
    """Between percentiles of the draws."""
    if draws is None:
        return Interval(None if np.isnan(mean) else mean, None, None, "nothing")
    low, high = _percentiles(mean + draws.patients + draws.seeds)
    return Interval(mean, low, high, over)


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(draws: np.ndarray) -> float:
    """Two-sided, from the share of (R, D) draws beyond zero; never below 2 / (R + 1)."""
    n = len(draws)
    share = min(float(np.mean(draws <= 0)), float(np.mean(draws >= 0)))
    return float(min(1.0, 2 * (share * n + 1) / (n + 1)))


def _logit(p: float | np.ndarray) -> np.ndarray:
    return np.asarray(np.log(p) - np.log1p(-p))
