from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrzoo.evaluation.metrics import auprc, auroc, score

_sizes = st.integers(2, 60)


@st.composite
def scores_and_labels(draw):
    n = draw(_sizes)
    # few distinct values, so that ties are common
    scores = draw(hnp.arrays(np.float64, n, elements=st.integers(-5, 5).map(float)))
    labels = draw(hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])))
    assume(0 < labels.sum() < n)
    return scores, labels


@given(scores_and_labels())
def test_auroc_equals_scikit_learn_ties_included(data):
    scores, labels = data
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(scores_and_labels())
def test_auprc_equals_scikit_learn_ties_included(data):
    scores, labels = data
    assert auprc(scores, labels) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


@given(scores_and_labels())
def test_auroc_is_blind_to_monotone_maps_and_mirrors_under_negation(data):
    scores, labels = data
    assert auroc(np.exp(scores), labels) == pytest.approx(auroc(scores, labels))
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))


def test_constant_scores_are_chance():
    assert auroc(np.zeros(7), np.array([1, 0, 0, 1, 0, 0, 0.0])) == 0.5


def test_unknown_labels_are_left_out():
    logits = np.array([[0.1], [0.9], [0.5], [-3.0]])
    labels = np.array([[0.0], [1.0], [np.nan], [0.0]])
    result = score(logits, labels, ("a",))
    assert result["labels"]["a"] == {
        "status": "ok",
        "n_pos": 1,
        "n_neg": 2,
        "auroc": 1.0,
        "auprc": 1.0,
    }


def test_a_label_with_one_class_is_undefined_and_not_in_the_mean():
    logits = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 0.5]])
    labels = np.array([[0, 1], [1, 1], [1, np.nan]], dtype=float)
    result = score(logits, labels, ("a", "b"))
    assert result["labels"]["b"] == {"status": "undefined", "n_pos": 2, "n_neg": 0}
    assert result["macro"]["auroc"] == result["labels"]["a"]["auroc"] == 1.0
    assert (result["n_defined"], result["n_images"]) == (1, 3)


def test_no_defined_label_means_no_macro():
    result = score(np.zeros((3, 1)), np.ones((3, 1)), ("a",))
    assert result["macro"] == {"auroc": None, "auprc": None}
