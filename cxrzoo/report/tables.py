"""Tables of a grid: rows are encoders, columns benchmarks by budget."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from cxrzoo.errors import UnknownNameError
from cxrzoo.evaluation.record import Record
from cxrzoo.report import latex
from cxrzoo.report.cells import Evidence, stated_auroc
from cxrzoo.report.grid import Cell, Column, Grid, ProtocolRanks, Row, measure
from cxrzoo.report.naming import MARKS, SHORT_HASH, exposure_of
from cxrzoo.report.notes import footnotes
from cxrzoo.report.statistics import RESAMPLES, Interval

_HASHED = re.compile(rf" #[0-9a-f]{{{SHORT_HASH}}}( |$)")
FORMATS = ("github", "latex", "html", "csv", "json")


def table(
    records: Sequence[Record],
    format_name: str = "github",
    *,
    require_clean: bool = False,
    evidence: Evidence | None = None,
    verified: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_column: Callable[[int, int], None] | None = None,
) -> str:
    """A comparison of encoders, with what a reader must know below it.

    Scores are macro AUROC, mean over seeds with a 95 % interval. The best of a column is bold;
    what cannot be told from it is in italics.

    Args:
        records: of any benchmarks, budgets and encoders.
        format_name: ``github``, ``latex`` (needs the package booktabs), ``html``, ``csv`` or
            ``json``.
        require_clean: leave out what is exposed or of unknown exposure, and say how much.
        evidence: predictions and benchmarks at hand, for intervals over seeds and test patients;
            without it they are over seeds.
        verified: by a record's digest, what was verified; gives the table a column for it.
        resamples: draws of the test patients.
        seed: of the draws.
        on_column: called with the columns done and their number, for a progress bar.
    """
    if format_name not in FORMATS:
        raise UnknownNameError("table format", format_name, FORMATS)
    kept = [r for r in records if not require_clean or exposure_of(r) == "clean"]
    grid = measure(
        kept, evidence, verified=verified, resamples=resamples, seed=seed, on_column=on_column
    )
    left_out = len(records) - len(kept)
    notes = [*notes_of(grid), *_left_out(left_out)]
    if format_name == "json":
        return json.dumps(as_objects(grid) | {"notes": notes}, indent=1, ensure_ascii=False)
    if format_name == "csv":
        return as_csv(grid)
    style = {"github": _GITHUB, "html": _HTML, "latex": _LATEX}[format_name]
    headers, rows = _texts(grid, style, verification=verified is not None)
    if format_name == "latex":
        return latex.table(headers, rows, [style.escape(note) for note in notes])
    if format_name == "html":
        return _html(headers, rows, notes)
    body = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return body + "\n\n" + "\n".join(f"- {note}" for note in notes)


def notes_of(grid: Grid) -> list[str]:
    """The caption, then what concerns single columns, then the benchmarks' own warnings."""
    if not grid.cells:
        return ["no records"]
    cells = list(grid.cells.values())
    least, *_, most = sorted(len(c.records) + len(c.missing) for c in cells * 2)
    seeds = f"{least} to {most}" if least < most else f"{most}"
    over = f"mean over {seeds} seeds" if most > 1 else "one seed"
    protocols = ", ".join(dict.fromkeys(c.protocol for c in grid.columns))
    caption = (
        f"macro AUROC, {over}{_interval_over(cells)}; {protocols}; a budget counts every label "
        "used, validation included"
    )
    apart = [f"{c.name}: no best and no rank: {reason}" for c, reason in grid.apart.items()]
    notes = [caption, *_best_note(cells), *apart, *_narrow_notes(cells), *_rank_notes(grid)]
    return [*notes, *_hash_note(grid), *footnotes(grid.records)]


def as_objects(grid: Grid) -> dict[str, Any]:
    """Cells and mean ranks as JSON objects, numbers unrounded."""
    ranks = [
        {
            "protocol": found.protocol,
            "encoder": row.label,
            "mean_rank": ranks.estimate,
            "low": ranks.low,
            "high": ranks.high,
            "place": place,
            "benchmarks": found.ranking.n_benchmarks,
            "columns": [c.name for c in found.columns],
        }
        for found in grid.ranks
        for row, ranks, place in zip(
            found.rows, found.ranking.ranks, found.ranking.places, strict=True
        )
    ]
    return {"entries": [_flat(cell) for cell in _in_order(grid)], "ranks": ranks}


