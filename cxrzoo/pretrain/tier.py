"""Tiers: the scales at which strategies are trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from cxrzoo.errors import UnknownNameError
from cxrzoo.zoo.card import InputContract


@dataclass(frozen=True)
class Tier:
    """One scale.

    Attributes:
        arch: timm's name of the backbone.
        contract: how images enter it.
        pools: what a strategy's data are below the data root unless said otherwise.
        stand_ins: reference encoders that are a strategy's weights at this scale.
    """

    arch: str
    contract: InputContract
    pools: dict[str, str]
    stand_ins: dict[str, str] = field(default_factory=dict)


TIERS = {
    "lite": Tier(
        arch="tf_efficientnet_lite0",
        contract=InputContract(size_px=128, mean=(0.5,) * 3, std=(0.5,) * 3),
        pools={"imagenet": "natural-pool", "imagenet-1k": "natural-pool", "cxr": "cxr-pool"},
    ),
    "resnet50": Tier(
        arch="resnet50",
        contract=InputContract(size_px=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        # NIH's training images: about the 100,000 radiographs of arXiv:2211.12931
        pools={"imagenet": "imagenet-1k", "imagenet-1k": "imagenet-1k", "cxr": "nih14:train"},
        stand_ins={"supervised-imagenet": "timm-resnet50.tv_in1k"},
    ),
}


def find_tier(name: str) -> Tier:
    """The tier called ``name``; UnknownNameError lists the choices."""
    if name not in TIERS:
        raise UnknownNameError("tier", name, TIERS)
    return TIERS[name]


def name_at(strategy: str, tier: str) -> str:
    """What a strategy's encoder is called at a tier: zoo names are those of ``lite``."""
    return strategy if tier == "lite" else f"{strategy}-{tier}"
