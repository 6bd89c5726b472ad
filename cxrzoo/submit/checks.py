"""What makes a bundle's records right: each against card, grid and data, and all together.

No network, no torch, and nothing of the bundle runs. Functions yield problems, one line each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from cxrzoo.evaluation.record import SCHEMA as RECORD_SCHEMA
from cxrzoo.evaluation.record import Record, parse_record
from cxrzoo.files import sha256_of_json
from cxrzoo.report.cells import Evidence, NotAtHandError
from cxrzoo.submit import scores
from cxrzoo.submit.bundle import RECORDS, Bundle, check_schema
from cxrzoo.submit.container import BundleError
from cxrzoo.submit.declared import check_declared
from cxrzoo.submit.grid import Cell, Grid, Rows, protocol_sha256
from cxrzoo.submit.results import Results
from cxrzoo.submit.strict import parse_json, parse_npz
from cxrzoo.zoo.card import Card

_MAX_RECORDS_BYTES = 50_000_000


@dataclass
class Setting:
    """What a bundle is held against; ``notes`` say what could not be checked."""

    bundle: Bundle
    card: Card
    grid: Grid
    base: Results | None
    evidence: Evidence
    notes: list[str] = field(default_factory=list)
    _rows: dict[tuple[str, str], Rows | None] = field(default_factory=dict)

    def rows(self, record: Record) -> Rows | None:
        """The version of the rows of a record, as the grid pins it or the results have it."""
        key = (record.spec.benchmark.name, record.spec.benchmark.manifest_sha256)
        if key not in self._rows:
            found = self.grid.rows(*key)
            if found is None and self.base is not None and key[0] in self.grid.benchmarks:
                found = self.base.rows(*key)
            self._rows[key] = found
        return self._rows[key]


def check_size(bundle: Bundle) -> Iterator[str]:
    """Whether the records are small enough to be read: JSON takes many times its size in memory."""
    total = sum(len(bundle.files[name]) for name in bundle.record_names)
    if total > _MAX_RECORDS_BYTES:
        yield (f"{RECORDS}/: {total:,} bytes of JSON, more than {_MAX_RECORDS_BYTES:,}; not read")


def read_record(bundle: Bundle, name: str) -> Record:
    """One record, in the one form in which a record is written; raises BundleError, RecordError."""
    content = parse_json(bundle.files[name], name)
    check_schema(content, name, RECORD_SCHEMA)
    record = parse_record(content, name)
    plain = record.model_dump(mode="json", by_alias=True)
    if plain != content or _kinds(plain) != _kinds(content):
        raise BundleError(f"{name}: holds values of other types than a record has")
    if not isinstance(record.spec.protocol.get("name"), str):
        raise BundleError(f"{name}: its protocol has no name")
    return record


def check_record(record: Record, name: str, setting: Setting) -> Iterator[str]:
    """One record and its predictions; BundleError where nothing more can be said of it."""
    if name != f"{RECORDS}/{record.file_name}":
        yield f"{name}: has another name than its record, which is {record.file_name}"
    yield from _check_encoder(record, name, setting)
    yield from _check_protocol(record, name, setting.grid)
    rows = setting.rows(record)
    if rows is None:
        yield _unknown_rows(record, name, setting.grid)
        return
    yield from _check_rows(record, name, rows)
    yield from check_declared(record, name, setting.card, rows)
    result = scores.parse_result(record, name)
    problems = list(scores.check_result(record, result, rows, setting.grid.settings, name))
    predictions = str(PurePosixPath(name).with_suffix(".npz"))
    if not problems and predictions in setting.bundle.files:
        problems += _check_predictions(record, result, rows, predictions, setting)
    yield from problems


def check_grid(records: dict[str, Record], grid: Grid) -> Iterator[str]:
    """Whether every cell of the grid is there once, all of a benchmark from the same images."""
    cells: Counter[Cell] = Counter()
    for name, record in records.items():
        spec = record.spec
        cells[spec.benchmark.name, spec.budget.size, spec.seed] += 1
        if cells[spec.benchmark.name, spec.budget.size, spec.seed] > 1:
            yield f"{name}: a second record of the same cell; keep one"
    for benchmark, size, seed in grid.cells():
        if (benchmark, size, seed) not in cells:
            yield (
                f"{RECORDS}/: {benchmark}, budget {size}, seed {seed} is missing; "
                "`cxrzoo submit` evaluates what is missing"
            )
    for benchmark in grid.benchmarks:
        specs = [r.spec.benchmark for r in records.values() if r.spec.benchmark.name == benchmark]
        if len({(s.manifest_sha256, s.pixels_sha256) for s in specs}) > 1:
            yield f"{RECORDS}/: {benchmark} was evaluated on two different copies; use one"
    yield from _check_repeats(records)


def _check_repeats(records: dict[str, Record]) -> Iterator[str]:
    """Whether one cell's predictions stand in for another's, as those of a good seed might.

    Seeds of all labels may agree, since they train on the same images, and so may those of an
    encoder whose features say nothing.
    """
    owners: dict[str, tuple[str, Cell]] = {}
    for name, record in records.items():
        spec, sha256 = record.spec, str(record.result.get("predictions_sha256"))
        cell = (spec.benchmark.name, spec.budget.size, spec.seed)
        other, its_cell = owners.setdefault(sha256, (name, cell))
        same_images = cell[:2] == its_cell[:2] and cell[1] == "full"
        if cell != its_cell and not same_images and not _says_nothing(record):
            yield f"{name}: has the predictions of another cell, {other}; evaluate it again"


def _says_nothing(record: Record) -> bool:
    try:
        return record.macro_auroc == 0.5
    except (KeyError, TypeError):  # of another shape, which is said elsewhere
        return True


def recomputable(record: Record, setting: Setting) -> bool:
    """Whether the labels of a record's test sets are at hand; a note says why they are not."""
    try:
        setting.evidence.answers(record.spec.benchmark, "test")
    except NotAtHandError as reason:
        note = f"{record.spec.benchmark.name}: metrics were not recomputed: {reason}"
        if note not in setting.notes:
            setting.notes.append(note)
        return False
    return True


