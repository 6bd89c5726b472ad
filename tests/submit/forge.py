"""Bundles of a tiny grid on the phantom, with made-up logits, and ways to tamper with them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cxrzoo.data.budget import Ranking
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.evaluation import metrics, protocol, record
from cxrzoo.evaluation.exposure import exposure
from cxrzoo.submit import bundle as bundles
from cxrzoo.submit import grid as grids
from cxrzoo.submit.bundle import MANIFEST, Bundle
from cxrzoo.submit.container import write_zip
from cxrzoo.submit.grid import Entry, Grid
from cxrzoo.zoo.card import Card, read_card
from tests.zoo.cards import copy_card, edit_card

NAME = "my-encoder"
LIMIT = 60
BUDGETS = (20, 30)
PREFIX = f"records/{NAME}/phantom/linear-v1"


@cache
def phantom() -> Table:
    return open_benchmark("phantom").limited(LIMIT)


@cache
def tiny_grid(name: str = "tiny", *, trial: bool = False) -> Grid:
    return Grid(
        schema="cxrzoo.grid/1",
        name=name,
        description="for tests",
        trial=trial,
        protocol="linear-v1",
        protocol_sha256=grids.protocol_sha256(protocol.find("linear-v1")),
        seeds=2,
        limit=LIMIT,
        benchmarks={
            "phantom": Entry(budgets=BUDGETS, rows=(grids.pin(phantom(), BUDGETS, 2, "tiny"),))
        },
    )


def write_grids(folder: Path) -> Path:
    """The grids ``tiny`` and, for trying, ``practice``."""
    folder.mkdir(parents=True, exist_ok=True)
    for grid in (tiny_grid(), tiny_grid("practice", trial=True)):
        text = yaml.safe_dump(grid.model_dump(mode="json", by_alias=True))
        (folder / f"{grid.name}.yaml").write_text(text)
    return folder


def card_directory(parent: Path, name: str = NAME, **changes: Any) -> Path:
    """A card of random-init's architecture, input and drawn weights, under another name."""
    directory = copy_card("random-init", parent)
    edit_card(directory, name=name, **changes)
    return directory


def make(folder: Path, name: str = NAME, *, grid: str = "tiny", skill: float = 1, **card: Any):
    """A sound bundle; higher ``skill`` scores better, ``card`` are changes of the card."""
    directory = card_directory(folder / "card", name, **card)
    made = [_record(folder, read_card(directory), n, s, skill) for n in BUDGETS for s in range(2)]
    return bundles.assemble(bundles.card_files(directory), made, folder, grid)


def _record(folder: Path, card: Card, size: int, seed: int, skill: float) -> record.Record:
    table = phantom()
    labels, names = table.labels[table.rows("test")], table.benchmark.labels
    draws = np.random.default_rng([seed, size, *card.name.encode()])
    logits = (np.nan_to_num(labels) * skill + draws.standard_normal(labels.shape)).astype("f2")
    budget = Ranking(table, seed).budget(size)
    setting = protocol.find("linear-v1")
    assert card.weights is not None
    spec = {
        "encoder": {
            "name": card.name,
            "arch": card.arch,
            "weights_sha256": card.weights.sha256,
            "input": card.input.model_dump(),
        },
        "benchmark": {
            "name": "phantom",
            "version": table.benchmark.version,
            "labels": names,
            "label_policy": table.benchmark.label_policy.name,
            "manifest_sha256": table.manifest_sha256,
            "pixels_sha256": "2" * 64,
            "limit": LIMIT,
        },
        "budget": {"size": size, "n": len(budget), "subset_sha256": budget.sha256},
        "protocol": protocol.spec(setting),
        "seed": seed,
        "precision": "float32",
    }
    declared = {
        "tier": card.tier,
        "strategy": card.chain,
        "stages": [stage.model_dump(mode="json") for stage in card.strategy],
        "license": card.license,
        "pin": None,
        "pretraining_data": [d.model_dump(mode="json") for d in card.pretraining_data or ()],
        "exposure": asdict(exposure(card, table.benchmark, table.split_id)),
        "split": table.split_name,
        "patient_key": table.benchmark.patient_key,
        "notes": list(table.notes),
    }
    result = {
        "chosen": {"strength": 0.1},
        "validation": {"log_loss": 0.5},
        "search": {"trials": setting.trials, "folds": 5, "curve": [0.5] * setting.trials},
        "status": "ok",
        "tests": {"test": metrics.score(logits.astype(float), labels, names)},
        "budget_labels": {name: {"n_pos": 3, "n_neg": 10} for name in names},
        "predictions_sha256": record.predictions_sha256({"test": logits}),
    }
    made = record.seal(record.Spec.model_validate(spec), declared, result, {"seconds": 1.0}, {})
    record.write(made, {"test": logits}, folder)
    return made


class Forge:
    """The files of a bundle, to be tampered with by somebody who knows all the seals."""

    def __init__(self, bundle: Bundle) -> None:
        self.files = dict(bundle.files)
        self.about = bundle.manifest.model_dump(include={"encoder", "weights_sha256", "grid"})
        self.sealed = True

    @property
    def names(self) -> list[str]:
        """Names of the record files."""
        return sorted(n for n in self.files if n.startswith("records/") and n.endswith(".json"))

    def content(self, name: str) -> dict[str, Any]:
        return json.loads(self.files[name])

    def alter(self, change: Callable[[dict[str, Any]], Any], *, which: int = 0) -> None:
        """Change a record and seal it again, so that only its content is wrong; its files move to
        where such a record belongs."""
        name = self.names[which]
        content, predictions = self.content(name), self.files.pop(name.replace(".json", ".npz"))
        del self.files[name]
        change(content)
        spec = record.Spec.model_validate(content["spec"])
        made = record.seal(
            spec, content["declared"], content["result"], content["cost"], content["env"]
        )
        text = json.dumps(made.model_dump(mode="json", by_alias=True))
        place = f"records/{made.file_name}"
        self.files |= {place: text.encode(), place.replace(".json", ".npz"): predictions}

    def predict(self, arrays: dict[str, np.ndarray] | bytes, *, rehash: bool = True) -> None:
        """Replace the first record's predictions, and their hash in it."""
        name = self.names[0]
        if isinstance(arrays, bytes):
            self.files[name.replace(".json", ".npz")] = arrays
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        self.files[name.replace(".json", ".npz")] = buffer.getvalue()
        if rehash:
            sha256 = record.predictions_sha256(arrays)
            self.alter(lambda c: c["result"].update(predictions_sha256=sha256))

    @property
    def logits(self) -> np.ndarray:
        """The first record's predictions on the test set."""
        stored = np.load(io.BytesIO(self.files[self.names[0].replace(".json", ".npz")]))
        return np.array(stored["test"])

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file, which has it."""
        text = self.files[name].decode()
        assert old in text, f"{old!r} is not in {name}"
        self.files[name] = text.replace(old, new, 1).encode()

    def contents(self) -> dict[str, bytes]:
        """The files with a manifest that lists them, unless the tampering is about that."""
        return dict(bundles.seal(self.files, **self.about).files) if self.sealed else self.files

    def save(self, path: Path) -> Path:
        path.write_bytes(write_zip(self.contents()))
        return path

    def seal(self) -> None:
        """List the files as they are now; what is changed afterwards shows."""
        self.files, self.sealed = self.contents(), False
        assert MANIFEST in self.files
