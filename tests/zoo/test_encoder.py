from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import cxrzoo
from cxrzoo import Encoder, InputContract
from cxrzoo.errors import (
    CardError,
    CxrzooError,
    HubError,
    ImageError,
    UnknownNameError,
    WeightsError,
)
from cxrzoo.zoo.card import read_card, split_front_matter
from cxrzoo.zoo.encoder import golden_input
from cxrzoo.zoo.registry import encoders_at_hand, find, list_encoders
from cxrzoo.zoo.weights import sha256_of_state
from tests.zoo.cards import copy_card, edit_card

AT_HAND = encoders_at_hand()
NOT_TRAINED = [
    name for name in list_encoders() if find(name)[0].verified and not find(name)[0].has_weights
]
GREY = golden_input()[..., 0]
CONTRACT = InputContract(size_px=32, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return cxrzoo.load("supervised-imagenet")


@pytest.fixture
def local(tmp_path) -> Path:
    return copy_card("supervised-imagenet", tmp_path)


def tiny(**attributes) -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


# --- what load gives ------------------------------------------------------------------------


@pytest.mark.parametrize("name", AT_HAND)
def test_every_encoder_at_hand_loads_in_eval_mode_and_maps_images_to_features(name):
    encoder = cxrzoo.load(name)
    assert encoder.card == find(name)[0]
    assert not any(module.training for module in encoder.modules())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    with torch.inference_mode():
        features = encoder(encoder.preprocess([GREY, 255 - GREY, GREY.T]))
    assert features.shape == (3, encoder.num_features) == (3, 1280)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert features.std(0).max() > 0.01


@pytest.mark.parametrize("name", AT_HAND)
def test_loading_twice_gives_identical_features(name):
    with torch.inference_mode():
        first, second = (e(e.preprocess(GREY)) for e in (cxrzoo.load(name), cxrzoo.load(name)))
    assert torch.equal(first, second)


def test_an_images_features_do_not_depend_on_its_batch(encoder):
    with torch.inference_mode():
        alone = encoder(encoder.preprocess(GREY))
        among = encoder(encoder.preprocess([255 - GREY, GREY, GREY // 2]))[1:2]
    assert torch.allclose(alone, among, atol=1e-4)


@pytest.mark.parametrize("name", AT_HAND)
def test_the_sha256_is_that_of_the_weights(name):
    encoder, (card, directory) = cxrzoo.load(name), find(name)
    actual = (
        hashlib.sha256((directory / card.weights.file).read_bytes()).hexdigest()
        if card.weights.file
        else sha256_of_state(encoder.backbone)
    )
    assert encoder.weights_sha256 == actual


def test_random_init_neither_reads_nor_disturbs_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = cxrzoo.load("random-init").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = cxrzoo.load("random-init").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_random_init_leaves_the_generators_of_gpus_alone(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    cxrzoo.load("random-init")
    assert seeds == []


# --- preprocess and normalize ---------------------------------------------------------------


def test_preprocess_of_one_image_is_the_same_however_it_is_given(encoder, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    expected = encoder.preprocess(Image.fromarray(GREY))
    assert expected.shape == (1, 3, 128, 128)
    rgb = np.dstack([GREY] * 3)
    forms = {
        "path": path,
        "text": str(path),
        "list": [path],
        "tuple": (path,),
        "RGB Pillow": Image.fromarray(rgb),
        "numpy": GREY,
        "numpy HWC": rgb,
        "numpy CHW": rgb.transpose(2, 0, 1),
        "16 bit": GREY.astype(np.uint16) * 257,
        "float": GREY / 255,
        "torch": torch.from_numpy(GREY),
        "torch 1HW": torch.from_numpy(GREY)[None],
        "torch float CHW": torch.from_numpy(rgb).permute(2, 0, 1) / 255,
        "batch NHWC": rgb[None],
        "batch N1HW": torch.from_numpy(GREY)[None, None],
    }
    different = [
        k for k, form in forms.items() if not torch.equal(encoder.preprocess(form), expected)
    ]
    assert different == []


def test_preprocess_of_a_batch_is_that_of_its_images(encoder):
    many = np.stack([GREY, 255 - GREY, GREY // 2, GREY[::-1]])
    expected = torch.cat([encoder.preprocess(one) for one in many])
    for batch in (
        many,
        list(many),
        many[:, None],
        np.stack([many] * 3, axis=-1),
        torch.from_numpy(many),
        [Image.fromarray(one) for one in many],
        [many[0], Image.fromarray(many[1]), torch.from_numpy(many[2]), many[3] / 255],
    ):
        assert torch.equal(encoder.preprocess(batch), expected)


def test_images_of_different_sizes_make_one_batch(encoder):
    sizes = [(150, 128), (64, 300), (128, 128), (31, 7)]
    batch = encoder.preprocess([np.full(size, 100, np.uint8) for size in sizes])
    assert batch.shape == (4, 3, 128, 128)
    assert torch.allclose(batch, torch.tensor((100 / 255 - 0.5) / 0.5))


@pytest.mark.parametrize(
    "empty",
    [[], (), np.zeros((0, 64, 64), np.uint8), torch.zeros(0, 1, 64, 64)],
    ids=["list", "tuple", "numpy", "torch"],
)
def test_no_images_are_an_error(encoder, empty):
    with pytest.raises(CxrzooError, match=r"empty|no image|shape"):
        encoder.preprocess(empty)


def test_an_unreadable_image_of_a_list_is_named(encoder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^\S+bad\.png: "):
        encoder.preprocess([GREY, tmp_path / "bad.png"])


def wrapped(**contract) -> Encoder:
    return Encoder.from_module(
        tiny(), name="tiny", num_features=6, contract=InputContract(size_px=32, **contract)
    )


def test_normalize_is_x_by_255_less_mean_by_std():
    x = torch.randint(0, 256, (5, 32, 32), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    encoder = wrapped(mean=mean, std=std)
    expected = torch.stack([(x / 255 - m) / s for m, s in zip(mean, std, strict=True)], 1)
    assert torch.allclose(encoder.normalize(x), expected, atol=1e-5)
    assert torch.equal(encoder.normalize(x), encoder.normalize(x[:, None]))


def test_normalize_scales_to_the_contracts_range_and_channels():
    x = torch.tensor([0, 255], dtype=torch.uint8).repeat(16, 16)[None]
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    contract = InputContract(
        channels=1, size_px=32, range=(-1024.0, 1024.0), mean=(0.0,), std=(2.0,)
    )
    encoder = Encoder.from_module(module, name="grey", num_features=1, contract=contract)
    assert encoder.normalize(x).shape == (1, 1, 16, 32)
    assert encoder.normalize(x).unique().tolist() == pytest.approx([-512, 512])


# --- weights that do not exist or were changed ----------------------------------------------


@pytest.mark.parametrize("name", NOT_TRAINED)
def test_an_encoder_without_weights_says_how_it_is_trained(name):
    with pytest.raises(WeightsError) as caught:
        cxrzoo.load(name)
    message = str(caught.value)
    assert f"'{name}' has no weights yet" in message
    assert f"`cxrzoo pretrain {name} " in message
    assert all(
        f" on {stage.data}, starting from {stage.init}" in message
        for stage in find(name)[0].strategy
    )


def test_a_local_directory_in_the_card_shape_loads(encoder, local):
    mine = cxrzoo.load(str(local))
    assert mine.card == encoder.card
    with torch.inference_mode():
        x = encoder.preprocess(GREY)
        assert torch.equal(mine(x), encoder(x))


@pytest.mark.parametrize("place", [-1, 1_000_000, 3_000_000])
def test_an_altered_byte_is_refused_with_both_sha256(local, place):
    content = bytearray((local / "model.safetensors").read_bytes())
    content[place] ^= 1
    (local / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        cxrzoo.load(str(local))
    assert read_card(local).weights.sha256 in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_weights_file_is_refused_by_path(local, length):
    path = local / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        cxrzoo.load(str(local))


def test_a_missing_weights_file_is_named(local):
    (local / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"weights file .*model\.safetensors is missing"):
        cxrzoo.load(str(local))


def test_drawn_weights_with_another_sha256_than_the_cards_are_refused(tmp_path):
    directory = copy_card("random-init", tmp_path)
    edit_card(directory, weights={"seed": 0, "sha256": "0" * 64})
    with pytest.raises(WeightsError, match="0" * 64):
        cxrzoo.load(str(directory))


def test_another_seed_than_the_cards_does_not_reproduce_the_golden_output(tmp_path):
    directory = copy_card("random-init", tmp_path)
    edit_card(directory, weights=read_card(directory).weights.model_dump() | {"seed": 1})
    with pytest.raises(WeightsError):
        cxrzoo.load(str(directory))


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("kind", ["torch", "old torch", 2, 3, 4, 5])
def test_a_pickle_named_safetensors_is_refused_as_a_pickle_and_not_run(local, tmp_path, kind):
    path, mark = local / "model.safetensors", tmp_path / "executed"
    if isinstance(kind, int):
        path.write_bytes(pickle.dumps(Payload(mark), protocol=kind))
    else:
        torch.save(Payload(mark), path, _use_new_zipfile_serialization=kind == "torch")
    edit_card(
        local,
        weights={
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
    )
    with pytest.raises(WeightsError, match=r"is a pickle, not a safetensors file"):
        cxrzoo.load(str(local))
    assert not mark.exists()
    content = path.read_bytes()
    if isinstance(kind, int):
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert mark.exists(), "the payload is harmless, so this test proves nothing"


# --- weights that do not fit ----------------------------------------------------------------


def edit_weights(directory: Path, edit) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_card(directory, weights={"file": path.name, "sha256": sha256})


def test_missing_unexpected_and_misshapen_tensors_are_listed(local):
    def edit(state):
        del state["conv_stem.weight"], state["bn2.bias"]
        state["head.weight"] = torch.zeros(2)
        state["bn1.weight"] = torch.zeros(7)

    edit_weights(local, edit)
    with pytest.raises(WeightsError) as caught:
        cxrzoo.load(str(local))
    place, listed = str(caught.value).split(" does not fit the architecture: ")
    assert place == str(local / "model.safetensors")
    assert sorted(listed.split("; ")) == [
        "bn1.weight has shape (7,), not (32,)",
        "missing bn2.bias",
        "missing conv_stem.weight",
        "unexpected head.weight",
    ]


def test_a_long_list_of_problems_is_cut(local):
    edit_weights(local, lambda state: [state.pop(key) for key in list(state)[:20]])
    with pytest.raises(WeightsError, match=r"missing .*; and 14 more$"):
        cxrzoo.load(str(local))


def test_an_unknown_architecture_is_named(local):
    edit_card(local, arch="tf_efficientnet_lite9")
    with pytest.raises(WeightsError, match="'tf_efficientnet_lite9'"):
        cxrzoo.load(str(local))


# --- the golden output ----------------------------------------------------------------------


def edit_golden(directory: Path, features) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["golden"]["features"] = features(config["golden"]["features"])
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "features",
    [
        lambda old: [old[0] + 0.05, *old[1:]],
        lambda old: [1.01 * value for value in old],
        lambda old: [float("nan"), *old[1:]],
        lambda old: old[::-1],
    ],
    ids=["one value", "scale", "NaN", "order"],
)
def test_another_golden_output_is_refused(local, features):
    edit_golden(local, features)
    with pytest.raises(WeightsError, match=r"does not reproduce its golden output.*torch.*timm"):
        cxrzoo.load(str(local))


def test_a_golden_output_of_another_length_is_refused(local):
    edit_golden(local, lambda old: old[:-1])
    with pytest.raises(WeightsError, match="golden output has 63 values, not 64"):
        cxrzoo.load(str(local))


@pytest.mark.parametrize(
    "place", [("mean", [0.45, 0.5, 0.5]), ("std", [0.5, 0.5, 0.45]), ("size_px", 96),
              ("interpolation", "nearest"), ("range", [0.0, 1.1])], ids=lambda place: place[0]
)  # fmt: skip
def test_another_preprocessing_does_not_reproduce_the_golden_output(local, place):
    front, _ = split_front_matter((local / "README.md").read_text())
    edit_card(local, input=front["input"] | dict([place]))
    with pytest.raises(WeightsError, match="does not reproduce its golden output"):
        cxrzoo.load(str(local))


def test_a_missing_golden_output_is_named(local):
    (local / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json with the golden output is missing"):
        cxrzoo.load(str(local))


NO_GOLDEN = {
    "empty": b"",
    "not JSON": b"golden",
    "not text": b"\xff\xfe\x00",
    "no golden": b"{}",
    "no features": b'{"golden": {}}',
    "a list": b"[]",
    "words": json.dumps({"golden": {"features": ["a"] * 64}}).encode(),
    "nulls": json.dumps({"golden": {"features": [None] * 64}}).encode(),
    "ragged": b'{"golden": {"features": [[1.0, 2.0], 3.0]}}',
}


@pytest.mark.parametrize("what", NO_GOLDEN)
def test_a_config_without_a_golden_output_is_refused_by_path(local, what):
    (local / "config.json").write_bytes(NO_GOLDEN[what])
    with pytest.raises(WeightsError, match=r"config\.json: .*golden output"):
        cxrzoo.load(str(local))


# --- timm: ----------------------------------------------------------------------------------

REVISION = "0123456789abcdef0123456789abcdef01234567"
TIMM = "timm:tf_efficientnet_lite0.in1k"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A Hub cache of our own, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def fill(hub: Path, state: dict[str, torch.Tensor]) -> Path:
    repo = hub / "models--timm--tf_efficientnet_lite0.in1k"
    path = repo / "snapshots" / REVISION / "model.safetensors"
    path.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)
    save_file(state, path)
    return path


def test_a_timm_model_loads_from_the_hub_cache_without_its_classifier(hub):
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    path = fill(hub, theirs.state_dict())
    encoder = cxrzoo.load(TIMM)
    assert encoder.card.name == TIMM
    assert encoder.card.provenance == f"hf:timm/tf_efficientnet_lite0.in1k@{REVISION}"
    assert encoder.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    contract = encoder.card.input
    assert (contract.size_px, contract.interpolation) == (224, "bicubic")
    assert (contract.mean, contract.std) == ((0.5,) * 3, (0.5,) * 3)
    with torch.inference_mode():
        x = encoder.preprocess(GREY)
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        assert torch.allclose(encoder(x), expected, atol=1e-5)


def test_a_timm_file_that_does_not_fit_is_refused(hub):
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    del state["conv_stem.weight"]
    fill(hub, state)
    with pytest.raises(WeightsError, match=r"does not fit.*: missing conv_stem\.weight$"):
        cxrzoo.load(TIMM)


def test_a_timm_model_that_cannot_be_fetched_is_one_line(hub):
    with pytest.raises(HubError) as caught:
        cxrzoo.load(TIMM)
    assert "\n" not in str(caught.value)
    assert "timm/tf_efficientnet_lite0.in1k" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in2k", "tf_eficientnet_lite0.in1k"]
)
def test_an_unknown_timm_tag_is_answered_with_near_ones(name):
    with pytest.raises(UnknownNameError) as caught:
        cxrzoo.load(f"timm:{name}")
    assert f"'{name}'" in str(caught.value)
    assert "tf_efficientnet_lite0.in1k" in str(caught.value)


@pytest.mark.parametrize("name", ["", "0"])
def test_an_unknown_timm_name_near_to_none_does_not_print_all_of_timm(name):
    with pytest.raises(UnknownNameError) as caught:
        cxrzoo.load(f"timm:{name}")
    assert len(str(caught.value)) < 1000


# --- your own module ------------------------------------------------------------------------


def test_a_module_of_ones_own_becomes_an_encoder():
    module = tiny().train()
    encoder = Encoder.from_module(module, name="tiny", num_features=6, contract=CONTRACT)
    assert not encoder.training
    assert encoder.card.name == "tiny"
    assert encoder.num_features == 6
    with torch.inference_mode():
        x = encoder.preprocess([GREY, GREY.T])
        assert x.shape == (2, 3, 32, 32)
        assert torch.equal(encoder(x), module(x))


def test_the_sha256_of_a_module_follows_its_weights():
    module = tiny()
    before = sha256_of_state(module)
    assert sha256_of_state(module) == before
    with torch.no_grad():
        module[0].bias[0] += 1e-3
    assert sha256_of_state(module) != before


def test_the_number_of_features_is_what_the_caller_says():
    encoder = Encoder.from_module(
        tiny(num_features=1280), name="tiny", num_features=6, contract=CONTRACT
    )
    assert encoder.num_features == 6


def test_a_module_with_shared_weights_becomes_an_encoder():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = tiny()
            self.two = self.one

        def forward(self, x):
            return self.one(x) + self.two(x)

    encoder = Encoder.from_module(Twice(), name="twice", num_features=6, contract=CONTRACT)
    assert len(encoder.weights_sha256) == 64


def test_a_name_that_no_card_may_have_is_a_card_error():
    with pytest.raises(CardError, match="name"):
        Encoder.from_module(tiny(), name="my encoder", num_features=6, contract=CONTRACT)


def test_a_module_with_the_same_state_but_another_behaviour_is_another_encoder():
    class Pool(torch.nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign  # neither in the state nor in the repr

        def forward(self, x):
            return self.sign * x.mean((2, 3))

    one, same, other = (
        Encoder.from_module(Pool(sign), name="pool", num_features=3, contract=CONTRACT)
        for sign in (1.0, 1.0, -1.0)
    )
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
