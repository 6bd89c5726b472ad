"""Required grids: the cells a submission must fill, with the rows and draws they must use.

A grid is a file in ``benchmarks/grids/``, written by ``benchmarks/pin_grid.py`` from the data. It
pins rows by their manifest hash, which covers every id, patient, split and label, and draws by
their subset hash. Partial copies of a dataset are versions of its rows of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from cxrzoo import resources
from cxrzoo.data.budget import Ranking
from cxrzoo.data.table import Table
from cxrzoo.errors import CxrzooError, UnknownNameError
from cxrzoo.evaluation import protocol as protocols
from cxrzoo.evaluation.protocol import Protocol
from cxrzoo.evaluation.record import ExcludedSpec, Record
from cxrzoo.files import sha256_of_json
from cxrzoo.schema import Strict, parse_yaml, plain_lines
from cxrzoo.zoo.card import Sha256

FOLDER = resources.BENCHMARKS / "grids"
Size = int | Literal["full"]
Cell = tuple[str, Size, int]
"""Benchmark, budget and seed."""


class Draw(Strict):
    """A budget's images for one seed: how many, and the hash of their ids and folds."""

    seed: int
    n: int
    sha256: Sha256


class Rows(Strict):
    """One version of a benchmark's rows.

    ``tests`` are, by test set and label, the numbers of positives and negatives; ``images`` those
    of each test set. ``draws`` are by budget, one for each seed. ``excluded_sha256`` is the hash of
    the ids left out, where some were. ``notes`` are what every table with these rows says.
    """

    description: str
    manifest_sha256: Sha256
    version: int
    labels: tuple[str, ...]
    label_policy: str
    split: str
    split_id: str
    notes: tuple[str, ...]
    limit: int | None = None
    excluded_sha256: Sha256 | None = None
    images: dict[str, int]
    tests: dict[str, dict[str, tuple[int, int]]]
    draws: dict[Size, tuple[Draw, ...]]

    def draw(self, size: Size, seed: int) -> Draw | None:
        """The draw of a budget and seed; None where this version has none."""
        return next((d for d in self.draws.get(size, ()) if d.seed == seed), None)


class Entry(Strict):
    """A benchmark of a grid: its budgets, and the versions of its rows that are known."""

    budgets: tuple[Size, ...]
    rows: tuple[Rows, ...]


class Grid(Strict):
    """The cells that a submission must fill.

    ``trial``: for trying the machinery; its bundles are no results. ``protocol_sha256`` is that
    of all settings of the protocol.
    """

    schema_: Literal["cxrzoo.grid/1"] = Field("cxrzoo.grid/1", alias="schema")
    name: str
    description: str
    trial: bool = False
    protocol: str
    protocol_sha256: Sha256
    precision: str = "float32"
    seeds: int = Field(ge=1, description="seeds 0 to seeds - 1")
    limit: int | None = Field(None, description="images of each split, for grids of tests")
    benchmarks: dict[str, Entry]

    @model_validator(mode="after")
    def _packaged_protocol(self) -> Grid:
        if self.protocol not in protocols.PROTOCOLS:
            raise ValueError(
                f"protocol {self.protocol} is none of {', '.join(protocols.PROTOCOLS)}"
            )
        return self

    @property
    def settings(self) -> Protocol:
        """The protocol's settings."""
        return protocols.find(self.protocol)

    def limited(self, table: Table) -> Table:
        """A benchmark's table with as many images as the grid takes."""
        return table if self.limit is None else table.limited(self.limit)

    def cells(self) -> Iterator[Cell]:
        """Every cell, in order."""
        for name, entry in self.benchmarks.items():
            for size in entry.budgets:
                for seed in range(self.seeds):
                    yield name, size, seed

    def rows(self, benchmark: str, manifest_sha256: str) -> Rows | None:
        """The version of a benchmark's rows with this manifest; None where it is not pinned."""
        entry = self.benchmarks.get(benchmark)
        versions = entry.rows if entry else ()
        return next((r for r in versions if r.manifest_sha256 == manifest_sha256), None)


def list_grids() -> list[str]:
    """Names of the packaged grids, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Grid:
    """The packaged grid called ``name``."""
    if name not in list_grids():
        raise UnknownNameError("grid", name, list_grids())
    return read(FOLDER / f"{name}.yaml")


def read(path: Path) -> Grid:
    """Read and check a grid's file; raises CxrzooError naming the file and the field."""
    try:
        return Grid.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise CxrzooError(plain_lines(error, str(path))) from None
    except (OSError, ValueError) as error:
        raise CxrzooError(f"{path}: not a grid ({error})") from None


def protocol_sha256(protocol: Protocol) -> str:
    """Hash of all of a protocol's settings, as records carry them."""
    return sha256_of_json(protocols.spec(protocol))


def pin(table: Table, budgets: Iterable[Size], seeds: int, description: str) -> Rows:
    """The rows of a table as a grid pins them."""
    rankings = [Ranking(table, seed) for seed in range(seeds)]
    draws: dict[Size, tuple[Draw, ...]] = {}
    for size in budgets:
        drawn = [ranking.budget(size) for ranking in rankings]
        draws[size] = tuple(Draw(seed=b.seed, n=len(b), sha256=b.sha256) for b in drawn)
    excluded = ExcludedSpec.of(table.excluded)
    return Rows(
        description=description,
        manifest_sha256=table.manifest_sha256,
        version=table.benchmark.version,
        labels=table.benchmark.labels,
        label_policy=table.benchmark.label_policy.name,
        split=table.split_name,
        split_id=table.split_id,
        notes=table.notes,
        limit=table.limit,
        excluded_sha256=excluded.sha256 if excluded else None,
        images={name: len(table.rows(name)) for name in table.test_sets},
        tests={name: _counts(table, name) for name in table.test_sets},
        draws=draws,
    )


def _counts(table: Table, test_set: str) -> dict[str, tuple[int, int]]:
    labels = table.labels[table.rows(test_set)]
    return {
        name: (int(np.sum(column == 1)), int(np.sum(column == 0)))
        for name, column in zip(table.benchmark.labels, labels.T, strict=True)
    }


def rows_of_records(records: Iterable[Record]) -> Rows | None:
    """A version of rows as accepted records of it have it, of one benchmark and manifest.

    What no file pins is known from those who were there first. None without records.
    """
    records = list(records)
    if not records:
        return None
    spec, declared = records[0].spec.benchmark, records[0].declared
    draws: dict[Size, dict[int, Draw]] = {}
    for record in records:
        budget = record.spec.budget
        draw = Draw(seed=record.spec.seed, n=budget.n, sha256=budget.subset_sha256)
        draws.setdefault(budget.size, {})[draw.seed] = draw
    tests = records[0].result["tests"]
    return Rows(
        description=f"as in the records of {records[0].spec.encoder.name}",
        manifest_sha256=spec.manifest_sha256,
        version=spec.version,
        labels=spec.labels,
        label_policy=spec.label_policy,
        split=declared["split"],
        # records say in words which split they used, and only these are our own
        split_id=f"cxrzoo-v{spec.version}" if "hashed" in declared["split"] else "official",
        notes=declared["notes"],
        limit=spec.limit,
        excluded_sha256=spec.excluded.sha256 if spec.excluded else None,
        images={name: test["n_images"] for name, test in tests.items()},
        tests={
            name: {k: (v["n_pos"], v["n_neg"]) for k, v in test["labels"].items()}
            for name, test in tests.items()
        },
        draws={size: tuple(by_seed.values()) for size, by_seed in draws.items()},
    )
