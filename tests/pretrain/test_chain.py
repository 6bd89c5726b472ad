"""``cxrzoo pretrain``: whole chains, on small folders of images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cxrzoo
from cxrzoo.cli import main
from cxrzoo.pretrain import chain, train
from cxrzoo.zoo.card import read_card
from cxrzoo.zoo.publish import prepare

CHAIN = "simclr-imagenet-then-cxr"
FIRST = "simclr-imagenet"
SMALL = ("images_seen=16", "min_px=0", "batch_size=8", "views.size_px=32", "store_px=40",
         "optimiser.warmup_steps=0")  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with a pool of colour photographs and one of grey radiographs."""
    folder, draws = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for pool, shape in (("natural-pool", (72, 64, 3)), ("cxr-pool", (80, 90))):
        (folder / pool).mkdir()
        for n in range(24):
            pixels = draws.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / pool / f"{n:02d}.png")
    for n in range(32):
        place = folder / "classes" / f"finding-{n % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{n:02d}.png")
    return folder


def settings_of(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def pretrain(root: Path, output: Path, name: str = CHAIN, status: int = 0, *more: str) -> str:
    stages = ["", f"{FIRST}:"] if name == CHAIN else [""]
    small = settings_of(*(stage + change for stage in stages for change in SMALL))
    words = ["pretrain", name, "--data-root", root, "-o", output,
             "--device", "cpu", "--watch", "none", *small, *more]  # fmt: skip
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
    parent = cxrzoo.load(str(tmp_path / FIRST))
    assert parent.weights_sha256 in card.provenance
    encoder = cxrzoo.load(str(directory))
    assert encoder.weights_sha256 != parent.weights_sha256
    assert encoder.exposure("nih14").state == "unknown"
    assert encoder.exposure("chexpert").state == "clean"
    photographs = "simclr on imagenet (natural-pool of Tiny-ImageNet)"
    assert encoder.card.chain == f"{photographs} -> simclr on cxr (cxr-pool)"
    assert encoder.card.strategy[0].caution
    assert not encoder.card.strategy[1].caution
    assert f"Caution: {encoder.card.strategy[0].caution}." in (directory / "README.md").read_text()
    assert encoder.card.chain in (directory / "README.md").read_text()
    assert prepare(directory).tag == "v1"
    facts = json.loads((tmp_path / "training" / CHAIN / "run.json").read_text())
    assert (facts["images"], facts["images_seen"]) == (24, 16)
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
    assert "holds a checkpoint of another training of this encoder" in said


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
    assert "1 image(s) cannot be read" in said
    assert "03.png" in said


SMALL_HEADS = {
    "moco": ["hidden_dim=16", "output_dim=16", "queue_size=32"],
    "simclr": ["hidden_dim=16", "output_dim=16"],
    "byol": ["hidden_dim=16", "output_dim=16"],
    "swav": ["hidden_dim=16", "output_dim=16", "prototypes=8", "frozen_steps=0"],
    "barlow": ["hidden_dim=16", "output_dim=16"],
    "vicreg": ["hidden_dim=16", "output_dim=16"],
    "dino": ["hidden_dim=16", "bottleneck_dim=16", "output_dim=16", "frozen_steps=0"],
    "supervised": [],
}


@pytest.mark.parametrize("method", SMALL_HEADS)
def test_every_method_trains_two_steps_at_tier_resnet50(root, tmp_path, method):
    """With small views and narrow heads: 224 px and 8,192 features take long on a CPU."""
    changes = ["images_seen=32", "batch_size=16"]
    changes += [f"method.{change}" for change in SMALL_HEADS[method]]
    if method in ("swav", "dino"):
        changes += ["views.local.size_px=32", "views.local.count=1"]
    pretrain(root, tmp_path, f"{method}-cxr", 0, "--tier", "resnet50",
             "--pool", "cxr=classes", *settings_of(*changes))  # fmt: skip
    encoder = cxrzoo.load(str(tmp_path / f"{method}-cxr-resnet50"))
    assert (encoder.card.arch, encoder.card.tier) == ("resnet50", "resnet50")
    assert encoder.card.input.size_px == 224
    assert "batch_size=16" in encoder.card.provenance
    text = (tmp_path / f"{method}-cxr-resnet50" / "README.md").read_text()
    assert re.search(r"batch_size +\| 16 +\| changed for this training", text)
    seen = encoder.card.pretraining_data
    assert seen is not None
    assert seen[0].labels_seen == (method == "supervised")


def test_a_second_stage_goes_on_from_its_middle(root, tmp_path, monkeypatch):
    pretrain(root, tmp_path / "whole")
    step = train._Loop.step

    def stopped(self, number, *, stop=False):
        second = self.run.pixels.ndim == 3  # of the second stage's radiographs, without colour
        return step(self, number, stop=stop or (second and number == 0))

    monkeypatch.setattr(train._Loop, "step", stopped)
    assert "stopped at step 1; run the same command" in pretrain(root, tmp_path / "parts", status=1)
    assert (tmp_path / "parts" / FIRST / "model.safetensors").exists()
    assert not (tmp_path / "parts" / CHAIN).exists()
    monkeypatch.setattr(train._Loop, "step", step)
    pretrain(root, tmp_path / "parts")
    whole, parts = (cxrzoo.load(str(tmp_path / d / CHAIN)) for d in ("whole", "parts"))
    assert whole.weights_sha256 == parts.weights_sha256


def test_restart_throws_the_checkpoint_of_another_training_away(root, tmp_path):
    pretrain(root, tmp_path, "moco-cxr")
    said = pretrain(root, tmp_path, "moco-cxr", 1, "--seed", "1")
    assert "throw it away with --restart" in said
    pretrain(root, tmp_path, "moco-cxr", 0, "--seed", "1", "--restart")
    facts = json.loads((tmp_path / "training" / "moco-cxr" / "run.json").read_text())
    assert facts["seed"] == 1


def test_an_encoder_to_start_from_may_be_given_and_the_card_tells_its_whole_story(root, tmp_path):
    pretrain(root, tmp_path / "own")
    given = tmp_path / "own" / CHAIN
    readme = given / "README.md"
    readme.write_text(readme.read_text().replace("license: apache-2.0", "license: cc-by-nc-4.0"))
    name = "supervised-imagenet-then-barlow-cxr"
    narrow = settings_of("method.hidden_dim=16", "method.output_dim=16")
    pretrain(root, tmp_path, name, 0, "--init", f"supervised-imagenet={given}", *narrow)
    card = read_card(tmp_path / name)
    assert cxrzoo.load(str(given)).weights_sha256 in card.provenance
    assert [stage.method for stage in card.strategy] == ["simclr", "simclr", "barlow"]
    assert card.strategy[-1].init == CHAIN
    assert card.license == "cc-by-nc-4.0"


def test_an_encoder_that_was_removed_is_made_again(root, tmp_path):
    pretrain(root, tmp_path, "moco-cxr")
    first = cxrzoo.load(str(tmp_path / "moco-cxr")).weights_sha256
    shutil.rmtree(tmp_path / "moco-cxr")
    pretrain(root, tmp_path, "moco-cxr")
    assert cxrzoo.load(str(tmp_path / "moco-cxr")).weights_sha256 == first


def test_a_benchmark_watches_a_training_without_moving_it(root, tmp_path):
    pretrain(root, tmp_path / "alone", "moco-cxr")
    pretrain(root, tmp_path / "watched", "moco-cxr", 0, "--watch", "phantom")
    alone, watched = (cxrzoo.load(str(tmp_path / d / "moco-cxr")) for d in ("alone", "watched"))
    assert alone.weights_sha256 == watched.weights_sha256
    text = (tmp_path / "watched" / "moco-cxr" / "README.md").read_text()
    assert "k-NN on training images of phantom" in text
    assert (tmp_path / "watched" / "training" / "moco-cxr" / "loss.png").stat().st_size > 5000


def test_small_images_are_left_out_where_the_recipe_says_so(root, tmp_path):
    with Image.open(root / "cxr-pool" / "00.png") as image:
        image.resize((64, 64)).save(root / "cxr-pool" / "small.png")
    try:
        pretrain(root, tmp_path, "moco-cxr", 0, *settings_of("min_px=70"))
        facts = json.loads((tmp_path / "training" / "moco-cxr" / "run.json").read_text())
        assert facts["images"] == 24
        said = pretrain(root, tmp_path, "byol-cxr", 1, *settings_of("min_px=500"))
        assert "no image of it has 500 px (min_px)" in said
    finally:
        (root / "cxr-pool" / "small.png").unlink()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("supervised-cxr", (), "pool cxr-pool has no labels"),
        ("moco-cxr", ("--pool", "cxr=phantom:test"), "phantom:train"),
        ("moco-cxr", ("--set", "optimiser.lr=1"), "optimiser.lr"),
        ("moco-cxr", ("--set", "method.queue=1"), "queue"),
        ("moco-cxr", ("--set", "views.local={count: 1, size_px: 32, crop_scale: [0.1, 0.3]}"),
         "takes no local views"),
        ("moco-cxr", ("--set", "frozen_stages=20"), "would leave none to train"),
        ("moco-cxr", ("--tier", "resnet51"), "did you mean resnet50"),
        ("moco-cxr", ("--watch", "phantm"), "did you mean phantom"),
        ("moco-cxr", ("--set", "optimiser.warmup_steps=2"), "2 leave nothing of a training of 2"),
        ("swav-cxr", ("--set", "method.frozen_steps=2"), "2 leave nothing of a training of 2"),
        ("moco-cxr", ("--pool", "crx=phantom"), "did you mean cxr"),
        ("moco-cxr", ("--init", "nope=x"), "start of moco-cxr"),
        (CHAIN, ("--set", "simclr-imagnet:seed=1"), "did you mean simclr-imagenet"),
        (CHAIN, ("--pool", "cxr=nowhere"), "no folder of that name"),
        ("moco-cxr", ("--device", "gpu"), "expected auto, cpu, cuda"),
        ("moco-cxr", ("--device", "cpu:0"), "expected auto, cpu, cuda"),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_said(root, tmp_path, name, more, message):
    assert message in pretrain(root, tmp_path, name, 1, *more)
    assert not [path for path in tmp_path.iterdir() if path.name != "training"]
