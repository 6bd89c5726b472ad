"""Whether a bundle may become a result: every check, all problems at once.

Needs no network, and nothing of the bundle runs, unless cells are to be repeated (``rerun``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrzoo.errors import CxrzooError
from cxrzoo.evaluation import verification
from cxrzoo.evaluation.record import Record
from cxrzoo.evaluation.verification import SELF_REPORTED, Verification
from cxrzoo.report.cells import Evidence
from cxrzoo.submit import bundle as bundles
from cxrzoo.submit import card_checks, checks
from cxrzoo.submit import grid as grids
from cxrzoo.submit.bundle import MANIFEST, Bundle
from cxrzoo.submit.container import BundleError, is_checkout
from cxrzoo.submit.results import (
    Results,
    changed_folder,
    check_against,
    folded,
    other_card,
    other_pixels,
)
from cxrzoo.zoo import registry


@dataclass
class Report:
    """What validation found.

    ``recomputed`` and ``rerun`` are digests of records; ``notes`` say what was not checked.
    Refused when there is a problem.
    """

    path: Path
    bundle: Bundle | None = None
    records: dict[str, Record] = field(default_factory=dict)
    recomputed: list[str] = field(default_factory=list)
    rerun: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def tier(self) -> str:
        """What the checks have reached: self-reported, recomputed or rerun."""
        if not self.recomputed:
            return SELF_REPORTED
        return verification.tier_of(len(self.recomputed), len(self.rerun))

    def collect(self, problems: Iterable[str]) -> None:
        """Add problems, and what stops a check half-way."""
        try:
            for problem in problems:
                self.problems.append(_printable(problem))
        except CxrzooError as error:
            self.problems.extend(map(_printable, _raised(error)))

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        about = self.bundle.manifest if self.bundle else None
        return {
            "path": str(self.path),
            "ok": self.ok,
            "encoder": about.encoder if about else None,
            "weights_sha256": about.weights_sha256 if about else None,
            "grid": about.grid if about else None,
            "tier": self.tier if self.ok else None,
            "records": len(self.records),
            "recomputed": len(self.recomputed),
            "rerun": len(self.rerun),
            "notes": self.notes,
            "problems": self.problems,
        }


def validate(
    path: Path,
    *,
    base: Path | None = None,
    evidence: Evidence | None = None,
    trial: bool = False,
    rerun: Callable[[Report], Iterable[str]] | None = None,
) -> Report:
    """Check a bundle, or a checkout of the results with one bundle more than ``base``.

    Args:
        path: a bundle's folder or zip file, or a results folder (then ``base`` is needed).
        base: the results as they are.
        evidence: benchmarks at hand, whose labels metrics are recomputed with; those below
            ``CXRZOO_DATA`` by default.
        trial: with ``base``, take a bundle of a grid for trying, whose scores are no results.
        rerun: repeats cells once everything else is right: adds the digests of those that came out
            the same to the report, and yields problems.
    """
    report = Report(path)
    try:
        results = None if base is None else Results(base)
        report.bundle = _open(path, base)
        setting = _setting(report.bundle, results, evidence or Evidence([]))
    except CxrzooError as error:
        report.collect(_raised(error))
        return report
    if results is not None and setting.grid.trial and not trial:
        report.collect([trial_problem(setting.grid.name)])
        return report
    report.notes = setting.notes
    _check(report, setting)
    if report.ok and rerun is not None:
        report.collect(rerun(report))
    return report


def accept(report: Report, base: Path) -> list[Path]:
    """Copy a bundle that was validated against ``base`` into it, and note who has checked it.

    Raises:
        BundleError: it was refused; nothing is written.
    """
    if not report.ok or report.bundle is None:
        raise BundleError(f"{report.path}: refused, so nothing was written to {base}")
    folder = base / report.bundle.folder
    bundles.write(report.bundle, folder)
    if not report.recomputed:
        return [folder]
    return [folder, verification.write(base, _verification(report, base))]


def trial_problem(grid: str) -> str:
    """Why a bundle of a grid for trying is refused."""
    return (
        f"{MANIFEST}: grid {grid} is for trying the machinery, and its scores are no results; "
        "--trial takes it all the same, into results of your own"
    )


def _open(path: Path, base: Path | None) -> Bundle:
    """A bundle, or the one in which a whole results folder differs from ``base``."""
    alone = path.is_dir() and (path / MANIFEST).is_file() and not is_checkout(path)
    if not path.is_dir() or alone or base is None:
        return bundles.read(path)
    folder = changed_folder(path, base)
    bundle = bundles.read(path / folder)
    if bundle.folder != folder:
        raise BundleError(
            f"{folder}: is the folder of a bundle of {bundle.manifest.encoder}, which belongs in "
            f"{bundle.folder}"
        )
    return bundle


def _setting(bundle: Bundle, base: Results | None, evidence: Evidence) -> checks.Setting:
    card = card_checks.read_card(bundle)
    grid = grids.find(bundle.manifest.grid)
    return checks.Setting(bundle, card, grid, base, evidence)


def _check(report: Report, setting: checks.Setting) -> None:
    bundle = setting.bundle
    report.collect(card_checks.check_files(bundle, setting.card))
    report.collect(card_checks.check_card(bundle, setting.card))
    report.collect(check_zoo_name(bundle))
    before = len(report.problems)
    report.collect(checks.check_size(bundle))
    if len(report.problems) > before:
        return
    for name in bundle.record_names:
        try:
            report.records[name] = checks.read_record(bundle, name)
        except CxrzooError as error:
            report.collect(_raised(error))
    unread = len(report.records) < len(bundle.record_names)
    for name, record in report.records.items():
        before = len(report.problems)
        report.collect(checks.check_record(record, name, setting))
        if len(report.problems) == before and checks.recomputable(record, setting):
            report.recomputed.append(record.digest)
    if not unread:  # a record that cannot be read is not missing
        report.collect(checks.check_grid(report.records, setting.grid))
        if setting.base is not None:
            report.collect(_against(bundle, report.records, setting.base, setting.notes))


def _against(
    bundle: Bundle, records: dict[str, Record], base: Results, notes: list[str]
) -> Iterator[str]:
    yield from check_against(bundle, records, base)
    notes.extend(other_card(bundle, base))
    notes.extend(other_pixels(records, base))


def _raised(error: CxrzooError) -> list[str]:
    return str(error).splitlines()


def _printable(line: str) -> str:
    """A line that may quote a submitter, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in line)[:1000]


