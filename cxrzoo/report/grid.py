"""Records as a grid: encoders by columns, each cell with its interval, the best and its ties.

Tables, figures, pages and findings are views of one ``Grid``. Reads records; with ``Evidence``
also predictions, and the labels and patients of benchmarks at hand. No torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrzoo.errors import RecordError
from cxrzoo.evaluation.record import BenchmarkSpec, Record
from cxrzoo.evaluation.verification import SELF_REPORTED
from cxrzoo.report import statistics
from cxrzoo.report.cells import Evidence, from_records, score, stated_auroc
from cxrzoo.report.naming import (
    ANCHORS,
    PHANTOM,
    benchmark_names,
    encoder_names,
    exposure_of,
    protocol_names,
)
from cxrzoo.report.pairing import mismatch
from cxrzoo.report.ranks import Ranking, mean_rank
from cxrzoo.report.statistics import RESAMPLES, Interval, Scores


@dataclass(frozen=True)
class Column:
    """Where encoders are compared. ``test_set`` is ``test`` or the name of an external set."""

    benchmark: str
    test_set: str
    budget: int | str
    protocol: str
    control: str

    @property
    def place(self) -> str:
        """Benchmark, with the external test set if it is one."""
        external = "" if self.test_set == "test" else f" → {self.test_set}"
        return self.benchmark + external

    @property
    def name(self) -> str:
        """All but the protocol."""
        control = "" if self.control == "none" else f" [control {self.control}]"
        return f"{self.place} @{self.budget}{control}"

    @property
    def order(self) -> tuple[Any, ...]:
        """By protocol and benchmark, controls and external sets after it, ``full`` last."""
        size = math.inf if self.budget == "full" else int(self.budget)
        external = "" if self.test_set == "test" else self.test_set
        has_control = self.control != "none"
        return (self.protocol, self.benchmark, has_control, self.control, external, size)


@dataclass(frozen=True)
class Row:
    """An encoder: ``label`` is its name, with a hash where one name stands for several weights.

    ``tier`` and ``strategy`` are as its records declare them, empty where they do not.
    ``verification`` is the least of what was verified of its records: ``self-reported``,
    ``recomputed`` or ``rerun``.
    """

    label: str
    name: str
    weights_sha256: str
    tier: str
    strategy: str
    verification: str

    @property
    def order(self) -> tuple[Any, ...]:
        """The two references first, then by the number of stages, then by strategy."""
        anchor = ANCHORS.index(self.name) if self.name in ANCHORS else len(ANCHORS)
        return (anchor, self.strategy.count(" -> "), self.strategy, self.label)


@dataclass(frozen=True)
class Cell:
    """One encoder in one column. A control has no best.

    ``records`` and ``scores`` are in the order of the seeds; ``scores`` are macro AUROC, NaN where
    no label is defined. ``missing`` are seeds that other encoders have here. ``best`` has the
    highest mean of the column's complete and unexposed cells; ``tied`` may be the best, at 95 %
    confidence (`statistics.possible_best`), and is not ``best`` itself. ``note`` says why
    patients were not resampled.
    """

    row: Row
    column: Column
    records: tuple[Record, ...]
    scores: Scores
    interval: Interval
    missing: tuple[int, ...]
    best: bool
    tied: bool
    note: str

    @property
    def mean(self) -> float | None:
        """Macro AUROC, mean over seeds; None where it is undefined."""
        return self.interval.estimate

    @property
    def exposure(self) -> str:
        """``clean``, ``exposed`` or ``unknown``."""
        return exposure_of(*self.records)

    @property
    def exposure_reason(self) -> str:
        """Why it is that, as the first record that declares it says."""
        declared = (r.declared["exposure"] for r in self.records)
        reason: str = next(d["reason"] for d in declared if d["state"] == self.exposure)
        return reason

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        if len(self.scores.observed) < 2 or self.mean is None:
            return None
        return float(np.std(self.scores.observed, ddof=1))


@dataclass(frozen=True)
class ProtocolRanks:
    """Mean ranks over the complete part of one protocol's columns.

    ``left_out`` are the protocol's encoders and columns that are not in it, and ``no_results``
    its columns that say nothing of radiographs: the phantom, and those of ``--limit``.
    """

    protocol: str
    ranking: Ranking
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    left_out: tuple[tuple[Row, ...], tuple[Column, ...]]
    no_results: tuple[Column, ...]

    def of(self, row: Row) -> tuple[Interval, int] | None:
        """The mean rank and the place of an encoder; None when it was left out."""
        if row not in self.rows:
            return None
        i = self.rows.index(row)
        return self.ranking.ranks[i], self.ranking.places[i]


@dataclass(frozen=True)
class Grid:
    """Rows, columns and cells, in order; a crossing without a record is absent from ``cells``.

    ``apart``: why the encoders of a column are not held against each other, which then has no best
    and takes no part in ranks.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Row, Column], Cell]
    ranks: tuple[ProtocolRanks, ...]
    records: tuple[Record, ...]
    apart: Mapping[Column, str]

    def column(self, column: Column) -> list[Cell]:
        """The cells of a column, in the order of the rows."""
        return [self.cells[row, column] for row in self.rows if (row, column) in self.cells]

    def row(self, row: Row) -> list[Cell]:
        """The cells of a row, in the order of the columns."""
        return [self.cells[row, column] for column in self.columns if (row, column) in self.cells]


