"""Controls: labels that prove nothing must score nothing, and shortcuts must show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cxrzoo
from cxrzoo.data.budget import Ranking
from cxrzoo.data.store import Prepared
from cxrzoo.errors import DataError
from cxrzoo.evaluation import control
from tests.data.helpers import make_table


def prepared(count=60, **covariates) -> Prepared:
    """One image a patient, a third of them in test, labels in turn 1 and 0."""
    splits = ["test" if n % 3 == 0 else "train" for n in range(count)]
    labels = np.array([[n % 2] for n in range(count)])
    table = make_table([f"p{n:03d}" for n in range(count)], splits, labels)
    columns = {name: np.array(values, dtype=str) for name, values in covariates.items()}
    table = replace(table, covariates=columns)
    return Prepared(table, np.zeros((count, 4, 4), np.uint8), np.arange(count), "pixels")


def test_without_a_control_nothing_changes():
    one = prepared()
    assert control.apply(one, Ranking(one.table, 0).budget(20), control.NONE) is one


def test_shuffling_permutes_the_budgets_labels_and_touches_no_other():
    one = prepared()
    budget = Ranking(one.table, 0).budget(30)
    made = control.apply(one, budget, control.SHUFFLED).table
    outside = np.setdiff1d(np.arange(len(one.table)), budget.rows)
    assert np.array_equal(made.labels[outside], one.table.labels[outside])
    assert not np.array_equal(made.labels[budget.rows], one.table.labels[budget.rows])
    assert made.labels[budget.rows].sum() == one.table.labels[budget.rows].sum()
    again = control.apply(one, budget, control.SHUFFLED).table
    assert np.array_equal(made.labels, again.labels)
    other = Ranking(one.table, 1).budget(30)
    moved = control.apply(one, other, control.SHUFFLED).table.labels - one.table.labels
    assert not np.array_equal(moved, made.labels - one.table.labels)


def test_a_covariate_becomes_one_label_for_each_common_value():
    views = ["PA", "AP", "", "PA"] * 30
    views[1] = "lateral"
    one = prepared(120, view=views)
    made = control.apply(one, Ranking(one.table, 0).budget(20), "view").table
    assert made.benchmark.labels == ("AP", "PA"), "lateral is too rare to be predicted"
    column = one.table.covariates["view"]
    assert np.isnan(made.labels[column == ""]).all()
    assert (made.labels[column == "PA"] == [0, 1]).all()
    assert (made.labels[column == "lateral"] == [0, 0]).all()


def test_a_covariate_that_is_the_label_predicts_it_and_one_that_is_not_does_not():
    source = ["a" if n % 2 else "b" for n in range(60)]
    noise = np.random.default_rng(0).choice(["x", "y"], 60).tolist()
    one = prepared(source=source, noise=noise, unseen=[str(n) for n in range(60)])
    budget = Ranking(one.table, 0).budget(40)
    score = {
        name: control.shortcut(one.table, budget, name)["test"]["macro"]["auroc"]
        for name in one.table.covariates
    }
    assert score["source"] == 1.0
    assert 0.2 < score["noise"] < 0.8
    assert score["unseen"] == 0.5, "values that the budget has not seen say nothing"


def test_a_column_that_is_not_there_or_constant_is_no_control():
    table = prepared(view=["PA"] * 60, source=["a", "b"] * 30).table
    assert control.missing_column(table, "source") == ""
    assert control.missing_column(table, control.SHUFFLED) == ""
    for name in ("view", "colour"):
        message = control.missing_column(table, name)
        assert message == (
            f"synthetic has no column '{name}' with two values or more; it has source"
        )


def test_a_control_that_applies_nowhere_is_an_error(tmp_path):
    with pytest.raises(DataError, match="control 'source' applies nowhere: phantom has no column"):
        cxrzoo.evaluate(
            ["random-init"], ["phantom"], limit=60, control="source", output=tmp_path, budgets=[20]
        )


def test_shuffled_labels_end_near_chance_and_have_records_of_their_own(tmp_path):
    settings = {"budgets": [200], "seeds": 3, "limit": 400, "output": tmp_path}
    true = cxrzoo.evaluate(["supervised-imagenet"], ["phantom"], **settings)
    shuffled = cxrzoo.evaluate(
        ["supervised-imagenet"], ["phantom"], control="shuffled-labels", **settings
    )
    assert {r.run_key for r in true}.isdisjoint(r.run_key for r in shuffled)
    assert np.mean([r.macro_auroc for r in true]) > 0.65
    assert abs(np.mean([r.macro_auroc for r in shuffled]) - 0.5) < 0.05
    pairs = zip(true, shuffled, strict=True)
    assert all(a.spec.budget == b.spec.budget and a.spec.benchmark == b.spec.benchmark
               for a, b in pairs)  # fmt: skip
    assert len(cxrzoo.read_records(tmp_path)) == 6


def test_the_shortcut_of_the_covid_set_shows_itself(shared_data, tmp_path):
    settings = {"budgets": ["full"], "seeds": 1, "data_root": shared_data, "output": tmp_path}
    (label,) = cxrzoo.evaluate(["supervised-imagenet"], ["covid19"], **settings)
    (source,) = cxrzoo.evaluate(["supervised-imagenet"], ["covid19"], control="source", **settings)
    alone = source.result["shortcut"]["test"]["macro"]["auroc"]
    assert source.macro_auroc > 0.6, "features tell where an image is from"
    assert alone > 0.7, "where an image is from tells its label"
    assert alone > label.macro_auroc, "better than the image does"
    assert "the source alone, without an image, predicts the labels" in cxrzoo.table([source])
