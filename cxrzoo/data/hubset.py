"""Rows and images from Hugging Face ``datasets``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxrzoo.data.rows import EncodedImages, Rows, column_of, hash_lines, text_column
from cxrzoo.errors import DataError
from cxrzoo.schema import Strict

NO_CLASS = -1
"""The class of a row whose class is not known."""


class LabelColumn(Strict):
    """A label as a column and the values of it that count as positive; of a column of lists,
    a row is positive when any of its values is."""

    column: str
    positive: tuple[int | str, ...]


class HubSource(Strict):
    """A Hugging Face dataset: a folder in a dataset repository's shape, else the repository.

    ``revision`` pins the repository: a commit, a tag or ``refs/convert/parquet``, the Hub's own
    conversion of repositories that hold a loading script. ``splits`` map our splits to those of
    the repository; None takes every row of it and leaves the split to the benchmark's rule.
    Without an ``id_column`` a row is known by split and number, without a ``patient_column``
    each image counts as a patient.
    """

    kind: Literal["datasets"]
    folder: str
    repo_id: str | None = None
    revision: str | None = None
    splits: dict[str, str] | None = None
    image_column: str
    id_column: str | None = None
    patient_column: str | None = None
    label_columns: dict[str, LabelColumn]


@dataclass(frozen=True)
class Place:
    """Where ``datasets`` finds a source: a folder, or a repository at a commit."""

    path: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path}@{self.revision[:12]}"


def place_of(source: HubSource, root: Path) -> Place:
    """The local folder where there is one, else the repository, its revision made a commit.

    Raises:
        DataError: there is no folder and no repository, or the Hub does not answer for it.
    """
    folder = root / source.folder
    if folder.is_dir():
        return Place(str(folder))
    if source.repo_id is None:
        raise DataError(f"{folder} does not exist: no images of this benchmark there")
    try:
        return Place(source.repo_id, _commit(source.repo_id, source.revision))
    except Exception as error:  # no network, no such repository, gated, offline, ...
        raise DataError(
            f"{folder} does not exist, and the Hub does not give dataset {source.repo_id} "
            f"({_first_line(error)}). Fetch it with `{fetch_command(source)}` below the data root"
        ) from error


@lru_cache
def _commit(repo_id: str, revision: str | None) -> str:
    """The commit of a revision, asked for once: a branch must not move under a running program."""
    if re.fullmatch("[0-9a-f]{40}", revision or ""):
        return str(revision)
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(repo_id, revision=revision).sha)


def fetch_command(source: HubSource) -> str:
    """The shell command that puts the repository where the benchmark looks for it."""
    revision = f" --revision {source.revision}" if source.revision else ""
    return f"hf download {source.repo_id} --repo-type dataset{revision} --local-dir {source.folder}"


class HubImages(EncodedImages):
    """Images in a Hugging Face dataset; ``files`` are ``split:row``."""

    def __init__(
        self, place: Place, column: str, ids: np.ndarray, files: np.ndarray, stamps: np.ndarray
    ) -> None:
        self._place, self._column = place, column
        self._ids, self._files, self._stamps = ids, files, stamps

    @cached_property
    def _columns(self) -> dict[str, Any]:
        from datasets import Image

        splits = {str(f).split(":")[0] for f in self._files}
        undecoded = Image(decode=False)  # datasets' own decoding saturates 16-bit images
        return {
            split: _load_dataset(self._place, split)
            .select_columns([self._column])
            .cast_column(self._column, undecoded)
            for split in splits
        }

    def _source(self, index: int) -> tuple[Path | bytes, str]:
        split, row = str(self._files[index]).split(":")
        name = f"{self._place} split {split} image {self._ids[index]}"
        image = self._columns[split][int(row)][self._column] or {}
        if image.get("bytes") is None and image.get("path"):
            return Path(image["path"]), name
        return image.get("bytes") or b"", name

    def take(self, index: np.ndarray) -> HubImages:
        return HubImages(
            self._place, self._column, self._ids[index], self._files[index], self._stamps[index]
        )

    @property
    def key(self) -> str:
        return hash_lines(self._ids, self._stamps)

    @property
    def missing(self) -> int:
        return 0


def read_hub(
    source: HubSource, labels: tuple[str, ...], place: Place, stamps: dict[str, str]
) -> Rows:
    """The rows of all splits; ``stamps`` of the folder's files stand for every image in them."""
    mark = hash_lines(np.array(list(stamps)), np.array(list(stamps.values())))[:16]
    if source.splits is None:
        pairs = [("", theirs) for theirs in split_names(place)]
    else:
        pairs = list(source.splits.items())
    return Rows.concatenate(
        [_read_split(source, labels, place, ours, theirs, mark) for ours, theirs in pairs]
    )


