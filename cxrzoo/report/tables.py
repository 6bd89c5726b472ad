"""Tables of records: rows are encoders, columns benchmarks by budget. Reads records only."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from cxrzoo.errors import UnknownNameError
from cxrzoo.evaluation.record import Record

FORMATS = {"github": "github", "latex": "latex_booktabs", "html": "html", "csv": "", "json": ""}
_ANCHORS = ("random-init", "supervised-imagenet")
SHORT_HASH = 8
_Key = tuple[str, str, str, int | str, str, str]
MARKS = {"clean": "", "exposed": " †", "unknown": " ?"}
"""How a score is marked by what the encoder's pretraining has seen of the benchmark."""


@dataclass(frozen=True)
class Entry:
    """One row and column of a table: the macro AUROC of each seed.

    ``test_set`` is ``test`` or an external set; ``exposure`` is clean, exposed or unknown;
    ``scores`` hold None where no label is defined.
    """

    encoder: str
    benchmark: str
    test_set: str
    budget: int | str
    protocol: str
    control: str
    exposure: str
    scores: dict[int, float | None]

    @property
    def defined(self) -> list[float]:
        """The scores that exist."""
        return [s for s in self.scores.values() if s is not None]

    @property
    def mean(self) -> float | None:
        """Mean over seeds."""
        return sum(self.defined) / len(self.defined) if self.defined else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        n = len(self.defined)
        if n < 2 or self.mean is None:
            return None
        return math.sqrt(sum((s - self.mean) ** 2 for s in self.defined) / (n - 1))


def table(
    records: Sequence[Record], format_name: str = "github", *, require_clean: bool = False
) -> str:
    """A comparison of encoders, with what a reader must know below it.

    Scores are macro AUROC, mean and standard deviation over seeds. Records that differ in what
    they measured (other images, labels, split or weights) never share a cell: their row or
    column carries the beginning of the hash that tells them apart.

    Args:
        records: of any benchmarks, budgets and encoders.
        format_name: ``github``, ``latex``, ``html``, ``csv`` or ``json``.
        require_clean: leave out what is exposed or of unknown exposure, and say how much.
    """
    if format_name not in FORMATS:
        raise UnknownNameError("table format", format_name, FORMATS)
    kept = [r for r in records if not require_clean or exposure_of(r) == "clean"]
    entries, notes = summarise(kept), footnotes(kept)
    if len(kept) < len(records):
        notes.append(f"{len(records) - len(kept)} records left out: exposed, or unknown")
    if format_name == "json":
        return json.dumps({"entries": [_flat(e) for e in entries], "notes": notes}, indent=1)
    if format_name == "csv":
        return _csv(entries)
    headers, rows = _grid(entries)
    grid = tabulate(
        rows, headers, tablefmt=FORMATS[format_name], disable_numparse=True, missingval="-"
    )
    if format_name == "html":
        return grid + "\n<ul>\n" + "\n".join(f"<li>{_escape(n)}</li>" for n in notes) + "\n</ul>"
    prefix = "% " if format_name == "latex" else "- "
    return grid + "\n\n" + "\n".join(prefix + note for note in notes)


def summarise(records: Iterable[Record]) -> list[Entry]:
    """Records grouped into table entries, rows and columns in order."""
    records = list(records)
    encoder = _labels(records, lambda r: (r.spec.encoder.name, r.spec.encoder.weights_sha256))
    data = _labels(records, lambda r: (r.spec.benchmark.name, r.spec.benchmark.manifest_sha256))
    grouped: dict[_Key, dict[int, float | None]] = defaultdict(dict)
    exposure: dict[_Key, str] = {}
    for r in records:
        for test_set, result in r.result["tests"].items():
            names = (encoder[r.run_key], data[r.run_key], test_set)
            key = (*names, r.spec.budget.size, protocol_of(r), r.spec.control)
            grouped[key][r.spec.seed] = result["macro"]["auroc"]
            exposure[key] = exposure_of(r)
    entries = [
        Entry(*key, exposure[key], dict(sorted(scores.items()))) for key, scores in grouped.items()
    ]
    return sorted(entries, key=lambda e: (_row_order(e.encoder), _column_order(e)))


def footnotes(records: Iterable[Record]) -> list[str]:
    """The caption: metric, protocol and seeds, and each benchmark's own warnings."""
    records = list(records)
    seeds = sorted({r.spec.seed for r in records})
    protocols = ", ".join(sorted({protocol_of(r) for r in records}))
    over = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    notes = [
        f"macro AUROC, {over}; {protocols}; a budget counts every label used, validation included"
    ]
    notes += _exposure_notes(records)
    for name in sorted({r.spec.benchmark.name for r in records}):
        of_benchmark = [r for r in records if r.spec.benchmark.name == name]
        said = dict.fromkeys(n for r in of_benchmark for n in r.declared["notes"])
        said |= dict.fromkeys(n for r in of_benchmark for n in _caveats(r))
        said |= dict.fromkeys(_control_notes(of_benchmark))
        if _pixel_versions(of_benchmark) > 1:
            said["records come from different image files: not comparable"] = None
        notes += [f"{name}: {text}" for text in said]
    return notes


def exposure_of(record: Record) -> str:
    state: str = record.declared["exposure"]["state"]
    return state


def _exposure_notes(records: list[Record]) -> list[str]:
    """What the marks mean, each reason once."""
    reasons: dict[tuple[str, str, str], None] = {}
    for r in records:
        exposure = r.declared["exposure"]
        if MARKS[exposure["state"]]:
            key = (exposure["state"], r.spec.encoder.name, exposure["reason"])
            reasons[key] = None
    return [
        f"{MARKS[state].strip()} {state}: {encoder}: {reason}" for state, encoder, reason in reasons
    ]


