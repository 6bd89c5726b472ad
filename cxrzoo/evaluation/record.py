"""Records: the sealed result of one cell, one JSON file, with its predictions beside it.

``run_key`` names what was computed: two records with one key are the same experiment.
``digest`` seals what must come out the same on every run (spec, declarations, result);
``seal`` covers the rest too (cost and environment, which differ between runs).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from cxrzoo.errors import RecordError, UnknownNameError
from cxrzoo.files import safe_name, sha256_of_json, write_atomically
from cxrzoo.schema import Strict, plain_lines
from cxrzoo.zoo.card import CONFIG_FILE, InputContract

SCHEMA = "cxrzoo.run/1"
_NO_RECORDS = ("bundle.json", CONFIG_FILE)
"""Beside the records of a results folder: a submission's manifest, and part of its card. What is
hidden there is the Hub client's, or git's."""


class EncoderSpec(Strict):
    name: str
    arch: str
    weights_sha256: str
    input: InputContract


class ExcludedSpec(Strict):
    """Images left out: how many, the hash of all their ids, and the first of them.

    A partial copy leaves out a hundred thousand, too many to be named in every record.
    """

    n: int
    sha256: str
    first: tuple[str, ...]

    @classmethod
    def of(cls, ids: tuple[str, ...]) -> ExcludedSpec | None:
        """None where nothing is left out."""
        return cls(n=len(ids), sha256=sha256_of_json(ids), first=ids[:10]) if ids else None


class BenchmarkSpec(Strict):
    name: str
    version: int
    labels: tuple[str, ...]
    label_policy: str
    manifest_sha256: str
    pixels_sha256: str
    excluded: ExcludedSpec | None = None
    limit: int | None = None


class BudgetSpec(Strict):
    size: int | Literal["full"]
    n: int
    subset_sha256: str


class Spec(Strict):
    """Everything that can change the number."""

    encoder: EncoderSpec
    benchmark: BenchmarkSpec
    budget: BudgetSpec
    protocol: dict[str, Any]
    seed: int
    precision: str
    control: str = "none"

    @property
    def run_key(self) -> str:
        """sha256 of the canonical JSON of the spec."""
        return sha256_of_json(self.model_dump(mode="json"))


class Record(Strict):
    """One cell's spec, declarations, result, cost and environment."""

    schema_: Literal["cxrzoo.run/1"] = Field(alias="schema")
    run_key: str
    spec: Spec
    declared: dict[str, Any]
    result: dict[str, Any]
    cost: dict[str, Any]
    env: dict[str, Any]
    digest: str
    seal: str

    @property
    def macro_auroc(self) -> float | None:
        """Macro AUROC on the benchmark's own test set; None when no label is defined."""
        value: float | None = self.result["tests"]["test"]["macro"]["auroc"]
        return value

    @property
    def file_name(self) -> str:
        """Path of the record below its folder, from its spec alone."""
        return file_name(self.spec)


def seal(
    spec: Spec,
    declared: dict[str, Any],
    result: dict[str, Any],
    cost: dict[str, Any],
    env: dict[str, Any],
) -> Record:
    """A record with its key, digest and seal."""
    content = {
        "schema": SCHEMA,
        "run_key": spec.run_key,
        "spec": spec.model_dump(mode="json"),
        "declared": declared,
        "result": result,
        "cost": cost,
        "env": env,
    }
    content["digest"] = _digest(content)
    content["seal"] = _seal(content)
    return Record.model_validate(content)


def file_name(spec: Spec) -> str:
    """``encoder/benchmark/protocol[-control]-bBUDGET-sSEED-KEY.json``."""
    folder = f"{safe_name(spec.encoder.name)}/{safe_name(spec.benchmark.name)}"
    control = "" if spec.control == "none" else f"-{safe_name(spec.control)}"
    stem = f"{spec.protocol['name']}{control}-b{spec.budget.size}-s{spec.seed}-{spec.run_key[:8]}"
    return f"{folder}/{stem}.json"


def write(record: Record, predictions: dict[str, np.ndarray], directory: Path) -> Path:
    """Write predictions, then the record: a record that exists has its predictions."""
    path = directory / record.file_name
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **predictions)  # type: ignore[arg-type]
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    text = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())
    return path


