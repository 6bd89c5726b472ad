"""``cxrzoo pretrain``: whole chains, on small folders of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cxrzoo
from cxrzoo.cli import main
from cxrzoo.errors import RecipeError
from cxrzoo.pretrain import chain
from cxrzoo.zoo.card import read_card
from cxrzoo.zoo.publish import prepare

CHAIN = "moco-imagenet-then-cxr"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with a pool of colour photographs and one of grey radiographs."""
    folder, draws = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for pool, shape in (("natural-pool", (72, 64, 3)), ("cxr-pool", (80, 90))):
        (folder / pool).mkdir()
        for n in range(24):
            pixels = draws.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / pool / f"{n:02d}.png")
    return folder


def pretrain(root: Path, output: Path, name: str = CHAIN, status: int = 0, *more: str) -> str:
    words = ["pretrain", name, "--data-root", root, "-o", output, "--images-seen", 128,
             "--device", "cpu", *more]  # fmt: skip
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == status, result.output
    return result.output


def test_a_chain_trains_each_stage_once_into_a_card_that_can_be_published(root, tmp_path):
    assert CHAIN in pretrain(root, tmp_path)
    directory = tmp_path / CHAIN
    card = read_card(directory)
    assert card.pretraining_data is not None
    assert [(d.dataset, d.split, d.labels_seen) for d in card.pretraining_data] == [
        ("natural-pool", "all", False),
        ("cxr-pool", "all", False),
    ]
    parent = cxrzoo.load(str(tmp_path / "moco-imagenet"))
    assert parent.weights_sha256 in card.provenance
    encoder = cxrzoo.load(str(directory))
    assert encoder.weights_sha256 != parent.weights_sha256
    assert encoder.exposure("nih14").state == "unknown"
    assert encoder.exposure("chexpert").state == "clean"
    assert prepare(directory).tag == "v1"
    facts = json.loads((tmp_path / "training" / CHAIN / "run.json").read_text())
    assert (facts["images"], facts["images_seen"]) == (24, 128)
    assert facts["parent_sha256"] == parent.weights_sha256


def test_what_is_finished_is_not_trained_again_and_another_setting_is(root, tmp_path, monkeypatch):
    pretrain(root, tmp_path, "moco-imagenet")
    trained = []
    original = chain.train

    def counted(run, method, directory, fabric):
        trained.append(directory.name)
        return original(run, method, directory, fabric)

    monkeypatch.setattr(chain, "train", counted)
    pretrain(root, tmp_path, "moco-imagenet")
    assert trained == []
    said = pretrain(root, tmp_path, "moco-imagenet", 1, "--seed", "1")
    assert "holds a checkpoint of another training: move it away" in said


def test_supervised_imagenet_goes_on_from_the_packaged_weights(root, tmp_path):
    pretrain(root, tmp_path, "supervised-imagenet-then-moco-cxr")
    card = read_card(tmp_path / "supervised-imagenet-then-moco-cxr")
    assert cxrzoo.load("supervised-imagenet").weights_sha256 in card.provenance
    assert card.pretraining_data is not None
    assert [d.dataset for d in card.pretraining_data] == ["imagenet-1k", "cxr-pool"]
    assert not (tmp_path / "supervised-imagenet").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random-init", "is no strategy that can be trained"),
        ("rad-dino", "is no strategy that can be trained"),
        ("moco-cxx", "did you mean moco-cxr"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_read(root, tmp_path, name, message):
    assert message in pretrain(root, tmp_path, name, 1)
    assert not list(tmp_path.iterdir())


def test_a_pool_may_be_a_benchmarks_training_images_and_the_card_says_which(root, tmp_path):
    pretrain(root, tmp_path, "moco-cxr", 0, "--pool", "cxr=phantom:train")
    card = read_card(tmp_path / "moco-cxr")
    assert card.pretraining_data is not None
    assert (card.pretraining_data[0].dataset, card.pretraining_data[0].split) == (
        "phantom",
        "cxrzoo-v1-train",
    )
    assert cxrzoo.load(str(tmp_path / "moco-cxr")).exposure("phantom").state == "clean"


@pytest.mark.parametrize("broken", ["truncated", "missing"])
def test_a_pool_that_cannot_be_read_is_named(root, tmp_path, broken):
    if broken == "missing":
        assert "no folder of that name" in pretrain(tmp_path, tmp_path / "out", "moco-cxr", 1)
        return
    (tmp_path / "cxr-pool").mkdir()
    for path in (root / "cxr-pool").iterdir():
        (tmp_path / "cxr-pool" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "cxr-pool" / "03.png").write_bytes(b"\x89PNG")
    said = pretrain(tmp_path, tmp_path / "out", "moco-cxr", 1)
    assert "1 images cannot be read" in said
    assert "03.png" in said


def test_recipes_are_refused_by_file_and_field(tmp_path):
    from cxrzoo import resources
    from cxrzoo.pretrain.recipe import find_recipe, list_recipes, read_recipe

    for name in list_recipes():
        recipe = find_recipe(*name.rsplit("-", 1))
        assert recipe.sources["scratch.batch_size"]
        assert recipe.continued.batch_size == recipe.scratch.batch_size
    text = (resources.RECIPES / "moco-lite.yaml").read_text()
    path = tmp_path / "moco-lite.yaml"
    for old, new, message in (
        ("batch_size: {value: 64, source: ours}", "batch_size: 64", "needs its source"),
        ("value: 64,", "value: x,", "scratch.batch_size"),
        ("batch_size", "bach_size", "scratch.bach_size: unknown field"),
        ("tier: lite", "tier: huge", "it is about moco at tier huge"),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(RecipeError, match=message) as caught:
            read_recipe(path)
        assert str(path) in str(caught.value)
