"""What a reader must know below a table of records: exposure, controls, warnings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from cxrzoo.evaluation.record import Record
from cxrzoo.report.naming import MARKS, stages_of
from cxrzoo.report.pairing import pixel_versions


def footnotes(records: Sequence[Record]) -> list[str]:
    """Why scores are marked, then each benchmark's own warnings; each once."""
    notes = [*_exposure_notes(records), *cautions(records)]
    by_benchmark: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_benchmark[record.spec.benchmark.name].append(record)
    for name, of_benchmark in sorted(by_benchmark.items()):
        said = dict.fromkeys(n for r in of_benchmark for n in r.declared["notes"])
        said |= dict.fromkeys(n for r in of_benchmark for n in _caveats(r))
        said |= dict.fromkeys(_control_notes(of_benchmark))
        if pixel_versions(of_benchmark) > 1:
            said["records come from different image files: not comparable"] = None
        notes += [f"{name}: {text}" for text in said]
    return notes


def _exposure_notes(records: Sequence[Record]) -> list[str]:
    """What the marks mean: each reason once, with the encoders that it is true of."""
    encoders: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for r in records:
        exposure = r.declared["exposure"]
        if MARKS[exposure["state"]]:
            encoders[exposure["state"], exposure["reason"]][r.spec.encoder.name] = None
    return [
        f"{MARKS[state].strip()} {state}: {', '.join(names)}: {reason}"
        for (state, reason), names in encoders.items()
    ]


def cautions(records: Sequence[Record]) -> list[str]:
    """What the cards say that a reader must know of the training data, once for all encoders."""
    encoders: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        for stage in stages_of(record):
            if stage.caution:
                encoders[stage.caution][record.spec.encoder.name] = None
    return [f"{', '.join(names)}: {caution}" for caution, names in encoders.items()]


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
