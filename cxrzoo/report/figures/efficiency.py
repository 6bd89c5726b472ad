"""Label-efficiency curves: macro AUROC over the number of labelled images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrzoo.report.figures.style import (
    OTHERS,
    QUESTION,
    SMALL_PT,
    Style,
    chance_line,
    display_names,
    key,
    page,
    references,
    styles,
)
from cxrzoo.report.grid import Cell, Grid, Row
from cxrzoo.report.notes import cautions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MAX_BANDS = 4
"""With more encoders bands hide each other, and intervals are bars."""
_MAX_TITLE = 34
_SPREAD = 0.14  # of bars beside each other, in powers of ten

Curves = dict[Row, list[Cell]]
"""By encoder, the cells of one test set in the order of the budgets."""


def draw_curves(grid: Grid, protocol: str) -> Figure | None:
    """One panel for each test set; None where nothing is defined."""
    cells = [
        cell
        for cell in grid.cells.values()
        if (cell.column.protocol, cell.column.control) == (protocol, "none")
        and cell.mean is not None
    ]
    rows = _shown(grid, protocol, cells)
    panels = _panels(grid, [cell for cell in cells if cell.row in rows])
    if not panels:
        return None
    looks = styles(rows)
    names = display_names(row.label for row in grid.rows)
    banded = len(rows) <= MAX_BANDS
    left_out = [names[r.label] for r in grid.rows if r not in rows and _has(cells, r)]
    shown = [cell for curves in panels.values() for curve in curves.values() for cell in curve]
    width, body = _size(len(panels))
    figure = page(
        width,
        body,
        _caption(protocol, shown, _drawn_as(panels, banded), left_out),
        _legend({names[row.label]: looks[row] for row in rows}, shown),
    )
    titles = display_names(panels, _MAX_TITLE)
    n_columns = _columns(len(panels))
    all_axes = figure.subplots(-(-len(panels) // n_columns), n_columns, squeeze=False).ravel()
    for i, axes in enumerate(all_axes):
        axes.set_visible(i < len(panels))
    for axes, (place, curves) in zip(all_axes, panels.items(), strict=False):
        _draw_panel(axes, curves, looks, banded)
        full = any(cell.column.budget == "full" for curve in curves.values() for cell in curve)
        axes.set_title(titles[place], pad=14 if full else 4)
    for axes in all_axes[::n_columns]:
        axes.set_ylabel("macro AUROC")
    for axes in all_axes[max(0, len(panels) - n_columns) : len(panels)]:
        axes.set_xlabel("labelled images (log)")
    return figure


def images(cell: Cell) -> int:
    """How many labelled images: of ``full``, those of the whole training split."""
    return cell.records[0].spec.budget.n


# What is shown.


def _shown(grid: Grid, protocol: str, cells: Sequence[Cell]) -> list[Row]:
    """The references and the six best by mean rank; those without a rank last, by their scores."""
    ranks = {row: r.of(row) for r in grid.ranks if r.protocol == protocol for row in r.rows}
    means: dict[Row, list[float]] = defaultdict(list)
    for cell in cells:
        means[cell.row].append(cell.mean or 0.0)

    def standing(row: Row) -> tuple[float, float]:
        rank = ranks.get(row)
        estimate = math.inf if rank is None else rank[0].estimate or math.inf
        return estimate, -float(np.mean(means[row]))

    present = [row for row in grid.rows if row in means]
    always = references(present)
    others = sorted((row for row in present if row not in always), key=standing)
    return [row for row in present if row in always or row in others[: len(OTHERS)]]


def _panels(grid: Grid, cells: Sequence[Cell]) -> dict[str, Curves]:
    """By test set, in the order of the grid's columns."""
    panels: dict[str, Curves] = {}
    for column in grid.columns:
        for cell in cells:
            if cell.column == column:
                panels.setdefault(column.place, {}).setdefault(cell.row, []).append(cell)
    for curves in panels.values():
        for curve in curves.values():
            curve.sort(key=images)
    return panels


def _has(cells: Iterable[Cell], row: Row) -> bool:
    return any(cell.row == row for cell in cells)


# Drawing.


def _columns(n_panels: int) -> int:
    return 2 if n_panels == 4 else min(3, n_panels)


def _size(n_panels: int) -> tuple[float, float]:
    """Width and height of the panels together, in inches."""
    columns = _columns(n_panels)
    return {1: 5.5, 2: 6.6}.get(columns, 8.4), 2.5 * -(-n_panels // columns)


def _draw_panel(axes: Axes, curves: Curves, looks: Mapping[Row, Style], banded: bool) -> None:
    sizes = sorted({images(cell) for curve in curves.values() for cell in curve})
    axes.set_xscale("log")
    shifts = _shifts(sizes, len(curves))
    margin = (sizes[-1] / sizes[0]) ** 0.09 if len(sizes) > 1 else 1.6
    margin = max(margin, 1.05 * shifts[-1])  # so that no bar is outside
    axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)
    ordered = sorted(curves, key=list(looks).index)
    for row, shift in zip(ordered, shifts, strict=True):
        band = banded and len(curves[row]) > 1
        _draw_curve(axes, curves[row], looks[row], row.label, None if band else shift)
    _mark_budgets(axes, curves)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    chance_line(axes)


