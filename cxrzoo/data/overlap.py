"""Which dataset holds whose images and patients: ``benchmarks/overlap.yaml`` and what follows.

Nothing is guessed: what the file does not establish is None, never False.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from cxrzoo import resources
from cxrzoo.errors import DataError
from cxrzoo.schema import Strict, parse_yaml, plain_lines

ALL = "all"
OFFICIAL = "official"
_HASHED_SPLIT = re.compile(r"([\w.-]+/)?cxrzoo-v\d+-(train|test)")


class Archive(Strict):
    """Where images come from."""

    kind: Literal["radiographs", "photographs", "simulated"]
    title: str
    may_be: tuple[str, ...] = Field((), description="archives it may be or share patients with")


class Dataset(Strict):
    """A collection of images by its sources: archives, or the datasets it was drawn from."""

    title: str
    archives: tuple[str, ...] | None = Field(None, description="None: nobody has listed them")
    drawn_from: tuple[str, ...] = ()
    images: int | None = Field(ge=1, description="of the complete public copy")
    splits: dict[str, int | None] = Field(default_factory=dict, description="images by split")
    part_of: str | None = Field(None, description="what cards call a selection by")
    caution: str | None = Field(None, description="what a reader of any table must know of it")


class Containment(Strict):
    """``images`` of the images of ``part`` are images of ``whole``; ``all``: every one is.

    ``splits``: whether the official split of ``part`` is that of ``whole`` on its images
    (``follows``), or each split of one holds test images of the other (``crosses``).
    """

    part: str
    whole: str
    images: int | None = Field(ge=1, description="None where it is not known how many")
    all: bool
    splits: Literal["follows", "crosses", "unknown"]
    by_split: dict[str, int] = Field(
        default_factory=dict, description="images of part by split of whole"
    )
    patients: Literal["known", "unknown"] = Field(description="whether a map of them is public")
    evidence: str
    source: str


class Overlap(Strict):
    """The file: archives and datasets by id, and what is known to be inside what."""

    archives: dict[str, Archive]
    datasets: dict[str, Dataset]
    overlaps: tuple[Containment, ...]

    def archives_of(self, name: str) -> frozenset[str] | None:
        """Where the dataset's images come from; None where that is not known."""
        dataset = self.datasets.get(name)
        if dataset is None or (dataset.archives is None and not dataset.drawn_from):
            return None
        own = dataset.archives or ()
        found = frozenset(own).union(*(self.archives[a].may_be for a in own))
        for source in dataset.drawn_from:
            if (more := self.archives_of(source)) is None:
                return None
            found |= more
        return found

    def chain(self, part: str, whole: str) -> tuple[Containment, ...] | None:
        """The shortest way up from ``part`` to ``whole``, of which only the first may be partial.

        () where they are the same; None where there is no way.
        """
        ways: list[tuple[str, tuple[Containment, ...]]] = [(part, ())]
        reached = {part}
        for name, way in ways:
            if name == whole:
                return way
            for step in self.overlaps:
                if step.part == name and step.whole not in reached and (step.all or not way):
                    reached.add(step.whole)
                    ways.append((step.whole, (*way, step)))
        return None

    def only(self, name: str, *kinds: str) -> bool:
        """Whether all images of the dataset are known to be of these kinds."""
        archives = self.archives_of(name)
        return archives is not None and all(self.archives[a].kind in kinds for a in archives)

    def apart(self, one: str, other: str) -> bool:
        """Whether two datasets are known to have no image and no patient in common.

        ``other`` may be a collection of radiographs that the file does not list.
        """
        if one == other or one not in self.datasets:
            return False
        if other not in self.datasets:
            return self.only(one, "photographs", "simulated")
        mine, theirs = self.archives_of(one), self.archives_of(other)
        if self.only(one, "simulated") or self.only(other, "simulated"):
            return not (mine or frozenset()) & (theirs or frozenset())
        return mine is not None and theirs is not None and not mine & theirs