def check_zoo_name(bundle: Bundle) -> list[str]:
    """The name of an encoder that comes with the zoo belongs to its weights.

    One without weights yet may be trained by anybody.
    """
    manifest = bundle.manifest
    if manifest.encoder.startswith(("timm:", "hf:")):
        return [f"{MANIFEST}: {manifest.encoder} says where an encoder is, and is no name of one"]
    known = registry.list_encoders()
    if manifest.encoder not in known:
        twin = next((name for name in known if folded(name) == folded(manifest.encoder)), None)
        close = f"{MANIFEST}: the name {manifest.encoder} is too close to {twin}, of the zoo"
        return [f"{close}; give the encoder another name"] if twin else []
    weights = registry.find(manifest.encoder)[0].weights
    if weights is None or weights.sha256 == manifest.weights_sha256:
        return []
    if weights.sha256 is None:
        return [
            f"{MANIFEST}: {manifest.encoder} is an encoder of the zoo, whose card does not state "
            "its weights' sha256: add it there first, or give yours another name"
        ]
    return [
        f"{MANIFEST}: {manifest.encoder} is an encoder of the zoo with other weights; give yours "
        "another name"
    ]


def _verification(report: Report, base: Path) -> Verification:
    """What was checked now, and before of the same weights.

    Cells that were repeated before say nothing of records that came later: with such, it takes new
    ones for the tier.
    """
    assert report.bundle is not None
    manifest = report.bundle.manifest
    recomputed, rerun = set(report.recomputed), set(report.rerun)
    path = verification.path_of(base, manifest.encoder)
    if path.is_file():
        known = verification.read(path)
        rerun |= set(known.rerun) if recomputed <= set(known.records) else set()
        recomputed |= set(known.records)
    return Verification(
        schema="cxrzoo.verification/1",
        encoder=manifest.encoder,
        weights_sha256=manifest.weights_sha256,
        tier=verification.tier_of(len(recomputed), len(rerun)),
        records=tuple(sorted(recomputed)),
        rerun=tuple(sorted(rerun)),
    )
