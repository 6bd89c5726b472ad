"""The questions that each claim asks of a field; their rules in words are in ``claims.yaml``.

Questions are asked in the file's order, because what effects skip (``Measure.skipped``) gathers,
and a part's needs name the seeds that lacked until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cxrzoo.report.findings import lacking, verdicts
from cxrzoo.report.findings.claims import ClaimId, Labels
from cxrzoo.report.findings.effects import Effect, Pair, more_at, over_all
from cxrzoo.report.findings.field import Field
from cxrzoo.report.findings.lacking import Reach
from cxrzoo.report.findings.model import Part
from cxrzoo.report.findings.needs import Needs, merged
from cxrzoo.report.findings.roles import RIVALS, Role
from cxrzoo.report.findings.verdicts import EQUIVALENCE_LEVEL, Pooled, Verdict

_KINDS: tuple[Role, ...] = ("ssl-imagenet", "ssl-cxr")  # a rival of each must have been tested


def hard_to_beat(field: Field) -> list[Part]:
    """Whether any self-supervised rival is better than supervised ImageNet."""
    margin = field.claims.margin
    rivals = [row for role in RIVALS for row in field.of(role)]
    effects = [field.against_reference(row) for row in rivals]
    pooled = [effect.pooled for effect in effects]
    tested = {field.played[r].role for r, p in zip(rivals, pooled, strict=True) if p.enough}
    untested = [role for role in _KINDS if role not in tested]
    verdict = verdicts.hard_to_beat(pooled, margin)
    remark = {
        "supported": f"every rival's interval ends below +{margin:g}",
        "not supported": f"better than the reference: {_sure(effects, verdicts.above_zero)}",
        "undecided": _open(
            pooled, f"a rival may be better by {margin:g}, and none is surely better at all"
        ),
    }[verdict]
    if verdict == "supported" and untested:
        verdict, remark = "undecided", "no rival yet of one of the two kinds"
    wanted = [lacking.encoder(field, role) for role in untested if not field.of(role)]
    needs = merged(
        [
            Needs(encoders=(*lacking.reference(field), *wanted)),
            lacking.benchmarks(field, effects if field.references else [], _either(margin)),
        ]
    )
    question = "rival minus supervised ImageNet, over all budgets"
    return [_part(field, "", question, effects, verdict, remark, needs)]


def imagenet_like_cxr(field: Field) -> list[Part]:
    """Whether self-supervision on ImageNet and on chest X-rays are about the same."""
    margin = field.claims.margin
    pairs, unequal = field.pairs()
    by_method = [
        field.measure.effect(f"{a.label} - {b.label}", [(a, b)], over_all) for a, b in pairs
    ]
    mean = field.measure.effect(f"mean of {len(pairs)} methods", pairs, over_all)
    verdict = verdicts.about_the_same(mean.pooled, [e.pooled for e in by_method], margin)
    remark = {
        "supported": f"the 90 % interval lies between -{margin:g} and +{margin:g}",
        "not supported": f"a difference lies wholly outside -{margin:g} to +{margin:g}",
        "undecided": _open([mean.pooled], f"it may be less or more than {margin:g} apart"),
    }[verdict]
    encoders: tuple[str, ...] = ()
    if not pairs:
        remark = "; ".join(["no method has both encoders", *unequal])
        encoders = lacking.pair(field)
    tested = [mean] if pairs else []
    more = lacking.benchmarks(field, tested, _outside_or_inside(margin), EQUIVALENCE_LEVEL)
    effects = by_method if len(pairs) == 1 else [*tested, *by_method]
    question = "self-supervised on ImageNet minus on chest X-rays, over all budgets"
    needs = merged([Needs(encoders=encoders), more])
    part = _part(field, "", question, effects, verdict, remark, needs)
    return [replace(part, data=field.data(pairs))]


def continued_improves(field: Field) -> list[Part]:
    """Whether training further on chest X-rays gains, and most at a few thousand labels."""
    claims = field.claims
    most, few, many = claims.few_thousand_labels, claims.few_labels, claims.many_labels
    return [_gain(field), _most_there(field, "b", most, few), _most_there(field, "c", most, many)]


def _gain(field: Field) -> Part:
    """Whether training further gains at all."""
    margin = field.claims.margin
    continued = field.of("continued")
    effects = [field.against_reference(row) for row in continued]
    pooled = [effect.pooled for effect in effects]
    above, below = _sure(effects, verdicts.above_zero), _sure(effects, verdicts.below_zero)
    verdict = verdicts.improves(pooled, margin)
    remark = {
        "supported": f"above 0: {above}",
        "not supported": f"every interval ends below +{margin:g}",
        "undecided": f"above 0: {above}; below 0: {below}"
        if above
        else _open(pooled, f"the gain may be 0, and may be {margin:g} or more"),
    }[verdict]
    encoders = () if continued else (lacking.encoder(field, "continued"),)
    needs = Needs(encoders=(*lacking.reference(field), *encoders))
    if not (above and below):  # more benchmarks would not make encoders agree
        tested = effects if field.references else []
        needs = merged([needs, lacking.benchmarks(field, tested, _either(margin))])
    question = "gain: trained further minus supervised ImageNet, over all budgets"
    return _part(field, "a", question, effects, verdict, remark, needs)


def _most_there(field: Field, key: str, most: Labels, other: Labels) -> Part:
    """Whether the gain is larger at one range of budgets than at another."""
    margin = field.claims.margin
    pairs: list[Pair] = [
        (row, reference) for row in field.of("continued") for reference in field.references[:1]
    ]
    name = "gain there" if len(pairs) == 1 else f"gain there, mean of {len(pairs)} encoders"
    effects = [field.measure.effect(name, pairs, more_at(most, other))] if pairs else []
    pooled = [effect.pooled for effect in effects]
    verdict = verdicts.improves(pooled, margin)
    remark = {
        "supported": "the gain is larger there",
        "not supported": f"the gain is not larger there, or by less than {margin:g}",
        "undecided": _open(
            pooled, f"it may be no larger there, and may be larger by {margin:g} or more"
        ),
    }[verdict]
    needs = Needs()
    if verdict == "undecided":
        bound = max(most.at_least, other.at_least)
        more = lacking.benchmarks(field, effects, _either(margin), min_images=bound)
        needs = merged([more, Needs(budgets=lacking.budgets(field, pairs, most, other))])
    question = f"gain at {most.words} minus gain at {other.words}"
    return _part(field, key, question, effects, verdict, remark, needs)


ASKED: Mapping[ClaimId, Callable[[Field], list[Part]]] = {
    "hard-to-beat": hard_to_beat,
    "imagenet-like-cxr": imagenet_like_cxr,
    "continued-improves": continued_improves,
}


def _part(
    field: Field,
    key: str,
    question: str,
    effects: Sequence[Effect],
    verdict: Verdict,
    remark: str,
    needs: Needs,
) -> Part:
    """A part; what is decided needs nothing."""
    if verdict != "undecided":
        needs = Needs()
    elif field.measure.skipped.seeds:
        needs = merged([needs, Needs(seeds=tuple(field.measure.skipped.seeds))])
    return Part(key, question, tuple(effects), verdict, remark, needs)


def _sure(effects: Sequence[Effect], test: Callable[[Sequence[Pooled]], list[bool]]) -> str:
    """The names of the effects that a test of all of them is sure of."""
    sure = test([effect.pooled for effect in effects])
    return ", ".join(e.name for e, yes in zip(effects, sure, strict=True) if yes)


def _open(effects: Sequence[Pooled], wide: str) -> str:
    """Why nothing is decided: too few benchmarks, or ``wide`` intervals."""
    enough = [effect for effect in effects if effect.enough]
    if not effects or not any(effect.n for effect in effects):
        return "no two encoders to compare"
    if not enough:
        n = max(effect.n for effect in effects)
        return f"tested on {n} of at least {effects[0].least} benchmarks"
    return wide


def _either(margin: float) -> Reach:
    """How far the nearer of the two bounds is that would decide: 0 from above, or the margin."""
    return lambda pooled: max(pooled.estimate or 0.0, margin - (pooled.estimate or 0.0))


def _outside_or_inside(margin: float) -> Reach:
    return lambda pooled: abs(margin - abs(pooled.estimate or 0.0))