@dataclass(frozen=True)
class Relation:
    """What someone who saw a split of one dataset has seen of a benchmark; None: not known.

    ``seen``: any image of it. ``test``: a test image or a test patient. ``images``: how many of
    its images. ``reason``: half a sentence.
    """

    seen: bool | None
    test: bool | None
    images: int | None
    reason: str


def relation(
    pretraining: str,
    split: str | None,
    benchmark: str,
    split_id: str,
    overlap: Overlap | None = None,
) -> Relation:
    """What ``split`` of the dataset ``pretraining`` shows of the dataset ``benchmark``.

    ``split`` is ``all``, a name such as ``official-train``, or None where it is not known;
    ``split_id`` is the benchmark's: ``official``, ``cxrzoo-v<version>``, or
    ``<benchmark>/cxrzoo-v<version>`` where the benchmark is not called as its dataset.
    """
    known = overlap or load_overlap()
    if pretraining not in known.datasets:
        return Relation(None, None, None, f"{pretraining} is not in overlap.yaml")
    question = _Question(known, pretraining, split, benchmark, split_id)
    if benchmark in known.datasets:
        if (chain := known.chain(benchmark, pretraining)) is not None:
            return question.of_holder(chain)
        if (chain := known.chain(pretraining, benchmark)) is not None:
            return question.of_part(chain)
        if question.beside():
            reason = f"both follow one official split, whose test patients {split} leaves out"
            return Relation(None, False, None, reason)
    if known.apart(pretraining, benchmark):
        return Relation(False, False, 0, question.why_apart())
    if sources := known.datasets[pretraining].drawn_from:
        return question.of_mixture(sources)
    return Relation(None, None, None, question.why_unknown())


@lru_cache(maxsize=8)
def load_overlap(path: Path | None = None) -> Overlap:
    """Read and check the packaged file, or another; raises DataError naming file and field."""
    path = path or resources.OVERLAP
    try:
        overlap = Overlap.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(plain_lines(error, str(path))) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if faults := [f"{path}: {fault}" for fault in _faults(overlap)]:
        raise DataError("\n".join(faults))
    return overlap