def _shifts(sizes: Sequence[int], n: int) -> list[float]:
    """Factors that set bars of one budget side by side, and clear of the next budget's."""
    gaps = np.diff(np.log10(sizes))
    spread = min(_SPREAD, 0.6 * float(gaps.min(initial=math.inf))) * (n - 1) / max(1, n)
    return [float(10**exponent) for exponent in np.linspace(-spread / 2, spread / 2, n)]


def _draw_curve(
    axes: Axes, curve: Sequence[Cell], style: Style, name: str, shift: float | None
) -> None:
    """The line with its markers, and intervals: a band, or bars moved sideways by ``shift``."""
    x = np.array([images(cell) for cell in curve]) * (shift or 1.0)
    y = np.array([cell.mean for cell in curve], float)
    low, high = (np.array([getattr(c.interval, s) for c in curve], float) for s in ("low", "high"))
    known = ~np.isnan(low)
    if shift is None:
        band: dict[str, Any] = {"color": style.colour, "label": name}
        axes.fill_between(x[known], low[known], high[known], alpha=0.13, linewidth=0, **band)
        for limit in (low, high):
            axes.plot(x[known], limit[known], **style.line(linewidth=0.5, alpha=0.6))
    else:
        errors = [(y - low)[known], (high - y)[known]]
        axes.errorbar(
            x[known], y[known], errors, fmt="none", ecolor=style.colour, elinewidth=0.9, capsize=1.5
        )
    axes.plot(x, y, **style.line(label=name))
    for exposure in sorted({cell.exposure for cell in curve}):
        here = [cell.exposure == exposure for cell in curve]
        axes.plot(x[here], y[here], **style.points(exposure))
        if exposure == "unknown":
            for point in zip(x[here], y[here], strict=True):
                axes.annotate("?", point, (3, 2), textcoords="offset points", fontsize=SMALL_PT)


def _mark_budgets(axes: Axes, curves: Curves) -> None:
    """A tick for each budget; ``full`` by a line with its number of images above the panel."""
    cells = [cell for curve in curves.values() for cell in curve]
    full = sorted({images(cell) for cell in cells if cell.column.budget == "full"})
    ticks = sorted({images(cell) for cell in cells if cell.column.budget != "full"})
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.set_xticks([], minor=True)
    for n in full:
        axes.axvline(n, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            f"full: {n:,}", (n, 1), (0, 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", fontsize=SMALL_PT,
        )  # fmt: skip


# Words.


def _legend(looks: Mapping[str, Style], shown: Sequence[Cell]) -> list[Line2D]:
    entries = [
        key(name, **style.line(marker=style.marker, markersize=5)) for name, style in looks.items()
    ]
    states = {cell.exposure for cell in shown}
    if "exposed" in states:
        open_marker = Style("black", "o", "none").points("exposed")
        entries.append(key("open: pretraining has seen the benchmark", **open_marker))
    if "unknown" in states:
        entries.append(key("unknown whether pretraining has seen the benchmark", **QUESTION))
    return entries


def _caption(protocol: str, shown: Sequence[Cell], drawn_as: str, left_out: Sequence[str]) -> str:
    seeds = sorted({len(cell.records) for cell in shown})
    many = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    parts = [
        f"Protocol {next(iter(display_names([protocol]).values()))}.",
        f"Macro AUROC on the test set, mean over {many} seed{'s' * (many != '1')}.",
        _intervals(shown, drawn_as),
    ]
    if drawn_as != "Bands":
        parts.append("Points with bars are set side by side.")
    if any(cell.column.test_set != "test" for cell in shown):
        parts.append("A\u00a0→\u00a0B: trained on A, tested on B, another source of images.")
    if left_out:
        parts.append(
            f"Shown are the references and the best {len(OTHERS)} by mean rank; left out: "
            f"{', '.join(left_out)}."
        )
    parts += [f"{text}." for text in cautions([r for cell in shown for r in cell.records])]
    return " ".join(parts)


def _drawn_as(panels: Mapping[str, Curves], banded: bool) -> str:
    lengths = {len(curve) > 1 for curves in panels.values() for curve in curves.values()}
    if not banded or True not in lengths:
        return "Bars"
    return "Bands, and bars where there is one budget" if False in lengths else "Bands"


_COVERED = {
    "seeds and patients": "over seeds and test patients",
    "seeds": "over seeds alone (predictions or data not at hand), for these test images",
    "patients": "over test patients alone (a single seed)",
}


def _intervals(shown: Sequence[Cell], drawn_as: str) -> str:
    """What the intervals cover; with the test sets, where they differ."""
    places: dict[str, dict[str, None]] = defaultdict(dict)
    for cell in shown:
        places[cell.interval.over][cell.column.place] = None
    covered = {over: where for over, where in places.items() if over in _COVERED}
    if not covered:
        return "No intervals: they need several seeds, or predictions and data at hand."
    said = []
    for over, where in covered.items():
        only = f" ({', '.join(display_names(where).values())})" if len(places) > 1 else ""
        said.append(_COVERED[over] + only)
    if len(covered) < len(places):
        none = display_names(p for over in places if over not in _COVERED for p in places[over])
        said.append(f"none for some points of {', '.join(none.values())}")
    return f"{drawn_as}: 95 % intervals {'; '.join(said)}."
