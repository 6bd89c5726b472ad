"""One cell: an encoder adapted on one budget of one benchmark with one protocol and seed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from cxrzoo.data.budget import Budget
from cxrzoo.data.store import Prepared
from cxrzoo.device import environment, peak_memory_mb, probe_device
from cxrzoo.errors import CardError, WeightsError
from cxrzoo.evaluation import control as controls
from cxrzoo.evaluation import features, finetune, metrics, probe, record
from cxrzoo.evaluation import protocol as protocols
from cxrzoo.evaluation.exposure import Exposure, exposure
from cxrzoo.evaluation.protocol import LinearV1, Protocol
from cxrzoo.evaluation.record import Record, Spec
from cxrzoo.zoo import encoder as zoo
from cxrzoo.zoo.card import Card
from cxrzoo.zoo.encoder import Encoder
from cxrzoo.zoo.hub import Pin


@dataclass
class Subject:
    """An encoder under test, loaded only when something has to be computed with it."""

    card: Card
    weights_sha256: str
    loader: Callable[[], Encoder]
    pin: Pin | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, encoder: str | Encoder | nn.Module) -> Subject:
        """From a name, as ``cxrzoo.load`` takes it, or from an encoder object."""
        if isinstance(encoder, Encoder):
            return cls(encoder.card, encoder.weights_sha256, lambda: encoder, encoder.pin)
        if not isinstance(encoder, str):
            raise CardError(
                f"{type(encoder).__name__} has no card, so its input is unknown; wrap it: "
                "cxrzoo.Encoder.from_module(module, name=..., num_features=..., contract="
                "cxrzoo.InputContract(size_px=..., mean=..., std=...))"
            )
        if encoder.startswith("timm:"):
            return cls.of(zoo.load(encoder))
        card, directory, pin = zoo.locate(encoder)
        if card.weights is None:
            raise WeightsError(zoo.how_to_train(card))
        if card.weights.sha256 is None:  # what the file holds is known once it is there
            return cls.of(zoo.load_from(card, directory, pin))
        sha256 = card.weights.sha256
        return cls(card, sha256, lambda: zoo.load_from(card, directory, pin), pin)

    @cached_property
    def encoder(self) -> Encoder:
        """The loaded encoder."""
        return self.loader()


@dataclass(frozen=True)
class Cell:
    """What one record is about; everything is known before anything is computed."""

    subject: Subject
    prepared: Prepared
    budget: Budget
    protocol: Protocol
    precision: str
    control: str = controls.NONE

    @cached_property
    def exposure(self) -> Exposure:
        """What the encoder's pretraining has seen of the benchmark, as this copy is split."""
        table = self.prepared.table
        return exposure(self.subject.card, table.benchmark, table.split_id)

    @cached_property
    def adapted(self) -> Prepared:
        """The images with the labels that are trained and tested on."""
        return controls.apply(self.prepared, self.budget, self.control)

    @cached_property
    def spec(self) -> Spec:
        """The record's spec, and through it its key."""
        card, table = self.subject.card, self.prepared.table
        return Spec(
            encoder=record.EncoderSpec(
                name=card.name,
                arch=card.arch,
                weights_sha256=self.subject.weights_sha256,
                input=card.input,
            ),
            benchmark=record.BenchmarkSpec(
                name=table.benchmark.name,
                version=table.benchmark.version,
                labels=table.benchmark.labels,
                label_policy=table.benchmark.label_policy.name,
                manifest_sha256=table.manifest_sha256,
                pixels_sha256=self.prepared.pixels_sha256,
                excluded=record.ExcludedSpec.of(table.excluded),
                limit=table.limit,
            ),
            budget=record.BudgetSpec(
                size=self.budget.size,
                n=len(self.budget),
                subset_sha256=self.budget.sha256,
            ),
            protocol=protocols.spec(self.protocol),
            seed=self.budget.seed,
            precision=self.precision,
            control=self.control,
        )

    @property
    def name(self) -> str:
        """How messages call the cell."""
        table = self.prepared.table
        return (
            f"{self.subject.card.name} on {table.benchmark.name}, budget {self.budget.size}, "
            f"{self.protocol.name}, seed {self.budget.seed}"
            + ("" if self.control == controls.NONE else f", control {self.control}")
        )


def precision_for(protocol: Protocol, device: torch.device) -> str:
    """The arithmetic that ``protocol`` uses on ``device``, as the record states it."""
    linear = isinstance(protocol, LinearV1)
    return features.PRECISION if linear else finetune.precision(device)


