"""Depths of layers: which are frozen, and how fast the others learn."""

from __future__ import annotations

import copy

import pytest
import torch

from cxrzoo.errors import RecipeError
from cxrzoo.pretrain.layers import (
    depths,
    freeze_stages,
    freeze_statistics,
    scaled_groups,
    settle_statistics,
    silence_residual_branches,
)
from cxrzoo.zoo.weights import create_backbone

ARCHS = {"tf_efficientnet_lite0": 8, "resnet50": 5, "resnet10t": 5, "densenet121": 6}


@pytest.mark.parametrize("arch", ARCHS)
def test_stages_run_from_the_stem_to_the_last_layer(arch):
    backbone = create_backbone(arch, 3)
    stages = depths(backbone)
    assert set(stages) == {name for name, _ in backbone.named_parameters()}
    assert set(stages.values()) == set(range(max(stages.values()) + 1))
    first = next(name for name, _ in backbone.named_parameters())
    assert stages[first] == 0


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_frozen_stages_have_no_gradient_and_the_others_do(count):
    backbone = create_backbone("tf_efficientnet_lite0", 3)
    freeze_stages(backbone, count)
    stages = depths(backbone)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (stages[name] >= count)


def test_freezing_everything_is_refused():
    with pytest.raises(RecipeError, match="8 of the backbone's 8 stages would leave none"):
        freeze_stages(create_backbone("tf_efficientnet_lite0", 3), 8)


@pytest.mark.parametrize(("stages", "moving"), [(None, set()), (0, set(range(8)))])
def test_statistics_of_all_or_no_stages_are_kept(stages, moving):
    backbone = create_backbone("tf_efficientnet_lite0", 3).train()
    freeze_statistics(backbone, stages)
    before = {n: b.clone() for n, b in backbone.named_buffers() if "running_mean" in n}
    backbone(torch.rand(2, 3, 64, 64))
    stage_of = depths(backbone)
    moved = {
        stage_of[name.replace("running_mean", "weight")]
        for name, buffer in backbone.named_buffers()
        if name in before and not torch.equal(buffer, before[name])
    }
    assert moved == moving


def test_layers_learn_the_slower_the_nearer_they_are_to_the_image():
    backbone = create_backbone("resnet10t", 3)
    head = torch.nn.Linear(512, 4)
    parameters = [*backbone.parameters(), *head.parameters()]
    groups = scaled_groups([{"params": parameters, "weight_decay": 0.1}], backbone, 0.5)
    assert [group["scale"] for group in groups] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert sum(len(group["params"]) for group in groups) == len(parameters)
    assert any(p is head.weight for p in groups[-1]["params"])
    assert all(group["weight_decay"] == 0.1 for group in groups)


@pytest.mark.parametrize(
    ("arch", "blocks"), [("tf_efficientnet_lite0", 9), ("resnet10t", 4), ("resnet50", 16)]
)
def test_residual_blocks_begin_as_the_identity(arch, blocks):
    backbone = create_backbone(arch, 3).eval()
    silence_residual_branches(backbone)
    silent = [n for n, p in backbone.named_parameters() if n.endswith("weight") and not p.any()]
    assert len(silent) == blocks
    if arch == "tf_efficientnet_lite0":
        block = backbone.blocks[2][1]
        x = torch.rand(2, block.conv_pw.in_channels, 8, 8)
        assert torch.equal(block(x), x)


def test_a_network_without_residual_blocks_cannot_silence_them():
    with pytest.raises(RecipeError, match="silent_residuals: the backbone has no residual blocks"):
        silence_residual_branches(create_backbone("densenet121", 3))


@pytest.mark.parametrize("arch", ["tf_efficientnet_lite0", "resnet10t"])
def test_settled_statistics_are_those_of_the_images_and_change_nothing(arch):
    backbone = create_backbone(arch, 3).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "bn" in name:  # as a training leaves them
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
    images = [torch.rand(8, 3, 64, 64, generator=draws) for _ in range(3)]
    with torch.inference_mode():
        before = backbone(images[0])
    settle_statistics(backbone, images)
    with torch.inference_mode():
        assert torch.allclose(backbone(images[0]), before, rtol=1e-3, atol=1e-4 * before.std())
    seen = []
    norm = backbone.bn1
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for batch in images:
            backbone(batch)
    whole = torch.cat(seen).transpose(0, 1).flatten(1)
    assert torch.allclose(norm.running_mean, whole.mean(1), atol=1e-4)
    assert torch.allclose(norm.running_var, whole.var(1, correction=0), rtol=1e-3, atol=1e-6)
    assert not any(len(m._forward_pre_hooks) for m in backbone.modules() if m is not norm)


def test_fine_tuning_begins_with_the_same_network_only_when_statistics_are_settled():
    backbone = create_backbone("tf_efficientnet_lite0", 3)
    silence_residual_branches(backbone)
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def likeness() -> float:
        with torch.no_grad():
            still, training = backbone.eval()(images), backbone.train()(images)
        backbone.eval()
        still, training = still - still.mean(0), training - training.mean(0)
        return float(torch.cosine_similarity(still.flatten(), training.flatten(), 0))

    fresh = copy.deepcopy(backbone.state_dict())
    assert likeness() < 0.9
    backbone.load_state_dict(fresh)
    settle_statistics(backbone, [images])
    assert likeness() > 0.999
