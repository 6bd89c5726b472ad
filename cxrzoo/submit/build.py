"""Making a bundle: the cells of the grid that are missing are evaluated, the rest is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrzoo.data.table import open_benchmark
from cxrzoo.device import pick
from cxrzoo.errors import CardError
from cxrzoo.evaluation.record import Record
from cxrzoo.evaluation.sweep import Sweep
from cxrzoo.submit import bundle as bundles
from cxrzoo.submit import card_checks
from cxrzoo.submit.bundle import CARD, Bundle
from cxrzoo.submit.container import BundleError
from cxrzoo.submit.grid import Grid
from cxrzoo.submit.results import Results
from cxrzoo.submit.validate import check_zoo_name
from cxrzoo.zoo import encoder as zoo


@dataclass(frozen=True)
class Plan:
    """What to evaluate, with what, and where records go.

    ``base``: results that may know versions of a benchmark's rows which the grid does not pin.
    """

    encoder: str
    grid: Grid
    runs: Path
    data_root: Path | None = None
    base: Path | None = None
    device: str = "auto"
    workers: int | None = None
    with_weights: bool = False


def build(plan: Plan) -> Bundle:
    """Evaluate what is missing and bundle it.

    Raises:
        BundleError: the data at hand are no version that the grid knows, or records are missing.
        CxrzooError: a cell failed; the others are kept.
    """
    if plan.encoder.startswith("timm:"):
        raise CardError("an encoder of timm has no card of its own; `cxrzoo convert` makes one")
    _check_card(plan.encoder)
    _check_data(plan)
    records = [record for name in plan.grid.benchmarks for record in _evaluate(plan, name)]
    _, directory, _ = zoo.locate(plan.encoder)
    card = bundles.card_files(directory, _weights(plan.encoder) if plan.with_weights else None)
    return bundles.assemble(card, records, plan.runs, plan.grid.name)


def _check_card(encoder: str) -> None:
    """Before hours of work: whether the card says what a submission's must."""
    card, directory, _ = zoo.locate(encoder)
    if card.weights is None:
        return  # loading says how to get them
    files = {f"{CARD}/{name}": text for name, text in bundles.card_files(directory).items()}
    sha256 = card.weights.sha256 or "0" * 64
    draft = bundles.seal(files, encoder=card.name, weights_sha256=sha256, grid="")
    problems = [
        *card_checks.check_card(draft, card_checks.read_card(draft)),
        *check_zoo_name(draft),
    ]
    if problems:
        raise BundleError("\n".join(problems))


def _check_data(plan: Plan) -> None:
    """Before hours of work: whether the rows at hand are known."""
    base = None if plan.base is None else Results(plan.base)
    problems = []
    for name, entry in plan.grid.benchmarks.items():
        table = plan.grid.limited(open_benchmark(name, plan.data_root))
        manifest = table.manifest_sha256
        if not (plan.grid.rows(name, manifest) or (base and base.rows(name, manifest))):
            versions = "; ".join(rows.description for rows in entry.rows) or "none yet"
            problems.append(
                f"{name}: the copy at hand ({len(table):,} images, rows {manifest[:12]}) is no "
                f"version that the grid {plan.grid.name} pins ({versions}); see CONTRIBUTING.md"
            )
    if problems:
        raise BundleError("\n".join(problems))


def _evaluate(plan: Plan, benchmark: str) -> list[Record]:
    sweep = Sweep(
        encoders=[plan.encoder],
        benchmarks=[benchmark],
        budgets=plan.grid.benchmarks[benchmark].budgets,
        seeds=plan.grid.seeds,
        protocol=plan.grid.settings,
        data_root=plan.data_root,
        output=plan.runs,
        device=pick(plan.device),
        workers=plan.workers,
        limit=plan.grid.limit,
    )
    result = sweep.run(sweep.plan())
    result.raise_failures()
    return result.records


def _weights(encoder: str) -> Path | None:
    """The encoder's weights file, fetched if need be; None where the weights are drawn."""
    card, directory, _ = zoo.fetch_files(encoder)
    name = card.weights.file if card.weights else None
    return directory / name if name else None
