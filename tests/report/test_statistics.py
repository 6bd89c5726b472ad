from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxrzoo.evaluation import metrics
from cxrzoo.report import statistics
from cxrzoo.report.auroc import auroc
from cxrzoo.report.statistics import Resamples, Scores, bootstrap, compare, holm, interval


def reference(scores, labels, counts):
    """(R, L) by scikit-learn, one call for each label and resample."""
    out = np.full((len(counts), labels.shape[1]), np.nan)
    for r, weights in enumerate(counts):
        for i, (s, y) in enumerate(zip(scores.T, labels.T, strict=True)):
            kept = ~np.isnan(y) & (weights > 0)
            if len(np.unique(y[kept])) == 2:
                out[r, i] = roc_auc_score(y[kept], s[kept], sample_weight=weights[kept])
    return out


@st.composite
def problems(draw):
    """Scores with many or few ties, labels with NaN, counts with zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, n_labels, n_resamples = draw(
        st.tuples(st.integers(1, 60), st.integers(1, 3), st.integers(1, 9))
    )
    scores = rng.normal(size=(n, n_labels))
    if draw(st.booleans()):
        scores = np.round(scores * draw(st.integers(1, 4)))
    prevalence = draw(st.floats(0, 1))
    labels = (rng.random((n, n_labels)) < prevalence).astype(float)
    labels[rng.random(labels.shape) < draw(st.sampled_from([0, 0.2, 0.9]))] = np.nan
    most = draw(st.sampled_from([1, 3, 10_000]))  # the last does not fit into 16 bits
    return scores, labels, rng.integers(0, most + 1, (n_resamples, n))


@given(problems())
@settings(max_examples=150, deadline=None)
def test_auroc_is_that_of_scikit_learn_with_ties_unknown_labels_and_counts(problem):
    np.testing.assert_allclose(auroc(*problem), reference(*problem), atol=1e-9, rtol=0)


@given(problems())
@settings(max_examples=50, deadline=None)
def test_auroc_is_that_of_the_records(problem):
    scores, labels, _ = problem
    ours = auroc(scores, labels, np.ones((1, len(labels)), int))[0]
    names = tuple("abc"[: labels.shape[1]])
    theirs = metrics.score(scores, labels, names)["labels"]
    expected = [theirs[name].get("auroc", math.nan) for name in names]
    np.testing.assert_allclose(ours, expected, atol=1e-12, rtol=0)


@given(problems(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_auroc_sees_only_the_order_of_the_scores_and_no_order_of_the_images(problem, random):
    scores, labels, counts = problem
    expected = auroc(scores, labels, counts)
    np.testing.assert_array_equal(auroc(np.exp(scores / 9), labels, counts), expected)
    np.testing.assert_allclose(auroc(-scores, labels, counts), 1 - expected, atol=1e-12, rtol=0)
    shuffled = random.sample(range(len(labels)), len(labels))
    again = auroc(scores[shuffled], labels[shuffled], counts[:, shuffled])
    np.testing.assert_array_equal(again, expected)


def test_auroc_with_more_images_than_16_bits_count():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(70_000, 1)), rng.integers(0, 2, (70_000, 1)).astype(float)
    counts = rng.integers(0, 3, (2, 70_000))
    np.testing.assert_allclose(
        auroc(scores, labels, counts), reference(scores, labels, counts), atol=1e-9, rtol=0
    )


# ------------------------------------------------------------------ resamples and the bootstrap


def study(rng, *, n_patients=150, n_seeds=5, gain=1.2, seed_sd=0.1, own=0.6, shared=None):
    """Binormal predictions with a known truth, of images that come in patients.

    An image's score is ``gain`` (that varies over seeds with ``seed_sd``) for a positive, plus
    what all its patient's images have, plus its own, plus what this seed makes of it (``own``).
    ``shared``: a study whose images this encoder sees as well.

    Returns:
        Predictions (S, N, 2), labels (N, 2), patients (N,), and the part seen by every encoder.
    """
    if shared is None:
        patients = np.repeat(np.arange(n_patients), rng.integers(1, 5, n_patients))
        n = len(patients)
        labels = (rng.random((n_patients, 2)) < (0.5, 0.3)).astype(float)[patients]
        common = 0.6 * rng.normal(size=(n_patients, 2))[patients]
        shared = patients, labels, common + 0.8 * rng.normal(size=(n, 2))
    patients, labels, common = shared
    gains = rng.normal(gain, seed_sd, (n_seeds, 1, 1))
    noise = own * rng.normal(size=(n_seeds, *labels.shape))
    return gains * labels + common + noise, labels, patients, shared


def truth(gain=1.2, seed_sd=0.1, own=0.6):
    """E[Phi(g / sqrt(2 v))] over g ~ N(gain, seed_sd**2), v the variance within a class."""
    return (1 + math.erf(gain / math.sqrt(2 * (1 + own**2) + seed_sd**2) / math.sqrt(2))) / 2


def test_resamples_draw_whole_patients_and_are_reproducible():
    patients = np.array(["b", "a", "b", "c", "a"])
    blocks = list(Resamples(patients, 300).blocks())
    counts = np.concatenate(blocks)
    assert [len(b) for b in blocks] == [128, 128, 44]
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()
    fewer = np.concatenate(list(Resamples(patients, 150).blocks()))
    np.testing.assert_array_equal(fewer, counts[:150])
    other = np.concatenate(list(Resamples(patients, 300, seed=1).blocks()))
    assert (other != counts).any()


def test_bootstrap_scores_the_observed_and_the_resampled_images():
    predictions, labels, patients, _ = study(np.random.default_rng(0), n_patients=40, n_seeds=2)
    labels[3, 1] = np.nan
    resamples = Resamples(patients, 5)
    scores = bootstrap(predictions, labels, resamples, seeds=(3, 7))
    counts = np.concatenate(list(resamples.blocks()))
    for s in range(2):
        whole = reference(predictions[s], labels, np.ones((1, len(labels))))
        assert scores.observed[s] == pytest.approx(whole.mean(), abs=1e-9)
        drawn = reference(predictions[s], labels, counts).mean(axis=1)
        np.testing.assert_allclose(scores.resampled[:, s], drawn, atol=1e-9, rtol=0)
    assert scores.seeds == (3, 7)
    assert scores.n_patients == 40


def test_labels_without_both_classes_in_a_resample_are_left_out_and_counted():
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.integers(0, 2, 60), np.r_[1, np.zeros(59)], np.ones(60)])
    predictions = rng.normal(size=(1, 60, 3))
    resamples = Resamples(np.arange(60), 200)
    scores = bootstrap(predictions, labels, resamples, seeds=(0,))
    values = reference(predictions[0], labels, np.concatenate(list(resamples.blocks())))
    np.testing.assert_allclose(
        scores.resampled[:, 0], np.nanmean(values, axis=1), atol=1e-9, rtol=0
    )
    assert list(scores.undefined) == [0, np.isnan(values[:, 1]).sum(), 200]
    assert 40 < scores.undefined[1] < 110  # one positive is missed in 37 % of resamples


def test_no_defined_label_has_no_estimate_no_interval_and_no_p_value():
    patients = np.arange(10)
    scores = bootstrap(
        np.random.default_rng(0).normal(size=(2, 10, 1)),
        np.ones((10, 1)),
        Resamples(patients, 20),
        (0, 1),
    )
    assert interval(scores) == statistics.Interval(None, None, None, "nothing")
    assert compare(scores, scores).p is None


def test_a_single_seed_gives_an_interval_over_patients_and_says_so():
    predictions, labels, patients, _ = study(np.random.default_rng(0), n_seeds=1)
    scores = bootstrap(predictions, labels, Resamples(patients, 400), (0,))
    result = interval(scores)
    assert result.over == "patients"
    assert result.estimate == scores.observed[0]
    low, high = np.quantile(scores.resampled, [0.025, 0.975])
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_limits_stay_inside_0_and_1_also_when_classes_are_nearly_or_wholly_apart():
    labels, patients = np.repeat([[0.0], [1.0]], 20, axis=0), np.arange(40)
    resamples, ramp = Resamples(patients, 200), np.arange(40.0)[:, None]
    nearly = ramp.copy()
    nearly[[19, 20]] = nearly[[20, 19]]
    result = interval(bootstrap(np.stack([ramp, nearly]), labels, resamples, (0, 1)))
    assert 0 < result.low < result.estimate < result.high < 1
    wholly = interval(bootstrap(np.stack([ramp, ramp]), labels, resamples, (0, 1)))
    assert (wholly.low, wholly.estimate, wholly.high) == (1, 1, 1)


def test_without_predictions_the_interval_is_students_t_over_seeds_and_says_so():
    observed = np.array([0.80, 0.82, 0.81, 0.85, 0.79])
    result = interval(Scores.without_predictions(range(5), observed))
    half = 2.7764 * observed.std(ddof=1) / math.sqrt(5)  # 97.5 % of t with 4 degrees of freedom
    assert result.over == "seeds"
    assert result.low == pytest.approx(observed.mean() - half, rel=0.005)
    assert result.high == pytest.approx(observed.mean() + half, rel=0.005)


def test_one_score_without_predictions_has_no_interval():
    result = interval(Scores.without_predictions([0], [0.8]))
    assert result == statistics.Interval(0.8, None, None, "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.zeros((2, 9, 1))}, r"expected predictions \(2, 10, 1\)"),
        ({"predictions": np.full((2, 10, 1), np.nan)}, "NaN or infinity"),
        ({"labels": np.full((10, 1), 2.0)}, "labels must be 0, 1 or NaN"),
        ({"seeds": (4, 4)}, "each once"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    right = {"predictions": np.zeros((2, 10, 1)), "labels": np.zeros((10, 1)), "seeds": (0, 1)}
    with pytest.raises(ValueError, match=message):
        bootstrap(**(right | change), resamples=Resamples(np.arange(10), 20))


def test_an_interval_covers_the_truth_in_93_to_97_percent_of_studies():
    rng, hits, n = np.random.default_rng(1), 0, 1000
    for i in range(n):
        predictions, labels, patients, _ = study(rng)
        scores = bootstrap(predictions, labels, Resamples(patients, 200, seed=i), range(5))
        result = interval(scores)
        hits += result.low <= truth() <= result.high
    assert 0.93 <= hits / n <= 0.97


# ------------------------------------------------------------------ differences


def pair(rng, *, gain=1.2, n=200, seed=0, **settings):
    """Two encoders on the same images and resamples; the second has the gain 1.2."""
    first, labels, patients, shared = study(rng, gain=gain, **settings)
    second = study(rng, shared=shared, **settings)[0]
    resamples = Resamples(patients, n, seed=seed)
    seeds = range(len(first))
    return bootstrap(first, labels, resamples, seeds), bootstrap(second, labels, resamples, seeds)


def test_swapping_the_two_flips_the_sign_and_keeps_the_p_value():
    a, b = pair(np.random.default_rng(0), gain=1.4)
    there, back = compare(a, b), compare(b, a)
    assert there.difference.estimate == -back.difference.estimate
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-12)
    assert there.difference.high == pytest.approx(-back.difference.low, abs=1e-12)
    assert there.p == back.p
    assert (there.n_patients, there.n_seeds) == (150, 5)


def test_the_p_value_and_the_interval_agree():
    rng = np.random.default_rng(0)
    for gain in (1.2, 1.25, 1.3, 1.35, 1.4, 2.0):
        result = compare(*pair(rng, gain=gain))
        excluded = result.difference.low > 0 or result.difference.high < 0
        assert excluded == (result.p < 0.05) or 0.03 < result.p < 0.07


def test_a_large_difference_has_the_smallest_p_value_that_the_resamples_allow():
    result = compare(*pair(np.random.default_rng(0), gain=4.0))
    assert result.difference.low > 0.1
    assert result.p == pytest.approx(2 / 201, rel=0.3)


def test_an_encoder_does_not_differ_from_itself():
    a, _ = pair(np.random.default_rng(0))
    result = compare(a, a)
    assert (result.difference.low, result.difference.high, result.p) == (0, 0, 1)


def test_only_shared_seeds_are_compared():
    rng = np.random.default_rng(0)
    predictions, labels, patients, shared = study(rng)
    other = study(rng, shared=shared)[0]
    resamples = Resamples(patients, 50)
    a = bootstrap(predictions, labels, resamples, (0, 1, 2, 3, 4))
    b = bootstrap(other[:3], labels, resamples, (4, 1, 9))
    result = compare(a, b)
    expected = a.observed[[1, 4]] - b.observed[[1, 0]]
    assert result.n_seeds == 2
    assert result.difference.estimate == pytest.approx(expected.mean(), abs=1e-12)


def test_no_shared_seed_or_other_resamples_are_refused():
    predictions, labels, patients, _ = study(np.random.default_rng(0), n_seeds=1)
    resamples = Resamples(patients, 20)
    a = bootstrap(predictions, labels, resamples, (0,))
    with pytest.raises(ValueError, match="no shared seeds"):
        compare(a, bootstrap(predictions, labels, resamples, (1,)))
    with pytest.raises(ValueError, match="same resamples"):
        compare(a, bootstrap(predictions, labels, Resamples(patients, 20, seed=1), (0,)))


def test_equal_encoders_are_called_different_in_at_most_5_percent_of_studies():
    rng, n = np.random.default_rng(2), 400
    p = np.array([compare(*pair(rng, seed=i)).p for i in range(n)])
    assert (p < 0.05).mean() <= 0.05
    assert (p < 0.2).mean() > 0.08  # not by never seeing a difference


# ------------------------------------------------------------------ many comparisons, and ranks


def test_holm_on_a_known_example():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_is_unknown_and_stops_at_one():
    assert holm([None, 0.9, 0.8]) == [None, 1.0, 1.0]
    assert holm([]) == []


def test_the_module_imports_neither_torch_nor_scipy():
    check = (
        "import sys, cxrzoo.report.statistics; "
        "assert not {'torch', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def rivals(rng, means, *, n_seeds=5, n_resamples=400):
    """Scores of encoders with known means: seeds and shared test patients both vary.

    One seed tells nothing of how seeds vary, and does not claim to: then they do not.
    """
    n = len(means)
    patients, own = rng.normal(0, 0.01, n_resamples), rng.normal(0, 0.005, (n, n_resamples))
    luck, own_luck = rng.normal(0, 0.01), rng.normal(0, 0.005, n)
    seeds = rng.normal(0, 0.01 * (n_seeds > 1), (n, n_seeds))
    observed = np.asarray(means)[:, None] + luck + own_luck[:, None] + seeds
    drawn = observed[:, None] + (patients + own)[:, :, None]
    return [
        Scores(tuple(range(n_seeds)), o, r, np.zeros(1, int), 50, "k")
        for o, r in zip(observed, drawn, strict=True)
    ]


@pytest.mark.parametrize("n_seeds", [1, 3, 5])
@pytest.mark.parametrize("means", [[0.8] * 8, [0.8, 0.795, 0.79, 0.7], [0.8, 0.79]])
def test_the_best_is_among_those_that_may_be_in_95_percent_of_studies(means, n_seeds):
    rng = np.random.default_rng(len(means) + n_seeds)
    n = 400
    kept = sum(statistics.possible_best(rivals(rng, means, n_seeds=n_seeds))[0] for _ in range(n))
    assert kept >= 0.95 * n - 2.3 * np.sqrt(n * 0.95 * 0.05)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_the_best_of_many_is_found_from_few_seeds_without_predictions(n_seeds):
    rng, n, kept = np.random.default_rng(0), 60, 0
    for _ in range(n):
        observed = 0.8 + rng.normal(0, 0.01, (40, n_seeds))
        others = np.zeros((39, 0, n_seeds))
        kept += statistics._may_be_best(observed[1:] - observed[0], others)
    assert kept >= 0.95 * n - 2.3 * np.sqrt(n * 0.95 * 0.05)


def test_who_is_far_behind_cannot_be_the_best():
    rng = np.random.default_rng(0)
    found = [statistics.possible_best(rivals(rng, [0.8, 0.799, 0.6]))[2] for _ in range(50)]
    assert sum(found) == 0


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_highest_may_always_be_the_best_whatever_the_order(seed, n, n_seeds):
    rng = np.random.default_rng(seed)
    scores = rivals(rng, rng.uniform(0.6, 0.8, n), n_seeds=n_seeds, n_resamples=100)
    found = statistics.possible_best(scores)
    assert found[int(np.argmax([s.observed.mean() for s in scores]))]
    assert statistics.possible_best(scores[::-1]) == found[::-1]


def test_without_any_spread_only_the_highest_may_be_the_best():
    flat = [Scores.without_predictions([0, 1], [x, x]) for x in (0.7, 0.8, 0.8)]
    assert statistics.possible_best(flat) == [False, True, True]
    one = [Scores.without_predictions([0], [x]) for x in (0.7, 0.8)]
    assert statistics.possible_best(one) == [True, True]


def test_the_best_of_other_seeds_or_resamples_is_refused():
    scores = rivals(np.random.default_rng(0), [0.8, 0.7])
    other = Scores((7,), np.array([0.8]), np.zeros((0, 1)), np.zeros(0, int), 0, "")
    with pytest.raises(ValueError, match="same seeds and resamples"):
        statistics.possible_best([*scores, other])
