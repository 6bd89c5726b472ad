from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrzoo.report.findings.verdicts import (
    Pooled,
    about_the_same,
    above_zero,
    hard_to_beat,
    improves,
    together,
)

MARGIN = 0.01


def pooled(*effects: float) -> Pooled:
    return Pooled.of(effects, least=3)


def numbers(low=-0.1, high=0.1):
    return st.lists(st.floats(low, high), min_size=3, max_size=6).map(lambda x: pooled(*x))


def several():
    return st.lists(numbers(), min_size=1, max_size=4)


def shifted(effects: list[Pooled], by: float) -> list[Pooled]:
    return [Pooled(e.estimate + by, e.error, e.n, e.least) for e in effects]


# ------------------------------------------------------------------ one effect over benchmarks


def test_limits_and_p_are_students_t():
    effects = np.array([0.01, 0.03, 0.02, 0.05])
    one = pooled(*effects)
    half = 3.182446 * effects.std(ddof=1) / 2  # 97.5 % of t with 3 degrees of freedom
    assert one.limits() == pytest.approx((effects.mean() - half, effects.mean() + half), rel=1e-4)
    assert one.p(bound=one.limits()[0]) == pytest.approx(0.05)
    assert one.p(bound=one.estimate) == 1


def test_fewer_benchmarks_than_needed_decide_nothing():
    for effects in ([], [0.5], [0.5, 0.5]):
        one = pooled(*effects)
        assert not one.enough
        assert one.limits() == (-math.inf, math.inf)
        assert one.p() is None
        assert hard_to_beat([one], MARGIN) == improves([one], MARGIN) == "undecided"
        assert about_the_same(one, [one], MARGIN) == "undecided"
    assert hard_to_beat([], MARGIN) == improves([], MARGIN) == together([]) == "undecided"


def test_equal_effects_have_no_spread_and_decide():
    assert improves([pooled(0.02, 0.02, 0.02)], MARGIN) == "supported"
    assert improves([pooled(0.0, 0.0, 0.0)], MARGIN) == "not supported"
    assert about_the_same(pooled(0, 0, 0), [], MARGIN) == "supported"


def test_how_many_benchmarks_an_interval_of_a_given_width_needs():
    one = pooled(0.00, 0.02, 0.01)
    n = one.benchmarks_needed(0.005)
    assert n is not None
    spread = one.error * math.sqrt(3)
    widths = [Pooled(0, spread / math.sqrt(k), k, 3).limits()[1] for k in (n - 1, n)]
    assert widths[0] >= 0.005 > widths[1]
    assert one.benchmarks_needed(0) is None
    assert one.benchmarks_needed(1e-9) is None


# ------------------------------------------------------------------ verdicts, in examples


def test_supervised_is_hard_to_beat_only_if_every_rival_stays_below_the_margin():
    worse, better = pooled(-0.02, -0.03, -0.025), pooled(0.05, 0.055, 0.06)
    unsure = pooled(-0.1, 0.0, 0.1)
    assert hard_to_beat([worse, worse], MARGIN) == "supported"
    assert hard_to_beat([worse, unsure], MARGIN) == "undecided"
    assert hard_to_beat([worse, unsure, better], MARGIN) == "not supported"


def test_nothing_is_hard_to_beat_while_a_rival_has_too_few_benchmarks():
    worse = pooled(-0.02, -0.03, -0.025)
    assert hard_to_beat([worse, pooled(0.1, 0.1)], MARGIN) == "undecided"


def test_a_rival_that_is_surely_better_by_less_than_the_margin_does_not_beat():
    assert hard_to_beat([pooled(0.002, 0.0021, 0.0022)], MARGIN) == "supported"


def test_a_method_that_differs_refutes_though_the_mean_does_not():
    up, down = pooled(0.05, 0.051, 0.052), pooled(-0.05, -0.051, -0.052)
    mean = pooled(0.0, 0.0001, -0.0001)
    assert about_the_same(mean, [up, down], MARGIN) == "not supported"
    assert about_the_same(mean, [mean, mean], MARGIN) == "supported"


def test_methods_that_disagree_decide_nothing():
    gains, loses = pooled(0.05, 0.051, 0.052), pooled(-0.05, -0.051, -0.052)
    assert improves([gains, loses], MARGIN) == "undecided"
    assert improves([gains, pooled(-0.1, 0.0, 0.1)], MARGIN) == "supported"
    assert improves([loses], MARGIN) == "not supported"


def test_a_gain_that_is_surely_smaller_than_the_margin_is_none():
    assert improves([pooled(-0.001, 0.0, 0.001)], MARGIN) == "not supported"


def test_a_claim_of_parts_needs_all_and_fails_with_one():
    yes, no, open_ = "supported", "not supported", "undecided"
    assert together([yes, yes]) == yes
    assert together([yes, open_]) == open_
    assert together([yes, open_, no]) == no


# ------------------------------------------------------------------ verdicts, as properties


