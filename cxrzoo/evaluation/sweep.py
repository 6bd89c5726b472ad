"""Sweeps: plan every cell, skip those with a valid record, run the rest, lose nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from cxrzoo.data.benchmark import at_hand
from cxrzoo.data.budget import Ranking
from cxrzoo.data.store import Prepared, peek, prepare
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.device import pick
from cxrzoo.errors import BudgetError, CxrzooError, DataError, StorageError
from cxrzoo.evaluation import control as controls
from cxrzoo.evaluation import protocol as protocols
from cxrzoo.evaluation import record
from cxrzoo.evaluation.cell import Cell, Subject, precision_for, run_cell
from cxrzoo.evaluation.exposure import exposure
from cxrzoo.evaluation.protocol import Protocol
from cxrzoo.evaluation.record import Record
from cxrzoo.zoo.card import InputContract
from cxrzoo.zoo.encoder import Encoder
from cxrzoo.zoo.registry import encoders_at_hand

State = Literal["cached", "missing", "blocked"]


@dataclass(frozen=True)
class Planned:
    """A cell of the grid before it runs.

    ``cell`` is None where the grid cannot be filled (``reason`` says why), or where the images
    are not decoded yet; ``record`` is the finished one, if there is one.
    """

    subject: Subject
    table: Table
    budget: int | str
    seed: int
    state: State
    reason: str = ""
    cell: Cell | None = None
    record: Record | None = None

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return self.subject.card.name

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.table.benchmark.name


@dataclass
class Sweep:
    """A grid of encoders x benchmarks x budgets x seeds with one protocol.

    ``encoders`` are names, Encoder objects, or None for every one at hand; ``benchmarks`` are
    names, or None for every one whose images are at hand, else the phantom.
    """

    encoders: Sequence[str | Encoder] | None = None
    benchmarks: Sequence[str] | None = None
    budgets: Sequence[int | str] = (100,)
    seeds: int = 5
    protocol: Protocol = field(default_factory=lambda: protocols.find("linear"))
    data_root: Path | None = None
    output: Path = Path("runs")
    device: torch.device = field(default_factory=pick)
    workers: int | None = None
    limit: int | None = None
    exclude_bad: bool = False
    overwrite: bool = False
    control: str = controls.NONE
    require_clean: bool = False

    def plan(self, *, decode: bool = True) -> list[Planned]:
        """Every cell of the grid, in the order in which it would run.

        Benchmarks are opened, checked and decoded before anything is computed, so that bad
        input shows first. With ``decode`` False nothing is decoded: cells of a benchmark whose
        images are not decoded yet are missing, without a ``cell``.

        Raises:
            BudgetError: a budget fits none of the benchmarks.
            DataError: the control applies to none of them, or ``require_clean`` leaves nothing.
        """
        subjects = [Subject.of(e) for e in dict.fromkeys(self.encoders or encoders_at_hand())]
        for subject in subjects:
            if subject.pin is not None:
                _say(f"{subject.card.name} is {subject.pin}")
        names = dict.fromkeys(self.benchmarks or at_hand(self.data_root))
        tables = [self._open(name) for name in names]
        self._check_budgets(tables)
        self._check_control(tables)
        self._check_exposure(subjects, tables)
        return [
            entry
            for table in tables
            for draw in [_Draws(self, table)]
            for subject in subjects
            for entry in self._plan_pair(subject, draw, decode)
        ]

    def run(self, planned: Sequence[Planned]) -> SweepResult:
        """Compute what is missing; a failing cell is reported and the others still run."""
        result = SweepResult()
        for entry in planned:
            if entry.reason and entry.seed == 0:
                _say(f"left out: {entry.encoder} on {entry.benchmark}: {entry.reason}")
        todo = sum(p.state == "missing" for p in planned)
        with tqdm(total=todo, desc="cells", unit="cell", disable=not todo) as bar:
            for before, entry in zip([None, *planned], planned, strict=False):
                if before is not None and before.subject is not entry.subject:
                    before.subject.features.clear()  # one encoder's features in memory at a time
                if entry.record is not None:
                    result.records.append(entry.record)
                    result.cached += 1
                elif entry.cell is not None:
                    self._run_one(entry.cell, result)
                    bar.update()
        return result

    def _open(self, name: str) -> Table:
        table = open_benchmark(name, self.data_root, exclude_bad=self.exclude_bad)
        return table if self.limit is None else table.limited(self.limit)

    def _check_budgets(self, tables: Sequence[Table]) -> None:
        """Before anything is decoded: a budget that fits nowhere is a mistake."""
        rankings = [Ranking(table, seed=0) for table in tables]
        for size in self.budgets:
            errors = []
            for ranking in rankings:
                try:
                    ranking.budget(size)
                except BudgetError as error:
                    errors.append(error)
            if len(errors) == len(rankings) > 0:
                raise errors[0]

    def _check_control(self, tables: Sequence[Table]) -> None:
        reasons = [controls.missing_column(table, self.control) for table in tables]
        if all(reasons):
            raise DataError(f"control '{self.control}' applies nowhere: {'; '.join(reasons)}")

    def _check_exposure(self, subjects: Sequence[Subject], tables: Sequence[Table]) -> None:
        refused = [self._not_clean(subject, table) for table in tables for subject in subjects]
        if self.require_clean and all(refused):
            raise DataError("--require-clean leaves nothing to do:\n" + "\n".join(refused))

    def _not_clean(self, subject: Subject, table: Table) -> str:
        """Why ``require_clean`` refuses a pair; empty when it does not."""
        found = exposure(subject.card, table.benchmark, table.split_id)
        if not self.require_clean or found.state == "clean":
            return ""
        name = f"{subject.card.name} on {table.benchmark.name}"
        return f"exposure of {name} is {found.state}: {found.reason}"

    def _plan_pair(self, subject: Subject, draws: _Draws, decode: bool) -> Iterator[Planned]:
        prepared, rankings = draws.at(subject.card.input, decode)
        for size in dict.fromkeys(self.budgets):
            for ranking in rankings:
                yield self._plan_cell(subject, draws.table, prepared, size, ranking)

    def _plan_cell(
        self,
        subject: Subject,
        table: Table,
        prepared: Prepared | None,
        size: int | str,
        ranking: Ranking,
    ) -> Planned:
        place: dict[str, Any] = {
            "subject": subject,
            "table": table,
            "budget": size,
            "seed": ranking.seed,
        }
        try:
            budget = ranking.budget(size)
        except BudgetError as error:
            return Planned(**place, state="blocked", reason=str(error))
        refusal = controls.missing_column(table, self.control) or self._not_clean(subject, table)
        if refusal:
            return Planned(**place, state="blocked", reason=refusal)
        if prepared is None:
            return Planned(**place, state="missing")
        precision = precision_for(self.protocol, self.device)
        cell = Cell(subject, prepared, budget, self.protocol, precision, self.control)
        known = None if self.overwrite else record.read_if_valid(self.output, cell.spec)
        return Planned(**place, state="cached" if known else "missing", cell=cell, record=known)

    def _run_one(self, cell: Cell, result: SweepResult) -> None:
        try:
            made, predictions = run_cell(cell, self.device)
            record.write(made, predictions, self.output)
        except StorageError:
            raise  # every later cell would meet the same full disk
        except Exception as error:  # one bad cell must not cost the others
            result.failures.append(f"{cell.name}: {type(error).__name__}: {error}")
            _say(f"FAILED {result.failures[-1]}")
        else:
            result.records.append(made)
            result.computed += 1


class _Draws:
    """A benchmark's images and draws, made once for all encoders with the same input size."""

    def __init__(self, sweep: Sweep, table: Table) -> None:
        self._sweep, self.table = sweep, table
        self._known: dict[tuple[int, str], tuple[Prepared | None, list[Ranking]]] = {}

    def at(self, contract: InputContract, decode: bool) -> tuple[Prepared | None, list[Ranking]]:
        """Decoded images (None if that has still to be done) and a ranking for each seed."""
        key = (contract.size_px, contract.interpolation)
        if key not in self._known:
            prepared = self._prepare(*key, decode)
            table = prepared.table if prepared else self.table
            self._known[key] = prepared, [Ranking(table, s) for s in range(self._sweep.seeds)]
        return self._known[key]

    def _prepare(self, size_px: int, interpolation: str, decode: bool) -> Prepared | None:
        exclude_bad = self._sweep.exclude_bad
        if not decode:
            return peek(self.table, size_px, interpolation, exclude_bad=exclude_bad)
        workers = self._sweep.workers
        return prepare(self.table, size_px, interpolation, workers=workers, exclude_bad=exclude_bad)


