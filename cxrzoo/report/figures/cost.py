"""What adapting an encoder costs against what it scores, with the Pareto front.

Cost is the seconds of one cell, as its record states them: the median over seeds, because the
first cell of an encoder may embed the images for all others (`evaluation.features` keeps them).
With one seed, or features kept from another run, seconds of a linear probe say little.
Seconds of different devices never share a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrzoo.report.figures.style import SMALL_PT, display_names, page
from cxrzoo.report.grid import Cell, Column, Grid, Row
from cxrzoo.report.naming import MARKS
from cxrzoo.report.ranks import mean_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL_IN = 0.16
_AXIS_IN = 0.6  # ticks, their labels and what they mean
_SHORTEST_S = 1e-3  # records round to milliseconds, and a logarithm needs more than 0


@dataclass(frozen=True)
class Point:
    """An encoder: mean seconds and mean macro AUROC over the cells that all have."""

    row: Row
    seconds: float
    auroc: float
    exposure: str


@dataclass(frozen=True)
class Costs:
    """The encoders of one protocol on one device, over ``columns``, where all were measured."""

    protocol: str
    device: str
    threads: tuple[int, ...]
    columns: tuple[Column, ...]
    points: tuple[Point, ...]


def costs(grid: Grid, protocol: str) -> list[Costs]:
    """By device; only where at least two encoders have cells in common."""
    cells = [
        cell
        for cell in grid.cells.values()
        if (cell.column.protocol, cell.column.control) == (protocol, "none")
        and cell.column.test_set == "test"
        and cell.exposure != "exposed"
        and cell.mean is not None
        and not cell.missing
    ]
    devices = sorted({device for cell in cells if (device := _device(cell)) is not None})
    found = [
        _on(device, protocol, [c for c in cells if _device(c) == device]) for device in devices
    ]
    return [measured for measured in found if len(measured.points) > 1]


def front(points: Sequence[Point]) -> list[Point]:
    """Those to which no other is both at least as fast and at least as good; fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.auroc)):
        if not kept or point.auroc > kept[-1].auroc:
            kept.append(point)
    return kept


def draw_costs(measured: Costs) -> Figure:
    """Points, the front, and names at the right, each joined to its point by a thin line."""
    points = sorted(measured.points, key=lambda p: (p.auroc, p.row.label))
    height = max(2.4, _LABEL_IN * len(points))
    figure = page(7.0, height + _AXIS_IN, _caption(measured))
    axes = figure.subplots()
    best = front(points)
    axes.plot(
        [p.seconds for p in best], [p.auroc for p in best], color="black", linewidth=1.2,
        drawstyle="steps-post", label="front",
    )  # fmt: skip
    for p in points:
        face = "black" if p in best else "white"
        axes.plot(
            [p.seconds], [p.auroc], marker="o", color="black", markerfacecolor=face, markersize=5,
            linestyle="none", label=p.row.label, zorder=3,
        )  # fmt: skip
    seconds = [p.seconds for p in points]
    if max(seconds) > 5 * min(seconds):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0, right=1.1 * max(seconds))
    axes.margins(y=0.1)
    _plain_ticks(axes)
    axes.set_xlabel("seconds to adapt once" + " (log)" * (axes.get_xscale() == "log"))
    axes.set_ylabel("mean macro AUROC")
    _label(axes, points, height)
    return figure


def _device(cell: Cell) -> str | None:
    """The one device of a cell's records; None where seconds are missing or devices differ."""
    devices = {record.env.get("device") for record in cell.records}
    timed = all(isinstance(record.cost.get("seconds"), int | float) for record in cell.records)
    return str(devices.pop()) if timed and len(devices) == 1 and None not in devices else None


