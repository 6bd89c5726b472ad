"""Effects from a grid: paired differences of encoders by benchmark, and their mean over benchmarks.

Within a benchmark everything is linear in the scores: an effect is a weighted sum, over budgets
and methods, of one encoder's scores minus another's, on the seeds that all of them share and the
same resamples of the test patients. So its interval holds seeds and patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cxrzoo.data.overlap import load_overlap
from cxrzoo.report import statistics
from cxrzoo.report.findings.claims import Claims, Labels
from cxrzoo.report.findings.verdicts import Pooled
from cxrzoo.report.grid import Cell, Column, Grid, Row
from cxrzoo.report.pairing import measured, mismatch
from cxrzoo.report.statistics import Interval, Scores

Pair = tuple[Row, Row]
Weighing = Callable[[Sequence[int]], list[float] | None]
"""From the numbers of labels of one benchmark's columns to their weights; None: no effect there."""


@dataclass(frozen=True)
class OnBenchmark:
    """An effect on one benchmark, with the interval over seeds and patients.

    ``labels`` are the numbers of labels it rests on; ``unknown`` the encoders of which nobody
    knows whether they have seen the benchmark's test patients.
    """

    benchmark: str
    family: str
    labels: tuple[int, ...]
    n_seeds: int
    n_patients: int | None
    difference: Interval
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """A difference of encoders: on each benchmark, and its mean over families of benchmarks."""

    name: str
    on: tuple[OnBenchmark, ...]
    pooled: Pooled


@dataclass
class Skipped:
    """What did not count, gathered while effects are measured; keys only, in order."""

    seeds: dict[str, None] = field(default_factory=dict)
    other: dict[str, None] = field(default_factory=dict)
    exposed: dict[tuple[str, str], None] = field(default_factory=dict)


class _Term(NamedTuple):
    weight: float
    a: Cell
    b: Cell


class Measure:
    """Effects on one grid.

    Attributes:
        grid: of one tier and one protocol; only what may count.
        families: by benchmark of the grid, a name that those with the same patients share.
        skipped: what did not count in the effects that were asked for.
    """

    def __init__(self, grid: Grid, families: Mapping[str, str], claims: Claims) -> None:
        self.grid, self.families, self._claims = grid, families, claims
        self.skipped = Skipped()
        self._columns: dict[str, list[Column]] = {}
        for column in grid.columns:
            if column.test_set == "test":
                self._columns.setdefault(column.benchmark, []).append(column)

    def effect(self, name: str, pairs: Sequence[Pair], weigh: Weighing) -> Effect:
        """First minus second of each pair, mean over pairs, budgets weighed by ``weigh``."""
        found = [self._on(benchmark, pairs, weigh) for benchmark in self._columns]
        on = tuple(one for one in found if one is not None)
        by_family: dict[str, list[float]] = {}
        for one in on:
            if one.difference.estimate is not None:
                by_family.setdefault(one.family, []).append(one.difference.estimate)
        means = [float(np.mean(values)) for values in by_family.values()]
        return Effect(name, on, Pooled.of(means, self._claims.min_benchmarks))

    def labels_at(self, benchmark: str, pair: Pair) -> list[int]:
        """The numbers of labels at which a pair can be compared on a benchmark."""
        return [term.a.records[0].spec.budget.n for term in self._meeting(benchmark, pair)]

    def _on(self, benchmark: str, pairs: Sequence[Pair], weigh: Weighing) -> OnBenchmark | None:
        by_pair = [self._weighed(self._meeting(benchmark, pair), weigh) for pair in pairs]
        by_pair = [terms for terms in by_pair if terms]
        terms = [t._replace(weight=t.weight / len(by_pair)) for ts in by_pair for t in ts]
        if not terms:
            return None
        seeds = _shared_seeds(terms)
        if len(seeds) < self._claims.min_seeds:
            self.skipped.seeds[
                f"{benchmark}: {len(seeds)} seeds shared by all its budgets and encoders, "
                f"{self._claims.min_seeds} needed"
            ] = None
            return None
        a = _combined([(t.weight, t.a.scores) for t in terms], seeds)
        b = _combined([(t.weight, t.b.scores) for t in terms], seeds)
        found = statistics.compare(a, b)
        cells = [cell for t in terms for cell in (t.a, t.b)]
        unknown = dict.fromkeys(cell.row.label for cell in cells if cell.exposure == "unknown")
        return OnBenchmark(
            benchmark=benchmark,
            family=self.families[benchmark],
            labels=tuple(sorted({cell.records[0].spec.budget.n for cell in cells})),
            n_seeds=len(seeds),
            n_patients=found.n_patients or None,
            difference=found.difference,
            unknown=tuple(unknown),
        )

    @staticmethod
    def _weighed(terms: Sequence[_Term], weigh: Weighing) -> list[_Term]:
        weights = weigh([term.a.records[0].spec.budget.n for term in terms]) if terms else None
        if weights is None:
            return []
        return [t._replace(weight=w) for t, w in zip(terms, weights, strict=True) if w]

    def _meeting(self, benchmark: str, pair: Pair) -> list[_Term]:
        """The columns of a benchmark where a pair can be compared."""
        found = []
        for column in self._columns[benchmark]:
            a, b = (self.grid.cells.get((row, column)) for row in pair)
            if a is not None and b is not None and self._may_count(a, b):
                found.append(_Term(1.0, a, b))
        return found

    def _may_count(self, a: Cell, b: Cell) -> bool:
        place = a.column.name
        for cell in (a, b):
            if cell.exposure == "exposed":
                self.skipped.exposed[cell.row.label, cell.column.benchmark] = None
                return False
        seeds = [s for s in a.scores.seeds if s in b.scores.seeds]
        if len(seeds) < self._claims.min_seeds:
            self.skipped.seeds[
                f"{place}: {len(seeds)} seeds shared by {a.row.label} and {b.row.label}, "
                f"{self._claims.min_seeds} needed"
            ] = None
            return False
        reason = _reason(a, b, seeds)
        if reason:
            self.skipped.other[f"{place}: {a.row.label} and {b.row.label}: {reason}"] = None
        return not reason


