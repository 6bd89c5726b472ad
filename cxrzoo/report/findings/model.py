"""What an assessment ends in: plain values, as text and JSON show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrzoo.report.findings.claims import Claim
from cxrzoo.report.findings.effects import Effect
from cxrzoo.report.findings.needs import Needs, merged
from cxrzoo.report.findings.roles import Participant
from cxrzoo.report.findings.verdicts import Verdict, together


@dataclass(frozen=True)
class Part:
    """One question of a claim.

    ``remark`` says what the intervals show or leave open, ``data`` how much data encoders saw.
    """

    key: str
    question: str
    effects: tuple[Effect, ...]
    verdict: Verdict
    remark: str
    needs: Needs
    data: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim's verdict. ``unknown``: encoders with benchmarks that they may have seen."""

    claim: Claim
    parts: tuple[Part, ...]
    verdict: Verdict
    needs: Needs
    unknown: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, claim: Claim, parts: Sequence[Part]) -> Finding:
        """From the answers to all of a claim's questions."""
        verdict = together([part.verdict for part in parts])
        needs = merged(p.needs for p in parts) if verdict == "undecided" else Needs()
        return cls(claim, tuple(parts), verdict, needs, _unknown(parts))

    @property
    def remark(self) -> str:
        """What decides the verdict, or leaves it open."""
        said = [part for part in self.parts if part.verdict == self.verdict and part.remark]
        return "; ".join(
            (f"({part.key}) " if len(self.parts) > 1 else "") + part.remark for part in said
        )


@dataclass(frozen=True)
class Tested:
    """A benchmark that records are of; ``split`` and the counts as they say."""

    name: str
    family: str
    split: str
    n_test_images: int


@dataclass(frozen=True)
class Report:
    """The findings of one tier under one protocol, and what they do and do not rest on."""

    tier: str
    protocol: str
    findings: tuple[Finding, ...]
    participants: tuple[Participant, ...]
    tested: tuple[Tested, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]


def _unknown(parts: Sequence[Part]) -> dict[str, tuple[str, ...]]:
    """Encoders with the benchmarks whose test patients they may have seen, in order."""
    found: dict[str, dict[str, None]] = {}
    for one in (one for part in parts for effect in part.effects for one in effect.on):
        for label in one.unknown:
            found.setdefault(label, {})[one.benchmark] = None
    return {label: tuple(names) for label, names in found.items()}
