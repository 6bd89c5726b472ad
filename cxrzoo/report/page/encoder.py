"""What the page of one encoder says: card, lineage, exposure, results by label, commands, cost."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxrzoo.evaluation import protocol as protocols
from cxrzoo.evaluation.record import Record
from cxrzoo.report.grid import Cell, Grid, Row
from cxrzoo.report.naming import MARKS
from cxrzoo.report.page.cards import FoundCard, to_html
from cxrzoo.report.statistics import Interval
from cxrzoo.zoo.card import Card, Stage

PLACEHOLDER = "PATH/TO/ENCODER-FOLDER"
"""What a command says for an encoder that is neither in the zoo nor on the Hub."""
_METHODS = {"none": "Random initialisation", "unknown": "Method not known"}


@dataclass(frozen=True)
class Step:
    """One stage of the lineage: ``facts`` by name; ``page`` of the encoder that it starts from."""

    title: str
    facts: dict[str, str]
    page: str


@dataclass(frozen=True)
class Result:
    """One line of results; texts as they are shown."""

    place: str
    budget: str
    protocol: str
    control: str
    score: str
    limits: str
    standing: str
    exposure: str
    tested_on: str
    seeds: str


@dataclass(frozen=True)
class LabelTable:
    """AUROC by label and budget; ``rows`` are (label, positives, negatives, score by budget)."""

    title: str
    budgets: list[str]
    rows: list[tuple[str, str, str, list[str]]]


def describe(
    grid: Grid, row: Row, found: FoundCard | None, pages: Mapping[Row, str]
) -> dict[str, Any]:
    """All that the template shows of ``row``.

    Args:
        grid: that the encoder is in.
        row: the encoder.
        found: its card, if it is at hand.
        pages: the file name of each encoder's page.
    """
    cells = grid.row(row)
    records = _records(cells)
    reference, advice = _reference(records[0], found)
    return {
        "row": row,
        "ranks": _ranks(grid, row),
        "card": None if found is None else found.card,
        "card_text": None if found is None else to_html(found.body),
        "card_facts": {} if found is None else _card_facts(found.card),
        "facts": _facts(records),
        "lineage": _lineage(found, row, grid, pages),
        "exposures": _exposures(records),
        "results": [_result(cell) for cell in cells],
        "commands": _commands(cells, reference),
        "advice": [*advice, *_advice(records)],
        "label_tables": _label_tables(cells),
        "cost": _cost(records),
        "environment": _values(r.env for r in records),
        "n_records": len(records),
    }


def _records(cells: Iterable[Cell]) -> list[Record]:
    """Each once: a record has a cell for every test set."""
    return list({r.run_key: r for cell in cells for r in cell.records}.values())


# What it is.


def _facts(records: Sequence[Record]) -> dict[str, str]:
    encoder, declared = records[0].spec.encoder, records[0].declared
    view = encoder.input
    facts = {
        "Architecture": encoder.arch,
        "Tier": declared.get("tier") or "none",
        "Licence": declared.get("license") or "not stated",
        "Weights, sha256": encoder.weights_sha256,
        "Fetched from": declared.get("pin") or "",
        "Input": f"{view.channels} x {view.size_px} x {view.size_px} pixels, {view.interpolation}",
    }
    return {name: str(value) for name, value in facts.items() if value}


def _card_facts(card: Card) -> dict[str, str]:
    seen = card.pretraining_data
    listed = ", ".join(_dataset(d.dataset, d.split, d.labels_seen) for d in seen or ())
    facts = {
        "Version": str(card.version),
        "Provenance": card.provenance,
        "Pretraining data": "not stated" if seen is None else listed or "none",
    }
    if not card.verified:
        facts["Verified"] = "no: nobody has fetched and tried these weights for the zoo"
    return facts


def _dataset(name: str, split: str | None, labels_seen: bool | None) -> str:
    labels = {True: "with labels", False: "without labels", None: "labels: not known"}[labels_seen]
    return f"{name} ({', '.join(p for p in (split, labels) if p)})"


def _lineage(found: FoundCard | None, row: Row, grid: Grid, pages: Mapping[Row, str]) -> list[Step]:
    """From the card; without one, from the strategy that the records declare."""
    if found is not None:
        return [_step(stage, grid, pages) for stage in found.card.strategy]
    return [Step(text, {}, "") for text in row.strategy.split(" -> ") if text]


def _step(stage: Stage, grid: Grid, pages: Mapping[Row, str]) -> Step:
    seen = stage.num_images and stage.epochs and round(stage.num_images * stage.epochs)
    facts = {
        "Data": "" if stage.data is None else stage.images,
        "Starts from": stage.init if stage.method != "none" else "",
        "Images": f"{stage.num_images:,}" if stage.num_images else "",
        "Epochs": f"{stage.epochs:g}" if stage.epochs else "",
        "Images seen": f"{seen:,}" if seen else "",
        "Resolution": f"{stage.resolution_px} pixels" if stage.resolution_px else "",
        "Source": stage.source or "",
        "Caution": stage.caution or "",
    }
    parent = next((pages[r] for r in grid.rows if r.label == stage.init), "")
    title = _METHODS.get(stage.method, stage.method)
    return Step(title, {name: value for name, value in facts.items() if value}, parent)


def _exposures(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Benchmark, state and reason, each once."""
    found = {
        (r.spec.benchmark.name, r.declared["exposure"]["state"], r.declared["exposure"]["reason"])
        for r in records
    }
    return sorted(found)