@given(several())
@settings(max_examples=200, deadline=None)
def test_verdicts_agree_with_the_direction_of_the_effects(effects):
    estimates = [e.estimate for e in effects]
    if hard_to_beat(effects, MARGIN) == "supported":
        assert max(estimates) < MARGIN
    if hard_to_beat(effects, MARGIN) == "not supported":
        assert max(estimates) > 0
    if improves(effects, MARGIN) == "supported":
        assert max(estimates) > 0
        assert improves(shifted(effects, -2 * max(estimates)), MARGIN) != "supported"
    if improves(effects, MARGIN) == "not supported":
        assert max(estimates) < MARGIN


@given(several(), st.floats(0, 0.2))
@settings(max_examples=300, deadline=None)
def test_verdicts_never_turn_back_when_all_effects_grow(effects, by):
    up = shifted(effects, by)
    order = ["supported", "undecided", "not supported"]
    before, after = hard_to_beat(effects, MARGIN), hard_to_beat(up, MARGIN)
    assert order.index(after) >= order.index(before)
    before, after = improves(effects, MARGIN), improves(up, MARGIN)
    assert order.index(after) <= order.index(before)


@given(several(), numbers(), st.floats(0, 0.2))
@settings(max_examples=200, deadline=None)
def test_moving_one_effect_up_makes_no_other_less_sure(effects, one, by):
    before = above_zero([one, *effects])
    after = above_zero([*shifted([one], by), *effects])
    assert all(now or not then for then, now in zip(before, after, strict=True))


@given(numbers(-0.03, 0.03), several(), st.floats(0.001, 0.03))
@settings(max_examples=200, deadline=None)
def test_sameness_has_no_direction_and_grows_with_the_margin(mean, pairs, margin):
    def flip(e):
        return Pooled(-e.estimate, e.error, e.n, e.least)

    verdict = about_the_same(mean, pairs, margin)
    assert about_the_same(flip(mean), [flip(e) for e in pairs], margin) == verdict
    if verdict == "supported":
        assert about_the_same(mean, pairs, 2 * margin) == "supported"
    if verdict == "not supported":
        assert about_the_same(mean, pairs, margin / 2) == "not supported"


# ------------------------------------------------------------------ how often they are wrong

STUDIES = 1500
TOLERATED = 0.05 + 1.645 * math.sqrt(0.05 * 0.95 / STUDIES)  # 95 % of a binomial share


def studies(*, truth, n_effects, n_benchmarks=4, shared=0.5, sd=0.02, seed=0):
    """Effects with a known mean that differ between benchmarks; encoders are measured against
    one reference, so that a part of the difference is common to them."""
    rng = np.random.default_rng(seed)
    for _ in range(STUDIES):
        common = rng.normal(0, sd * math.sqrt(shared), n_benchmarks)
        own = rng.normal(0, sd * math.sqrt(1 - shared), (n_effects, n_benchmarks))
        yield [pooled(*(truth + common + row)) for row in own]


def share(verdicts, which):
    found = list(verdicts)
    return found.count(which) / len(found)


@pytest.mark.parametrize("shared", [0, 0.5])
@pytest.mark.parametrize("n_effects", [1, 5])
def test_without_a_difference_nothing_beats_and_nothing_gains_in_95_percent(n_effects, shared):
    made = list(studies(truth=0.0, n_effects=n_effects, shared=shared))
    assert share((hard_to_beat(s, MARGIN) for s in made), "not supported") <= TOLERATED
    assert share((improves(s, MARGIN) for s in made), "supported") <= TOLERATED


@pytest.mark.parametrize("n_effects", [1, 5])
def test_rivals_better_by_the_margin_are_rarely_called_beaten(n_effects):
    made = studies(truth=MARGIN, n_effects=n_effects, sd=0.005)
    assert share((hard_to_beat(s, MARGIN) for s in made), "supported") <= TOLERATED


@pytest.mark.parametrize("sd", [0.002, 0.005, 0.02])
def test_a_difference_of_the_margin_is_called_the_same_in_at_most_5_percent(sd):
    made = list(studies(truth=MARGIN, n_effects=1, n_benchmarks=5, sd=sd))
    found = share((about_the_same(s[0], s, MARGIN) for s in made), "supported")
    assert found <= TOLERATED
    refuted = share((about_the_same(s[0], s, MARGIN) for s in made), "not supported")
    assert refuted <= TOLERATED


def test_what_is_true_is_found_when_it_is_plain():
    same = studies(truth=0.0, n_effects=1, n_benchmarks=6, sd=0.004)
    assert share((about_the_same(s[0], s, MARGIN) for s in same), "supported") > 0.9
    gain = studies(truth=0.03, n_effects=3, n_benchmarks=6, sd=0.01)
    assert share((improves(s, MARGIN) for s in gain), "supported") > 0.9
    worse = studies(truth=-0.02, n_effects=3, n_benchmarks=6, sd=0.01)
    assert share((hard_to_beat(s, MARGIN) for s in worse), "supported") > 0.9
