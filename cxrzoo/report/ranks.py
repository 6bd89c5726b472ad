"""Mean ranks of encoders over benchmarks, and places that they may share. Numpy only.

Letters: E encoders, C cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrzoo.report.statistics import LEVEL, Interval, students_t

_T_DRAWS = 200_000  # of one t, enough for the tails of 100 encoders


@dataclass(frozen=True)
class Ranking:
    """Mean ranks (1 is best) over a complete grid; rows and columns by their index.

    ``ranks`` have an interval each. ``places`` are 1 + the number of encoders that are surely
    before, by intervals that hold for all encoders together: encoders can share a place.
    """

    encoders: tuple[int, ...]
    cells: tuple[int, ...]
    left_out_encoders: tuple[int, ...]
    left_out_cells: tuple[int, ...]
    ranks: tuple[Interval, ...]
    places: tuple[int, ...]
    n_benchmarks: int


def mean_rank(scores: np.ndarray, benchmarks: Sequence[str], seed: int = 0) -> Ranking:
    """Mean rank of encoders over a complete grid: within benchmarks first, then over them.

    The interval is over benchmarks, Student's t like that over seeds of a cell, because "better on
    benchmarks like these" is what a mean rank is read as. The cells' own uncertainty is in it:
    it moves the ranks of each benchmark apart like any other difference between benchmarks, so
    that drawing inside the benchmarks as well would count it twice (Davison & Hinkley 1997,
    "Bootstrap Methods and their Application", section 3.8). One benchmark gives no interval.

    Two benchmarks can agree by luck and have no spread. So no interval is narrower than if ranks
    had been equal on all benchmarks but one, and there one rank away: those of two encoders, one
    ahead on every benchmark, then lie apart from six benchmarks on, as in a sign test.

    Args:
        scores: (E, C) encoders by cells, NaN where there is none. Rows and columns with holes
            are left out, the one with the largest share of holes first, an encoder before a
            cell, until no hole is left.
        benchmarks: of the C cells; budgets of one benchmark are not independent of each other.
        seed: of the random numbers.
    """
    rows, columns = _complete(np.isnan(scores))
    names = [benchmarks[c] for c in columns]
    clusters = list(dict.fromkeys(names))
    ranks = _ranks(scores[np.ix_(rows, columns)])
    means = [ranks[:, [n == cluster for n in names]].mean(axis=1) for cluster in clusters]
    by_benchmark = np.array(means).reshape(len(clusters), len(rows)).T  # (E, benchmarks)
    intervals = _rank_intervals(by_benchmark, LEVEL, seed) if rows else ()
    return Ranking(
        tuple(rows),
        tuple(columns),
        tuple(i for i in range(scores.shape[0]) if i not in rows),
        tuple(i for i in range(scores.shape[1]) if i not in columns),
        intervals,
        _places(by_benchmark, seed) if rows else (),
        len(clusters),
    )


def _ranks(scores: np.ndarray) -> np.ndarray:
    """(E, C) ranks within each column, 1 for the highest; ties share the mean of their ranks."""
    above = (scores[None] > scores[:, None]).sum(axis=1)
    equal = (scores[None] == scores[:, None]).sum(axis=1)
    ranks: np.ndarray = 1 + above + (equal - 1) / 2
    return ranks


def _complete(holes: np.ndarray) -> tuple[list[int], list[int]]:
    """Rows and columns of (E, C) that are left once none of their crossings is a hole."""
    rows, columns = list(range(holes.shape[0])), list(range(holes.shape[1]))
    while holes[np.ix_(rows, columns)].any():
        left = holes[np.ix_(rows, columns)]
        of_rows, of_columns = left.mean(axis=1), left.mean(axis=0)
        if of_rows.max() >= of_columns.max():
            del rows[int(of_rows.argmax())]
        else:
            del columns[int(of_columns.argmax())]
    return rows, columns


def _rank_intervals(by_benchmark: np.ndarray, level: float, seed: int) -> tuple[Interval, ...]:
    """Student's t over benchmarks for each row of (E, benchmarks) mean ranks."""
    n_encoders, n = by_benchmark.shape
    means = by_benchmark.mean(axis=1)
    if n == 1:
        return tuple(Interval(float(mean), None, None, "nothing") for mean in means)
    errors = np.maximum(by_benchmark.std(axis=1, ddof=1) / np.sqrt(n), 1 / n)
    half = np.quantile(np.abs(students_t(1, _T_DRAWS, n - 1, seed)), level) * errors
    low, high = np.maximum(1, means - half), np.minimum(n_encoders, means + half)
    limits = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
    return tuple(Interval(*each, "benchmarks") for each in limits)


def _places(by_benchmark: np.ndarray, seed: int) -> tuple[int, ...]:
    """With Bonferroni over the encoders, so that none is put apart by luck in 95 % of studies.

    Without intervals, all share the first place: nothing is known to tell them apart.
    """
    level = 1 - (1 - LEVEL) / max(1, len(by_benchmark))
    intervals = _rank_intervals(by_benchmark, level, seed)
    return tuple(
        1
        + sum(
            other.high is not None and own.low is not None and other.high < own.low
            for other in intervals
        )
        for own in intervals
    )
