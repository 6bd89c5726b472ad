"""What findings say: plain text for people, objects for programs."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any

from cxrzoo.report.findings.claims import Claims, Study, load_claims
from cxrzoo.report.findings.effects import Effect, OnBenchmark
from cxrzoo.report.findings.model import Finding, Part, Report
from cxrzoo.report.findings.roles import Participant, about
from cxrzoo.report.findings.verdicts import EQUIVALENCE_LEVEL, Pooled

_WIDTH = 96
_EVIDENCE = {
    "recomputed": "recomputed from released files",
    "table": "from a table",
    "plot": "read off a plot, about .003",
    "abstract": "from the abstract",
}
_BEARING = {
    "for": "Speaks for the claim",
    "against": "Speaks against the claim",
    "mixed": "Speaks for and against",
}


def as_text(report: Report, claims: Claims | None = None, *, brief: bool = False) -> str:
    """One tier's findings; ``brief`` has each claim's effects over benchmarks and verdict."""
    claims = claims or load_claims()
    findings = [_finding(f, claims, brief=brief) for f in report.findings]
    if brief:
        return "\n\n".join([_title(report, claims), *findings])
    return "\n\n".join([_head(report, claims), *findings, _foot(report, claims)])


def as_objects(reports: list[Report], claims: Claims | None = None) -> list[dict[str, Any]]:
    """One JSON object for each tier, numbers unrounded."""
    claims = claims or load_claims()
    return [_object(report, claims) for report in reports]


def verdict_line(finding: Finding) -> str:
    """The verdict with what it lacks: ``undecided (needs ...)``."""
    if finding.verdict != "undecided":
        return finding.verdict
    several = len(finding.parts) > 1
    lacks = [
        (f"for ({part.key}) " if several else "") + part.needs.words
        for part in finding.parts
        if part.needs
    ]
    return f"undecided (needs {'; '.join(lacks)})" if lacks else "undecided"


# Text.


def _title(report: Report, claims: Claims) -> str:
    title = f"The claims of {claims.paper} at tier {report.tier}, protocol {report.protocol}"
    return f"{title}\n{'=' * len(title)}"


def _head(report: Report, claims: Claims) -> str:
    lines = [_title(report, claims)]
    if report.participants:
        lines.append("Encoders, and the data they were trained on as their cards call them:")
        lines += [_wrapped(_participant(p), "  ") for p in report.participants]
    if report.tested:
        lines.append("Benchmarks, real radiographs:")
        lines += [_wrapped(line, "  ") for line in _tested(report)]
    else:
        lines.append("No records of real radiographs: no claim can be decided.")
    lines.append(
        _wrapped(
            f"Differences of macro AUROC; less than {claims.margin:g} counts as none. "
            f"{claims.margin_reason}"
        )
    )
    return "\n".join(lines)


def _participant(played: Participant) -> str:
    seen = f", {about(played.images_seen)} seen in training" if played.images_seen else ""
    images = f"; {played.images:,} images{seen}" if played.images else ""
    return f"{played.label}: {played.chain}{images}"


def _tested(report: Report) -> list[str]:
    lines = []
    for one in report.tested:
        same = "" if one.family == one.name else f"; counts as one with {one.family}"
        lines.append(f"{one.name}: {one.n_test_images:,} test images; {one.split}{same}")
    return lines


def _finding(finding: Finding, claims: Claims, *, brief: bool) -> str:
    number = [c.id for c in claims.claims].index(finding.claim.id) + 1
    lines = [_wrapped(f"Claim {number}. {finding.claim.sentence}")]
    if not brief:
        lines.append(_field("Test", finding.claim.rule))
    for part in finding.parts:
        lines += _part(part, several=len(finding.parts) > 1, brief=brief)
    lines.append(_field("Verdict", verdict_line(finding)))
    if finding.remark:
        lines.append(_field("Because", finding.remark))
    if finding.unknown:
        places = [f"{label} on {', '.join(names)}" for label, names in finding.unknown.items()]
        text = f"rests on cells (?) where test patients may have been seen: {'; '.join(places)}"
        lines.append(_field("Caution", text))
    if brief:
        return "\n".join(lines)
    lines.append("  Other studies")
    lines += [_study(study) for study in finding.claim.studies]
    if finding.claim.studies_note:
        lines.append(_wrapped(finding.claim.studies_note, "    ", "    "))
    return "\n".join(lines)


def _part(part: Part, *, several: bool, brief: bool) -> list[str]:
    key = f"({part.key}) " if several else ""
    verdict = f": {part.verdict}" if several else ""
    lines = [_field("Effect", f"{key}{part.question}{verdict}")]
    if part.data:
        lines.append(_wrapped(part.data, "    ", "      "))
    for effect in part.effects:
        lines.append(_wrapped(f"{effect.name}: {_pooled(effect.pooled)}", "    ", "      "))
        if not brief:
            lines += [_wrapped(_on(one), "      ", "        ") for one in effect.on]
    if not part.effects:
        lines.append("    not measured")
    return lines


def _pooled(pooled: Pooled) -> str:
    noun = "benchmark" if pooled.n == 1 else "benchmarks"
    if pooled.estimate is None:
        return "not measured"
    if not pooled.enough:
        return (
            f"{pooled.estimate:+.3f}, mean of {pooled.n} {noun}; too few for an interval over "
            f"benchmarks ({pooled.least})"
        )
    low, high = pooled.limits()
    return (
        f"{pooled.estimate:+.3f} (95 % interval over {pooled.n} {noun}: {low:+.3f} to {high:+.3f})"
    )


def _on(one: OnBenchmark) -> str:
    difference = one.difference
    interval = "no interval"
    if difference.low is not None and difference.high is not None:
        interval = f"{difference.low:+.3f} to {difference.high:+.3f} over {difference.over}"
    patients = "" if one.n_patients is None else f", {one.n_patients:,} patients"
    mark = " ?" if one.unknown else ""
    return (
        f"{one.benchmark}{mark} {difference.estimate:+.3f} ({interval}; {one.n_seeds} seeds"
        f"{patients}; at {_numbers(one.labels)} labels)"
    )


def _study(study: Study) -> str:
    note = f"; {study.note}" if study.note else ""
    return _wrapped(
        f"- {study.study}: {study.numbers} ({_EVIDENCE[study.evidence]}{note}). "
        f"{_BEARING[study.bearing]}. {study.source}",
        "    ",
        "      ",
    )


def _foot(report: Report, claims: Claims) -> str:
    lines = ["What this does not say"]
    notes = [
        f"Verdicts are for tier {report.tier}, {report.protocol} and these benchmarks and data; "
        f"the paper's own tables are not public, so none of its numbers is compared.",
        "One training stands for each strategy: how much another seed of pretraining would "
        "change is in no interval.",
        f"At least {claims.min_benchmarks} benchmarks, because "
        f"{claims.min_benchmarks_reason}; benchmarks with a hospital in common count as one. "
        "External test sets do not count.",
        *(f"Left out: {text}." for text in report.left_out),
        *(f"No record of {text}." for text in report.missing),
    ]
    return "\n".join([*lines, *(_wrapped(f"- {note}", "", "  ") for note in notes)])


def _field(name: str, text: str) -> str:
    return _wrapped(f"{name:<9}{text}", "  ", " " * 11)


def _wrapped(text: str, first: str = "", rest: str | None = None) -> str:
    rest = first + "  " if rest is None and first else rest or ""
    return textwrap.fill(
        " ".join(text.split()) if not first else text.rstrip(),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _numbers(labels: tuple[int, ...]) -> str:
    return ", ".join(f"{n:,}" for n in labels)


# Objects.


def _object(report: Report, claims: Claims) -> dict[str, Any]:
    return {
        "paper": claims.paper,
        "tier": report.tier,
        "protocol": report.protocol,
        "margin": claims.margin,
        "claims": [_finding_object(finding) for finding in report.findings],
        "encoders": [asdict(p) for p in report.participants],
        "benchmarks": [asdict(t) for t in report.tested],
        "left_out": list(report.left_out),
        "missing": list(report.missing),
    }


def _finding_object(finding: Finding) -> dict[str, Any]:
    claim = finding.claim
    return {
        "id": claim.id,
        "sentence": claim.sentence,
        "rule": claim.rule,
        "verdict": finding.verdict,
        "because": finding.remark,
        "needs": asdict(finding.needs),
        "exposure_unknown": {label: list(names) for label, names in finding.unknown.items()},
        "parts": [
            {
                "key": part.key,
                "question": part.question,
                "verdict": part.verdict,
                "because": part.remark,
                "data": part.data,
                "needs": asdict(part.needs),
                "effects": [_effect_object(effect) for effect in part.effects],
            }
            for part in finding.parts
        ],
        "other_studies": [study.model_dump(mode="json") for study in claim.studies],
    }


def _effect_object(effect: Effect) -> dict[str, Any]:
    pooled = effect.pooled
    limits = list(pooled.limits()) if pooled.enough else None
    narrow = list(pooled.limits(EQUIVALENCE_LEVEL)) if pooled.enough else None
    return {
        "name": effect.name,
        "estimate": pooled.estimate,
        "interval_95": limits,
        "interval_90": narrow,
        "p": pooled.p(),
        "n_benchmarks": pooled.n,
        "by_benchmark": [asdict(one) for one in effect.on],
    }
