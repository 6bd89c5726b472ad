"""Splits: which rows train and which test, by the dataset's own word or by a hash of patients."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrzoo.data.benchmark import Benchmark
from cxrzoo.data.rows import Rows
from cxrzoo.errors import DataError

TRAIN, TEST, UNUSED = "train", "test", "unused"
_COMPLETE = 0.99
"""Share of a dataset's images from which on a copy counts as complete."""


@dataclass(frozen=True)
class Split:
    """The split of each row, its name in words, its id, and notes for tables."""

    of_rows: np.ndarray
    name: str
    id: str
    notes: tuple[str, ...] = ()


def split_rows(benchmark: Benchmark, rows: Rows, root: Path) -> Split:
    """Split rows by the benchmark's rule; raises DataError where its lists are missing or wrong."""
    rule, complete = benchmark.split, benchmark.complete
    total = complete.images if complete else 0
    count = int(is_inside(rows.splits).sum())
    copy = f"{count:,} of {total:,} images"
    partial = count < _COMPLETE * total
    short = (f"partial copy ({copy})",) if count < total else ()
    if rule.rule == "official" and not partial:
        return Split(_official(benchmark, rows, root), "official split", "official", short)
    splits = rows.splits.astype("U64")
    undecided = splits == ""
    if rule.rule == "given":
        if undecided.any():
            raise DataError(f"{benchmark.name}: image {rows.ids[undecided][0]} has no split")
        return Split(splits, "the dataset's own split", "official", short)
    splits[undecided] = _hashed(benchmark, rows.patients[undecided])
    ours = f"cxrzoo-v{benchmark.version}"
    if partial:
        words = f"partial, hashed split ({copy})"
        return Split(splits, words, ours, (words,))
    return Split(splits, "hashed split", ours, short)


def _hashed(benchmark: Benchmark, patients: np.ndarray) -> np.ndarray:
    unique, index = np.unique(patients, return_inverse=True)
    salt = f"{benchmark.name}/{benchmark.version}/split"
    in_test = np.array([unit_hash(salt, p) < benchmark.split.test_fraction for p in unique])
    return np.where(in_test, TEST, TRAIN)[index]


def unit_hash(salt: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{salt}|{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _official(benchmark: Benchmark, rows: Rows, root: Path) -> np.ndarray:
    splits = np.full(len(rows), "", dtype="U64")
    for split, relative in ((TRAIN, benchmark.split.train_list), (TEST, benchmark.split.test_list)):
        path = root / str(relative)
        if not path.is_file():
            raise DataError(
                f"{benchmark.name}: the copy is complete but the official list {path} is missing; "
                f"it comes with the download. {benchmark.get}"
            )
        listed = path.read_text(encoding="utf-8-sig").split()
        here = np.isin(rows.origins, listed)
        twice = rows.ids[here & (splits != "")].tolist()
        if twice:
            raise DataError(f"{benchmark.name}: image {twice[0]} is in both official lists")
        splits[here] = split
    unlisted = rows.ids[splits == ""].tolist()
    if unlisted:
        raise DataError(
            f"{benchmark.name}: {len(unlisted)} images are in no official list, first {unlisted[0]}"
        )
    expected = benchmark.complete.splits if benchmark.complete else {}
    found = {split: int((splits == split).sum()) for split in expected}
    if len(rows) == sum(expected.values()) and found != expected:
        raise DataError(
            f"{benchmark.name}: the lists give {found}, the official split is {expected}; they "
            "are those of another split. Take the lists that come with the download"
        )
    return splits


def is_inside(splits: np.ndarray) -> np.ndarray:
    """Whether a row belongs to the benchmark itself, not to an external test set."""
    return np.isin(splits, ["", TRAIN, TEST, UNUSED])


def test_sets(splits: np.ndarray) -> list[str]:
    """``test`` and the external test sets among ``splits``, in that order."""
    return [TEST, *sorted(set(splits.tolist()) - {TRAIN, TEST, UNUSED})]


def check_split(name: str, patients: np.ndarray, splits: np.ndarray) -> None:
    """Raise DataError when a split is empty or a patient is in train and in a test set."""
    in_train = set(patients[splits == TRAIN].tolist())
    if not in_train:
        raise DataError(f"{name}: no image is in split '{TRAIN}'")
    for test_set in test_sets(splits):
        in_test = set(patients[splits == test_set].tolist())
        if not in_test:
            raise DataError(f"{name}: no image is in split '{test_set}'")
        both = sorted(in_train & in_test)
        if both:
            raise DataError(
                f"{name}: patient {both[0]} is in train and in {test_set} "
                f"({len(both)} such patients): the score would be inflated"
            )