def predictions_sha256(predictions: dict[str, np.ndarray]) -> str:
    """Hash of the predictions' values, independent of how they are stored."""
    sha = hashlib.sha256()
    for name in sorted(predictions):
        sha.update(f"{name}{predictions[name].shape}".encode())
        sha.update(np.ascontiguousarray(predictions[name], dtype="<f2").tobytes())
    return sha.hexdigest()


def read_record(path: Path) -> Record:
    """Read one record; raises RecordError when it is broken or was altered."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a record ({error})") from None
    return parse_record(content, str(path))


def parse_record(content: Any, where: str) -> Record:
    """A record from its JSON value, checked; ``where`` is how errors call its place."""
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        raise RecordError(plain_lines(error, where)) from None
    except ValueError as error:
        raise RecordError(f"{where}: not a record ({error})") from None
    if content["run_key"] != record.spec.run_key:
        raise RecordError(f"{where}: run_key does not match the spec; the record was altered")
    if content["digest"] != _digest(content) or content["seal"] != _seal(content):
        raise RecordError(f"{where}: digest or seal does not hold; the record was altered")
    return record


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """The logits beside a record, by test set; raises RecordError when they cannot be read."""
    try:
        # from memory: numpy forgets to close the file when it is not a whole archive
        content = io.BytesIO(path.with_suffix(".npz").read_bytes())
        with np.load(content, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path.with_suffix('.npz')}: not readable ({error})") from None


def read_if_valid(directory: Path, spec: Spec) -> Record | None:
    """The finished record of ``spec`` below ``directory``, or None when it must be computed."""
    path = directory / file_name(spec)
    if not path.exists():
        return None
    try:
        record, predictions = read_record(path), read_predictions(path)
    except RecordError:
        return None
    intact = record.result["predictions_sha256"] == predictions_sha256(predictions)
    return record if intact and record.run_key == spec.run_key else None


def select(
    records: Sequence[Record],
    *,
    benchmarks: Collection[str] = (),
    budgets: Collection[int | str] = (),
    protocols: Collection[str] = (),
) -> list[Record]:
    """Records of these benchmarks, budgets and protocols; of every one where none is named.

    Raises:
        UnknownNameError: one that no record is of.
        RecordError: no record is of all of them.
    """
    wanted: dict[str, tuple[Collection[int | str], Callable[[Record], int | str]]] = {
        "benchmark": (benchmarks, lambda r: r.spec.benchmark.name),
        "budget": (budgets, lambda r: r.spec.budget.size),
        "protocol": (protocols, lambda r: str(r.spec.protocol["name"])),
    }
    asked = {kind: one for kind, one in wanted.items() if one[0]}
    kept = list(records)
    for kind, (names, of) in asked.items():
        present = {of(r) for r in records}
        for name in names:
            if name not in present:
                raise UnknownNameError(f"{kind} of these records", str(name), map(str, present))
        kept = [r for r in kept if of(r) in names]
    if asked and not kept:
        said = "; ".join(f"{kind} {', '.join(map(str, one[0]))}" for kind, one in asked.items())
        raise RecordError(f"no record is of all of these: {said}")
    return kept


def read_records(directories: Iterable[Path | str] | Path | str) -> list[Record]:
    """All records below one or more folders, each once, in the order of their paths.

    Raises:
        RecordError: there is none, one is broken, or two with one key say different things.
    """
    if isinstance(directories, str | Path):
        directories = [directories]
    found: dict[str, Record] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise RecordError(f"{directory} does not exist or is not a directory")
        for path in sorted(directory.rglob("*.json")):
            hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
            if hidden or path.name in _NO_RECORDS:
                continue
            record = read_record(path)
            other = found.setdefault(record.run_key, record)
            if other.digest != record.digest:
                raise RecordError(
                    f"{path}: another record of the same run has another result; "
                    "keep one of them apart"
                )
    if not found:
        raise RecordError(f"no records in {', '.join(map(str, directories))}")
    return list(found.values())


def _digest(content: dict[str, Any]) -> str:
    return sha256_of_json(
        {k: content[k] for k in ("schema", "run_key", "spec", "declared", "result")}
    )


def _seal(content: dict[str, Any]) -> str:
    return sha256_of_json({k: v for k, v in content.items() if k != "seal"})
