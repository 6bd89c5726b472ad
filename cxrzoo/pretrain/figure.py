"""A picture of a training, from its log."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from cxrzoo.errors import storage_errors
from cxrzoo.files import write_atomically

_PANELS = (
    ("loss", "loss"),
    ("effective_rank", "effective rank"),
    ("alignment", "alignment"),
    ("knn", "k-NN AUROC"),
)
_SMOOTHED_STEPS = 50


def draw_log(log: Path, figure: Path, *, title: str) -> bool:
    """Loss and diagnostics over the steps as a PNG; False where matplotlib is not installed or the
    log is empty.

    Raises:
        StorageError: the picture cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    columns = _columns(log)
    shown = [(key, label) for key, label in _PANELS if len(columns[key][0])]
    if not shown:
        return False
    drawing = Figure(figsize=(7, 1.9 * len(shown)), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = np.atleast_1d(drawing.subplots(len(shown), 1, sharex=True))
    for axis, (key, label) in zip(axes, shown, strict=True):
        steps, values = columns[key]
        every_step = key == "loss"
        axis.plot(steps, values, color="0.75" if every_step else "black", linewidth=1,
                  marker=None if every_step else ".")  # fmt: skip
        if every_step:
            axis.plot(steps, _smoothed(values), color="black", linewidth=1.5)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(title)
    axes[-1].set_xlabel("step")
    content = io.BytesIO()
    drawing.savefig(content, format="png", dpi=120)
    with storage_errors(figure, "the figure"):
        write_atomically(figure, content.getvalue())
    return True


def _columns(log: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of every panel, where the log has them."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {}
    for key, _ in _PANELS:
        pairs = [(int(row["step"]), float(row[key])) for row in rows if row.get(key)]
        columns[key] = (np.array([s for s, _ in pairs]), np.array([v for _, v in pairs]))
    return columns


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of the fifty steps around each, or of as many as there are."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    middle, half = np.arange(len(values)), _SMOOTHED_STEPS // 2
    start, stop = np.maximum(0, middle - half), np.minimum(len(values), middle + half)
    smoothed: np.ndarray = (total[stop] - total[start]) / (stop - start)
    return smoothed