@dataclass(frozen=True)
class _Question:
    """The arguments of ``relation``."""

    overlap: Overlap
    pretraining: str
    split: str | None
    benchmark: str
    split_id: str

    def of_holder(self, chain: tuple[Containment, ...]) -> Relation:
        """The pretraining dataset is the benchmark's, or holds it (``chain`` leads up to it)."""
        complete = all(step.all for step in chain)
        if self.split is None:
            return Relation(None if chain else True, None, None, "which split is not stated")
        if self.split == ALL:
            return self._everything(chain, True if complete else None)
        return self._one_split(chain, seen=None if chain else True)

    def of_part(self, chain: tuple[Containment, ...]) -> Relation:
        """The benchmark's dataset holds the pretraining dataset, or some of it."""
        complete = all(step.all for step in chain)
        if self.split is None:
            return Relation(complete or None, None, None, "which split is not stated")
        if self.split == ALL:
            placed = _cross(chain) or all(step.splits == "follows" for step in chain)
            return self._everything(chain, True if complete and placed else None)
        return self._one_split(chain, seen=complete or None)

    def of_mixture(self, sources: tuple[str, ...]) -> Relation:
        """The pretraining dataset was drawn from ``sources``; which of their images, nobody knows.

        So nothing is sure to have been seen, and the source that says least decides.
        """
        ways = {source: self.overlap.chain(source, self.benchmark) for source in sources}
        found = {
            source: relation(source, None, self.benchmark, self.split_id, self.overlap)
            for source in sources
        }
        worst = max(sources, key=lambda s: (found[s].test is not False, ways[s] is not None))
        detail = found[worst].reason
        if chain := ways[worst]:
            detail = f"{_inside(chain)}, and it is not known which"
        return Relation(None, None, None, f"drawn from {worst}: {detail}")

    def beside(self) -> bool:
        """Whether one dataset holds both and neither the split nor its patients reach the test."""
        return self.split == f"{OFFICIAL}-train" and any(
            self._follows(self.pretraining, whole) and self._follows(self.benchmark, whole)
            for whole in self.overlap.datasets
        )

    def why_apart(self) -> str:
        """Why nothing is in common."""
        if self.overlap.only(self.pretraining, "photographs"):
            return f"{self.pretraining} holds photographs, no radiographs of patients"
        return f"{self.pretraining} and {self.benchmark} come from different archives"

    def why_unknown(self) -> str:
        """Why it cannot be said whether anything is in common."""
        mine = self.overlap.archives_of(self.pretraining)
        theirs = self.overlap.archives_of(self.benchmark)
        if self.benchmark not in self.overlap.datasets:
            return f"{self.benchmark} is not in overlap.yaml"
        if mine is None or theirs is None:
            name = self.pretraining if mine is None else self.benchmark
            return f"the sources of {name} are not listed anywhere"
        shared = min(mine & theirs)
        title = self.overlap.archives[shared].title
        listed = {*(self.overlap.datasets[self.pretraining].archives or ())}
        if {shared} <= listed & {*(self.overlap.datasets[self.benchmark].archives or ())}:
            return (
                f"{self.benchmark} has images of the same archive ({title}), which ones is unknown"
            )
        return f"both may have images of one archive ({title})"

    def _everything(self, chain: tuple[Containment, ...], test: bool | None) -> Relation:
        images = chain[0].images if chain else self.overlap.datasets[self.benchmark].images
        if not chain:
            what = "the same dataset as a whole"
        elif chain[0].part == self.benchmark:
            known = "all" if images is None and test else _count(images)
            what = f"it holds {known} {self.benchmark} images"
        else:
            what = _inside(chain)
        which = "test images included" if test else "which ones is not known"
        return Relation(True, test, images, f"{what}, {which}")

    def _one_split(self, chain: tuple[Containment, ...], *, seen: bool | None) -> Relation:
        """``seen`` is what holds when it is not known where the split lies."""
        split = self.split or ""
        splits = self.overlap.datasets[self.pretraining].splits
        if split not in splits and not _HASHED_SPLIT.fullmatch(split):
            names = ", ".join(dict.fromkeys([ALL, *splits, f"{self.split_id}-train"]))
            return Relation(seen, None, None, f"no known split (known: {names})")
        side = _side(chain, split, self.split_id)
        if side is None:
            reason = f"where its images lie in the split of {self.benchmark} is not known"
            return Relation(seen, None, None, reason)
        if side == "both":
            reason = f"that split cuts across the test set of {self.benchmark}"
            return Relation(True, True, None, reason)
        images = chain[0].by_split.get(split) if chain else splits.get(split)
        if chain:
            what = f"{_count(images)} of its images are {self.benchmark} images"
        else:
            what = "the same dataset" + (f", {images:,} images" if images else "")
        where = "all" if side == "test" else "none"
        reason = f"{what}, {where} in its test set"
        return Relation(images != 0, side == "test" and images != 0, images, reason)

    def _follows(self, part: str, whole: str) -> bool:
        chain = self.overlap.chain(part, whole)
        inside = bool(chain) and all(s.all and s.splits == "follows" for s in chain or ())
        return inside and self.split_id == OFFICIAL


def _side(
    chain: tuple[Containment, ...], split: str, split_id: str
) -> Literal["train", "test", "both"] | None:
    """On which side of the benchmark's split a named split lies; None where it is not known.

    Two different splits of the same images by patient have test images of either on both sides.
    """
    scheme, _, side = split.rpartition("-")
    if not all(step.all for step in chain):
        return None
    if _cross(chain):
        return "both"
    if any(step.splits == "unknown" for step in chain):
        return None
    if scheme != split_id:
        return "both"
    if chain and split_id != OFFICIAL:  # two datasets may name one patient differently
        return None
    return "train" if side == "train" else "test" if side == "test" else None


