from __future__ import annotations

import pytest

from cxrzoo.evaluation.record import Record
from cxrzoo.report.findings.claims import load_claims
from cxrzoo.report.findings.roles import parse_chain, participant, role_of, tier_of
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import Stage
from tests.report.test_findings import assessed, grid, made


def test_every_strategy_of_the_zoo_has_the_part_that_its_stages_say():
    claims = load_claims()
    found = {}
    for card, _ in registry.read_all():
        role, reason = role_of(card.strategy, claims)
        assert (role == "none") == bool(reason)
        found.setdefault(role, set()).add(card.name)
        if role != "none":
            assert role_of(parse_chain(card.chain), claims)[0] == role
    assert "supervised-imagenet-then-byol-cxr" in found["continued"]
    assert {"moco-imagenet", "medmae-resnet50-in1k-mocov2"} <= found["ssl-imagenet"]
    assert {"moco-cxr", "medmae-densenet121-mocov2"} <= found["ssl-cxr"]
    assert "moco-imagenet-then-cxr" in found["ssl-imagenet-then-cxr"]
    assert {"supervised-imagenet", "timm-resnet50.tv_in1k"} <= found["supervised-imagenet"]
    assert {"random-init", "supervised-cxr", "rad-dino"} <= found["none"]
    assert "supervised-imagenet-then-supervised-cxr" in found["none"]


def test_a_name_decides_nothing():
    liar = made("moco-cxr", "openi", 100, 0, 0.8)
    told = declare(liar, strategy="supervised on imagenet-1k")
    assert participant([told], "moco-cxr", {}, load_claims()).role == "supervised-imagenet"


def declare(one: Record, **declared) -> Record:
    return one.model_copy(update={"declared": {**one.declared, **declared}})


def stage_of(images: int, epochs: float | None = None, **changes) -> dict:
    stage = Stage(method="moco", data="cxr", init="random", num_images=images, epochs=epochs)
    return stage.model_dump(mode="json") | changes


def test_a_card_tells_before_the_stages_of_records_and_these_before_their_text():
    claims = load_claims()
    old = made("moco-imagenet", "openi", 100, 0, 0.8)
    new = declare(old, stages=[stage_of(1000, 2.0)])
    played = participant([old, new], "x", {}, claims)
    assert (played.role, played.chain) == ("ssl-cxr", "moco on cxr")
    assert (played.images, played.images_seen) == (1000, 2000)
    card = registry.find("supervised-imagenet")[0]
    played = participant([new], "x", {new.spec.encoder.weights_sha256: card}, claims)
    assert (played.role, played.images) == ("supervised-imagenet", 1_281_167)
    played = participant([old], "x", {}, claims)
    assert (played.role, played.images, played.images_seen) == ("ssl-imagenet", None, None)


@pytest.mark.parametrize("stages", [None, [], "moco", [stage_of(1, gpus=8)], [{"method": "magic"}]])
def test_stages_that_cannot_be_read_leave_the_text(stages):
    one = declare(made("moco-imagenet", "openi", 100, 0, 0.8), stages=stages)
    played = participant([one], "x", {}, load_claims())
    assert (played.role, played.images) == ("ssl-imagenet", None)


def test_numbers_of_images_in_records_need_no_card():
    records = [
        declare(r, stages=[stage_of(n, 2.0, data=data)])
        for encoder, data, n in (("moco-imagenet", "imagenet", 1000), ("moco-cxr", "cxr", 500))
        for r in grid({"moco-imagenet": 0.0, "moco-cxr": 0.0})
        if r.spec.encoder.name == encoder
    ]
    finding = assessed(records).findings[1]
    assert "moco-imagenet saw about 2,000 images, moco-cxr about 1,000" in finding.remark


@pytest.mark.parametrize("text", ["", "moco", "magic on imagenet", "moco on a (b", "x -> y"])
def test_what_is_no_strategy_gives_no_part(text):
    one = declare(made("moco-cxr", "openi", 100, 0, 0.8), strategy=text)
    played = participant([one], "moco-cxr", {}, load_claims())
    assert (played.role, played.reason) == ("none", "its pretraining method is not told")


def test_the_stand_in_of_a_tier_belongs_to_it():
    assert tier_of("timm-resnet50.tv_in1k", None) == "resnet50"
    assert tier_of("moco-cxr", "lite") == "lite"
    assert tier_of("rad-dino", None) == ""
