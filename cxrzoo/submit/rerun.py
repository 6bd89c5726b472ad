"""Repeating cells of a bundle with the encoder's weights, to see whether they come out the same.

Which cells is drawn by a hash of the bundle, one of each benchmark first, so that it is not the
submitter's choice. Whoever fears that a bundle was altered until the draw was a good one adds a
word of their own to it (``draw``).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cxrzoo.data.budget import Ranking
from cxrzoo.data.store import Prepared, prepare
from cxrzoo.data.table import open_benchmark
from cxrzoo.device import pick
from cxrzoo.errors import WeightsError
from cxrzoo.evaluation import protocol as protocols
from cxrzoo.evaluation.cell import Cell, Subject, precision_for, run_cell
from cxrzoo.evaluation.record import BenchmarkSpec, Record
from cxrzoo.evaluation.verification import MIN_RERUN
from cxrzoo.files import write_atomically
from cxrzoo.submit import card_checks
from cxrzoo.submit.bundle import CARD, Bundle
from cxrzoo.submit.validate import Report

TOLERANCE = 0.005
"""Largest difference of a label's AUROC: other processors change features by 1e-5, which moves
single pairs of a small test set; a made-up score differs by more."""


@dataclass(frozen=True)
class Rerun:
    """Repeats ``cells`` cells on ``device``, where the images are below ``data_root``.

    ``encoder`` is a card directory or ``hf:org/repo`` that has the weights, where the bundle does
    not.
    """

    cells: int = MIN_RERUN
    encoder: str | None = None
    data_root: Path | None = None
    device: str = "auto"
    draw: str = ""

    def __call__(self, report: Report) -> Iterator[str]:
        """Repeat cells; digests of those that came out the same go into ``report.rerun``.

        Raises:
            WeightsError: the weights are not at hand, or are others than the bundle's.
            DataError: the images are not at hand.
        """
        assert report.bundle is not None
        with tempfile.TemporaryDirectory(prefix="cxrzoo-") as folder:
            subject = _subject(report.bundle, self.encoder, Path(folder))
            device = pick(self.device)
            chosen = choose(report.bundle, report.records, self.cells, self.draw)
            prepared: dict[str, Prepared] = {}
            for name in sorted(chosen, key=lambda n: report.records[n].spec.benchmark.name):
                record = report.records[name]
                benchmark = record.spec.benchmark
                if benchmark.name not in prepared:
                    prepared = {benchmark.name: self._prepare(benchmark, subject)}
                problems = list(repeat(record, name, subject, prepared[benchmark.name], device))
                if not problems:
                    report.rerun.append(record.digest)
                yield from problems

    def _prepare(self, spec: BenchmarkSpec, subject: Subject) -> Prepared:
        leaves_out = spec.excluded is not None
        table = open_benchmark(spec.name, self.data_root, exclude_bad=leaves_out)
        table = table if spec.limit is None else table.limited(spec.limit)
        contract = subject.card.input
        return prepare(table, contract.size_px, contract.interpolation, exclude_bad=leaves_out)


def choose(bundle: Bundle, records: dict[str, Record], cells: int, draw: str = "") -> list[str]:
    """Names of the records whose cells are repeated: by hash, one of each benchmark in turn."""
    salt = f"{bundle.sha256}|{draw}"
    in_order = sorted(records, key=lambda n: hashlib.sha256(f"{salt}|{n}".encode()).digest())
    seen: Counter[str] = Counter()
    turns = {}
    for name in in_order:
        benchmark = records[name].spec.benchmark.name
        turns[name] = seen[benchmark]
        seen[benchmark] += 1
    return sorted(in_order, key=turns.__getitem__)[:cells]  # sorting keeps the order of equals


def repeat(
    record: Record, name: str, subject: Subject, prepared: Prepared, device: torch.device
) -> Iterator[str]:
    """Compute a cell again; yields what is different."""
    protocol = protocols.find(record.spec.protocol["name"])
    budget = Ranking(prepared.table, record.spec.seed).budget(record.spec.budget.size)
    cell = Cell(subject, prepared, budget, protocol, precision_for(protocol, device))
    if cell.spec.run_key != record.run_key:
        yield (
            f"{name}: cannot be repeated here, since {_difference(cell, record)}; use the data "
            "and versions that it was made with"
        )
        return
    again, _ = run_cell(cell, device)
    yield from _compare(record, again, name)


def _compare(record: Record, again: Record, name: str) -> Iterator[str]:
    for test_set, theirs in record.result["tests"].items():
        mine = again.result["tests"][test_set]["labels"]
        differences = [
            f"{label} {entry['auroc']:.4f}, repeated {mine[label]['auroc']:.4f}"
            for label, entry in theirs["labels"].items()
            if entry["status"] == "ok" and abs(entry["auroc"] - mine[label]["auroc"]) > TOLERANCE
        ]
        if differences:
            yield (
                f"{name}: does not come out again: AUROC on {test_set} of "
                f"{'; '.join(_few(differences))} (allowed {TOLERANCE}); "
                f"chosen {record.result['chosen']}, repeated {again.result['chosen']}"
            )


def _few(items: Sequence[str]) -> list[str]:
    return [*items[:3], *([f"and {len(items) - 3} more"] if items[3:] else [])]


def _difference(cell: Cell, record: Record) -> str:
    """The first part of the spec that differs."""
    mine, theirs = cell.spec.model_dump(mode="json"), record.spec.model_dump(mode="json")
    for part, value in theirs.items():
        if isinstance(value, dict):
            keys = [k for k in {**value, **mine[part]} if value.get(k) != mine[part].get(k)]
            if keys:
                return f"{part}.{keys[0]} differs"
        elif value != mine[part]:
            return f"{part} is {mine[part]} here, and was {value}"
    return "the spec differs"


def _subject(bundle: Bundle, encoder: str | None, folder: Path) -> Subject:
    """The encoder with the weights beside the bundle's card, else with those of ``encoder``."""
    if encoder is None:
        weights = card_checks.read_card(bundle).weights
        file = weights.file if weights and weights.repo_id is None else None
        if file and f"{CARD}/{file}" not in bundle.files:
            raise WeightsError(
                f"the bundle does not hold {CARD}/{file}; say where the weights are with "
                "--encoder-dir DIR or --encoder-dir hf:org/repo"
            )
        for name, content in bundle.files.items():
            if name.startswith(f"{CARD}/"):
                write_atomically(folder / Path(name).name, content)
        encoder = str(folder)
    subject = Subject.of(encoder)
    if subject.weights_sha256 != bundle.manifest.weights_sha256:
        raise WeightsError(
            f"{encoder} has weights {subject.weights_sha256[:12]}, and the bundle is of "
            f"{bundle.manifest.weights_sha256[:12]}"
        )
    return subject
