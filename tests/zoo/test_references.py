"""Cards of published weights that nobody here has fetched."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import cxrzoo
from cxrzoo import list_benchmarks
from cxrzoo.data.benchmark import find as find_benchmark
from cxrzoo.errors import WeightsError
from cxrzoo.evaluation.exposure import exposure
from cxrzoo.zoo.card import CARD_FILE, Card, read_card, split_front_matter
from cxrzoo.zoo.convert import convert
from cxrzoo.zoo.encoder import golden_input
from cxrzoo.zoo.formats import Checkpoint, detect, find_format
from cxrzoo.zoo.registry import find, list_encoders
from cxrzoo.zoo.weights import create_backbone, load_strictly
from tests.zoo.cards import copy_card

CARDS = {name: find(name)[0] for name in list_encoders() if not find(name)[0].verified}
TIMM = [name for name in CARDS if name.startswith("timm-")]
MEDMAE = [name for name in CARDS if name.startswith("medmae-densenet121-")]
XRV = [name for name in CARDS if name.startswith("xrv-")]
IMAGENET = [name for name in TIMM if re.search(r"in1k$|\.dino$|\.mae$", name)]
WEB = sorted(set(TIMM) - set(IMAGENET))
BENCHMARKS = list_benchmarks()
COMMIT = "89abcdef" * 5
RAD_DINO = "vit_small_patch14_dinov2"
"""The names of RAD-DINO's tensors are those of its smaller sister, which is quicker."""


def text_of(name: str) -> str:
    """The text of a card, on one line."""
    path = find(name)[1] / CARD_FILE
    return " ".join(split_front_matter(path.read_text(encoding="utf-8"))[1].split())


def state_of(name: str, benchmark: str) -> str:
    return exposure(CARDS[name], find_benchmark(benchmark)).state


# --- what the cards say ---------------------------------------------------------------------


def test_the_kinds_of_weights_are_all_there():
    assert (len(TIMM), len(MEDMAE), len(XRV)) == (11, 4, 7)
    assert {"rad-dino", "medmae-resnet50-mocov2-ft"} <= set(CARDS)
    assert len(WEB) == 4


@pytest.mark.parametrize("name", CARDS)
def test_nothing_is_pinned_that_nobody_could_look_up(name):
    card = read_card(find(name)[1])
    assert card.name == name
    assert (card.weights is None) == (name in XRV), "torchxrayvision publishes pickles"
    if card.weights is not None:
        assert card.weights.repo_id
        assert card.weights.sha256 is card.weights.revision is None
    assert [path.name for path in find(name)[1].iterdir()] == [CARD_FILE]
    assert "Not verified: nobody has fetched these weights" in text_of(name)


@pytest.mark.parametrize("name", CARDS)
def test_a_licence_is_given_or_said_to_be_unknown(name):
    assert CARDS[name].license or re.search(r"[Ll]icence[^.]* not known", text_of(name))


@pytest.mark.parametrize("name", CARDS)
def test_a_second_stage_starts_from_a_card_whose_stages_are_the_first_ones(name):
    first, *more = CARDS[name].strategy
    assert first.init == "random"
    for stage in more:
        (start,) = find(stage.init)[0].strategy
        assert (start.method, start.data, start.init) == (first.method, first.data, first.init)


@pytest.mark.parametrize("name", CARDS)
def test_what_no_method_or_number_says_is_said_in_the_text(name):
    text = text_of(name)
    for stage in CARDS[name].strategy:
        assert stage.method != "unknown" or "Method `unknown` stands for" in text
    assert re.search(r"[Nn]ot known|not stated", text)


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_card_is_timms_own_configuration(name):
    card, config = CARDS[name], timm.get_pretrained_cfg(name.removeprefix("timm-"))
    assert card.weights.repo_id == config.hf_hub_id
    assert card.weights.drop == (f"{config.classifier}.",)
    assert card.license == config.license
    assert card.arch == config.architecture
    contract = card.input
    assert (contract.channels, contract.size_px, contract.size_px) == config.input_size
    assert (contract.mean, contract.std) == (config.mean, config.std)
    assert (contract.range, contract.interpolation) == ((0.0, 1.0), config.interpolation)


@pytest.mark.parametrize("name", XRV)
def test_a_torchxrayvision_card_names_the_data_that_the_library_names(name):
    import torchxrayvision.models

    known = torchxrayvision.models.model_urls[name.replace("xrv-densenet121-", "")]
    used = known["weights_url"].rsplit("/", 1)[1].split("-densenet121")[0].split("-")
    ids = {"nih": "nih14", "pc": "padchest", "chex": "chexpert", "kaggle": "rsna",
           "google": "nih-google", "mimic_ch": "mimic", "mimic_nb": "mimic"}  # fmt: skip
    assert [d.dataset for d in CARDS[name].pretraining_data] == [ids.get(u, u) for u in used]
    assert all(d.labels_seen and d.split is None for d in CARDS[name].pretraining_data)
    contract = CARDS[name].input
    assert (contract.size_px, contract.range) == (known["input_resolution"], (-1024.0, 1024.0))


