"""From effects on several benchmarks to verdicts. Pure functions on numbers.

An effect is a difference of macro AUROC. Benchmarks are the sample, because a claim about
pretraining is meant for benchmarks like these: their mean effect has Student's t interval. Each
benchmark's own uncertainty (seeds, patients) is in the spread between benchmarks already, so it
is not counted again (as in `ranks.mean_rank`).

What can go wrong, and how often. A false "not supported" of ``hard_to_beat`` and a false
"supported" of ``improves`` need one of several differences to look real where none is: Holm keeps
the chance of any at 5 %. A false "supported" of ``hard_to_beat`` needs every rival's limit to lie
below the margin, that of one truly above it too: 2.5 %, however many rivals there are (an
intersection-union test, Berger 1982, Technometrics 24(4)). For ``about_the_same`` it is 5 % (two
one-sided tests, Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15(6)).
`tests/report/test_findings_verdicts.py` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from cxrzoo.report.statistics import LEVEL, holm

Verdict = Literal["supported", "not supported", "undecided"]
EQUIVALENCE_LEVEL = 0.9
_ALPHA = 1 - LEVEL
_MOST = 200  # benchmarks that anyone would ask for


@dataclass(frozen=True)
class Pooled:
    """The mean of one effect over ``n`` benchmarks and its standard error.

    ``estimate`` is None where there is no benchmark, ``error`` where there are fewer than
    ``least`` of them: no verdict may rest on it.
    """

    estimate: float | None
    error: float | None
    n: int
    least: int

    @classmethod
    def of(cls, effects: Sequence[float], least: int) -> Pooled:
        """From one effect a benchmark."""
        n = len(effects)
        if n < max(2, least):
            return cls(float(np.mean(effects)) if n else None, None, n, least)
        error = float(np.std(effects, ddof=1)) / math.sqrt(n)
        return cls(float(np.mean(effects)), error, n, least)

    @property
    def enough(self) -> bool:
        """Whether a verdict may rest on it."""
        return self.error is not None

    def limits(self, level: float = LEVEL) -> tuple[float, float]:
        """The two-sided interval; all there is where there are too few benchmarks."""
        if self.estimate is None or self.error is None:
            return -math.inf, math.inf
        half = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.error
        return self.estimate - half, self.estimate + half

    def p(self, bound: float = 0.0) -> float | None:
        """Two-sided, for the true mean being ``bound``."""
        if self.estimate is None or self.error is None:
            return None
        distance = abs(self.estimate - bound)
        if distance == 0:
            return 1.0
        if self.error == 0:
            return 0.0
        return float(2 * stdtr(self.n - 1, -distance / self.error))

    def benchmarks_needed(self, distance: float, level: float = LEVEL) -> int | None:
        """How many benchmarks make the interval's half-width smaller than ``distance``.

        If they spread as these do. None where that is more than anyone has.
        """
        if self.error is None or distance <= 0:
            return None
        spread = self.error * math.sqrt(self.n)
        for n in range(self.n + 1, _MOST):
            if float(stdtrit(n - 1, (1 + level) / 2)) * spread / math.sqrt(n) < distance:
                return n
        return None


def above_zero(effects: Sequence[Pooled]) -> list[bool]:
    """Which effects are above zero, by Holm over all of them.

    One-sided at half of 5 %, which is where a 95 % interval ends; so that moving any effect up
    never makes another one less sure, as two-sided values would.
    """
    chances = [None if (p := e.p()) is None else _upper(p, e.estimate or 0.0) for e in effects]
    return [p is not None and p < _ALPHA / 2 for p in holm(chances)]


def below_zero(effects: Sequence[Pooled]) -> list[bool]:
    """Which effects are below zero, likewise."""
    return above_zero([replace(e, estimate=-(e.estimate or 0.0)) for e in effects])


def hard_to_beat(rivals: Sequence[Pooled], margin: float) -> Verdict:
    """Whether no rival is better by the margin; ``rivals`` are rival minus reference.

    A rival that is surely better, but surely by less than the margin, does not beat. One with too
    few benchmarks may be better by anything, so while it is there nothing is supported.
    """
    tested = [rival for rival in rivals if rival.enough]
    if not tested:
        return "undecided"
    if all(rival.limits()[1] < margin for rival in rivals):
        return "supported"
    return "not supported" if any(above_zero(tested)) else "undecided"


def about_the_same(mean: Pooled, pairs: Sequence[Pooled], margin: float) -> Verdict:
    """Whether the mean over methods lies inside the margin on both sides.

    ``pairs`` are the same effect by method: one that lies wholly outside refutes the claim, too.
    """
    tested = [effect for effect in (mean, *pairs) if effect.enough]
    if not tested:
        return "undecided"
    level = 1 - _ALPHA / (len(tested) if len(pairs) > 1 else 1)
    if any(_outside(effect.limits(level), margin) for effect in tested):
        return "not supported"
    low, high = mean.limits(EQUIVALENCE_LEVEL)
    return "supported" if mean.enough and -margin < low and high < margin else "undecided"


def improves(effects: Sequence[Pooled], margin: float) -> Verdict:
    """Whether some effect is above zero and none below, by Holm.

    Refuted where every effect is surely below the margin.
    """
    tested = [effect for effect in effects if effect.enough]
    if not tested:
        return "undecided"
    if any(above_zero(tested)):
        return "undecided" if any(below_zero(tested)) else "supported"
    return "not supported" if all(e.limits()[1] < margin for e in tested) else "undecided"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim with several parts: all are needed, and one that fails is enough."""
    if "not supported" in verdicts:
        return "not supported"
    return "undecided" if "undecided" in verdicts or not verdicts else "supported"


def _upper(p: float, estimate: float) -> float:
    """The one-sided value, for the true mean not being above zero, of a two-sided one."""
    return p / 2 if estimate > 0 else 1 - p / 2


def _outside(limits: tuple[float, float], margin: float) -> bool:
    return limits[0] > margin or limits[1] < -margin