def run_cell(cell: Cell, device: torch.device) -> tuple[Record, dict[str, np.ndarray]]:
    """Adapt, predict the test sets once, and seal the record.

    Returns:
        The record, and float16 logits (n, L) by test set, in the table's order. Metrics are
        computed from these rounded logits, so that anyone can recompute them exactly.
    """
    started = time.perf_counter()
    table = cell.adapted.table
    adapt = _linear if isinstance(cell.protocol, LinearV1) else _finetune
    test_rows = {name: table.rows(name) for name in table.test_sets}
    logits, result = adapt(cell, test_rows, device)
    predictions = {name: value.clip(-6e4, 6e4).astype(np.float16) for name, value in logits.items()}
    tests = {
        name: metrics.score(
            predictions[name].astype(np.float64), table.labels[rows], table.benchmark.labels
        )
        for name, rows in test_rows.items()
    }
    result |= {
        "status": "ok" if tests["test"]["n_defined"] else "undefined",
        "tests": tests,
        "budget_labels": _label_counts(table.labels[cell.budget.rows], table.benchmark.labels),
        "predictions_sha256": record.predictions_sha256(predictions),
    }
    if cell.control not in (controls.NONE, controls.SHUFFLED):
        result["shortcut"] = controls.shortcut(cell.prepared.table, cell.budget, cell.control)
    cost = {
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": peak_memory_mb(device),
    }
    return record.seal(cell.spec, _declared(cell), result, cost, environment(device)), predictions


def cell_seed(benchmark: str, budget: Budget) -> int:
    """The seed of a cell's random draws: from benchmark, budget and seed, never the encoder."""
    text = f"{benchmark}|{budget.size}|{budget.seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


Logits = dict[str, np.ndarray]


def _linear(
    cell: Cell, test_rows: dict[str, np.ndarray], device: torch.device
) -> tuple[Logits, dict[str, Any]]:
    assert isinstance(cell.protocol, LinearV1)
    rows, labels = _features(cell, device), cell.adapted.table.labels
    place = probe_device(device)
    fitted = probe.fit_probe(
        torch.from_numpy(rows[cell.budget.rows]).to(place),
        torch.from_numpy(labels[cell.budget.rows]).to(place),
        cell.budget.folds,
        cell.protocol,
    )
    logits = {
        name: fitted.model.logits(torch.from_numpy(rows[index]).to(place))[:, :, 0].cpu().numpy()
        for name, index in test_rows.items()
    }
    return logits, {
        "chosen": {"strength": fitted.strength},
        "validation": {"log_loss": fitted.log_loss},
        "search": {
            "trials": cell.protocol.trials,
            "folds": cell.protocol.folds,
            "curve": list(fitted.curve),
        },
    }


def _features(cell: Cell, device: torch.device) -> np.ndarray:
    """The benchmark's features, kept in memory as long as the subject stays on it."""
    key = cell.prepared.pixels_sha256
    if key not in cell.subject.features:
        cell.subject.features.clear()
        encoder = cell.subject.encoder
        cell.subject.features[key] = features.extract(encoder, cell.prepared, device)
    return cell.subject.features[key]


def _finetune(
    cell: Cell, test_rows: dict[str, np.ndarray], device: torch.device
) -> tuple[Logits, dict[str, Any]]:
    assert not isinstance(cell.protocol, LinearV1)
    fitted = finetune.finetune(
        cell.subject.encoder.cpu(),
        cell.adapted,
        cell.budget,
        cell.protocol,
        seed=cell_seed(cell.prepared.table.benchmark.name, cell.budget),
        device=device,
    )
    logits = {
        name: finetune.predict(fitted.classifier, cell.prepared, index, device)
        for name, index in test_rows.items()
    }
    return logits, {
        "chosen": {"learning_rate": fitted.learning_rate},
        "validation": {"log_loss": fitted.log_loss},
        "search": {
            "trials": cell.protocol.trials,
            "steps_per_trial": fitted.steps,
            "images_trained": (cell.protocol.trials + 1)
            * fitted.steps
            * min(cell.protocol.batch_size, len(cell.budget)),
            "curve": [None if np.isinf(v) else v for v in fitted.curve],
        },
    }


def _declared(cell: Cell) -> dict[str, Any]:
    """What the card and the benchmark say of themselves; it does not change the number."""
    card, table = cell.subject.card, cell.prepared.table
    return {
        "tier": card.tier,
        "strategy": card.chain,
        "stages": [stage.model_dump(mode="json") for stage in card.strategy],
        "license": card.license,
        "pin": None if cell.subject.pin is None else str(cell.subject.pin),
        "pretraining_data": None
        if card.pretraining_data is None
        else [d.model_dump(mode="json") for d in card.pretraining_data],
        "exposure": asdict(cell.exposure),
        "split": table.split_name,
        "patient_key": table.benchmark.patient_key,
        "notes": list(table.notes),
    }


def _label_counts(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    return {
        name: {"n_pos": int((column == 1).sum()), "n_neg": int((column == 0).sum())}
        for name, column in zip(names, labels.T, strict=True)
    }