def _read_split(
    source: HubSource, labels: tuple[str, ...], place: Place, ours: str, theirs: str, mark: str
) -> Rows:
    dataset = _load_dataset(place, theirs)
    if source.image_column not in dataset.column_names:
        raise DataError(f"{place}: no image column '{source.image_column}'")
    frame = dataset.remove_columns([source.image_column]).to_pandas()
    columns = [_label_values(frame, source.label_columns[label], place) for label in labels]
    files = np.array([f"{theirs}:{row}" for row in range(len(dataset))], dtype=str)
    ids = text_column(frame, source.id_column, place) if source.id_column else files
    patients = text_column(frame, source.patient_column, place) if source.patient_column else ids
    return Rows(
        ids=ids,
        files=files,
        origins=ids,
        patients=patients,
        labels=np.stack(columns, axis=1),
        splits=np.full(len(files), ours, dtype="U64"),
        stamps=np.full(len(files), mark),
        covariates=np.empty((len(files), 0), dtype=str),
    )


def _label_values(frame: Any, label: LabelColumn, place: Place) -> np.ndarray:
    series = column_of(frame, label.column, place)
    if any(isinstance(value, list | np.ndarray) for value in series):
        wanted = set(label.positive)
        hits = [np.nan if v is None else float(bool(wanted & set(v))) for v in series]
        return np.array(hits, dtype=np.float32)
    return np.where(series.isna(), np.nan, series.isin(label.positive)).astype(np.float32)


def load_splits(place: Place, splits: list[str]) -> dict[str, Any]:
    """Datasets by split; nothing of them is decoded."""
    return {split: _load_dataset(place, split) for split in splits}


def image_column(place: Place, dataset: Any) -> str:
    """The first column of images."""
    from datasets import Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            return str(name)
    raise DataError(f"{place}: no column of images; there are {', '.join(dataset.features)}")


def classes_of(datasets: list[Any]) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """The class of every row, and the classes' names; None where no row has one.

    They are the first column of ``ClassLabel``, else one of integers or texts called ``label``.

    Returns:
        (N,) int64, ``NO_CLASS`` where a row has none, of all datasets one behind the other.
    """
    column = _class_column(datasets[0].features)
    if column is None:
        return None
    # select_columns keeps the images from being read at all
    values = [v for dataset in datasets for v in dataset.select_columns([column])[:][column]]
    names = getattr(datasets[0].features[column], "names", None)
    if names is None:
        found = sorted({value for value in values if value is not None})
        number = {value: n for n, value in enumerate(found)}
        values, names = [number.get(value) for value in values], [str(value) for value in found]
    # the Hub's repositories give unlabelled rows the class -1, which is our NO_CLASS
    classes = np.array([NO_CLASS if v is None else v for v in values], dtype=np.int64)
    return (classes, tuple(names)) if (classes != NO_CLASS).any() else None


def _class_column(features: Any) -> str | None:
    from datasets import ClassLabel

    for name, feature in features.items():
        if isinstance(feature, ClassLabel):
            return str(name)
    plain = str(getattr(features.get("label"), "dtype", ""))
    return "label" if re.fullmatch(r"u?int\d+|(large_)?string", plain) else None


def split_names(place: Place) -> list[str]:
    """Names of the splits, sorted."""
    import datasets

    try:
        return sorted(datasets.get_dataset_split_names(place.path, revision=place.revision))
    except Exception as error:  # as in _load_dataset
        raise DataError(f"{place}: datasets finds no splits ({_first_line(error)})") from error


def _load_dataset(place: Place, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(place.path, split=split, revision=place.revision)
    except Exception as error:  # datasets raises its own, pyarrow's and the system's errors
        reason = _first_line(error)
        raise DataError(f"{place}: datasets cannot load split '{split}' ({reason})") from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
