"""Rows from torchxrayvision's dataset classes, with everything odd about them kept in here:
seeding of global generators, silent filters, ``imgpath`` conventions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cxrzoo.data.rows import Rows, text_column
from cxrzoo.errors import DataError
from cxrzoo.schema import Strict


class Part(Strict):
    """One torchxrayvision dataset class on one folder.

    ``images`` is where the files are below ``folder``, ``imgpath`` what the class is told
    (some append their own subfolder); ``csv`` are file names to look for, and where none is
    there the class uses the copy that comes with torchxrayvision, if it has one.
    ``patient_pattern`` picks the patient out of ``patient_column`` by its first group.
    """

    dataset: str
    folder: str
    images: str
    imgpath: str | None = None
    csv: tuple[str, ...] = ()
    arguments: dict[str, Any] = Field(default_factory=dict)
    image_column: str
    patient_column: str
    patient_pattern: str | None = None
    split: str = ""


class XrvSource(Strict):
    """Rows of torchxrayvision's own dataset classes."""

    kind: Literal["torchxrayvision"]
    parts: tuple[Part, ...]


def read_xrv(
    source: XrvSource, labels: tuple[str, ...], root: Path, stamps: dict[str, str]
) -> Rows:
    """The rows of all parts; ``stamps`` of the files below ``root`` tell which images exist."""
    return Rows.concatenate([_read_part(part, labels, root, stamps) for part in source.parts])


def _read_part(part: Part, labels: tuple[str, ...], root: Path, stamps: dict[str, str]) -> Rows:
    folder = root / part.folder
    dataset = _construct(part, folder)
    for label in labels:
        if label not in dataset.pathologies:
            known = ", ".join(dataset.pathologies)
            raise DataError(f"{folder}: {part.dataset} has no label '{label}'; it has {known}")
    columns = [list(dataset.pathologies).index(label) for label in labels]
    names = text_column(dataset.csv, part.image_column, folder)
    prefix = os.path.normpath(os.path.join(part.folder, part.images))
    files = np.array([f"{prefix}/{name}" for name in names], dtype=str)
    return Rows(
        ids=names,
        files=files,
        patients=_patients(dataset.csv, part, folder),
        labels=np.asarray(dataset.labels, dtype=np.float32)[:, columns].reshape(-1, len(labels)),
        splits=np.full(len(names), part.split, dtype="U16"),
        stamps=np.array([stamps.get(f, "") for f in files], dtype=str),
    )


def _construct(part: Part, folder: Path) -> Any:
    """torchxrayvision's dataset object, with our generators as they were."""
    arguments: dict[str, Any] = dict(part.arguments)
    if not (folder / part.images).is_dir():
        raise DataError(f"{folder / part.images} does not exist; it should hold the images")
    given = next((folder / name for name in part.csv if (folder / name).is_file()), None)
    if given:
        arguments["csvpath"] = str(given)
    arguments["imgpath"] = str(folder / (part.imgpath or part.images))
    with untouched_generators():
        import torchxrayvision as xrv

        try:
            return getattr(xrv.datasets, part.dataset)(**arguments)
        except Exception as error:  # its classes raise whatever pandas and numpy raise
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{given or folder}: torchxrayvision's {part.dataset} cannot read it ({reason})"
                + ("" if given or not part.csv else f"; there is no {' or '.join(part.csv)}")
            ) from error


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Restore numpy's and torch's global generators: torchxrayvision seeds both."""
    import torch

    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def _patients(frame: Any, part: Part, folder: Path) -> np.ndarray:
    raw = text_column(frame, part.patient_column, folder)
    if part.patient_pattern is None:
        return raw
    found = [re.match(part.patient_pattern, value) for value in raw]
    for value, match in zip(raw, found, strict=True):
        if match is None:
            raise DataError(f"{folder}: no patient in '{value}' ({part.patient_pattern})")
    return np.array([match.group(1) for match in found if match])
