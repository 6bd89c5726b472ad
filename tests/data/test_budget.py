"""Budgets: the invariants that make two encoders' label budgets comparable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrzoo.data.budget import FOLDS, FULL, Ranking
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.errors import BudgetError
from tests.data.helpers import make_table, permuted

properties = settings(deadline=None, max_examples=60)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """5 to 40 training patients and some test patients, with 1 to 6 images each."""
    train = draw(st.lists(st.integers(1, 6), min_size=FOLDS, max_size=40))
    test = draw(st.lists(st.integers(1, 6), min_size=1, max_size=10))
    patients = [f"p{i:03d}" for i, n in enumerate(train) for _ in range(n)]
    others = [f"q{i:03d}" for i, n in enumerate(test) for _ in range(n)]
    return make_table(patients + others, ["train"] * len(patients) + ["test"] * len(others))


def sizes(table: Table) -> list[int]:
    """Every budget that the table can serve: the first five images are of five patients."""
    return list(range(FOLDS, len(table.rows("train")) + 1))


@properties
@given(tables(), st.integers(0, 9), st.data())
def test_a_budget_has_exactly_its_size_and_no_image_twice(table, seed, data):
    size = data.draw(st.sampled_from(sizes(table)))
    budget = Ranking(table, seed).budget(size)
    assert len(budget) == len(budget.rows) == len(budget.folds) == size
    assert len(set(budget.rows.tolist())) == size


@properties
@given(tables(), st.integers(0, 9), st.data())
def test_a_smaller_budget_is_inside_a_larger_one_with_the_same_folds(table, seed, data):
    small, large = sorted(data.draw(st.lists(st.sampled_from(sizes(table)), min_size=2)))[:2]
    ranking = Ranking(table, seed)
    inner, outer = ranking.budget(small), ranking.budget(large)
    assert outer.rows[:small].tolist() == inner.rows.tolist()
    assert outer.folds[:small].tolist() == inner.folds.tolist()


@properties
@given(tables(), st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(table, seed, random):
    order = list(range(len(table)))
    random.shuffle(order)
    other = permuted(table, np.array(order))
    for size in (sizes(table)[0], FULL):
        one, two = Ranking(table, seed).budget(size), Ranking(other, seed).budget(size)
        assert table.ids[one.rows].tolist() == other.ids[two.rows].tolist()
        assert one.folds.tolist() == two.folds.tolist()
        assert one.sha256 == two.sha256


@properties
@given(tables(), st.integers(0, 9))
def test_a_patient_is_in_one_fold_only_and_folds_are_balanced(table, seed):
    budget = Ranking(table, seed).budget(FULL)
    folds = dict(zip(table.patients[budget.rows], budget.folds, strict=True))
    pairs = set(zip(table.patients[budget.rows], budget.folds, strict=True))
    assert len(pairs) == len(folds)
    counts = np.bincount(list(folds.values()), minlength=FOLDS)
    assert len(counts) == FOLDS
    assert counts.max() - counts.min() <= 1


@properties
@given(tables(), st.integers(0, 9))
def test_everyones_first_image_comes_before_anyones_second(table, seed):
    drawn: dict[str, int] = {}
    rounds = []
    for patient in table.patients[Ranking(table, seed).budget(FULL).rows]:
        drawn[patient] = drawn.get(patient, 0) + 1
        rounds.append(drawn[patient])
    assert rounds == sorted(rounds)


@properties
@given(tables(), st.integers(0, 9))
def test_full_is_every_training_image_and_no_test_image(table, seed):
    budget = Ranking(table, seed).budget(FULL)
    assert sorted(budget.rows.tolist()) == table.rows("train").tolist()
    assert set(table.splits[budget.rows]) == {"train"}


@properties
@given(tables(), st.integers(0, 9), st.data())
def test_labels_are_never_looked_at(table, seed, data):
    values = data.draw(
        st.lists(st.sampled_from([0, 1, np.nan]), min_size=len(table), max_size=len(table))
    )
    other = replace(table, labels=np.array(values, dtype=np.float32)[:, None])
    size = sizes(table)[0]
    one, two = Ranking(table, seed).budget(size), Ranking(other, seed).budget(size)
    assert one.sha256 == two.sha256
    assert one.rows.tolist() == two.rows.tolist()


@properties
@given(tables(), st.integers(0, 9))
def test_test_images_do_not_influence_the_draw(table, seed):
    other = table.keep(table.splits == "train")
    assert Ranking(table, seed).budget(FULL).sha256 == Ranking(other, seed).budget(FULL).sha256


def test_seeds_and_benchmark_versions_draw_differently():
    table = make_table([f"p{n:03d}" for n in range(100)])
    raised = replace(table, benchmark=table.benchmark.model_copy(update={"version": 2}))
    draws = [
        set(t.ids[Ranking(t, seed).budget(20).rows])
        for t, seed in [(table, 0), (table, 1), (table, 2), (raised, 0)]
    ]
    assert all(draws[i] != draws[j] for i in range(4) for j in range(i))


def test_equal_hashes_mean_equal_images_and_folds():
    table = make_table([f"p{n:03d}" for n in range(30)])
    ranking = Ranking(table, 0)
    hashes = {ranking.budget(size).sha256 for size in range(5, 31)}
    assert len(hashes) == 26
    assert ranking.budget(30).sha256 == ranking.budget(FULL).sha256


def test_a_budget_larger_than_the_training_split_names_both_numbers():
    table = make_table([f"p{n:02d}" for n in range(10)], ["train"] * 8 + ["test"] * 2)
    with pytest.raises(BudgetError, match="budget 9 exceeds the 8 training images of synthetic"):
        Ranking(table, 0).budget(9)


@pytest.mark.parametrize("size", [8, FULL])
def test_fewer_than_five_patients_are_refused(size):
    table = make_table(["a", "b", "c", "d"] * 2)
    with pytest.raises(BudgetError, match="budget 8 of synthetic does not reach 5 patients"):
        Ranking(table, 0).budget(size)


@pytest.mark.parametrize("size", [4, 0, -1])
def test_a_budget_that_cannot_fill_the_folds_is_refused(size):
    table = make_table([f"p{n:02d}" for n in range(10)])
    with pytest.raises(BudgetError, match=f"budget {size}"):
        Ranking(table, 0).budget(size)


GOLDEN = {
    (0, 50): "193e79488c4172411df1ac558686513016626f91e852dce3a29d6df355d8da9a",
    (0, 100): "5674911d64b3f203b4c36f80c643fd5ab936d90d76b256164aae78bc2fd06884",
    (0, 1000): "924e6b295d502db54e6479d0b7a41851c79e369ca4cfb56eeca7c72f20ce6f7d",
    (0, FULL): "b89f7a083985b321643e4c19ba638da89ab92b698415ef7f185f2d41cf7c9699",
    (1, 50): "3f52fcf740b3b111e90a35e47ea5f8975e30e9e98720e252dfbba269def06ed8",
    (1, 100): "e9619d1a9e8f5563661ce2f618d94968bd4f5bfcab06fe82abee4cb89cbf68d3",
    (1, 1000): "d64a7346cd59bdf9c23b07213715a0be5c28ea6e1dbf32ef328684b9c3156b1d",
    (1, FULL): "a575e5603a41c6dd4011699804300800d0983a2c331afa98c4be6e11e1fbccb2",
}


@pytest.mark.parametrize(("seed", "size"), GOLDEN)
def test_the_draws_of_the_phantom_never_change(seed, size):
    budget = Ranking(open_benchmark("phantom"), seed).budget(size)
    assert budget.sha256 == GOLDEN[seed, size], (
        "published records were made on other images: undo the change, or raise the benchmark's "
        "version and pin the new hashes"
    )