def _cross(chain: tuple[Containment, ...]) -> bool:
    return any(step.splits == "crosses" for step in chain)


def _inside(chain: tuple[Containment, ...]) -> str:
    first, top = chain[0], chain[-1].whole
    return f"{'all' if first.all else _count(first.images)} of its images are {top} images"


def _count(images: int | None) -> str:
    return "some" if images is None else f"{images:,}"


def _faults(overlap: Overlap) -> Iterator[str]:
    """What the file says that cannot be, as ``field: message``."""
    unresolved = False
    for name, archive in overlap.archives.items():
        for other in archive.may_be:
            if other not in overlap.archives:
                unresolved = True
                yield f"archives.{name}.may_be: unknown archive '{other}'"
    for name, dataset in overlap.datasets.items():
        for fault in _dataset_faults(overlap, name, dataset):
            unresolved = True
            yield f"datasets.{name}.{fault}"
    seen: set[frozenset[str]] = set()
    for index, step in enumerate(overlap.overlaps):
        pair = frozenset((step.part, step.whole))
        if pair in seen:
            yield f"overlaps.{index}: {step.part} and {step.whole} are listed twice"
        seen.add(pair)
        unknown = [f for f in ("part", "whole") if getattr(step, f) not in overlap.datasets]
        for field in unknown:
            yield f"overlaps.{index}.{field}: unknown dataset '{getattr(step, field)}'"
        if not unknown and not unresolved:
            for fault in _step_faults(overlap, step):
                yield f"overlaps.{index}.{fault}"


def _dataset_faults(overlap: Overlap, name: str, dataset: Dataset) -> Iterator[str]:
    for archive in dataset.archives or ():
        if archive not in overlap.archives:
            yield f"archives: unknown archive '{archive}'"
    for source in dataset.drawn_from:
        if source not in overlap.datasets:
            yield f"drawn_from: unknown dataset '{source}'"
        elif overlap.datasets[source].drawn_from:
            yield f"drawn_from: '{source}' is itself drawn from others; name those"
    if dataset.archives is not None and dataset.drawn_from:
        yield "drawn_from: stands instead of archives, not beside them"
    if dataset.archives == ():
        yield "archives: empty; null says that they are not known"
    for split, images in dataset.splits.items():
        if images is not None and dataset.images is not None and images > dataset.images:
            yield f"splits.{split}: {images} images, more than the {dataset.images} of {name}"


def _step_faults(overlap: Overlap, step: Containment) -> Iterator[str]:
    part, whole = overlap.datasets[step.part], overlap.datasets[step.whole]
    if step.part == step.whole:
        yield f"whole: {step.part} is not a part of itself"
        return
    for name, dataset in ((step.part, part), (step.whole, whole)):
        if step.images is not None and dataset.images is not None and step.images > dataset.images:
            yield f"images: {step.images} images, more than the {dataset.images} of {name}"
    for split, images in step.by_split.items():
        if split not in whole.splits:
            yield f"by_split.{split}: {step.whole} has no such split"
        elif images > (whole.splits[split] or images):
            yield f"by_split.{split}: {images} images, more than the {whole.splits[split]} there"
    if step.images is not None and sum(step.by_split.values()) > step.images:
        yield f"by_split: {sum(step.by_split.values())} images, more than images ({step.images})"
    if step.splits == "follows" and not {f"{OFFICIAL}-train", f"{OFFICIAL}-test"} <= set(
        whole.splits
    ):
        yield f"splits: follows, but {step.whole} has no {OFFICIAL}-train and {OFFICIAL}-test"
    if overlap.apart(step.part, step.whole):
        yield f"whole: {step.part} and {step.whole} have no archive in common"
