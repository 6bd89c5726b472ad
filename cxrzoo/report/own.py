"""The results of one encoder by itself, as its card tells them."""

from __future__ import annotations

from collections.abc import Sequence

from cxrzoo.data.benchmark import find, list_benchmarks
from cxrzoo.evaluation.record import Record
from cxrzoo.report.cells import Evidence
from cxrzoo.report.grid import measure
from cxrzoo.report.naming import MARKS
from cxrzoo.zoo.results import Score


def scores_of(
    weights_sha256: str, records: Sequence[Record], evidence: Evidence | None = None
) -> list[Score]:
    """Its scores among some records, in the order of tables; controls are left out.

    Without ``evidence``, intervals are over draws of the budget only.
    """
    mine = [
        r
        for r in records
        if r.spec.encoder.weights_sha256 == weights_sha256 and r.spec.control == "none"
    ]
    known = list_benchmarks()
    return [
        Score(
            benchmark=cell.column.benchmark,
            title=find(name).title if (name := cell.column.benchmark) in known else name,
            test_set=cell.column.test_set,
            budget=cell.column.budget,
            protocol=cell.column.protocol,
            mean=cell.mean,
            seeds=len(cell.records),
            interval=_bounds(cell.interval.low, cell.interval.high),
            mark=MARKS[cell.exposure],
        )
        for cell in measure(mine, evidence).cells.values()
        if cell.mean is not None
    ]


def _bounds(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
