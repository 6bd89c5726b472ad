"""What a comparison of two encoders says: its rows as a table, sentences and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from cxrzoo.report.naming import MARKS
from cxrzoo.report.statistics import LEVEL, Interval

PARTLY_OVER = {
    "seeds": "over seeds only: with other test images it may be wider",
    "patients": "over patients only, as there is one seed: with other training draws it may be "
    "wider",
}


@dataclass(frozen=True)
class Row:
    """Encoder ``a`` against ``b`` on one test set at one budget; scores are macro AUROC.

    ``a_mean`` and ``b_mean`` are over the ``n_seeds`` seeds that both have. ``difference`` is
    a - b. ``p_adjusted`` is Holm's over all rows shown. ``n_patients`` is None when patients
    could not be resampled, and ``note`` says why. ``undefined``: by label, on how many resamples
    it had one class only and was left out.
    """

    benchmark: str
    test_set: str
    budget: int | str
    protocol: str
    a: str
    b: str
    n_seeds: int
    a_mean: float
    b_mean: float
    difference: Interval
    p: float | None
    p_adjusted: float | None
    n_patients: int | None
    a_exposure: str
    b_exposure: str
    undefined: dict[str, int]
    note: str

    @property
    def where(self) -> str:
        """Benchmark, with the external test set if it is one."""
        external = "" if self.test_set == "test" else f" → {self.test_set}"
        return self.benchmark + external


@dataclass(frozen=True)
class Result:
    """The rows, in order, and what a reader must know of them."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def as_text(result: Result) -> str:
    """A table, one plain sentence for each row, and the notes."""
    protocols = {row.protocol for row in result.rows}
    rows = [_line(row, several=len(protocols) > 1) for row in result.rows]
    grid = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
    said = [sentence(row, several=len(protocols) > 1) for row in result.rows]
    return "\n".join([grid, "", *said, "", *(f"- {note}" for note in result.notes)])


def as_objects(result: Result) -> list[dict[str, Any]]:
    """One JSON object for each row, numbers unrounded."""
    return [asdict(row) | {"sentence": sentence(row)} for row in result.rows]


def sentence(row: Row, *, several: bool = True) -> str:
    """What the row says, in words; ``several`` names the protocol too."""
    budget = "the full budget" if row.budget == "full" else f"{row.budget} labels"
    place = f"On {row.where} at {budget}" + (f" ({row.protocol})" if several else "")
    claim = f"{place} {row.a} scores {_more(row.difference.estimate)} than {row.b}"
    if row.p_adjusted is None or row.p is None:
        return f"{claim}, from one seed and without predictions: no difference can be told."
    limits = f"{_more(row.difference.low)} to {_more(row.difference.high)}"
    only = f" over {row.difference.over} only" if row.difference.over in PARTLY_OVER else ""
    sure = f"95 % interval{only}: {limits}; adjusted p {row.p_adjusted:.3f}"
    if row.p_adjusted < 1 - LEVEL:
        return f"{claim} ({sure})."
    alone = ", though it could if this were the only row" if row.p < 1 - LEVEL else ""
    return f"{claim} ({sure}): no difference can be told{alone}."


def _line(row: Row, *, several: bool) -> dict[str, str]:
    protocol = f" {row.protocol}" if several else ""
    estimate = row.difference.estimate
    return {
        "benchmark": f"{row.where} @{row.budget}{protocol}",
        "seeds": str(row.n_seeds),
        row.a: f"{row.a_mean:.3f}{MARKS[row.a_exposure]}",
        row.b: f"{row.b_mean:.3f}{MARKS[row.b_exposure]}",
        "difference": f"{estimate:+.3f}",
        "95 % interval": _limits(row.difference),
        "p": _number(row.p),
        "Holm p": _number(row.p_adjusted),
        "patients": "-" if row.n_patients is None else f"{row.n_patients:,}",
        "interval over": row.difference.over,
    }


def _limits(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "-"
    return f"{interval.low:+.3f} to {interval.high:+.3f}"


def _more(difference: float | None) -> str:
    """Words for a sign, so that "less" is never followed by limits of the other direction."""
    value = 0.0 if difference is None else difference
    return f"{abs(value):.3f} {'less' if value < 0 else 'more'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
