"""The results of one encoder by itself, as its card tells them."""

from __future__ import annotations

from cxrzoo.data.benchmark import find, list_benchmarks
from cxrzoo.report.grid import Grid
from cxrzoo.report.naming import MARKS
from cxrzoo.zoo.results import Score


def scores_of(weights_sha256: str, grid: Grid) -> list[Score]:
    """Its scores in a grid, in the order of tables; controls are left out."""
    known = list_benchmarks()
    return [
        Score(
            benchmark=column.benchmark,
            title=find(column.benchmark).title if column.benchmark in known else column.benchmark,
            test_set=column.test_set,
            budget=column.budget,
            protocol=column.protocol,
            mean=cell.mean,
            seeds=len(cell.records),
            interval=_bounds(cell.interval.low, cell.interval.high),
            mark=MARKS[cell.exposure],
        )
        for (row, column), cell in grid.cells.items()
        if row.weights_sha256 == weights_sha256
        and column.control == "none"
        and cell.mean is not None
    ]


def _bounds(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
