"""The layers of a backbone by their depth: which stay as they were, and how fast the others move.

A stage is what timm groups together (``group_matcher(coarse=True)``): the stem is the first, then
every block of layers at one resolution, then what follows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from cxrzoo.errors import RecipeError


def depths(backbone: nn.Module) -> dict[str, int]:
    """Stage of every parameter by its name, from 0, the stem."""
    matcher = cast(Any, backbone).group_matcher(coarse=True)
    return dict(group_parameters(backbone, matcher, reverse=True))


def silence_residual_branches(backbone: nn.Module) -> None:
    """Begin every residual block as the identity: its last normalisation has weight 0 (Goyal et
    al., arXiv:1706.02677, section 5.1), as timm does for ResNets by itself.

    Raises:
        RecipeError: the backbone has no residual block of a kind known here.
    """
    silenced = 0
    for block in backbone.modules():
        if hasattr(block, "zero_init_last"):
            cast(Any, block).zero_init_last()
        elif getattr(block, "has_skip", False):
            last = [m for m in block.children() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            nn.init.zeros_(last[-1].weight)
        else:
            continue
        silenced += 1
    if not silenced:
        raise RecipeError("silent_residuals: the backbone has no residual blocks known here")


def freeze_stages(backbone: nn.Module, count: int) -> None:
    """Keep the first ``count`` stages as they are; to be called before momentum copies are made.

    Raises:
        RecipeError: nothing would be left to train.
    """
    stage_of = depths(backbone)
    if count > max(stage_of.values()):
        raise RecipeError(
            f"frozen_stages: {count} of the backbone's {max(stage_of.values()) + 1} stages would "
            "leave none to train"
        )
    for name, parameter in backbone.named_parameters():
        if stage_of[name] < count:
            parameter.requires_grad = False


def freeze_statistics(backbone: nn.Module, stages: int | None = None) -> None:
    """BatchNorm of the first ``stages`` stages, or of all, normalises with the statistics it has,
    in training too; to be called after ``train()``, which undoes it."""
    stage_of = depths(backbone)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            stage = stage_of.get(f"{name}.weight", 0)
            if stages is None or stage < stages:
                module.eval()


@torch.no_grad()
def settle_statistics(backbone: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give BatchNorm the statistics of its inputs, and change nothing of what it computes.

    After a training with the statistics of initialisation, which change nothing, its own are far
    from those of any images: fine-tuning, which normalises with those of its batches, would begin
    with another network. Weight and bias make up for what the new statistics do.

    Args:
        backbone: with its trained weights; in eval mode when this returns.
        batches: (N, C, S, S) of images as they enter the network, all of one N.
    """
    backbone.eval()
    norms: list[Any] = [
        m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    moments = [(torch.zeros_like(n.running_mean), torch.zeros_like(n.running_var)) for n in norms]

    def note(index: int, inputs: tuple[Tensor, ...]) -> None:
        mean, square = moments[index]
        mean += inputs[0].mean((0, 2, 3))
        square += inputs[0].square().mean((0, 2, 3))

    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs, index=index: note(index, inputs))
        for index, norm in enumerate(norms)
    ]
    count = 0
    for batch in batches:
        backbone(batch)
        count += 1
    for hook in hooks:
        hook.remove()
    for norm, (mean, square) in zip(norms, moments, strict=True):
        mean, variance = mean / count, (square / count - (mean / count) ** 2).clamp_min(0)
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += slope * (mean - norm.running_mean)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def scaled_groups(
    groups: list[dict[str, Any]], backbone: nn.Module, layer_decay: float
) -> list[dict[str, Any]]:
    """Optimiser groups split by stage, each with the ``scale`` of its learning rate.

    Heads and the last stage learn at full rate, every stage before at ``layer_decay`` times the
    rate of the one behind it (BEiT, arXiv:2106.08254).
    """
    stage_of = depths(backbone)
    last = max(stage_of.values())
    stage_by_id = {id(p): stage_of[name] for name, p in backbone.named_parameters()}
    split: list[dict[str, Any]] = []
    for group in groups:
        by_stage: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_stage.setdefault(stage_by_id.get(id(parameter), last), []).append(parameter)
        for stage in sorted(by_stage):
            scale = layer_decay ** (last - stage)
            split.append({**group, "params": by_stage[stage], "scale": scale})
    return split
