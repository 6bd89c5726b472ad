"""A results folder: one bundle's folder for each encoder, and the maintainers' verifications.

What is already there is the measure of what comes: names and weights are taken once, finished
records stay, and rows that no grid pins must be drawn from as they were before.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from cxrzoo.errors import RecordError
from cxrzoo.evaluation.record import Record, read_record
from cxrzoo.evaluation.verification import FOLDER as VERIFICATION
from cxrzoo.submit import grid as grids
from cxrzoo.submit.bundle import MANIFEST, RECORDS, Bundle, Manifest, parse_manifest
from cxrzoo.submit.container import BundleError, files_below, name_problem
from cxrzoo.submit.grid import Rows
from cxrzoo.submit.strict import parse_json


class Results:
    """A results folder, read as far as it is asked."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise BundleError(f"{path}: no such folder; --base is a checkout of the results")
        self.path = path

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """By the name of its folder, what each bundle says of itself."""
        return {
            path.parent.name: parse_manifest(parse_json(path.read_bytes(), str(path)))
            for path in sorted(self.path.glob(f"*/{MANIFEST}"))
        }

    @cached_property
    def records(self) -> dict[str, list[Record]]:
        """The records of each bundle, by the name of its folder."""
        return {folder: self._read(folder) for folder in self.manifests}

    def rows(self, benchmark: str, manifest_sha256: str) -> Rows | None:
        """A version of rows as records here have it; None where none has."""
        wanted = (benchmark, manifest_sha256)
        return grids.rows_of_records(
            record
            for records in self.records.values()
            for record in records
            if (record.spec.benchmark.name, record.spec.benchmark.manifest_sha256) == wanted
        )

    def _read(self, folder: str) -> list[Record]:
        try:
            paths = sorted((self.path / folder / RECORDS).rglob("*.json"))
            return [read_record(path) for path in paths]
        except RecordError as error:
            raise BundleError(f"the results themselves are broken: {error}") from None


def check_against(bundle: Bundle, records: dict[str, Record], base: Results) -> Iterator[str]:
    """Whether a bundle takes no other's name, weights or predictions, and drops nothing."""
    yield from _check_name(bundle.manifest, bundle.folder, base)
    mine = {record.run_key: record for record in records.values()}
    for record in base.records.get(bundle.folder, ()):
        new = mine.get(record.run_key)
        if new is None:
            yield (
                f"{record.file_name}: is among the results, and this bundle drops it; put it back"
            )
        elif new.digest != record.digest:
            yield (
                f"{record.file_name}: is among the results with another result; finished records "
                "stay as they are"
            )
    yield from _check_predictions(records, bundle.folder, base)


def other_pixels(records: dict[str, Record], base: Results) -> Iterator[str]:
    """Notes on benchmarks whose rows are those of the results, and whose pixels are not."""
    known: dict[tuple[str, str, int, str], set[str]] = {}
    for record in (record for there in base.records.values() for record in there):
        known.setdefault(_view(record), set()).add(record.spec.benchmark.pixels_sha256)
    for record in {_view(record): record for record in records.values()}.values():
        pixels = known.get(_view(record))
        if pixels and record.spec.benchmark.pixels_sha256 not in pixels:
            yield (
                f"{record.spec.benchmark.name}: other pixels than in the results, at the same "
                "size: images of another resolution, or another version of Pillow"
            )


def other_card(bundle: Bundle, base: Results) -> Iterator[str]:
    """A note where a bundle changes files of an encoder that is among the results already: nobody
    can tell from the files whose pull request it is."""
    there = base.manifests.get(bundle.folder)
    if there is None:
        return
    mine = bundle.manifest.files
    changed = [n for n in sorted({*mine, *there.files}) if mine.get(n) != there.files.get(n)]
    if changed:
        few = ", ".join(changed[:3]) + f" and {len(changed) - 3} more" * (len(changed) > 3)
        yield (
            f"{bundle.folder} is among the results already, and this changes {few}: see that it "
            "comes from those who submitted it"
        )


def folded(name: str) -> str:
    """A name as a hasty reader sees it: without case, 0 as o, 1 and i as l, all marks alike."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).translate(str.maketrans("01i", "oll"))


def _view(record: Record) -> tuple[str, str, int, str]:
    """The rows and how an encoder sees them."""
    spec, contract = record.spec.benchmark, record.spec.encoder.input
    return spec.name, spec.manifest_sha256, contract.size_px, contract.interpolation


def _check_predictions(records: dict[str, Record], folder: str, base: Results) -> Iterator[str]:
    owners = {
        record.result["predictions_sha256"]: other
        for other, there in base.records.items()
        for record in there
        if other != folder
    }
    for name, record in records.items():
        owner = owners.get(record.result.get("predictions_sha256"))
        if owner:
            yield f"{name}: its predictions are those of {owner}, number for number"


def _check_name(manifest: Manifest, folder: str, base: Results) -> Iterator[str]:
    if folder.casefold() == VERIFICATION:
        yield f"{MANIFEST}: an encoder cannot be called {folder!r}; that folder is the maintainers'"
    for other, theirs in base.manifests.items():
        same_weights = theirs.weights_sha256 == manifest.weights_sha256
        if other == folder and theirs.encoder == manifest.encoder:
            if not same_weights:
                yield (
                    f"{MANIFEST}: the name {manifest.encoder} is taken, by weights "
                    f"{theirs.weights_sha256[:12]}; give the encoder another name"
                )
        elif folded(other) == folded(folder):
            yield (
                f"{MANIFEST}: the name {manifest.encoder} is too close to {theirs.encoder}; "
                "give the encoder another name"
            )
        elif same_weights:
            yield f"{MANIFEST}: these weights are among the results already, as {theirs.encoder}"


def changed_folder(head: Path, base: Path) -> str:
    """The one encoder's folder in which a whole checkout differs from another.

    Raises:
        BundleError: something else was changed, added or deleted, or nothing was at all.
    """
    before, after = files_below(base), files_below(head)
    problems, folders = [], set()
    lacking = {n.split("/")[0] for n in before} - {n.split("/")[0] for n in after}
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old and new and filecmp.cmp(old, new, shallow=False):
            continue
        what = "is deleted" if new is None else "is added" if old is None else "is changed"
        folder, inside, _ = name.partition("/")
        if folder == VERIFICATION:
            problems.append(f"{name}: {what}; what lies in {VERIFICATION}/ is the maintainers'")
        elif not inside:
            problems.append(f"{name}: {what}; a submission is one folder, and nothing beside it")
        elif new is None:
            problems.append(f"{name}: {what}; what was accepted stays")
        elif why := name_problem(name):
            problems.append(f"{name}: {what}, and {why}")
        else:
            folders.add(folder)
    if len(folders) > 1:
        problems.append(f"{', '.join(sorted(folders))}: changed at once; submit one encoder")
    if not folders and not problems:
        problems.append(
            f"{head}: nothing differs from {base}; what is there already is checked again by its "
            f"folder: `cxrzoo validate {base}/NAME --base {base}`"
        )
    if any(f"{folder}/{MANIFEST}" in before for folder in lacking):
        problems.append(
            f"{', '.join(sorted(lacking))}: if it came to the results after the pull request was "
            "opened, close that and open another: `cxrzoo submit --push` again"
        )
    if problems:
        raise BundleError("\n".join(problems))
    return folders.pop()
