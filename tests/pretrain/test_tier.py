"""Tiers: what they are made of exists."""

from __future__ import annotations

import pytest
import timm

from cxrzoo.errors import UnknownNameError
from cxrzoo.pretrain.recipe import list_recipes
from cxrzoo.pretrain.tier import TIERS, find_tier, name_at
from cxrzoo.zoo import registry


@pytest.mark.parametrize("name", TIERS)
def test_a_tier_has_an_architecture_recipes_and_encoders_to_start_from(name):
    tier = find_tier(name)
    assert timm.is_model(tier.arch)
    assert f"moco-{name}" in list_recipes()
    for strategy, encoder in tier.stand_ins.items():
        wanted, stand_in = registry.find(strategy)[0], registry.find(encoder)[0]
        assert stand_in.arch == tier.arch
        assert stand_in.input == tier.contract
        assert stand_in.strategy[-1].data == wanted.strategy[-1].data


def test_the_zoo_names_are_those_of_lite():
    assert name_at("moco-cxr", "lite") == "moco-cxr"
    assert name_at("moco-cxr", "resnet50") == "moco-cxr-resnet50"


def test_an_unknown_tier_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean resnet50"):
        find_tier("resnet-50")


def test_every_strategy_of_the_zoo_has_its_recipes():
    for card, _ in registry.read_all():
        if card.verified and card.tier == "lite" and not card.has_weights:
            for stage in card.strategy:
                assert f"{stage.method}-lite" in list_recipes()
                assert f"{stage.method}-resnet50" in list_recipes()