@dataclass
class SweepResult:
    """Records in the order of the grid, how many were computed, and what failed."""

    records: list[Record] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    failures: list[str] = field(default_factory=list)

    def raise_failures(self) -> None:
        """Raise one CxrzooError that lists the cells that failed, if any did."""
        if self.failures:
            raise CxrzooError("\n".join([f"{len(self.failures)} cells failed:", *self.failures]))


def evaluate(
    encoders: Sequence[str | Encoder] | None = None,
    benchmarks: Sequence[str] | None = None,
    *,
    budgets: Sequence[int | str] = (100,),
    seeds: int = 5,
    protocol: str = "linear",
    data_root: Path | str | None = None,
    output: Path | str = "runs",
    device: str = "auto",
    workers: int | None = None,
    limit: int | None = None,
    exclude_bad: bool = False,
    overwrite: bool = False,
    control: str = controls.NONE,
    require_clean: bool = False,
) -> list[Record]:
    """Adapt encoders to benchmarks at label budgets; finished cells are read, not recomputed.

    Args:
        encoders: names, ``Encoder`` objects, or None for all whose weights are at hand.
        benchmarks: names, or None for all whose images are at hand, else the phantom.
        budgets: numbers of labelled images, validation included, or ``"full"``.
        seeds: how many draws of each budget: seeds 0 to ``seeds - 1``.
        protocol: ``linear``, ``finetune``, or a version such as ``linear-v1``.
        data_root: folder of images; defaults to ``CXRZOO_DATA``.
        output: folder of the records.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        workers: decoding threads; defaults to the number of cores.
        limit: at most so many images of each split, for a quick look.
        exclude_bad: leave missing and unreadable images out, and record that.
        overwrite: compute again what has a valid record.
        control: ``shuffled-labels``, or a covariate of the benchmarks (``view``, ``source``) to
            predict in place of the labels.
        require_clean: leave out encoders that have seen a benchmark, or of which nobody knows.

    Returns:
        One record a cell; cells whose budget does not fit a benchmark are left out.

    Raises:
        CxrzooError: a cell failed; the others have run and their records are kept.
    """
    sweep = Sweep(
        encoders=encoders,
        benchmarks=benchmarks,
        budgets=budgets,
        seeds=seeds,
        protocol=protocols.find(protocol),
        data_root=Path(data_root) if data_root else None,
        output=Path(output),
        device=pick(device),
        workers=workers,
        limit=limit,
        exclude_bad=exclude_bad,
        overwrite=overwrite,
        control=control,
        require_clean=require_clean,
    )
    result = sweep.run(sweep.plan())
    result.raise_failures()
    return result.records


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
