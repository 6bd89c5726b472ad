"""What one tier's field lacks for a verdict, from the zoo's catalogue and the effects so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from cxrzoo.report.findings.claims import Labels
from cxrzoo.report.findings.effects import Effect, Pair
from cxrzoo.report.findings.field import Field
from cxrzoo.report.findings.needs import Needs
from cxrzoo.report.findings.roles import Role
from cxrzoo.report.findings.verdicts import Pooled
from cxrzoo.report.statistics import LEVEL

Reach = Callable[[Pooled], float]
"""How far an interval may reach from its estimate for the question to be decided."""


def encoder(field: Field, role: Role, methods: Sequence[str] = ()) -> str:
    """The command that makes an encoder of this role available at the field's tier."""
    return field.catalogue.training(role, field.tier, methods)


def reference(field: Field) -> tuple[str, ...]:
    """The command for the reference; () where there is one."""
    return () if field.references else (encoder(field, "supervised-imagenet"),)


def pair(field: Field) -> tuple[str, ...]:
    """The commands for what lacks to an ImageNet and a chest X-ray encoder by one method."""
    sides: tuple[Role, Role] = ("ssl-imagenet", "ssl-cxr")
    have = [sorted({field.played[row].method for row in field.of(side)}) for side in sides]
    if have[0] and not have[1]:
        return (encoder(field, "ssl-cxr", have[0]),)
    if have[1] and not have[0]:
        return (encoder(field, "ssl-imagenet", have[1]),)
    method = have[1][:1] or ["moco"]
    return tuple(
        encoder(field, side, method)
        for side, methods in zip(sides, have, strict=True)
        if method[0] not in methods
    )


def benchmarks(
    field: Field,
    effects: Sequence[Effect],
    reach: Reach,
    level: float = LEVEL,
    *,
    min_images: int = 0,
) -> Needs:
    """Enough of them first, then as many as make the intervals narrow enough."""
    more, used = _how_many_more(field, effects, reach, level)
    if not more:
        return Needs()
    candidates = field.catalogue.more(
        [_plain(name) for name in used],
        at_hand=[_plain(one.name) for one in field.tested],
        exposed={name for _, name in field.measure.skipped.exposed},
        min_images=min_images,
    )
    return Needs(more_benchmarks=more, benchmarks=tuple(candidates), training_images=min_images)


def budgets(field: Field, pairs: Sequence[Pair], most: Labels, other: Labels) -> tuple[str, ...]:
    """Budgets that benchmarks at hand could serve, as far as records tell."""
    found: dict[str, None] = {}
    for one in field.tested if pairs else ():
        full = _full_size(field, one.name)
        have = {n for two in pairs for n in field.measure.labels_at(one.name, two)}
        for labels in (most, other):
            if any(n in labels for n in have):
                continue
            budget = _budget_within(labels, full, field.claims.budgets)
            if budget is not None:
                found[f"{budget} on {one.name}"] = None
    return tuple(found)


def _how_many_more(
    field: Field, effects: Sequence[Effect], reach: Reach, level: float
) -> tuple[int, list[str]]:
    """How many more benchmarks, and those that the effect in need of them rests on."""
    least = field.claims.min_benchmarks
    if not effects:  # what is there will do, once there is an encoder
        there = len({one.family for one in field.tested})
        return max(0, least - there), [one.name for one in field.tested]
    few = [effect for effect in effects if not effect.pooled.enough]
    if few:
        fewest = min(few, key=lambda e: e.pooled.n)
        return least - fewest.pooled.n, [one.benchmark for one in fewest.on]
    widest = max(effects, key=lambda e: _width(e.pooled.limits(level)))
    enough = widest.pooled.benchmarks_needed(reach(widest.pooled), level)
    return (enough or widest.pooled.n + 1) - widest.pooled.n, [one.benchmark for one in widest.on]


def _width(limits: tuple[float, float]) -> float:
    return limits[1] - limits[0]


def _full_size(field: Field, benchmark: str) -> int | None:
    """The number of labels of the budget ``full``; None where no record is of it."""
    columns = [c for c in field.grid.columns if (c.benchmark, c.budget) == (benchmark, "full")]
    cells = (cell for column in columns for cell in field.grid.column(column))
    return next((cell.records[0].spec.budget.n for cell in cells), None)


def _budget_within(
    labels: Labels, full: int | None, sizes: Sequence[int | Literal["full"]]
) -> int | str | None:
    """A budget in the range that would fit; ``full`` may, where its size is not known."""
    for size in sizes:
        if size != "full" and size in labels and (full is None or size <= full):
            return size
    return "full" if full is None else None


def _plain(name: str) -> str:
    """The benchmark's name without what tells apart those that share it."""
    return name.partition(" #")[0]
