"""The k-NN score that a training is watched by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional

from cxrzoo.errors import DataError
from cxrzoo.pretrain.watch import NEIGHBOURS, TEMPERATURE, Watch, knn_votes
from cxrzoo.zoo.registry import find
from cxrzoo.zoo.weights import create_backbone


def test_votes_are_those_of_the_nearest_images_of_other_patients():
    draws = np.random.default_rng(0)
    features = functional.normalize(torch.from_numpy(draws.normal(size=(80, 8))), dim=1)
    labels = draws.integers(0, 2, (80, 3)).astype(np.float32)
    labels[draws.random((80, 3)) < 0.2] = np.nan
    patients = draws.integers(0, 30, 80)
    votes = knn_votes(features, labels, patients)
    x = features.numpy()
    for n in range(80):
        others = np.flatnonzero(patients != patients[n])
        nearest = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(x[others])
        distance, index = (a[0] for a in nearest.kneighbors(x[n : n + 1]))
        weight = np.exp((1 - distance) / TEMPERATURE)[:, None] * ~np.isnan(labels[others[index]])
        said = np.nansum(weight * np.nan_to_num(labels[others[index]]), 0) / weight.sum(0)
        np.testing.assert_allclose(votes[n], said, rtol=1e-9)


def test_where_nobody_knows_the_vote_is_even():
    features = functional.normalize(torch.ones(30, 4) + torch.eye(30, 4), dim=1)
    assert (knn_votes(features, np.full((30, 1), np.nan), np.arange(30)) == 0.5).all()


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch("phantom", None, find("random-init")[0])


def test_a_backbone_is_scored_and_left_in_its_mode(watch):
    backbone = create_backbone("tf_efficientnet_lite0", 3, 0).train()
    backbone.bn1.eval()  # frozen statistics
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    first, second = watch.score(backbone), watch.score(backbone)
    assert first == second
    assert 0.5 < first < 0.8
    assert backbone.training
    assert backbone.blocks.training
    assert not backbone.bn1.training
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_only_training_images_are_looked_at(watch, monkeypatch):
    from cxrzoo.data import table
    from cxrzoo.pretrain import watch as module

    opened = table.open_benchmark("phantom", None)
    training = set(opened.ids[opened.rows("train")])
    seen = []
    original = module.prepare

    def noted(chosen, *args, **kwargs):
        seen.extend(chosen.ids)
        return original(chosen, *args, **kwargs)

    monkeypatch.setattr(module, "prepare", noted)
    Watch("phantom", None, find("random-init")[0])
    assert len(seen) == 1000
    assert set(seen) <= training


def test_a_benchmark_without_images_cannot_watch(tmp_path):
    with pytest.raises(DataError):
        Watch("nlmtb", tmp_path, find("random-init")[0])
