"""Who takes part in the claims at one tier, and on what: encoders by part, pairs, benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cxrzoo.evaluation.record import Record
from cxrzoo.report.findings.effects import Effect, Measure, Pair, families, over_all
from cxrzoo.report.findings.model import Tested
from cxrzoo.report.findings.needs import Catalogue
from cxrzoo.report.findings.roles import Participant, Role, about, participant
from cxrzoo.report.grid import Grid, Row
from cxrzoo.report.naming import ANCHORS
from cxrzoo.zoo.card import Card

_SAME_IMAGES_SEEN = 0.05  # of the larger number; cards round epochs


class Field:
    """Encoders and benchmarks of one tier's records.

    Attributes:
        tier: its name.
        grid: only what may count.
        catalogue: what the zoo has besides.
        claims: what is claimed.
        tested: the benchmarks.
        measure: effects on the grid; it keeps what did not count in those that were asked for.
        played: every encoder's part, ``none`` included.
    """

    def __init__(
        self, tier: str, grid: Grid, cards: Mapping[str, Card], catalogue: Catalogue
    ) -> None:
        self.tier, self.grid, self.catalogue = tier, grid, catalogue
        self.claims = catalogue.claims
        self.tested = _tested(grid, catalogue)
        self.measure = Measure(grid, {one.name: one.family for one in self.tested}, self.claims)
        self.played: dict[Row, Participant] = {}
        for row in grid.rows:
            records = [record for cell in grid.row(row) for record in cell.records]
            self.played[row] = participant(records, row.label, cards, self.claims)

    def of(self, role: Role) -> list[Row]:
        """The encoders that play a part."""
        return [row for row, played in self.played.items() if played.role == role]

    @property
    def references(self) -> list[Row]:
        """Supervised ImageNet encoders; the first is the reference."""
        return sorted(self.of("supervised-imagenet"), key=lambda row: row.name not in ANCHORS)

    @property
    def participants(self) -> tuple[Participant, ...]:
        """Those that claims are about; of the supervised ImageNet encoders, the reference."""
        others = self.references[1:]
        return tuple(p for row, p in self.played.items() if p.role != "none" and row not in others)

    def against_reference(self, row: Row) -> Effect:
        """An encoder minus the reference, over all budgets."""
        pairs = [(row, reference) for reference in self.references[:1]]
        return self.measure.effect(row.label, pairs, over_all)

    def pairs(self) -> tuple[list[Pair], list[str]]:
        """ImageNet and chest X-rays by the same method, and why some are no pair."""
        found, unequal = [], []
        for a in self.of("ssl-imagenet"):
            for b in self.of("ssl-cxr"):
                one, other = self.played[a], self.played[b]
                if one.method != other.method:
                    continue
                if _same(one.images_seen, other.images_seen):
                    found.append((a, b))
                else:
                    unequal.append(
                        f"{a.label} saw {about(one.images_seen)} images, {b.label} "
                        f"{about(other.images_seen)}"
                    )
        return found, unequal

    def data(self, pairs: Sequence[Pair]) -> str:
        """How much data the encoders of pairs were trained on, as far as anything tells."""
        said = []
        for row in dict.fromkeys(row for pair in pairs for row in pair):
            played = self.played[row]
            if played.images is None:
                said.append(
                    f"{row.label}: not known from its records or a card with these weights at hand"
                )
            else:
                seen = f", {about(played.images_seen)} seen" if played.images_seen else ""
                said.append(f"{row.label}: {played.images:,} images{seen}")
        return f"training data: {'; '.join(said)}" if said else ""

    def left_out(self) -> list[str]:
        """Encoders and cells that did not count in the effects asked for so far, and why."""
        skipped, references = self.measure.skipped, self.references
        roleless = [f"{p.label}: {p.reason}" for p in self.played.values() if p.role == "none"]
        others = [
            f"{row.label}: another supervised ImageNet encoder; the reference is "
            f"{references[0].label}"
            for row in references[1:]
        ]
        seen = [f"{label} on {name} (seen in pretraining)" for label, name in skipped.exposed]
        return [*roleless, *others, *seen, *skipped.seeds, *skipped.other]

    def missing(self) -> tuple[str, ...]:
        """Cells that other encoders have and one lacks, and seeds likewise."""
        lacks = {
            row.label: _lacks(self.grid, row)
            for row, played in self.played.items()
            if played.role != "none"
        }
        return tuple(f"{label}: {', '.join(places)}" for label, places in lacks.items() if places)


def _tested(grid: Grid, catalogue: Catalogue) -> tuple[Tested, ...]:
    first: dict[str, Record] = {}
    for (_, column), cell in grid.cells.items():
        first.setdefault(column.benchmark, cell.records[0])
    family = families({name: catalogue.dataset(r.spec.benchmark.name) for name, r in first.items()})
    return tuple(
        Tested(name, family[name], r.declared.get("split", ""), _n_images(r))
        for name, r in first.items()
    )


def _lacks(grid: Grid, row: Row) -> list[str]:
    """The places of one row that have no cell, then those whose cell lacks seeds."""
    columns = [c for c in grid.columns if c.test_set == "test"]
    cells = [grid.cells[row, c] for c in columns if (row, c) in grid.cells]
    fewer = [
        f"{cell.column.name} seed{'s' * (len(cell.missing) > 1)} "
        f"{', '.join(map(str, cell.missing))}"
        for cell in cells
        if cell.missing
    ]
    return [*(c.name for c in columns if (row, c) not in grid.cells), *fewer]


def _same(one: float | None, other: float | None) -> bool:
    """Whether two numbers of images are about the same; what is not known is given the benefit."""
    if one is None or other is None:
        return True
    return abs(one - other) <= _SAME_IMAGES_SEEN * max(one, other)


def _n_images(record: Record) -> int:
    n: int = record.result["tests"]["test"]["n_images"]
    return n