def measure(
    records: Sequence[Record],
    evidence: Evidence | None = None,
    *,
    verified: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_column: Callable[[int, int], None] | None = None,
) -> Grid:
    """The grid of some records.

    Args:
        records: of any benchmarks, budgets, protocols and encoders. Records that differ in what
            they measured (other rows or weights) or how (other settings of a protocol) never
            share a cell: their names carry the beginning of the hash that tells them apart.
        evidence: predictions and benchmarks at hand, for intervals over seeds and patients.
            Without it, intervals are over seeds.
        verified: by a record's digest, ``recomputed`` or ``rerun``.
        resamples: draws of the test patients.
        seed: of the draws.
        on_column: called with the columns done and their number, for a progress bar.

    Raises:
        RecordError: two records are of one cell, or predictions are broken or altered.
    """
    rows = _rows(records, verified or {})
    by_column = _by_column(records, rows)
    cells: dict[tuple[Row, Column], Cell] = {}
    apart: dict[Column, str] = {}
    for done, column in enumerate(sorted(by_column, key=lambda c: c.order)):
        if on_column is not None:
            on_column(done, len(by_column))
        group = by_column[column]
        if reason := mismatch([r for of_row in group.values() for r in of_row.values()]):
            apart[column] = reason
        compared = column.control == "none" and column not in apart
        for cell in _measured(column, group, evidence, resamples, seed, compared=compared):
            cells[cell.row, column] = cell
    if on_column is not None:
        on_column(len(by_column), len(by_column))
    ordered = tuple(sorted(set(rows.values()), key=lambda r: r.order))
    columns = tuple(sorted(by_column, key=lambda c: c.order))
    ranks = _ranks(ordered, [c for c in columns if c not in apart], cells)
    return Grid(ordered, columns, cells, ranks, tuple(records), apart)


# Grouping.

_Group = dict[Row, dict[int, Record]]
_LEVELS = (SELF_REPORTED, "recomputed", "rerun")


def _rows(records: Sequence[Record], verified: Mapping[str, str]) -> dict[str, Row]:
    """By run key."""
    labels = encoder_names(records)
    of_label: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_label[labels[record.run_key]].append(record)
    rows = {label: _row(label, found, verified) for label, found in of_label.items()}
    return {key: rows[label] for key, label in labels.items()}


def _row(label: str, records: list[Record], verified: Mapping[str, str]) -> Row:
    first, declared = records[0], records[0].declared
    least = min(_LEVELS.index(verified.get(r.digest, SELF_REPORTED)) for r in records)
    return Row(
        label,
        first.spec.encoder.name,
        first.spec.encoder.weights_sha256,
        declared.get("tier") or "",
        declared.get("strategy") or "",
        _LEVELS[least],
    )


def _by_column(records: Sequence[Record], rows: Mapping[str, Row]) -> dict[Column, _Group]:
    names, protocols = benchmark_names(records), protocol_names(records)
    columns: dict[Column, _Group] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        for test_set in r.result["tests"]:
            place = (names[r.run_key], test_set, r.spec.budget.size)
            column = Column(*place, protocols[r.run_key], r.spec.control)
            other = columns[column][rows[r.run_key]].setdefault(r.spec.seed, r)
            if other is not r:
                raise RecordError(
                    f"{r.file_name} and {other.file_name} are of the same cell, with different "
                    "input, images or settings: keep one of them apart"
                )
    return columns


# Cells.


