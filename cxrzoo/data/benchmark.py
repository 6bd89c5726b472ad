"""Benchmarks as declarative files: the schema and the catalogue."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from cxrzoo import resources
from cxrzoo.data import sources
from cxrzoo.data.folder import FolderSource, folder_layout
from cxrzoo.data.hubset import HubSource
from cxrzoo.data.sources import Source
from cxrzoo.errors import DataError, UnknownNameError
from cxrzoo.plugins import with_plugins
from cxrzoo.schema import Strict, parse_yaml, plain_lines

ENTRY_POINTS = "cxrzoo.benchmarks"
"""An entry point of this group names a folder of benchmark files, as a path or a callable."""


class SplitRule(Strict):
    """How rows become train and test.

    ``given``: the source says. ``hashed``: patients by hash, ``test_fraction`` of them to test.
    ``official``: the dataset's published lists when the copy is complete, else ``hashed``;
    the lists name the images, or their originals where the source maps images to such.
    """

    rule: Literal["given", "hashed", "official"]
    test_fraction: float = Field(1 / 3, gt=0, lt=1)
    train_list: str | None = None
    test_list: str | None = None


class LabelPolicy(Strict):
    """What becomes of labels that are neither 0 nor 1.

    A label is *uncertain* when the source says so (-1 in CheXpert and its kin), or when the
    readers of an image disagree; it is *missing* when the source says nothing.
    ``mask``: unknown, left out of training and test. ``ones``, ``zeros``: taken as positive,
    as negative. ``majority``: what more than half of the readers say; a tie is masked.
    """

    uncertain: Literal["mask", "ones", "zeros", "majority"] = "mask"
    missing: Literal["mask", "zeros"] = "mask"

    @property
    def name(self) -> str:
        """The policy in a word, or in words where the two differ."""
        same = self.uncertain == self.missing
        return self.uncertain if same else f"uncertain {self.uncertain}, missing {self.missing}"


class CompleteCopy(Strict):
    """What a complete copy of the public set holds, to know one and to notice another edition.

    All of it is about the rows that the benchmark uses, outside external test sets, whose images
    ``external`` counts. ``positives`` are by label, ``splits`` the images of the official split.
    ``rows_sha256`` is ``table.rows_sha256``; None where the membership is not public.
    """

    images: int
    patients: int | None = None
    positives: dict[str, int] | None = None
    splits: dict[str, int] = Field(default_factory=dict)
    external: dict[str, int] = Field(default_factory=dict)
    rows_sha256: str | None = None


class Benchmark(Strict):
    """A labelled dataset with its task, labels, patient key, split and licence."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:/._~ -]*$")]
    version: int = Field(ge=1, description="raised by any change that moves a row or a label")
    title: str
    source: Annotated[Source, Field(discriminator="kind")]
    labels: tuple[str, ...]
    label_policy: LabelPolicy = LabelPolicy()
    patient_key: str = Field(description="what identifies a patient, or 'per-image'")
    split: SplitRule
    complete: CompleteCopy | None = Field(None, description="None where nobody can say")
    dataset: str | None = Field(None, description="id in overlap.yaml, where it is not the name")
    verified: Literal["images", "metadata", "documentation"] = Field(
        description="what this file has been run on: real images, the publisher's own table with "
        "generated images, or a table made after the publisher's documentation"
    )
    flip_allowed: bool = False
    notes: tuple[str, ...] = Field((), description="shown under every table with this benchmark")
    access: Literal["open", "registration", "credentialed", "embedded", "own"]
    licence: str
    get: str = Field(description="how to get the images and where to put them")
    citation: str

    @property
    def split_id(self) -> str:
        """``official`` for the dataset's own split, else our hashed one of this version."""
        return f"cxrzoo-v{self.version}" if self.split.rule == "hashed" else "official"

    @property
    def per_image(self) -> bool:
        """Whether patients are not known, so that each image counts as one."""
        return self.patient_key.startswith("per-image")

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What every table with this benchmark must say."""
        guess = "patients are not known: split per image, one patient may be on both sides"
        return (*self.notes, guess) if self.per_image else self.notes

    @model_validator(mode="after")
    def _consistent(self) -> Benchmark:
        if isinstance(self.source, HubSource):
            for label in self.labels:
                if label not in self.source.label_columns:
                    raise ValueError(f"label '{label}' is not in source.label_columns")
        if self.complete and self.complete.positives:
            odd = set(self.complete.positives) - set(self.labels)
            if odd:
                raise ValueError(f"complete.positives has {min(odd)}, which is no label")
        return self


def list_benchmarks() -> list[str]:
    """Names of all benchmarks, sorted."""
    return sorted(_files())


def read_all() -> list[Benchmark]:
    """All benchmarks, by name: one look at the plugins for all of them."""
    return [read_benchmark(path) for _, path in sorted(_files().items())]


def find(name: str) -> Benchmark:
    """The benchmark called ``name``, or ``imagefolder:DIR`` for a user's own folder."""
    if name.startswith("imagefolder:"):
        return _folder_benchmark(name)
    files = _files()
    if name not in files:
        raise UnknownNameError("benchmark", name, [*files, "imagefolder:DIR"])
    return read_benchmark(files[name])


def at_hand(data_root: Path | str | None) -> list[str]:
    """Benchmarks whose folders exist below the data root; the phantom where there is none."""
    if data_root is None:
        return ["phantom"]
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"data root {root} does not exist or is not a directory")
    found = []
    for benchmark in read_all():
        wanted = sources.folders(benchmark.source)
        if wanted and all((root / folder).is_dir() for folder in wanted):
            found.append(benchmark.name)
    return found or ["phantom"]


def read_benchmark(path: Path) -> Benchmark:
    """Read and check a benchmark file; raises DataError naming the file and the field."""
    try:
        return Benchmark.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(plain_lines(error, str(path))) from None
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _files() -> dict[str, Path]:
    return with_plugins(_yaml_files(resources.BENCHMARKS), ENTRY_POINTS, _checked_files)


def _yaml_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.glob("*.yaml") if path.stem != "overlap"}


def _checked_files(folder: Path) -> dict[str, Path]:
    found = _yaml_files(folder)
    for path in found.values():
        read_benchmark(path)
    return found


def _folder_benchmark(name: str) -> Benchmark:
    path = Path(name.removeprefix("imagefolder:"))
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name)
    source = FolderSource(kind="imagefolder", path=str(path))
    layout = folder_layout(path)
    return Benchmark(
        name=f"imagefolder:{short}",
        version=1,
        title=f"Folder {path.resolve().name}",
        source=source,
        labels=layout.labels,
        patient_key=layout.patient_key,
        split=SplitRule(rule="given" if layout.has_split else "hashed"),
        verified="images",
        notes=("the user's own folder, not a public benchmark",),
        access="own",
        licence="the user's own",
        get=f"the images are in {path}",
        citation="none",
    )
