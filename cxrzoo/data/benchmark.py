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
    ``official``: the dataset's published lists when the copy is complete, else ``hashed``.
    """

    rule: Literal["given", "hashed", "official"]
    test_fraction: float = Field(1 / 3, gt=0, lt=1)
    train_list: str | None = None
    test_list: str | None = None


class Benchmark(Strict):
    """A labelled dataset with its task, labels, patient key, split and licence."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:/._~ -]*$")]
    version: int = Field(ge=1, description="raised by any change that moves a row or a label")
    title: str
    source: Annotated[Source, Field(discriminator="kind")]
    labels: tuple[str, ...]
    label_policy: Literal["mask"] = "mask"
    patient_key: str = Field(description="what identifies a patient, or 'per-image'")
    split: SplitRule
    complete_images: int | None = Field(None, description="images of the complete public copy")
    flip_allowed: bool = False
    notes: tuple[str, ...] = Field((), description="shown under every table with this benchmark")
    licence: str
    get: str = Field(description="how to get the images and where to put them")
    citation: str

    @model_validator(mode="after")
    def _every_label_has_a_column(self) -> Benchmark:
        if isinstance(self.source, HubSource):
            for label in self.labels:
                if label not in self.source.label_columns:
                    raise ValueError(f"label '{label}' is not in source.label_columns")
        return self


def list_benchmarks() -> list[str]:
    """Names of all benchmarks, sorted."""
    return sorted(_files())


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
    for name in list_benchmarks():
        wanted = sources.folders(find(name).source)
        if wanted and all((root / folder).is_dir() for folder in wanted):
            found.append(name)
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
    return {path.stem: path for path in folder.glob("*.yaml")}


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
        notes=(
            "the user's own folder, not a public benchmark",
            *(("patient key per-image",) if layout.patient_key == "per-image" else ()),
        ),
        licence="the user's own",
        get=f"the images are in {path}",
        citation="none",
    )