def _ranks(grid: Grid, row: Row) -> list[str]:
    texts = []
    for found in grid.ranks:
        of_row = found.of(row)
        if of_row is not None and found.ranking.n_benchmarks > 1:
            rank, place = of_row
            texts.append(
                f"{found.protocol}: mean rank {rank.estimate:.1f}{_limits(rank, 1)} of "
                f"{len(found.rows)} encoders over {found.ranking.n_benchmarks} benchmarks, "
                f"place {place}"
            )
    return texts


# What it scored.


def _result(cell: Cell) -> Result:
    column, first = cell.column, cell.records[0]
    n = len(cell.records)
    images = first.result["tests"][column.test_set].get("n_images")
    patients = cell.scores.n_patients
    tested = [f"{images:,} images" if images else "", f"{patients:,} patients" if patients else ""]
    over = cell.interval.over
    return Result(
        place=column.place,
        budget=str(column.budget),
        protocol=column.protocol,
        control="" if column.control == "none" else column.control,
        score="undefined" if cell.mean is None else f"{cell.mean:.3f}",
        limits=f"{_limits(cell.interval, 3)} over {over}" if over != "nothing" else "no interval",
        standing="best" if cell.best else "may be the best" if cell.tied else "",
        exposure=f"{MARKS[cell.exposure]} {cell.exposure}".strip(),
        tested_on=", ".join(t for t in tested if t),
        seeds=f"{n} of {n + len(cell.missing)}" if cell.missing else str(n),
    )


def _limits(interval: Interval, digits: int) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _label_tables(cells: Sequence[Cell]) -> list[LabelTable]:
    groups: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        column = cell.column
        groups[column.place, column.protocol, column.control].append(cell)
    return [_label_table(group) for group in groups.values()]


def _label_table(cells: Sequence[Cell]) -> LabelTable:
    column = cells[0].column
    names = cells[0].records[0].result["tests"][column.test_set]["labels"]
    control = "" if column.control == "none" else f", control {column.control}"
    rows = []
    for name, first in names.items():
        counts = [f"{first[k]:,}" if k in first else "" for k in ("n_pos", "n_neg")]
        rows.append((name, *counts, [_label_score(cell, name) for cell in cells]))
    budgets = [str(cell.column.budget) for cell in cells]
    return LabelTable(f"{column.place}, {column.protocol}{control}", budgets, rows)


def _label_score(cell: Cell, label: str) -> str:
    """Mean over seeds, with the lowest and highest of several."""
    tests = [r.result["tests"][cell.column.test_set]["labels"].get(label, {}) for r in cell.records]
    scores = [t["auroc"] for t in tests if t.get("auroc") is not None]
    if not scores:
        return "undefined"
    text = f"{sum(scores) / len(scores):.3f}"
    return text + (f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else "")


# How to get the numbers again.


def command(records: Sequence[Record], reference: str) -> str:
    """The ``cxrzoo eval`` that computes these records of one cell, ready for a shell."""
    spec = records[0].spec
    parts = ["cxrzoo", "eval", "-e", reference, "-b", spec.benchmark.name]
    parts += ["--budget", str(spec.budget.size)]
    parts += ["--seeds", str(max(r.spec.seed for r in records) + 1)]
    parts += ["--protocol", str(spec.protocol["name"])]
    if spec.control != "none":
        parts += ["--control", spec.control]
    if spec.benchmark.limit is not None:
        parts += ["--limit", str(spec.benchmark.limit)]
    if spec.benchmark.excluded is not None:
        parts.append("--exclude-bad")
    if spec.precision != "float32":
        parts += ["--device", "cuda"]
    return shlex.join(parts)


def _commands(cells: Iterable[Cell], reference: str) -> dict[str, list[str]]:
    """Commands, and which rows of the results each of them gives."""
    found: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        found[command(cell.records, reference)].append(
            f"{cell.column.name}, {cell.column.protocol}"
        )
    return dict(found)


def _reference(record: Record, found: FoundCard | None) -> tuple[str, list[str]]:
    """What ``-e`` takes for the encoder, and what the reader must do first."""
    name, pin = record.spec.encoder.name, record.declared.get("pin")
    if found is not None and found.in_zoo:
        return name, []
    if pin:
        return str(pin), []
    if name.startswith("timm:"):
        return name, []
    return PLACEHOLDER, [
        f"This encoder is not in the zoo: in place of {PLACEHOLDER} put the folder that holds its "
        "README.md, config.json and weights, or hf:OWNER/REPOSITORY@REVISION."
    ]


def _advice(records: Sequence[Record]) -> list[str]:
    """What the commands cannot say."""
    advice = [
        "Images are taken from the folder in CXRZOO_DATA; add --data-root for another. "
        "Numbers agree when the new records carry the same run keys."
    ]
    if any(not _as_installed(r) for r in records):
        advice.append(
            "Some records were made with other protocol settings than this version of cxrzoo has: "
            "install the version named under Environment."
        )
    return advice


def _as_installed(record: Record) -> bool:
    own = protocols.PROTOCOLS.get(str(record.spec.protocol.get("name")))
    return own is not None and protocols.spec(own) == record.spec.protocol


def _cost(records: Sequence[Record]) -> dict[str, str]:
    seconds = [r.cost["seconds"] for r in records if _is_number(r.cost.get("seconds"))]
    memory = [r.cost["peak_memory_mb"] for r in records if _is_number(r.cost.get("peak_memory_mb"))]
    cost = {}
    if seconds:
        cost["Time"] = (
            f"{sum(seconds):,.0f} seconds for {len(seconds)} records, adaptation and test"
        )
    if memory:
        cost["Peak memory"] = f"{max(memory):,.0f} MB"
    return cost


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _values(mappings: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Every value that a name has, in the order of the records."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for mapping in mappings:
        for name, value in mapping.items():
            found[name][str(value)] = None
    return {name: ", ".join(values) for name, values in found.items()}