# --- the architectures ----------------------------------------------------------------------


@pytest.mark.parametrize("contract", sorted({(c.arch, c.input.channels, c.input.size_px)
                                             for c in CARDS.values()}), ids=str)  # fmt: skip
def test_timm_builds_the_architecture_for_the_contracts_size(contract):
    arch, channels, size = contract
    backbone = create_backbone(arch, channels).eval()
    with torch.inference_mode():
        features = backbone(torch.zeros(1, channels, size, size))
    assert features.shape == (1, backbone.num_features)
    said = [name for name, c in CARDS.items() if (c.arch, c.input.size_px) == (arch, size)]
    assert all(f"Output: {backbone.num_features} features" in text_of(name) for name in said)


# --- exposure -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGENET)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_photographs_expose_no_benchmark(name, benchmark):
    # ImageNet-1k holds photographs and ended in 2011: no image and no patient of any benchmark
    assert state_of(name, benchmark) == "clean"


@pytest.mark.parametrize("name", WEB)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_what_was_gathered_on_the_web_leaves_every_radiograph_unknown(name, benchmark):
    # nobody has listed what radiographs LVD holds; only rendered images cannot be among them
    assert state_of(name, benchmark) == ("clean" if benchmark == "phantom" else "unknown")


@pytest.mark.parametrize("name", MEDMAE)
@pytest.mark.parametrize(
    "benchmark", ["nih14", "nih14-hub", "nih-google", "rsna", "siim", "chexpert"]
)
def test_medical_mae_is_never_clean_on_what_it_was_trained_on(name, benchmark):
    # which images of NIH and CheXpert it saw is not stated
    assert state_of(name, benchmark) != "clean"


@pytest.mark.parametrize(
    ("name", "exposed", "unknown", "clean"),
    [
        # all labels of the set were seen, by the released code at the best test epoch
        ("medmae-densenet121-mocov2-ft", ["nih14"], ["rsna", "siim", "chexpert"], ["padchest"]),
        ("medmae-densenet121-mae-ft", ["nih14"], ["rsna", "siim", "chexpert"], ["padchest"]),
        ("medmae-resnet50-mocov2-ft", ["nih14"], ["rsna", "siim"], ["chexpert", "padchest"]),
        ("medmae-resnet50-in1k-mocov2", [], [], BENCHMARKS),
        # labels of the set itself: exposed, whichever images they were; SIIM is inside NIH, but
        # whether the images that were seen are SIIM's is not known
        (
            "xrv-densenet121-all",
            ["nih14", "chexpert", "padchest", "mimic", "openi", "rsna", "nih-google"],
            ["siim"],
            ["vindr", "kermany", "nlmtb"],
        ),
        ("xrv-densenet121-nih", ["nih14"], ["rsna", "siim", "nih-google"], ["chexpert"]),
        # RSNA's images are NIH's, so labels of NIH images were seen
        ("xrv-densenet121-rsna", ["rsna", "nih14"], ["siim", "nih-google"], ["chexpert"]),
        ("xrv-densenet121-pc", ["padchest"], [], ["nih14", "rsna", "chexpert", "mimic"]),
        ("xrv-densenet121-chex", ["chexpert"], [], ["nih14", "rsna", "padchest", "mimic"]),
        ("xrv-densenet121-mimic_nb", ["mimic"], [], ["nih14", "rsna", "chexpert"]),
        ("xrv-densenet121-mimic_ch", ["mimic"], [], ["nih14", "rsna", "chexpert"]),
        # its list of images names all of NIH's test images and all of RSNA's, and CheXpert's
        # validation images; which of the others is open; it starts from LVD-142M: none is clean
        (
            "rad-dino",
            ["nih14", "nih-google", "rsna", "chexpert"],
            ["siim", "mimic", "padchest", "brax", "vindr", "nlmtb"],
            ["phantom"],
        ),
    ],
)
def test_the_exposure_of_weights_trained_on_radiographs(name, exposed, unknown, clean):
    expected = dict.fromkeys(exposed, "exposed") | dict.fromkeys(unknown, "unknown")
    expected |= dict.fromkeys(clean, "clean")
    assert {b: state_of(name, b) for b in expected} == expected


# --- loading --------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A Hub cache of our own, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def publish(cache: Path, card: Card, state: dict[str, Tensor]) -> str:
    """Lay a file out as the Hub's client does; returns its sha256."""
    repo = cache / f"models--{card.weights.repo_id.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (repo / folder).mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in state.items()}, repo / "new")
    sha256 = hashlib.sha256((repo / "new").read_bytes()).hexdigest()
    (repo / "new").rename(repo / "blobs" / sha256)
    link = repo / "snapshots" / COMMIT / card.weights.file
    link.symlink_to(Path("../../blobs") / sha256)
    (repo / "refs" / "main").write_text(COMMIT)
    return sha256


