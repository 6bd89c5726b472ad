"""What the leaderboard's script works on: a grid as small plain values, safe inside HTML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cxrzoo.report.grid import Cell, Column, Grid, Row
from cxrzoo.report.naming import ANCHORS

_DIGITS = 6
_WIDE = 12
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def as_json(value: Any) -> str:
    """JSON that may stand inside a ``script`` element: no ``<``, ``>``, ``&`` or line separator."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNSAFE)


def index_data(grid: Grid, pages: Mapping[Row, str]) -> dict[str, Any]:
    """The grid by index: ``cells`` name their row, column and reason by number.

    Args:
        grid: what is shown.
        pages: the address of each encoder's page.
    """
    rows = {row: i for i, row in enumerate(grid.rows)}
    columns = {column: i for i, column in enumerate(grid.columns)}
    reasons: dict[str, int] = {}
    cells = [
        _cell(cell, rows[cell.row], columns[cell.column], reasons)
        for row in grid.rows
        for cell in grid.row(row)
    ]
    return {
        "encoders": [_encoder(row, pages[row]) for row in grid.rows],
        "columns": [_column(grid, column) for column in grid.columns],
        "cells": cells,
        "reasons": list(reasons),
        "ranks": _ranks(grid, rows),
        "start": _start(grid),
    }


def _encoder(row: Row, page: str) -> dict[str, Any]:
    return {
        "name": row.label,
        "page": page,
        "strategy": row.strategy,
        "tier": row.tier,
        "verification": row.verification,
        "anchor": row.name in ANCHORS,
    }


def _column(grid: Grid, column: Column) -> dict[str, Any]:
    """``n`` is the number of labelled images, which ``full`` does not say."""
    cells = grid.column(column)
    control = "" if column.control == "none" else f" [control {column.control}]"
    return {
        "protocol": column.protocol,
        "group": column.place + control,
        "kind": "control" if control else "external" if column.test_set != "test" else "own",
        "budget": str(column.budget),
        "n": cells[0].records[0].spec.budget.n,
        "over": max((cell.interval.over for cell in cells), key=len),
    }


def _cell(cell: Cell, row: int, column: int, reasons: dict[str, int]) -> list[Any]:
    """Row, column, mean, its text, low, high, exposure, seeds, missing, standing and reason."""
    interval, reason = cell.interval, cell.exposure_reason
    return [
        row,
        column,
        _rounded(interval.estimate),
        "" if interval.estimate is None else f"{interval.estimate:.3f}",
        *(_as_shown(value, 3) for value in (interval.low, interval.high)),
        cell.exposure,
        len(cell.records),
        len(cell.missing),
        "best" if cell.best else "tied" if cell.tied else "",
        reasons.setdefault(reason, len(reasons)),
    ]


def _ranks(grid: Grid, rows: Mapping[Row, int]) -> dict[str, Any]:
    """By protocol: what the ranks are over, and [mean, its text, low, high, place] by row."""
    return {
        found.protocol: {
            "benchmarks": found.ranking.n_benchmarks,
            "columns": len(found.columns),
            "of": {
                str(rows[row]): [
                    _rounded(ranks.estimate),
                    f"{ranks.estimate:.1f}",
                    _as_shown(ranks.low, 1),
                    _as_shown(ranks.high, 1),
                    place,
                ]
                for row, ranks, place in zip(
                    found.rows, found.ranking.ranks, found.ranking.places, strict=True
                )
            },
        }
        for found in grid.ranks
    }


def _start(grid: Grid) -> dict[str, str]:
    """What is chosen when the page opens: where most results are; all budgets, or a middle one."""
    sizes = Counter(c.protocol for _, c in grid.cells if c.control == "none")
    protocol = max(sizes, key=sizes.__getitem__, default=grid.columns[0].protocol)
    own = [c for c in grid.columns if c.protocol == protocol and c.control == "none"]
    if len(own) <= _WIDE:
        return {"protocol": protocol, "budget": "all"}
    budgets = Counter(str(c.budget) for c in own)
    common = [b for b, n in budgets.items() if n == max(budgets.values())]
    return {"protocol": protocol, "budget": common[(len(common) - 1) // 2]}


def _as_shown(value: float | None, digits: int) -> float | None:
    """As tables print it: the script would round a second time, and halves otherwise."""
    return None if value is None else float(f"{value:.{digits}f}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
