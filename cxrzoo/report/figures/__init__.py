"""Figures of a grid as PNG and PDF: label efficiency, ranks, cost against score.

The same grid gives the same bytes. Needs the extra ``report``.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrzoo.errors import RecordError
from cxrzoo.files import safe_name, write_atomically
from cxrzoo.report.figures.cost import costs, draw_costs
from cxrzoo.report.figures.efficiency import draw_curves
from cxrzoo.report.figures.ranks import draw_ranks
from cxrzoo.report.figures.style import own_settings
from cxrzoo.report.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200, "metadata": {"Software": None}},
    "pdf": {"metadata": {"Creator": None, "Producer": None, "CreationDate": None}},
}
"""Without versions and dates."""


def draw(grid: Grid) -> dict[str, Figure]:
    """By name, the figures that the grid has enough cells for; controls are never drawn."""
    figures: dict[str, Figure] = {}
    with own_settings():
        for protocol in dict.fromkeys(c.protocol for c in grid.columns):
            curves = draw_curves(grid, protocol)
            if curves is not None:
                figures[safe_name(f"label-efficiency-{protocol}")] = curves
            for found in grid.ranks:
                if found.protocol == protocol:
                    figures[safe_name(f"ranks-{protocol}")] = draw_ranks(grid, found)
            for measured in costs(grid, protocol):
                name = safe_name(f"cost-{protocol}-{measured.device}")
                figures[name] = draw_costs(measured)
    return figures


def write(grid: Grid, directory: Path) -> list[Path]:
    """Draw and write every figure, as PNG and PDF.

    Returns:
        The files written.

    Raises:
        RecordError: there is nothing to draw.
        StorageError: a file cannot be written.
    """
    figures = draw(grid)
    if not figures:
        raise RecordError(
            "nothing to draw: the records hold controls, or test sets without a defined label, only"
        )
    written = []
    for name, figure in figures.items():
        for kind in _FORMATS:
            path = directory / f"{name}.{kind}"
            write_atomically(path, content(figure, kind))
            written.append(path)
    return written


def content(figure: Figure, kind: str) -> bytes:
    """The bytes of a ``png`` or ``pdf`` file."""
    buffer = io.BytesIO()
    with own_settings():
        figure.savefig(buffer, format=kind, **_FORMATS[kind])
    return buffer.getvalue()