def over_all(labels: Sequence[int]) -> list[float]:
    """The mean over budgets."""
    return [1 / len(labels)] * len(labels)


def more_at(here: Labels, there: Labels) -> Weighing:
    """How much more at one range of labels than at another; both must have a budget."""

    def weigh(labels: Sequence[int]) -> list[float] | None:
        n_here, n_there = (sum(n in r for n in labels) for r in (here, there))
        if not n_here or not n_there:
            return None
        return [(n in here) / n_here - (n in there) / n_there for n in labels]

    return weigh


def families(benchmarks: Mapping[str, str]) -> dict[str, str]:
    """Families of benchmarks that have a hospital in common: RSNA's images are NIH's.

    Args:
        benchmarks: the dataset of each, as `overlap.yaml` calls it.

    Returns:
        For each benchmark the first one of its family.
    """
    archives = {name: _archives(dataset) for name, dataset in benchmarks.items()}
    found: dict[str, str] = {}
    for name in benchmarks:
        near = {found[o] for o in found if archives[o] & archives[name]}
        first = min(near, key=list(found.values()).index) if near else name
        found = {o: first if family in near else family for o, family in found.items()}
        found[name] = first
    return found


def _archives(dataset: str) -> frozenset[str]:
    known = load_overlap().datasets.get(dataset)
    return frozenset((known and known.archives) or (f"dataset {dataset}",))


def _reason(a: Cell, b: Cell, seeds: Sequence[int]) -> str:
    """Why two cells cannot be paired on these seeds; empty when they can."""
    if any(np.isnan(cell.scores.observed).any() for cell in (a, b)):
        return "no label has both classes in the test set"
    one, other = measured(a.records[0]), measured(b.records[0])
    differ = [key for key in one if one[key] != other[key]]
    if differ:
        return f"different {', '.join(differ)}"
    return mismatch([r for r in (*a.records, *b.records) if r.spec.seed in seeds])


def _shared_seeds(terms: Sequence[_Term]) -> tuple[int, ...]:
    sets = [set(cell.scores.seeds) for term in terms for cell in (term.a, term.b)]
    return tuple(sorted(set.intersection(*sets)))


def _combined(weighted: Sequence[tuple[float, Scores]], seeds: tuple[int, ...]) -> Scores:
    """The weighted sum of scores, on some of their seeds."""
    parts = [(w, s, [s.seeds.index(seed) for seed in seeds]) for w, s in weighted]
    observed = sum((w * s.observed[of] for w, s, of in parts), np.zeros(len(seeds)))
    keys = {s.key for _, s, _ in parts}
    if len(keys) > 1 or not all(len(s.resampled) for _, s, _ in parts):
        return Scores.without_predictions(seeds, observed.tolist())
    first = parts[0][1]
    resampled = sum(w * s.resampled[:, of] for w, s, of in parts)
    return Scores(
        seeds, observed, np.asarray(resampled), first.undefined, first.n_patients, first.key
    )
