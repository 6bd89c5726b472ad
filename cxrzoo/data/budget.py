"""Label budgets: exactly N images, nested, order-independent, the same for every encoder.

Patients are ranked by a hash of benchmark version, seed and patient key, and the images of a
patient likewise; images are drawn in rounds, every patient's first before anyone's second.
A patient's fold is the rank modulo five, at every budget. No label is looked at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cxrzoo.data.split import TRAIN
from cxrzoo.data.table import Table
from cxrzoo.errors import BudgetError

FOLDS = 5
FULL = "full"


@dataclass(frozen=True)
class Budget:
    """The labelled images of one adaptation, validation included.

    Attributes:
        size: what was asked for, a number of images or ``full``.
        seed: which draw.
        rows: (N,) table rows, in the order of the draw.
        folds: (N,) fold of each row's patient, 0 to 4.
        sha256: hash of image ids and folds in order; equal hashes are equal draws.
    """

    size: int | str
    seed: int
    rows: np.ndarray
    folds: np.ndarray
    sha256: str

    def __len__(self) -> int:
        return len(self.rows)


class Ranking:
    """All training images of a table in the order in which budgets draw them, for one seed."""

    def __init__(self, table: Table, seed: int) -> None:
        self.seed = seed
        self._name = table.benchmark.name
        salt = f"{self._name}/{table.benchmark.version}|{seed}"
        train = table.rows(TRAIN)
        patients, owner = np.unique(table.patients[train], return_inverse=True)
        patient_rank = _rank(_hashes(f"{salt}|patient", patients))[owner]
        image_hash = _hashes(f"{salt}|image", table.ids[train])
        rounds = _position_within_group(patient_rank, image_hash)
        order = np.lexsort((patient_rank, rounds))
        self.rows = train[order]
        self.folds = patient_rank[order] % FOLDS
        self._ids = table.ids[self.rows]

    @cached_property
    def _lines(self) -> list[str]:
        return [f"{i}\t{f}\n" for i, f in zip(self._ids, self.folds, strict=True)]

    def budget(self, size: int | str) -> Budget:
        """The first ``size`` images, or all of them for ``full``.

        Raises:
            BudgetError: the training split has fewer, or they come from too few patients.
        """
        count = len(self.rows) if size == FULL else int(size)
        if count < 1:
            raise BudgetError(f"budget {size} is not a number of images; use 1 or more, or full")
        if count > len(self.rows):
            raise BudgetError(
                f"budget {count} exceeds the {len(self.rows)} training images of {self._name}; "
                "use a smaller budget or full"
            )
        if len(np.unique(self.folds[:count])) < FOLDS:
            raise BudgetError(
                f"budget {count} of {self._name} does not reach {FOLDS} patients, one per fold; "
                "use a larger budget"
            )
        text = "".join(self._lines[:count])
        return Budget(
            size=size,
            seed=self.seed,
            rows=self.rows[:count],
            folds=self.folds[:count],
            sha256=hashlib.sha256(text.encode()).hexdigest(),
        )


def _hashes(salt: str, keys: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each key."""
    digests = [hashlib.sha256(f"{salt}|{key}".encode()).digest()[:8] for key in keys]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _rank(values: np.ndarray) -> np.ndarray:
    """The position of each value in sorted order."""
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _position_within_group(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """For each element, how many of its group have a smaller value."""
    order = np.lexsort((value, group))
    in_order = group[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    first_of_group = np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    position = np.empty(len(group), dtype=np.int64)
    position[order] = np.arange(len(group)) - first_of_group
    return position