def as_csv(grid: Grid) -> str:
    """One line for each cell, numbers unrounded."""
    out = io.StringIO()
    rows = [_flat(cell) for cell in _in_order(grid)]
    columns = [k for k in rows[0] if k not in ("scores", "missing_seeds")] if rows else []
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


# Texts of cells.


class _Style(NamedTuple):
    """How one format writes text, the best, its ties, and a score with its interval."""

    escape: Callable[[str], str]
    best: str
    tied: str
    with_interval: str = "{score} [{limits}]{mark}"


def _escape_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape_github(text: str) -> str:
    """A bar would end the cell."""
    return text.replace("|", "\\|")


_GITHUB = _Style(_escape_github, "**{}**", "*{}*")
_HTML = _Style(_escape_html, "<strong>{}</strong>", "<em>{}</em>")
_LATEX = _Style(
    latex.escape,
    r"\textbf{{{}}}",
    r"\textit{{{}}}",
    r"\shortstack{{{score}{mark}\\{{\tiny [{limits}]}}}}",
)


def _texts(grid: Grid, style: _Style, *, verification: bool) -> tuple[list[str], list[list[str]]]:
    several = len({c.protocol for c in grid.columns}) > 1
    names = [f"{c.name} {c.protocol}" if several else c.name for c in grid.columns]
    extra = _extra_columns(grid, verification=verification)
    rows = [
        [
            style.escape(row.label),
            *(style.escape(text(row)) for text in extra.values()),
            *(_cell(grid.cells.get((row, column)), style) for column in grid.columns),
        ]
        for row in grid.rows
    ]
    return [style.escape(h) for h in ("encoder", *extra, *names)], rows


def _extra_columns(grid: Grid, *, verification: bool) -> dict[str, Callable[[Row], str]]:
    """Tier, verification and mean rank, where they tell encoders apart."""
    extra: dict[str, Callable[[Row], str]] = {}
    if len({row.tier for row in grid.rows}) > 1:
        extra["tier"] = lambda row: row.tier
    if verification:
        extra["verification"] = lambda row: row.verification
    telling = [r for r in grid.ranks if r.ranking.n_benchmarks > 1]
    for found in telling:
        name = f"mean rank {found.protocol}" if len(telling) > 1 else "mean rank"
        extra[name] = lambda row, found=found: _rank(found, row)  # type: ignore[misc]
    return extra


def _rank(found: ProtocolRanks, row: Row) -> str:
    of_row = found.of(row)
    if of_row is None:
        return "-"
    limits = _limits(of_row[0], 1)
    return f"{of_row[0].estimate:.1f}" + (f" [{limits}]" if limits else "")


def _cell(cell: Cell | None, style: _Style) -> str:
    if cell is None:
        return "-"
    if cell.mean is None:
        return "undefined"
    emphasis = style.best if cell.best else style.tied if cell.tied else "{}"
    score, mark = emphasis.format(f"{cell.mean:.3f}"), style.escape(MARKS[cell.exposure])
    limits = _limits(cell.interval, 3)
    text = style.with_interval.format(score=score, limits=limits, mark=mark)
    n = len(cell.records)
    seeds = f" ({n} of {n + len(cell.missing)} seeds)" if cell.missing else ""
    return (text if limits else score + mark) + seeds


def _limits(interval: Interval, digits: int) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"{interval.low:.{digits}f}, {interval.high:.{digits}f}"


def _html(headers: list[str], rows: list[list[str]], notes: list[str]) -> str:
    """Cells are escaped already; the first column heads its row."""
    head = "".join(f'<th scope="col">{h}</th>' for h in headers)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest) + "</tr>"
        for first, *rest in rows
    )
    caption, *others = map(_escape_html, notes)
    listed = "\n".join(f"<li>{note}</li>" for note in others)
    return (
        f"<table>\n<caption>{caption}</caption>\n<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n"
        f"{body}\n</tbody>\n</table>\n<ul>\n{listed}\n</ul>"
    )


