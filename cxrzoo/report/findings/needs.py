"""What a verdict lacks: encoders with the command that trains them, benchmarks, budgets, seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields

from cxrzoo.data import benchmark as benchmarks
from cxrzoo.data.benchmark import Benchmark
from cxrzoo.pretrain.tier import TIERS, name_at
from cxrzoo.report.findings.claims import Claims
from cxrzoo.report.findings.effects import families
from cxrzoo.report.findings.roles import Role, role_of
from cxrzoo.zoo import registry

OWN_FOLDER = "imagefolder:"
_ACCESS = ("open", "own", "registration", "credentialed", "embedded")
_SHOWN = 4
_FIRST_METHOD = "moco"  # the one whose recipe is tuned


@dataclass(frozen=True)
class Needs:
    """What is missing for a verdict; all empty where nothing is.

    ``benchmarks`` would do as some of the ``more_benchmarks`` that are needed, which must have
    ``training_images``.
    """

    encoders: tuple[str, ...] = ()
    more_benchmarks: int = 0
    training_images: int = 0
    benchmarks: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    @property
    def words(self) -> str:
        """All of it in one line."""
        said = []
        if self.encoders:
            said.append(f"encoders: {'; '.join(self.encoders)}")
        if self.more_benchmarks:
            such = f", such as {_some(self.benchmarks)}" if self.benchmarks else ""
            noun = "benchmark" if self.more_benchmarks == 1 else "benchmarks"
            least = f" of {self.training_images:,} training images or more"
            size = least if self.training_images else ""
            said.append(
                f"at least {self.more_benchmarks} more {noun} of real radiographs{size}{such}"
            )
        if self.budgets:
            said.append(f"budgets: {', '.join(self.budgets)}")
        if self.seeds:
            said.append(f"seeds: {'; '.join(self.seeds)}")
        return "; ".join(said)


def merged(needs: Iterable[Needs]) -> Needs:
    """What several parts need, each thing once."""
    found = list(needs)

    def union(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(x for n in found for x in getattr(n, name)))

    return Needs(
        union("encoders"),
        max((n.more_benchmarks for n in found), default=0),
        max((n.training_images for n in found), default=0),
        union("benchmarks"),
        union("budgets"),
        union("seeds"),
    )


class Catalogue:
    """Benchmarks and strategies of the zoo, as far as claims need them."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self.benchmarks = {b.name: b for b in benchmarks.read_all()}
        self._strategies: dict[Role, list[str]] = {}
        self._methods: dict[str, str] = {}
        self._at_hand: set[str] = set()
        for card, directory in registry.read_all():
            role, _ = role_of(card.strategy, claims)
            if card.tier is not None and role != "none":
                self._strategies.setdefault(role, []).append(card.name)
                self._methods[card.name] = card.strategy[-1].method
                self._at_hand |= {card.name} if registry.at_hand(card, directory) else set()

    def why_not(self, name: str) -> str:
        """Why no verdict rests on a benchmark; empty where one may."""
        if name.startswith(OWN_FOLDER):
            return ""
        known = self.benchmarks.get(name)
        if known is None:
            return "not a benchmark that this installation knows"
        if known.access == "embedded":
            return "no radiographs, so no evidence"
        shortcut = self.claims.shortcut_benchmarks.get(name)
        return f"shortcut benchmark: {shortcut}" if shortcut else ""

    def dataset(self, name: str) -> str:
        """What `overlap.yaml` calls the benchmark's dataset."""
        known = self.benchmarks.get(name)
        return (known and known.dataset) or name

    def more(
        self,
        used: Collection[str],
        *,
        at_hand: Collection[str],
        exposed: Collection[str],
        min_images: int,
    ) -> list[str]:
        """Benchmarks of other families than those ``used``, the easiest to get first."""
        candidates = [
            b
            for b in self.benchmarks.values()
            if not self.why_not(b.name)
            and b.name not in exposed
            and (not min_images or _training_images(b) >= min_images)
        ]
        candidates.sort(
            key=lambda b: (b.name not in at_hand, b.verified != "images", _ACCESS.index(b.access))
        )
        order = [*used, *(b.name for b in candidates if b.name not in used)]
        family = families({name: self.dataset(name) for name in order})
        taken = {family[name] for name in used}
        found = []
        for b in candidates:
            if family[b.name] not in taken:
                taken.add(family[b.name])
                found.append(f"{b.name} (complete)" if min_images else b.name)
        return found

    def training(self, role: Role, tier: str, methods: Sequence[str] = ()) -> str:
        """The command that makes an encoder of this role available, and what would do as well."""
        names = self._strategies.get(role, [])
        of_methods = [n for n in names if not methods or self._methods[n] in methods]
        names = of_methods or names
        names = sorted(names, key=lambda n: self._methods[n] != _FIRST_METHOD)
        if not names:
            return f"one that is {role}"
        first, others = names[0], names[1:]
        stand_in = TIERS[tier].stand_ins.get(first) if tier in TIERS else None
        if stand_in or (first in self._at_hand and name_at(first, tier) == first):
            return f"cxrzoo eval -e {stand_in or first}"
        option = "" if name_at(first, tier) == first else f" --tier {tier}"
        alternatives = f" (or {_some(others)})" if others else ""
        return f"cxrzoo pretrain {first}{option}{alternatives}"


def _training_images(benchmark: Benchmark) -> float:
    """Of the complete public copy; 0 where it is not known."""
    if benchmark.complete is None:
        return 0
    given = benchmark.complete.splits.get("train")
    return given or benchmark.complete.images * (1 - benchmark.split.test_fraction)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" or {more} others" if more > 0 else "")
