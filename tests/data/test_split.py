"""What must hold of every split, for any patients and any copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrzoo.data import split as splitting
from cxrzoo.data.benchmark import Benchmark, SplitRule
from cxrzoo.data.rows import Rows
from cxrzoo.data.split import TEST, TRAIN, UNUSED, check_split, split_rows
from cxrzoo.errors import DataError
from tests.data.helpers import make_table

PATIENTS = st.lists(st.sampled_from([f"p{n}" for n in range(40)]), min_size=30, max_size=90)


def rows_of(patients: list[str], splits: list[str] | None = None) -> Rows:
    count = len(patients)
    ids = np.array([f"{patient}-{n}" for n, patient in enumerate(patients)])
    return Rows(
        ids=ids,
        files=ids,
        origins=ids,
        patients=np.array(patients),
        labels=np.zeros((count, 1), np.float32),
        splits=np.array(splits or [""] * count, dtype="U64"),
        stamps=np.full(count, "1:1"),
        covariates=np.empty((count, 0), dtype=str),
    )


def hashed(version: int = 1) -> Benchmark:
    table = make_table(["a"])
    rule = SplitRule(rule="hashed")
    return table.benchmark.model_copy(update={"split": rule, "version": version})


def roles(rows: Rows, benchmark: Benchmark) -> dict[str, str]:
    """The split of each image."""
    split = split_rows(benchmark, rows, Path())
    return dict(zip(rows.ids.tolist(), split.of_rows.tolist(), strict=True))


@given(patients=PATIENTS)
def test_a_hashed_split_never_shares_a_patient(patients):
    rows = rows_of(patients)
    split = split_rows(hashed(), rows, Path()).of_rows
    assert set(split) <= {TRAIN, TEST}
    in_train, in_test = (set(rows.patients[split == side]) for side in (TRAIN, TEST))
    assert in_train.isdisjoint(in_test)
    assert in_train | in_test == set(patients)


@given(patients=PATIENTS, keep=st.sets(st.integers(0, 89)), seed=st.integers(0, 1000))
def test_roles_never_flip_when_rows_come_go_or_change_places(patients, keep, seed):
    rows = rows_of(patients)
    whole = roles(rows, hashed())
    index = np.random.default_rng(seed).permutation([n for n in range(len(rows)) if n not in keep])
    some = roles(rows.take(index.astype(int)), hashed())
    assert some == {name: whole[name] for name in some}


def test_a_new_version_is_a_new_split():
    rows = rows_of([f"p{n}" for n in range(60)])
    assert roles(rows, hashed(1)) != roles(rows, hashed(2))


@given(patients=PATIENTS, sides=st.lists(st.sampled_from([TRAIN, TEST, UNUSED, "far"]),
                                         min_size=90, max_size=90))  # fmt: skip
def test_a_split_is_accepted_exactly_when_no_patient_of_a_test_set_is_in_train(patients, sides):
    who, where = np.array(patients), np.array(sides[: len(patients)])
    in_train = set(who[where == TRAIN])
    leaks = any(in_train & set(who[where == name]) for name in splitting.test_sets(where))
    empty = not in_train or TEST not in where
    if leaks or empty:
        with pytest.raises(DataError, match=r"is in train and in|no image is in split"):
            check_split("any", who, where)
    else:
        check_split("any", who, where)


@given(patients=PATIENTS)
def test_an_external_set_keeps_its_name_and_takes_no_part_in_the_hash(patients):
    rows = rows_of(patients + ["far"] * 3, [""] * len(patients) + ["abroad"] * 3)
    found = roles(rows, hashed())
    assert [found[name] for name in rows.ids[-3:]] == ["abroad"] * 3
    alone = roles(rows_of(patients), hashed())
    assert {name: found[name] for name in alone} == alone


@pytest.mark.parametrize("moved", [0, 7])
def test_one_image_moved_to_the_other_side_is_noticed(moved):
    patients = [f"p{n // 2}" for n in range(20)]
    rows = rows_of(patients, [TRAIN if n < 10 else TEST for n in range(20)])
    check_split("any", rows.patients, rows.splits)
    splits = rows.splits.copy()
    splits[moved] = TEST
    with pytest.raises(DataError, match=f"patient {patients[moved]} is in train and in test"):
        check_split("any", rows.patients, replace(rows, splits=splits).splits)