# Notes.


def _interval_over(cells: list[Cell]) -> str:
    over = {cell.interval.over for cell in cells} - {"nothing"}
    if not over:
        return ""
    # one phrase for the widest; columns with less get a note of their own
    return f" [95 % interval over {max(over, key=len)}]"


def _best_note(cells: list[Cell]) -> list[str]:
    if not any(cell.best for cell in cells):
        return []
    exposed = any(cell.exposure == "exposed" for cell in cells)
    return [
        "bold: the best of its column; italics: cannot be told from it at 95 % confidence "
        "(multiple comparisons with the best, each column by itself); incomplete cells take no part"
        + (", nor do exposed ones" if exposed else "")
    ]


def _narrow_notes(cells: list[Cell]) -> list[str]:
    """Where an interval covers less than seeds and patients, and why, columns together."""
    where: dict[str, dict[Column, list[Row]]] = defaultdict(lambda: defaultdict(list))
    in_column: dict[Column, list[Row]] = defaultdict(list)
    for cell in cells:
        over = cell.interval.over
        if cell.mean is not None:
            in_column[cell.column].append(cell.row)
            if over != "seeds and patients":
                why = f": {cell.note}" if cell.note else ""
                where[_COVERS[over] + why][cell.column].append(cell.row)
    notes = []
    for text, rows in where.items():
        named = [
            column.name + (f" ({_listed(of)})" if len(of) < len(in_column[column]) else "")
            for column, of in rows.items()
        ]
        every = all(rows.get(column) == of for column, of in in_column.items())
        notes.append(text if every else f"{', '.join(dict.fromkeys(named))}: {text}")
    return notes


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(row.label for row in rows)


_COVERS = {
    "seeds": "intervals over seeds only, with other test patients they may be wider",
    "patients": "intervals over patients only, as there is one seed",
    "nothing": "no interval from one seed without predictions",
}


def _rank_notes(grid: Grid) -> list[str]:
    return [_rank_note(found) for found in grid.ranks if found.ranking.n_benchmarks > 1]


def _rank_note(found: ProtocolRanks) -> str:
    rows, columns = found.left_out
    left_out = [text for text in (_listed(rows), ", ".join(c.name for c in columns)) if text]
    without = f"; without {', '.join(left_out)} (missing, undefined or exposed)" if left_out else ""
    no_results = ", ".join(c.name for c in found.no_results)
    return (
        f"mean rank [95 % interval over benchmarks], {found.protocol}: over "
        f"{found.ranking.n_benchmarks} benchmarks, {len(found.columns)} columns{without}"
        + (f"; {no_results} never counts beside results" if no_results else "")
    )


def _hash_note(grid: Grid) -> list[str]:
    names = [row.label for row in grid.rows]
    names += [name for c in grid.columns for name in (c.benchmark, c.protocol)]
    if not any(_HASHED.search(name) for name in names):
        return []
    return [
        "name #hash: this name stands for several things in these records (weights of an encoder, "
        "rows of a benchmark, settings of a protocol), which are never mixed"
    ]


def _left_out(n: int) -> list[str]:
    return [f"{n} records left out: exposed, or unknown"] if n else []


def _in_order(grid: Grid) -> list[Cell]:
    return [cell for row in grid.rows for cell in grid.row(row)]


def _flat(cell: Cell) -> dict[str, Any]:
    row, column = cell.row, cell.column
    return {
        "encoder": row.label,
        "tier": row.tier,
        "strategy": row.strategy,
        "verification": row.verification,
        "benchmark": column.benchmark,
        "test_set": column.test_set,
        "budget": column.budget,
        "protocol": column.protocol,
        "control": column.control,
        "exposure": cell.exposure,
        "macro_auroc": cell.mean,
        "low": cell.interval.low,
        "high": cell.interval.high,
        "interval_over": cell.interval.over,
        "standard_deviation": cell.deviation,
        "seeds": len(cell.records),
        "patients": cell.scores.n_patients or None,
        "best": cell.best,
        "tied": cell.tied,
        "missing_seeds": cell.missing,
        "scores": {r.spec.seed: stated_auroc(r, column.test_set) for r in cell.records},
    }