def _measured(
    column: Column,
    group: _Group,
    evidence: Evidence | None,
    resamples: int,
    seed: int,
    *,
    compared: bool,
) -> list[Cell]:
    """The cells of a column, with a best where they may be ``compared`` and intervals are known."""
    seeds = sorted({s for of_row in group.values() for s in of_row})
    rows = sorted(group, key=lambda r: r.order)
    records = [tuple(group[row][s] for s in sorted(group[row])) for row in rows]
    scores, note = _scores(column, records, evidence, resamples, seed)
    intervals = [statistics.interval(s) for s in scores]
    compared = compared and any(found.over != "nothing" for found in intervals)
    complete = [i for i, cell in enumerate(records) if _can_win(cell, scores[i], len(seeds))]
    rivals = complete if compared else []
    best, tied = _best([scores[i] for i in rivals])
    return [
        Cell(
            row=rows[i],
            column=column,
            records=records[i],
            scores=scores[i],
            interval=intervals[i],
            missing=tuple(s for s in seeds if s not in scores[i].seeds),
            best=best is not None and i == rivals[best],
            tied=i in rivals and tied[rivals.index(i)],
            note=note,
        )
        for i in range(len(rows))
    ]


def _scores(
    column: Column,
    cells: Sequence[Sequence[Record]],
    evidence: Evidence | None,
    resamples: int,
    seed: int,
) -> tuple[list[Scores], str]:
    undefined = any(stated_auroc(r, column.test_set) is None for cell in cells for r in cell)
    # a control's labels are not the benchmark's, so predictions say nothing without the covariate
    if evidence is None or undefined or column.control != "none":
        return [from_records(cell, column.test_set) for cell in cells], ""
    return score(cells, column.test_set, evidence, resamples=resamples, seed=seed)


def _can_win(cell: Sequence[Record], scores: Scores, n_seeds: int) -> bool:
    complete = len(cell) == n_seeds and not np.isnan(scores.observed).any()
    return complete and exposure_of(*cell) != "exposed"


def _best(scores: Sequence[Scores]) -> tuple[int | None, list[bool]]:
    """The index of the highest mean, and which others may be the best; none of one alone."""
    if len(scores) < 2:
        return None, [False] * len(scores)
    best = int(np.argmax([s.observed.mean() for s in scores]))
    possible = statistics.possible_best(scores)
    return best, [possible[i] and i != best for i in range(len(scores))]


# Ranks.


def _ranks(
    rows: Sequence[Row], columns: Sequence[Column], cells: Mapping[tuple[Row, Column], Cell]
) -> tuple[ProtocolRanks, ...]:
    """For each protocol, over own test sets without controls; at least two encoders.

    The phantom and what was limited take part only where there is nothing else.
    """
    found = []
    measured = {c: cell.records[0].spec.benchmark for (_, c), cell in cells.items()}
    for protocol in dict.fromkeys(c.protocol for c in columns):
        own = [c for c in columns if (c.protocol, c.control) == (protocol, "none")]
        own = [c for c in own if c.test_set == "test"]
        results = [c for c in own if _is_result(measured[c])] or own
        present = [row for row in rows if any((row, c) in cells for c in results)]
        if results and len(present) > 1:
            others = tuple(c for c in own if c not in results)
            found.append(_protocol_ranks(protocol, present, results, others, cells))
    return tuple(r for r in found if len(r.rows) > 1)


def _protocol_ranks(
    protocol: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    no_results: tuple[Column, ...],
    cells: Mapping[tuple[Row, Column], Cell],
) -> ProtocolRanks:
    means = np.array([[_rankable(cells.get((row, c))) for c in columns] for row in rows])
    ranking = mean_rank(means, [c.benchmark for c in columns])
    return ProtocolRanks(
        protocol,
        ranking,
        tuple(rows[i] for i in ranking.encoders),
        tuple(columns[i] for i in ranking.cells),
        (
            tuple(rows[i] for i in ranking.left_out_encoders),
            tuple(columns[i] for i in ranking.left_out_cells),
        ),
        no_results,
    )


def _is_result(benchmark: BenchmarkSpec) -> bool:
    return benchmark.name != PHANTOM and benchmark.limit is None


def _rankable(cell: Cell | None) -> float:
    """A mean that ranks may rest on: of all seeds, and not of images seen in pretraining."""
    if cell is None or cell.missing or cell.exposure == "exposed" or cell.mean is None:
        return math.nan
    return cell.mean