def _caveats(record: Record) -> list[str]:
    """What the numbers themselves make worth saying."""
    spec, caveats = record.spec.benchmark, []
    if spec.excluded:
        caveats.append(f"{spec.excluded.n:,} missing or unreadable images left out")
    if spec.limit is not None:
        caveats.append(f"limited to {spec.limit} images a split: a quick look, not a result")
    for name, result in record.result["tests"].items():
        undefined = [k for k, v in result["labels"].items() if v["status"] == "undefined"]
        if undefined:
            caveats.append(f"undefined in {name} (one class only): {', '.join(undefined)}")
    return caveats


def _control_notes(records: list[Record]) -> list[str]:
    """What the controls say about one benchmark."""
    notes = []
    groups: dict[tuple[str, int | str], list[Record]] = defaultdict(list)
    for r in records:
        groups[r.spec.control, r.spec.budget.size].append(r)
    for (control, size), group in groups.items():
        if control == "shuffled-labels":
            notes.append("control shuffled-labels: trained on permuted labels, must end near 0.5")
        elif control != "none":
            notes.append(_shortcut_note(control, size, group))
    return list(dict.fromkeys(notes))


def _shortcut_note(control: str, size: int | str, records: list[Record]) -> str:
    """What a covariate tells of the labels without an image, over the draws of a budget."""
    alone = [r.result["shortcut"]["test"] for r in {r.spec.seed: r for r in records}.values()]
    names = [
        k for k, v in alone[0]["labels"].items() if all("auroc" in a["labels"][k] for a in alone)
    ]
    if not names:
        return f"control {control} @{size}: no label is defined in the test set"
    scores = {k: _mean([a["labels"][k]["auroc"] for a in alone]) for k in names}
    macro, top = _mean([a["macro"]["auroc"] for a in alone]), max(names, key=lambda k: scores[k])
    most = f" ({top} with {scores[top]:.3f})" if len(names) > 1 else ""
    return (
        f"control {control} @{size}: the score is how well features tell the {control}; the "
        f"{control} alone, without an image, predicts the labels with AUROC {macro:.3f}{most}"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _grid(entries: list[Entry]) -> tuple[list[str], list[list[str | None]]]:
    columns = {_column_name(e, entries): None for e in sorted(entries, key=_column_order)}
    most_seeds = max((len(e.scores) for e in entries), default=0)
    cells = {(e.encoder, _column_name(e, entries)): _cell(e, most_seeds) for e in entries}
    encoders = dict.fromkeys(e.encoder for e in entries)
    rows = [[name, *(cells.get((name, c)) for c in columns)] for name in encoders]
    return ["encoder", *columns], rows


def _cell(entry: Entry, most_seeds: int) -> str:
    if entry.mean is None:
        return "undefined"
    text = f"{entry.mean:.3f}"
    if entry.deviation is not None:
        text += f" ± {entry.deviation:.3f}"
    text += MARKS[entry.exposure]
    missing = len(entry.scores) < most_seeds
    return text + (f" ({len(entry.scores)} of {most_seeds} seeds)" if missing else "")


def _column_name(entry: Entry, entries: list[Entry]) -> str:
    name = f"{entry.benchmark} @{entry.budget}"
    if entry.test_set != "test":
        name = f"{entry.benchmark} → {entry.test_set} @{entry.budget}"
    if entry.control != "none":
        name += f" [control {entry.control}]"
    several = len({e.protocol for e in entries}) > 1
    return f"{name} {entry.protocol}" if several else name


def _column_order(entry: Entry) -> tuple[Any, ...]:
    size = math.inf if entry.budget == "full" else int(entry.budget)
    external = "" if entry.test_set == "test" else entry.test_set
    return (entry.protocol, entry.benchmark, entry.control != "none", entry.control, external, size)


def _row_order(encoder: str) -> tuple[int, str]:
    name = encoder.split(" #")[0]
    return (_ANCHORS.index(name) if name in _ANCHORS else len(_ANCHORS), encoder)


def _labels(records: list[Record], parts: Any) -> dict[str, str]:
    """A display name by run key: plain, or with a hash where one name stands for several."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for record in records:
        name, digest = parts(record)
        hashes[name].add(digest)
    labels = {}
    for record in records:
        name, digest = parts(record)
        labels[record.run_key] = f"{name} #{digest[:SHORT_HASH]}" if len(hashes[name]) > 1 else name
    return labels


def _pixel_versions(records: list[Record]) -> int:
    """How many versions of the images one input size was measured on; 1 when all is well."""
    versions: dict[tuple[int, str], set[str]] = defaultdict(set)
    for r in records:
        contract = r.spec.encoder.input
        versions[contract.size_px, contract.interpolation].add(r.spec.benchmark.pixels_sha256)
    return max(map(len, versions.values()))


def protocol_of(record: Record) -> str:
    name, precision = record.spec.protocol["name"], record.spec.precision
    return f"{name}" if precision == "float32" else f"{name} ({precision})"


def _flat(entry: Entry) -> dict[str, Any]:
    return {
        "encoder": entry.encoder,
        "benchmark": entry.benchmark,
        "test_set": entry.test_set,
        "budget": entry.budget,
        "protocol": entry.protocol,
        "control": entry.control,
        "exposure": entry.exposure,
        "macro_auroc": entry.mean,
        "standard_deviation": entry.deviation,
        "seeds": len(entry.scores),
        "scores": entry.scores,
    }


def _csv(entries: list[Entry]) -> str:
    out = io.StringIO()
    columns = [k for k in _flat(entries[0]) if k != "scores"] if entries else []
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(e) for e in entries)
    return out.getvalue().rstrip("\n")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
