"""Rows and images from Hugging Face ``datasets``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxrzoo import images as pixels
from cxrzoo.data.rows import Rows, column_of, hash_lines, text_column
from cxrzoo.errors import DataError
from cxrzoo.schema import Strict


class LabelColumn(Strict):
    """A label as a column and the values of it that count as positive."""

    column: str
    positive: tuple[int | str, ...]


class HubSource(Strict):
    """A Hugging Face dataset: a folder in a dataset repository's shape."""

    kind: Literal["datasets"]
    folder: str
    splits: dict[str, str]
    image_column: str
    id_column: str
    patient_column: str
    label_columns: dict[str, LabelColumn]


class HubImages:
    """Images in a Hugging Face dataset; ``files`` are ``split:row``."""

    def __init__(
        self, folder: Path, column: str, ids: np.ndarray, files: np.ndarray, stamps: np.ndarray
    ) -> None:
        self._folder, self._column = folder, column
        self._ids, self._files, self._stamps = ids, files, stamps

    @cached_property
    def _columns(self) -> dict[str, Any]:
        from datasets import Image

        splits = {str(f).split(":")[0] for f in self._files}
        undecoded = Image(decode=False)  # datasets' own decoding saturates 16-bit images
        return {
            split: _load_dataset(self._folder, split)
            .select_columns([self._column])
            .cast_column(self._column, undecoded)
            for split in splits
        }

    def grey(self, index: int) -> np.ndarray:
        split, row = str(self._files[index]).split(":")
        name = f"{self._folder} split {split} image {self._ids[index]}"
        image = self._columns[split][int(row)][self._column] or {}
        if image.get("bytes") is None and image.get("path"):
            return pixels.read(Path(image["path"]), name)
        return pixels.read(image.get("bytes") or b"", name)

    def take(self, index: np.ndarray) -> HubImages:
        return HubImages(
            self._folder, self._column, self._ids[index], self._files[index], self._stamps[index]
        )

    @property
    def key(self) -> str:
        return hash_lines(self._ids, self._stamps)

    @property
    def missing(self) -> int:
        return 0


def read_hub(
    source: HubSource, labels: tuple[str, ...], root: Path, stamps: dict[str, str]
) -> Rows:
    """The rows of all splits; ``stamps`` of the folder's files stand for every image in them."""
    folder = root / source.folder
    stamp = hash_lines(np.array(list(stamps)), np.array(list(stamps.values())))[:16]
    return Rows.concatenate(
        [
            _read_split(source, labels, folder, ours, theirs, stamp)
            for ours, theirs in source.splits.items()
        ]
    )


def _read_split(
    source: HubSource, labels: tuple[str, ...], folder: Path, ours: str, theirs: str, stamp: str
) -> Rows:
    dataset = _load_dataset(folder, theirs)
    if source.image_column not in dataset.column_names:
        raise DataError(f"{folder}: no image column '{source.image_column}'")
    frame = dataset.remove_columns([source.image_column]).to_pandas()
    columns = [_label_values(frame, source.label_columns[label], folder) for label in labels]
    return Rows(
        ids=text_column(frame, source.id_column, folder),
        files=np.array([f"{theirs}:{row}" for row in range(len(frame))], dtype=str),
        patients=text_column(frame, source.patient_column, folder),
        labels=np.stack(columns, axis=1),
        splits=np.full(len(frame), ours, dtype="U16"),
        stamps=np.full(len(frame), stamp),
    )


def _label_values(frame: Any, label: LabelColumn, folder: Path) -> np.ndarray:
    series = column_of(frame, label.column, folder)
    return np.where(series.isna(), np.nan, series.isin(label.positive)).astype(np.float32)


def _load_dataset(folder: Path, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(str(folder), split=split)
    except Exception as error:  # datasets raises its own, pyarrow's and the system's errors
        reason = str(error).split("\n")[0]
        raise DataError(f"{folder}: datasets cannot load split '{split}' ({reason})") from error
