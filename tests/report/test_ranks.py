from __future__ import annotations

import numpy as np
import pytest

from cxrzoo.report import ranks
from cxrzoo.report.ranks import mean_rank


def test_mean_ranks_average_ties_and_benchmarks_equally():
    scores = np.array([[0.9, 0.9, 0.5], [0.8, 0.7, 0.5], [0.7, 0.8, 0.1]])
    result = mean_rank(scores, ["a", "a", "b"])
    assert [r.estimate for r in result.ranks] == [1.25, 2.0, 2.75]
    assert result.n_benchmarks == 2
    assert all(1 <= r.low <= r.estimate <= r.high <= 3 for r in result.ranks)
    assert {r.over for r in result.ranks} == {"benchmarks"}


def test_holes_are_left_out_worst_first_and_reported():
    scores = np.random.default_rng(0).random((5, 4))
    scores[2, :2] = np.nan  # a submission with half the grid
    scores[1:, 3] = np.nan  # a cell that only one encoder has
    result = mean_rank(scores, list("abcd"))
    assert (result.left_out_encoders, result.left_out_cells) == ((2,), (3,))
    assert (result.encoders, result.cells) == ((0, 1, 3, 4), (0, 1, 2))


def test_one_benchmark_gives_ranks_without_intervals_and_no_places_apart():
    result = mean_rank(np.array([[0.9], [0.8]]), ["a"])
    assert [r.estimate for r in result.ranks] == [1, 2]
    assert {(r.low, r.high, r.over) for r in result.ranks} == {(None, None, "nothing")}
    assert result.places == (1, 1)


def test_an_empty_grid_has_no_ranks():
    result = mean_rank(np.full((2, 2), np.nan), ["a", "b"])
    assert result.ranks == result.places == result.encoders == ()


def test_only_encoders_whose_intervals_lie_apart_get_different_places():
    rng = np.random.default_rng(0)
    quality = np.array([0.0, 0.0, 2.0, 2.0, 9.0])[:, None]
    scores = quality + 0.5 * rng.normal(size=(5, 12))
    result = mean_rank(scores, [str(i) for i in range(12)])
    assert result.places == (4, 4, 2, 2, 1)


def test_the_interval_of_a_mean_rank_covers_the_truth():
    rng, quality = np.random.default_rng(0), np.linspace(0, 1.5, 6)[:, None]
    many = quality + rng.normal(size=(6, 40_000))
    expected = ranks._ranks(many).mean(axis=1)
    hits, n = np.zeros(6), 300
    for i in range(n):
        scores = quality + rng.normal(size=(6, 8))
        found = mean_rank(scores, [str(c) for c in range(8)], seed=i).ranks
        hits += [r.low <= e <= r.high for r, e in zip(found, expected, strict=True)]
    assert 0.93 <= (hits / n).mean() <= 0.97


@pytest.mark.parametrize(("n_encoders", "n"), [(2, 2), (2, 4), (5, 3), (20, 3), (10, 6)])
def test_equal_encoders_are_put_in_different_places_in_at_most_5_percent(n_encoders, n):
    rng, apart = np.random.default_rng(0), 0
    for _ in range(100):
        scores = rng.normal(size=(n_encoders, n))
        apart += len(set(mean_rank(scores, [str(c) for c in range(n)]).places)) > 1
    assert apart <= 9


def test_two_benchmarks_that_agree_leave_the_mean_rank_open():
    found = mean_rank(np.array([[0.8, 0.8], [0.7, 0.7]]), ["a", "b"]).ranks
    assert [(r.low, r.high) for r in found] == [(1, 2), (1, 2)]
