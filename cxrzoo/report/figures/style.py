"""What all figures share: styles that survive grey printing, safe names, and the page around axes.

The only module that imports matplotlib; figures are made without pyplot, and matplotlib's global
settings are as they were afterwards.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from cxrzoo.errors import CxrzooError
from cxrzoo.report.grid import Row
from cxrzoo.report.naming import ANCHORS

try:
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.textpath import TextPath
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise CxrzooError(f"figures: {error}; pip install 'cxrzoo[report]'") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL_PT = 7
_CAPTION_LINE_IN = 0.13
_LEGEND_LINE_IN = 0.15
_CHARACTERS_AN_INCH = 19.5  # of text in SMALL_PT, on average
_MAX_NAME = 44
_FONT = "DejaVu Sans"  # comes with matplotlib
_FONT_PROPERTIES = font_manager.FontProperties(family=_FONT)


class Style(NamedTuple):
    """How an encoder is drawn; each style differs from the others in all three, grey included."""

    colour: str
    marker: str
    dash: Any

    def line(self, **settings: Any) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot``."""
        return {"color": self.colour, "linestyle": self.dash, "linewidth": 1.3} | settings

    def points(self, exposure: str = "clean", **settings: Any) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot`` for markers alone; open where exposed."""
        face = "white" if exposure == "exposed" else self.colour
        return {
            "color": self.colour, "marker": self.marker, "linestyle": "none",
            "markersize": 5, "markerfacecolor": face,
        } | settings  # fmt: skip


REFERENCES = dict(
    zip(ANCHORS, (Style("#949494", "X", (0, (1, 1.5))), Style("#000000", "s", "-")), strict=True)
)
"""The two references, alike in every figure."""
OTHERS = (
    Style("#15246e", "o", (0, (6, 1.5))),
    Style("#f2b040", "^", (0, (8, 1.5, 1, 1.5))),
    Style("#b02a3a", "D", (0, (3, 1.5))),
    Style("#3f8fd2", "v", (0, (4, 1.5, 1, 1.5, 1, 1.5))),
    Style("#651f7d", "P", (0, (12, 2))),
    Style("#1f9460", "p", (0, (2, 1, 6, 1))),
)
"""From dark to light and back, so that the first few lie far apart."""

QUESTION: dict[str, Any] = {
    "marker": TextPath((-0.27, -0.36), "?", size=1, prop=_FONT_PROPERTIES), "color": "black",
    "linestyle": "none", "markersize": 5, "markeredgewidth": 0,
}  # fmt: skip
"""A question mark in a legend."""


def styles(rows: Sequence[Row]) -> dict[Row, Style]:
    """A style for the first of each reference, and for at most six others, in order."""
    found: dict[Row, Style] = {row: REFERENCES[row.name] for row in references(rows)}
    others = [row for row in rows if row not in found]
    return found | dict(zip(others, OTHERS, strict=False))


def references(rows: Sequence[Row]) -> list[Row]:
    """The first row of each reference; where one name stands for several weights, only one."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.name in ANCHORS:
            first.setdefault(row.name, row)
    return list(first.values())


@contextmanager
def own_settings() -> Iterator[None]:
    """matplotlib's defaults, whatever the user's are; names are text, never formulas."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "axes.spines.right": False,
                "axes.spines.top": False,
                "axes.titlesize": 8,
                "axes.labelsize": 8,
                "font.family": _FONT,
                "font.size": 8,
                "pdf.fonttype": 42,  # letters stay letters, to be searched and edited
                "text.parse_math": False,
                "xtick.labelsize": SMALL_PT,
                "ytick.labelsize": SMALL_PT,
            }
        )
        yield


def page(width: float, body: float, caption: str, legend: Sequence[Line2D] = ()) -> Figure:
    """An empty figure of ``body`` inches above a legend, if any, and a caption, wrapped."""
    lines = textwrap.wrap(caption, int(width * _CHARACTERS_AN_INCH))
    columns = _legend_columns(width, legend)
    caption_in = 0.15 + _CAPTION_LINE_IN * len(lines)
    legend_in = 0.1 + _LEGEND_LINE_IN * -(-len(legend) // columns) if legend else 0.0
    height = body + legend_in + caption_in
    figure = Figure(figsize=(width, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(  # type: ignore[call-arg]
        rect=(0, 1 - body / height, 1, body / height), w_pad=0.06, h_pad=0.06
    )
    top = (caption_in - 0.05) / height
    text = "\n".join(lines)
    figure.text(0.08 / width, top, text, va="top", fontsize=SMALL_PT, linespacing=1.25)
    if legend:
        figure.legend(
            handles=legend, ncols=columns, loc="lower center", fontsize=SMALL_PT, frameon=False,
            bbox_to_anchor=(0.5, caption_in / height), borderaxespad=0, handlelength=4,
            labelspacing=0.4,
        )  # fmt: skip
    return figure


def key(label: str, **settings: Any) -> Line2D:
    """An entry of a legend. A name that begins with ``_`` would be left out, so it is indented."""
    return Line2D([], [], label=f" {label}" if label.startswith("_") else label, **settings)


def chance_line(axes: Axes) -> None:
    """A faint line at 0.5 where the axis reaches it."""
    low, high = axes.get_ylim()
    if low < 0.5 < high:
        axes.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)


def integer_ticks(axes: Axes) -> None:
    """Whole numbers below the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def display_names(names: Iterable[str], longest: int = _MAX_NAME) -> dict[str, str]:
    """Names as they can be drawn: short, in letters the font has, and still all different."""
    shown: dict[str, str] = {}
    for name in dict.fromkeys(names):
        text = base = _shortened(_drawable(name), longest)
        number = 1
        while text in shown.values():
            number += 1
            text = f"{base} ({number})"
        shown[name] = text
    return shown


def _legend_columns(width: float, legend: Sequence[Line2D]) -> int:
    longest = max((len(str(entry.get_label())) for entry in legend), default=1)
    return max(1, min(4, len(legend), int(width / (0.6 + longest / _CHARACTERS_AN_INCH))))


def _shortened(text: str, longest: int) -> str:
    """Both ends are kept: encoders are told apart by the last stage, or a hash behind the name."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - 1 - end]}…{text[-end:]}"


def _drawable(text: str) -> str:
    """Letters that the font lacks would be boxes, and a warning for each: one sign for a run."""
    known = (c if c.isprintable() and ord(c) in _letters() else "\ufffd" for c in text)
    return re.sub("\ufffd+", "\ufffd", "".join(known))


@cache
def _letters() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont(_FONT_PROPERTIES))
    return frozenset(font.get_charmap())
