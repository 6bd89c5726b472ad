"""Two encoders side by side: paired differences on shared seeds and test patients, with Holm."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cxrzoo.errors import RecordError, UnknownNameError
from cxrzoo.evaluation.record import Record, read_records
from cxrzoo.report import statistics
from cxrzoo.report.cells import Evidence, score, stated_auroc
from cxrzoo.report.comparison import PARTLY_OVER, Result, Row
from cxrzoo.report.naming import encoder_names, exposure_of, protocol_of
from cxrzoo.report.notes import footnotes
from cxrzoo.report.pairing import measured, mismatch
from cxrzoo.report.statistics import LEVEL, RESAMPLES, Scores

_ALPHA = 1 - LEVEL


class Place(NamedTuple):
    """Where encoders can meet: what is named alike, before it is known to be alike."""

    benchmark: str
    protocol: str
    budget: int | str

    def __str__(self) -> str:
        return f"{self.benchmark} @{self.budget} {self.protocol}"


def compare_encoders(
    a: str,
    b: str,
    directories: Sequence[Path | str],
    data_root: Path | str | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Result:
    """Compare two encoders wherever both have records that measured the same thing.

    Args:
        a, b: names of encoders in the records; ``name #hash`` where one name stands for several
            weights, as in tables.
        directories: folders of records. Controls are left out.
        data_root: where labels and patients of the test images are; defaults to ``CXRZOO_DATA``.
        resamples: draws of the test patients.
        seed: of the draws.

    Raises:
        UnknownNameError: no record is of that encoder.
        RecordError: the two meet nowhere, or records are broken or altered.
    """
    if a == b:
        raise RecordError(f"'{a}' is compared with itself: name two encoders")
    by_name = _by_encoder(r for r in read_records(directories) if r.spec.control == "none")
    pair = [_cells(_find(name, by_name)) for name in (a, b)]
    evidence = Evidence(directories, data_root)
    rows: list[Row] = []
    notes: list[str] = []
    used: list[Record] = []
    for place in sorted(set(pair[0]) & set(pair[1]), key=_order):
        meeting, reasons = _meet(pair[0][place], pair[1][place])
        notes += [f"{place}: not compared: {reason}" for reason in reasons]
        for cells in meeting:
            used += [*cells[0], *cells[1]]
            made, said = _rows(place, (a, b), cells, evidence, resamples, seed)
            rows += made
            notes += said
    notes += _alone((a, b), pair)
    if not rows:
        found = _has((a, b), pair, notes)
        raise RecordError("\n".join([f"nothing to compare {a} and {b} on:", *found]))
    return Result(_adjusted(rows), tuple(_all_notes(rows, used, notes, resamples)))


# Which records meet.


def _by_encoder(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the encoder's display name."""
    records = list(records)
    names = encoder_names(records)
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[names[record.run_key]].append(record)
    return found


def _find(name: str, by_name: dict[str, list[Record]]) -> list[Record]:
    if name in by_name:
        return by_name[name]
    versions = [known for known in by_name if known.startswith(f"{name} #")]
    if versions:
        raise RecordError(
            f"'{name}' stands for {len(versions)} different weights in these records: say which, "
            + " or ".join(f"'{version}'" for version in sorted(versions))
        )
    raise UnknownNameError("encoder", name, by_name)


_Versions = dict[str, dict[int, Record]]


def _cells(records: list[Record]) -> dict[Place, _Versions]:
    """By place, then by what was measured exactly, then by seed."""
    cells: dict[Place, _Versions] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        spec = record.spec
        place = Place(spec.benchmark.name, protocol_of(record), spec.budget.size)
        other = cells[place][repr(measured(record))].setdefault(spec.seed, record)
        if other is not record:
            raise RecordError(
                f"{record.file_name} and {other.file_name} are of the same cell, with different "
                "input or images: keep one of them apart"
            )
    return cells


def _meet(a: _Versions, b: _Versions) -> tuple[list[tuple[list[Record], list[Record]]], list[str]]:
    """Records of both in order of their shared seeds, and why others do not meet."""
    shared = [version for version in a if version in b]
    if not shared:
        one, two = (measured(next(iter(next(iter(v.values())).values()))) for v in (a, b))
        return [], [f"different {', '.join(k for k in one if one[k] != two[k])}"]
    meeting, reasons = [], []
    for version in shared:
        seeds = sorted(set(a[version]) & set(b[version]))
        pair = [a[version][s] for s in seeds], [b[version][s] for s in seeds]
        reason = mismatch([*pair[0], *pair[1]]) if seeds else "no seed in common"
        if reason:
            reasons.append(reason)
        else:
            meeting.append(pair)
    return meeting, reasons