def _check_encoder(record: Record, name: str, setting: Setting) -> Iterator[str]:
    theirs, manifest, card = record.spec.encoder, setting.bundle.manifest, setting.card
    if theirs.name != manifest.encoder:
        yield f"{name}: is a record of {theirs.name:.80}, and the bundle is of {manifest.encoder}"
    elif theirs.weights_sha256 != manifest.weights_sha256:
        yield f"{name}: was made with weights {theirs.weights_sha256[:12]}, not the bundle's"
    elif theirs.arch != card.arch or theirs.input != card.input:
        yield f"{name}: was made with another architecture or input than the card's"


def _check_protocol(record: Record, name: str, grid: Grid) -> Iterator[str]:
    spec = record.spec
    # by hash: 1, 1.0 and true are equal, and make three run keys of one experiment
    if sha256_of_json(spec.protocol) != protocol_sha256(grid.settings):
        theirs = spec.protocol.get("name")
        yield f"{name}: protocol {theirs!r:.40} has not the settings of {grid.protocol}"
    elif protocol_sha256(grid.settings) != grid.protocol_sha256:
        yield f"{name}: the settings of {grid.protocol} here are not those the grid pins"
    if spec.precision != grid.precision:
        yield f"{name}: was computed in {spec.precision!r:.40}, the grid wants {grid.precision}"
    if spec.control != "none":
        yield f"{name}: is a control ({spec.control!r:.40}), no result"


def _unknown_rows(record: Record, name: str, grid: Grid) -> str:
    spec = record.spec.benchmark
    entry = grid.benchmarks.get(spec.name)
    if entry is None:
        return f"{name}: {spec.name!r:.80} is no benchmark of the grid {grid.name}; take it out"
    known = "; ".join(rows.description for rows in entry.rows) or "none yet"
    return (
        f"{name}: rows {spec.manifest_sha256[:12]} of {spec.name} are no version that is known "
        f"({known}): complete the copy, or have them pinned first (CONTRIBUTING.md)"
    )


def _check_rows(record: Record, name: str, rows: Rows) -> Iterator[str]:
    spec, budget = record.spec.benchmark, record.spec.budget
    excluded = spec.excluded.sha256 if spec.excluded else None
    theirs = (spec.version, spec.labels, spec.label_policy, spec.limit, excluded)
    if theirs != (rows.version, rows.labels, rows.label_policy, rows.limit, rows.excluded_sha256):
        yield f"{name}: version, labels, label policy or images left out are not those of its rows"
    draw = rows.draw(budget.size, record.spec.seed)
    if draw is None:
        yield f"{name}: budget {budget.size}, seed {record.spec.seed} is no cell of the grid"
    elif (budget.n, budget.subset_sha256) != (draw.n, draw.sha256):
        yield (
            f"{name}: was trained on another subset ({budget.n} images, "
            f"{budget.subset_sha256[:12]}) than everybody's ({draw.n} images, {draw.sha256[:12]})"
        )


def _check_predictions(
    record: Record, result: scores.Result, rows: Rows, name: str, setting: Setting
) -> Iterator[str]:
    predictions = parse_npz(setting.bundle.files[name], name)
    problems = list(scores.check_predictions(predictions, result, len(rows.labels), name))
    if not problems and recomputable(record, setting):
        labels = {
            test_set: setting.evidence.answers(record.spec.benchmark, test_set).labels
            for test_set in rows.tests
        }
        where = str(PurePosixPath(name).with_suffix(".json"))
        problems += scores.check_metrics(predictions, labels, result, rows.labels, where)
    yield from problems


def _kinds(value: Any) -> Any:
    """The types of a JSON value, since 1, 1.0 and true are equal and hash differently."""
    if isinstance(value, dict):
        return {key: _kinds(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_kinds(inner) for inner in value]
    return type(value)