def features_of(encoder: cxrzoo.Encoder) -> Tensor:
    with torch.inference_mode():
        return encoder(encoder.preprocess(golden_input()))


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("timm-resnet50.tv_in1k", 1000),
        ("timm-densenet121.ra_in1k", 1000),
        ("timm-vit_small_patch16_224.dino", 0),
        ("timm-vit_small_patch16_dinov3.lvd1689m", 0),
        ("medmae-densenet121-mae", 0),
        ("medmae-densenet121-mocov2-ft", 14),
        ("medmae-resnet50-mocov2-ft", 14),
    ],
)
def test_a_published_file_loads_without_its_classifier(cache, name, classes):
    card = CARDS[name]
    theirs = timm.create_model(card.arch, num_classes=classes).eval()
    sha256 = publish(cache, card, theirs.state_dict())
    encoder = cxrzoo.load(name)
    assert encoder.weights_sha256 == sha256
    assert str(encoder.pin) == f"hf:{card.weights.repo_id}@{COMMIT}"
    theirs.reset_classifier(0)
    with torch.inference_mode():
        expected = theirs(encoder.preprocess(golden_input()))
    assert torch.allclose(features_of(encoder), expected, atol=1e-5)
    assert expected.std() > 0


def xrv_densenet() -> torch.nn.Module:
    from torchxrayvision.models import DenseNet

    model = DenseNet(op_threshs=torch.rand(18)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):  # so that a lost statistic shows
            value.normal_(0, 0.1, generator=generator)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):  # as it is stored
            module.weight.data = module.weight.data.half().float()
    return model


def test_torchxrayvisions_tensors_convert_beside_a_copy_of_the_card(tmp_path):
    model, name = xrv_densenet(), "xrv-densenet121-nih"
    torch.save(model.state_dict(), tmp_path / "nih.pt")
    copy = copy_card(name, tmp_path)
    encoder = convert(tmp_path / "nih.pt", "torchxrayvision", copy)
    assert encoder.card.pretraining_data == CARDS[name].pretraining_data
    x = encoder.preprocess(golden_input())
    assert x.shape == (1, 1, 224, 224)
    assert -1024 <= x.min() < -500 < 500 < x.max() <= 1024
    with torch.inference_mode():
        assert torch.allclose(encoder(x), model.features2(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", XRV)
def test_what_is_published_as_a_pickle_alone_is_not_loaded_and_the_card_says_how(name):
    with pytest.raises(
        WeightsError, match=r"no weights that can be opened safely; .* how to convert"
    ):
        cxrzoo.load(name)
    assert f"cxrzoo convert {name.removeprefix('xrv-densenet121-')}.pt" in text_of(name)


# --- transformers' names for DINOv2 ---------------------------------------------------------


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's DINOv2 as transformers stores it."""
    named = {"embeddings.mask_token": torch.ones(1, state["cls_token"].shape[-1])}
    for name, value in state.items():
        block = name.replace("blocks.", "encoder.layer.")
        block = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", block)
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[block.replace("attn.qkv", f"attention.attention.{part}")] = third.clone()
            continue
        block = block.replace("attn.proj", "attention.output.dense")
        block = block.replace("cls_token", "embeddings.cls_token")
        block = block.replace("pos_embed", "embeddings.position_embeddings")
        block = block.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        named[re.sub(r"^norm\.", "layernorm.", block)] = value
    return named


def from_transformers(state: dict[str, Tensor], arch: str) -> dict[str, Tensor]:
    wanted = create_backbone(arch).state_dict()
    checkpoint = Checkpoint("", state)
    assert detect(checkpoint, "it").name == "transformers-dinov2"
    return find_format("transformers-dinov2").translate(checkpoint, wanted)


def test_the_names_of_transformers_become_timms_and_the_mask_token_goes():
    state = create_backbone(RAD_DINO, seed=1).state_dict()
    named = as_transformers(state)
    assert len(named) == len(state) + 2 * 2 * 12 + 1
    found = from_transformers(named, RAD_DINO)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_missing_third_of_the_attention_is_not_made_up(part):
    named = as_transformers(create_backbone(RAD_DINO).state_dict())
    del named[f"encoder.layer.3.attention.attention.{part}.weight"]
    found = from_transformers(named, RAD_DINO)
    with pytest.raises(WeightsError, match=r"missing blocks\.3\.attn\.qkv\.weight"):
        load_strictly(create_backbone(RAD_DINO), found, "it")


def test_the_features_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)
    theirs = transformers.Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # layer scales of one and biases of zero hide errors
            parameter.add_(torch.randn_like(parameter) * 0.02)
    theirs.save_pretrained(tmp_path)
    backbone = create_backbone(RAD_DINO).eval()
    state = from_transformers(load_file(tmp_path / "model.safetensors"), RAD_DINO)
    load_strictly(backbone, state, "it")
    x = torch.randn(1, 3, 518, 518)
    with torch.inference_mode():
        assert torch.allclose(backbone(x), theirs(x).pooler_output, rtol=1e-3, atol=1e-4)


def test_rad_dino_loads_from_a_file_with_the_names_of_transformers(cache):
    card = CARDS["rad-dino"]
    state = create_backbone(card.arch, seed=1).state_dict()
    publish(cache, card, as_transformers(state))
    found = cxrzoo.load("rad-dino").backbone.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)
