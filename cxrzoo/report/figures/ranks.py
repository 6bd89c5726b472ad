"""Mean ranks with their intervals, best on top; bars join encoders that share a place."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from cxrzoo.report.figures.style import (
    REFERENCES,
    SMALL_PT,
    display_names,
    integer_ticks,
    page,
    references,
)
from cxrzoo.report.grid import Grid, ProtocolRanks, Row
from cxrzoo.report.naming import MARKS
from cxrzoo.report.notes import cautions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN = 7.0
_ROW_IN = 0.23
_PLACE_X, _FIRST_BAR_X, _BAR_STEP = 1.02, 1.07, 0.02  # in widths of the axes


def draw_ranks(grid: Grid, found: ProtocolRanks) -> Figure:
    """One row for each encoder of the complete part."""
    order = sorted(range(len(found.rows)), key=lambda i: (_estimate(found, i), i))
    names = display_names(row.label for row in grid.rows)
    figure = page(_WIDTH_IN, 0.8 + _ROW_IN * len(order), _caption(grid, found, names))
    axes = figure.subplots()
    marked = references(found.rows)
    for y, i in enumerate(order):
        row, interval = found.rows[i], found.ranking.ranks[i]
        style = REFERENCES[row.name] if row in marked else None
        if interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [y, y], color="0.45", linewidth=1.2)
        axes.plot(
            [_estimate(found, i)], [y], linestyle="none", markersize=5.5, label=row.label,
            marker=style.marker if style else "o", color=style.colour if style else "0.25",
        )  # fmt: skip
    unknown = _unknown(grid, found)
    labels = [names[row.label] + MARKS["unknown"] * (row in unknown) for row in found.rows]
    axes.set_yticks(range(len(order)), [labels[i] for i in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    margin = 0.03 * (len(order) - 1)
    axes.set_xlim(1 - margin, len(order) + margin)
    integer_ticks(axes)
    axes.set_xlabel("mean rank (1 is best)")
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if found.ranking.n_benchmarks > 1:
        _draw_places(axes, [found.ranking.places[i] for i in order])
    return figure


def shared_places(places: list[int]) -> list[tuple[int, list[int]]]:
    """Places that several encoders share, each with their positions in the list."""
    members: dict[int, list[int]] = defaultdict(list)
    for position, place in enumerate(places):
        members[place].append(position)
    return [(place, found) for place, found in members.items() if len(found) > 1]


def _draw_places(axes: Axes, places: list[int]) -> None:
    """Numbers at the right, then a bar for each shared place with a dot for each of its encoders.

    Those who share a place need not follow each other: a wide interval reaches far up.
    """
    across = axes.get_yaxis_transform()
    for y, place in enumerate(places):
        axes.text(_PLACE_X, y, str(place), transform=across, va="center", fontsize=SMALL_PT)
    axes.text(_PLACE_X, -0.7, "place", transform=across, va="bottom", fontsize=SMALL_PT)
    ends: list[int] = []  # the last position of each line of bars
    for _, members in shared_places(places):
        lane = next((k for k, end in enumerate(ends) if end < members[0]), len(ends))
        ends[lane : lane + 1] = [members[-1]]
        x = _FIRST_BAR_X + _BAR_STEP * lane
        axes.plot(
            [x] * len(members), members, transform=across, clip_on=False, color="0.2",
            linewidth=2, marker="o", markersize=3.5,
        )  # fmt: skip


def _estimate(found: ProtocolRanks, i: int) -> float:
    estimate = found.ranking.ranks[i].estimate
    assert estimate is not None
    return estimate


def _caption(grid: Grid, found: ProtocolRanks, names: dict[str, str]) -> str:
    n, cells = found.ranking.n_benchmarks, len(found.columns)
    benchmarks = display_names(dict.fromkeys(c.benchmark for c in found.columns)).values()
    parts = [
        f"Protocol {next(iter(display_names([found.protocol]).values()))}. Mean rank by macro AUROC"
        f" over {n} benchmark{'s' * (n > 1)} ({', '.join(benchmarks)}; {cells} benchmark and "
        f"budget pair{'s' * (cells > 1)}), all of which have every encoder shown.",
        "Lines: 95 % intervals over benchmarks. Place: 1 + the encoders whose interval lies wholly "
        "before, once widened to hold for all encoders together; a bar joins those who share one."
        if n > 1
        else "No intervals and no places: they need at least two benchmarks.",
    ]
    if _unknown(grid, found):
        parts.append("?: unknown whether pretraining has seen one of the benchmarks.")
    left_out, _ = found.left_out
    if left_out:
        listed = ", ".join(names[row.label] for row in left_out)
        parts.append(f"Left out (cells missing, undefined or exposed): {listed}.")
    ranked = [grid.cells[row, column] for row in found.rows for column in found.columns]
    parts += [f"{text}." for text in cautions([r for cell in ranked for r in cell.records])]
    return " ".join(parts)


def _unknown(grid: Grid, found: ProtocolRanks) -> set[Row]:
    """Encoders of which nobody knows, for a cell that is ranked."""
    cells = (grid.cells[row, column] for row in found.rows for column in found.columns)
    return {cell.row for cell in cells if cell.exposure == "unknown"}
