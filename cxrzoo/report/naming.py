"""How records, their encoders and their scores are called and marked. Reads records only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from pydantic import TypeAdapter, ValidationError

from cxrzoo.evaluation.record import Record
from cxrzoo.files import sha256_of_json
from cxrzoo.zoo.card import Stage

ANCHORS = ("random-init", "supervised-imagenet")
"""Floor and reference: first in every table."""
PHANTOM = "phantom"
"""The benchmark that is no evidence, since nobody's radiographs are in it."""
SHORT_HASH = 8
MARKS = {"clean": "", "exposed": " †", "unknown": " ?"}
"""How a score is marked by what the encoder's pretraining has seen of the benchmark."""


def encoder_names(records: Iterable[Record]) -> dict[str, str]:
    """A display name for each run key; with a hash where one name stands for several weights."""
    return _names(records, lambda r: (r.spec.encoder.name, r.spec.encoder.weights_sha256))


def benchmark_names(records: Iterable[Record]) -> dict[str, str]:
    """A display name for each run key; with a hash where one name stands for several rows."""
    return _names(records, lambda r: (r.spec.benchmark.name, r.spec.benchmark.manifest_sha256))


def protocol_names(records: Iterable[Record]) -> dict[str, str]:
    """A display name for each run key; with a hash where one name stands for several settings."""
    return _names(records, lambda r: (protocol_of(r), sha256_of_json(r.spec.protocol)))


def exposure_of(*records: Record) -> str:
    """``clean``, ``exposed`` or ``unknown``, as the records declare it; the worst of several.

    Those of one cell differ where more was known when the later ones were made.
    """
    states: set[str] = {r.declared["exposure"]["state"] for r in records}
    return max(states, key=_BY_CAUTION.index)


def protocol_of(record: Record) -> str:
    """The protocol, with the precision where it is not float32."""
    name, precision = record.spec.protocol["name"], record.spec.precision
    return f"{name}" if precision == "float32" else f"{name} ({precision})"


def stages_of(record: Record) -> tuple[Stage, ...]:
    """The stages of training that a record declares; () where it tells none that are known here:
    an older record, or one of a later version's stages."""
    try:
        return _STAGES.validate_python(record.declared["stages"])
    except (KeyError, ValidationError):
        return ()


_STAGES = TypeAdapter(tuple[Stage, ...])
_BY_CAUTION = ("clean", "unknown", "exposed")


def _names(records: Iterable[Record], parts: Callable[[Record], tuple[str, str]]) -> dict[str, str]:
    found = {record.run_key: parts(record) for record in records}
    hashes: dict[str, set[str]] = defaultdict(set)
    for name, digest in found.values():
        hashes[name].add(digest)
    return {
        key: f"{name} #{digest[:SHORT_HASH]}" if len(hashes[name]) > 1 else name
        for key, (name, digest) in found.items()
    }
