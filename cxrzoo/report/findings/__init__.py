"""The paper's three claims, tested on records: effects, intervals, and a verdict for each.

A verdict is for one tier, one protocol and the benchmarks at hand, and says so; tiers are never
mixed. It rests on real radiographs only, never on the phantom. What is fixed in advance (margin,
ranges of budgets, how many benchmarks) is in ``claims.yaml``. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from cxrzoo.evaluation.record import Record
from cxrzoo.report.cells import Evidence
from cxrzoo.report.findings.claims import Claims, load_claims
from cxrzoo.report.findings.field import Field
from cxrzoo.report.findings.model import Finding, Part, Report, Tested
from cxrzoo.report.findings.needs import Catalogue
from cxrzoo.report.findings.questions import ASKED
from cxrzoo.report.findings.roles import tier_of
from cxrzoo.report.grid import measure
from cxrzoo.report.statistics import RESAMPLES
from cxrzoo.zoo.card import Card

__all__ = ["Finding", "Part", "Report", "Tested", "assess"]


def assess(
    records: Sequence[Record],
    evidence: Evidence | None = None,
    *,
    cards: Mapping[str, Card] | None = None,
    tier: str | None = None,
    protocol: str = "linear-v1",
    resamples: int = RESAMPLES,
    seed: int = 0,
    claims: Claims | None = None,
    on_column: Callable[[int, int], None] | None = None,
) -> list[Report]:
    """The findings of each tier that the records are of, or of one.

    Args:
        records: of anything; what cannot count is left out and named.
        evidence: predictions and benchmarks at hand, for intervals over patients.
        cards: at hand, by the weights' sha256: they tell how many images a training saw, where
            records do not.
        tier: one tier; None for every tier of the records, ``lite`` where there is none.
        protocol: one protocol; two are never mixed.
        resamples: draws of the test patients.
        seed: of the draws.
        claims: what is claimed; the packaged file by default.
        on_column: called with the columns done and their number, for a progress bar.

    Raises:
        RecordError: two records are of one cell, or predictions are broken or altered.
    """
    catalogue = Catalogue(claims or load_claims())
    kept, left_out = _keep(records, protocol, catalogue)
    by_tier = _by_tier(kept)
    without = by_tier.pop("", [])
    if without:
        names = sorted({r.spec.encoder.name for r in without})
        left_out.append(f"encoders of no tier: {', '.join(names)}")
    reports = []
    for name in [tier] if tier else list(by_tier) or ["lite"]:
        found = by_tier.get(name, [])
        grid = measure(found, evidence, resamples=resamples, seed=seed, on_column=on_column)
        reports.append(_report(Field(name, grid, cards or {}, catalogue), protocol, left_out))
    return reports


def _report(field: Field, protocol: str, left_out: Sequence[str]) -> Report:
    claims = field.claims.claims
    # The questions come first: what did not count is known once they are answered.
    findings = tuple(Finding.of(claim, ASKED[claim.id](field)) for claim in claims)
    return Report(
        tier=field.tier,
        protocol=protocol,
        findings=findings,
        participants=field.participants,
        tested=field.tested,
        left_out=(*left_out, *field.left_out()),
        missing=field.missing(),
    )


def _keep(
    records: Sequence[Record], protocol: str, catalogue: Catalogue
) -> tuple[list[Record], list[str]]:
    """Records that may count, and what is left out and why."""
    kept: list[Record] = []
    reasons: Counter[str] = Counter()
    for record in records:
        reason = _why_not(record, protocol, catalogue)
        if reason:
            reasons[reason] += 1
        else:
            kept.append(record)
    counted = [f"{n} record{'s' * (n > 1)} of {reason}" for reason, n in reasons.items()]
    return kept, counted


def _why_not(record: Record, protocol: str, catalogue: Catalogue) -> str:
    spec = record.spec
    if reason := catalogue.why_not(spec.benchmark.name):
        return f"{spec.benchmark.name} ({reason})"
    if spec.control != "none":
        return f"control {spec.control}"
    if spec.benchmark.limit is not None:
        return f"{spec.benchmark.name} with --limit (a quick look)"
    if spec.budget.size not in catalogue.claims.budgets:
        return f"budget {spec.budget.size} (not among those fixed for the claims)"
    name: str = spec.protocol["name"]
    return "" if name == protocol else f"another protocol ({name})"


def _by_tier(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by tier; those of none under ``""``."""
    found: dict[str, list[Record]] = {}
    for record in records:
        own = tier_of(record.spec.encoder.name, record.declared.get("tier"))
        found.setdefault(own, []).append(record)
    return found
