"""What tells a collapsed training from a good one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cxrzoo.pretrain.collapse import diagnose, verdict


def spread(images: int = 64, features: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(images, features, generator=torch.Generator().manual_seed(seed))


def test_spread_features_are_told_from_collapsed_ones():
    good = diagnose(spread())
    assert verdict(good) == ""
    assert good["feature_std"] == pytest.approx(1.0, abs=0.1)
    assert good["effective_rank"] > 20
    assert good["uniformity"] < -3
    line = spread(features=1) @ torch.ones(1, 32)
    assert "line" in verdict(diagnose(line))
    assert "hardly differ" in verdict(diagnose(torch.ones(64, 32)))
    assert "not finite" in verdict(diagnose(torch.full((4, 8), float("nan"))))


def test_alignment_is_the_squared_distance_of_an_images_views():
    x = spread()
    assert diagnose(x, 3 * x)["alignment"] == pytest.approx(0, abs=1e-6)
    assert diagnose(x, -x)["alignment"] == pytest.approx(4, abs=1e-5)
    assert diagnose(x, spread(seed=1))["alignment"] == pytest.approx(2, abs=0.2)
    one, other = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[0.0, 1], [0, 1]])
    assert diagnose(one, other)["alignment"] == pytest.approx(1)


def test_without_partners_there_is_no_alignment():
    assert set(diagnose(spread())) == {"feature_std", "effective_rank", "uniformity"}
    assert set(diagnose(spread(), spread())) == {*diagnose(spread()), "alignment"}


def test_partners_that_are_not_finite_are_seen():
    assert verdict(diagnose(spread(), torch.full((64, 32), math.inf))) == "features are not finite"


@pytest.mark.parametrize(
    ("measures", "words"),
    [
        ({}, ""),
        ({"alignment": 0.1}, ""),
        ({"feature_std": 1.0}, ""),
        ({"feature_std": 0.0}, "hardly differ"),
        ({"effective_rank": 1.0}, "line"),
        ({"alignment": math.nan}, "not finite"),
    ],
)
def test_what_is_absent_is_not_judged(measures, words):
    assert words in verdict(measures)
    assert bool(words) is bool(verdict(measures))


@pytest.mark.parametrize(
    ("scores", "collapsed"),
    [
        ([], False),
        ([0.55], False),
        ([0.72], False),
        ([0.72, 0.60, 0.56], False),  # a quarter of .22 is .055
        ([0.72, 0.60, 0.55], True),
        ([0.55, 0.72, 0.53], True),
        ([0.72, 0.53, 0.70], False),  # it came back
        ([0.59, 0.50], False),  # never good enough to tell
        ([0.60, 0.50], True),
        ([0.72, 0.40], True),
    ],
)
def test_a_knn_score_that_is_lost_is_a_collapse(scores, collapsed):
    assert bool(verdict(diagnose(spread()), scores)) is collapsed


def test_the_fall_is_told_in_numbers():
    words = "the k-NN score on the watched benchmark fell from 0.72 to 0.53"
    assert verdict({}, [0.6, 0.72, 0.53]) == words