def _order(place: Place) -> tuple[Any, ...]:
    size = math.inf if place.budget == "full" else int(place.budget)
    return place.protocol, place.benchmark, size


# Rows.


def _rows(
    place: Place,
    names: tuple[str, str],
    cells: tuple[list[Record], list[Record]],
    evidence: Evidence,
    resamples: int,
    seed: int,
) -> tuple[list[Row], list[str]]:
    """A row for each test set of both, and notes on those that cannot be compared."""
    rows, notes = [], []
    for test_set in _test_sets(cells):
        if any(stated_auroc(record, test_set) is None for cell in cells for record in cell):
            notes.append(f"{place}: not compared: no label has both classes in {test_set}")
            continue
        scores, reason = score(cells, test_set, evidence, resamples=resamples, seed=seed)
        rows.append(_row(place, test_set, names, cells, scores, reason))
    return rows, notes


def _test_sets(cells: tuple[list[Record], list[Record]]) -> list[str]:
    """Those of every record, in the order of the first."""
    records = [*cells[0], *cells[1]]
    return [t for t in cells[0][0].result["tests"] if all(t in r.result["tests"] for r in records)]


def _row(
    place: Place,
    test_set: str,
    names: tuple[str, str],
    cells: tuple[list[Record], list[Record]],
    scores: list[Scores],
    note: str,
) -> Row:
    a, b = scores
    found = statistics.compare(a, b)
    labels = cells[0][0].spec.benchmark.labels
    return Row(
        benchmark=place.benchmark,
        test_set=test_set,
        budget=place.budget,
        protocol=place.protocol,
        a=names[0],
        b=names[1],
        n_seeds=found.n_seeds,
        a_mean=float(a.observed.mean()),
        b_mean=float(b.observed.mean()),
        difference=found.difference,
        p=found.p,
        p_adjusted=None,
        n_patients=found.n_patients or None,
        a_exposure=exposure_of(*cells[0]),
        b_exposure=exposure_of(*cells[1]),
        undefined={k: int(n) for k, n in zip(labels, a.undefined, strict=False) if n},
        note=note,
    )


def _adjusted(rows: list[Row]) -> tuple[Row, ...]:
    adjusted = statistics.holm([row.p for row in rows])
    return tuple(replace(row, p_adjusted=p) for row, p in zip(rows, adjusted, strict=True))


def _all_notes(rows: list[Row], used: list[Record], notes: list[str], resamples: int) -> list[str]:
    """The caption first, then what concerns single rows, then the benchmarks' own warnings."""
    first = rows[0]
    protocols = ", ".join(dict.fromkeys(row.protocol for row in rows))
    caption = (
        f"macro AUROC, mean over the seeds of both; difference: {first.a} - {first.b}, paired by "
        f"seed and test patient; {protocols}; Holm p: adjusted for {len(rows)} rows"
    )
    said = dict.fromkeys([caption])
    for row in rows:
        if row.difference.over in PARTLY_OVER:
            said[f"{row.where}: interval {PARTLY_OVER[row.difference.over]}"] = None
        if row.note:
            said[f"{row.where}: patients not resampled: {row.note}"] = None
        said |= dict.fromkeys(_undefined_notes(row, resamples))
    least = 2 * len(rows) / (resamples + 1)
    if least > _ALPHA and any(row.n_patients for row in rows):
        text = f"with {len(rows)} rows and {resamples} resamples the least Holm p is {least:.3f}"
        said[f"{text}: take more with --resamples"] = None
    return [*said, *notes, *footnotes(used)]


def _undefined_notes(row: Row, resamples: int) -> list[str]:
    """Labels left out of some resamples; those never defined stand in the footnotes."""
    return [
        f"{row.where}: {label} had one class only in {n} of {resamples} resamples, left out there"
        for label, n in row.undefined.items()
        if n < resamples
    ]


def _alone(names: tuple[str, str], pair: list[dict[Place, _Versions]]) -> list[str]:
    """What only one of the two has."""
    notes = []
    for name, own, other in zip(names, pair, pair[::-1], strict=True):
        places = sorted(set(own) - set(other), key=_order)
        if places:
            notes.append(f"only {name} has: {', '.join(map(str, places))}")
    return notes


def _has(names: tuple[str, str], pair: list[dict[Place, _Versions]], notes: list[str]) -> list[str]:
    """What each has, and why what is named alike is not compared."""
    lines = [
        f"{name} has {', '.join(map(str, sorted(cells, key=_order)))}"
        for name, cells in zip(names, pair, strict=True)
    ]
    return lines + [note for note in notes if "not compared" in note]