def _on(device: str, protocol: str, cells: Sequence[Cell]) -> Costs:
    """Over the complete part of the cells, found as for ranks."""
    at = {(cell.row, cell.column): cell for cell in cells}
    rows, columns = list(dict.fromkeys(r for r, _ in at)), list(dict.fromkeys(c for _, c in at))
    means = np.array([[_mean(at.get((row, c))) for c in columns] for row in rows])
    complete = mean_rank(means, [c.benchmark for c in columns])
    kept = tuple(columns[i] for i in complete.cells)
    points = [_point([at[rows[i], c] for c in kept]) for i in complete.encoders if kept]
    records = [record for cell in cells for record in cell.records]
    threads = {t for r in records if isinstance(t := r.env.get("threads"), int)}
    return Costs(protocol, device, tuple(sorted(threads)), kept, tuple(points))


def _mean(cell: Cell | None) -> float:
    return math.nan if cell is None or cell.mean is None else cell.mean


def _point(cells: Sequence[Cell]) -> Point:
    medians = [np.median([record.cost["seconds"] for record in cell.records]) for cell in cells]
    exposure = "unknown" if any(cell.exposure == "unknown" for cell in cells) else "clean"
    seconds = max(_SHORTEST_S, float(np.mean(medians)))
    return Point(cells[0].row, seconds, float(np.mean([_mean(c) for c in cells])), exposure)


# Drawing.


def _plain_ticks(axes: Axes) -> None:
    """Decimal numbers: the formulas of logarithmic axes are not drawn as such here."""
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def _label(axes: Axes, points: Sequence[Point], height: float) -> None:
    """Names in a column beside the axes, in the order of the scores, so that none overlap.

    A line runs level from each point to the edge and slopes only beyond it, where lines in the
    same order at both ends cannot cross: sloping from the start they led through other points.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    names = display_names(p.row.label for p in points)
    heights = [(p.auroc - low) / (high - low) for p in points]
    thin: dict[str, Any] = {"color": "0.75", "linewidth": 0.6, "zorder": 1}
    for p, start, end in zip(points, heights, spread(heights, _LABEL_IN / height), strict=True):
        axes.plot([p.seconds, right], [p.auroc, p.auroc], **thin)
        axes.plot([1, 1.08], [start, end], transform=axes.transAxes, clip_on=False, **thin)
        axes.text(
            1.09,
            end,
            names[p.row.label] + MARKS[p.exposure],
            transform=axes.transAxes,
            va="center_baseline",
            fontsize=SMALL_PT,
        )


def spread(wanted: Sequence[float], step: float) -> list[float]:
    """Rising positions in 0 to 1, moved as little as needs be to lie ``step`` apart.

    Neighbours that are too near become a block around their mean (isotonic regression of the
    positions less their steps, by pooling).
    """
    blocks: list[list[float]] = []
    for i, position in enumerate(wanted):
        blocks.append([position - i * step])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    highest = max(0.0, 1 - (len(wanted) - 1) * step)
    level = [float(np.clip(np.mean(block), 0, highest)) for block in blocks for _ in block]
    return [value + i * step for i, value in enumerate(level)]


def _caption(measured: Costs) -> str:
    n = len(measured.columns)
    benchmarks = display_names(dict.fromkeys(c.benchmark for c in measured.columns)).values()
    protocol, device = display_names([measured.protocol, measured.device]).values()
    threads = f", {' or '.join(map(str, measured.threads))} threads" if measured.threads else ""
    unknown = any(p.exposure == "unknown" for p in measured.points)
    return (
        f"Protocol {protocol} on {device}{threads}. Both axes: mean over {n} benchmark and budget "
        f"pair{'s' * (n > 1)} ({', '.join(benchmarks)}) that all encoders shown have. Seconds: "
        "median over seeds of one adaptation and its predictions; where features are kept, "
        "embedding the images falls on the first seed, which a median over three or more leaves "
        "out. Black, joined: the Pareto front, none faster and better."
        + " ?: unknown whether pretraining has seen one of the benchmarks."
        * unknown
    )
