"""Several processes: BatchNorm over the global batch, and every method as in one process."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from cxrzoo.pretrain.distributed import normalise, synchronise_batchnorm
from cxrzoo.pretrain.methods import METHODS, Method, find_method
from cxrzoo.zoo.weights import create_backbone
from tests.pretrain.test_methods import CLASSES, SMALL, make_labels

CPU = torch.device("cpu")
STEPS = 3
# DINO has its last layer move from the second step on, SwAV its prototypes
CHANGES: dict[str, dict[str, Any]] = {"dino": {"frozen_steps": 1}, "swav": {"frozen_steps": 1}}
# timm's small test encoders, one with torch's BatchNorm and one with timm's; and two real ones
CASES = [(name, f"test_{kind}") for kind in ("resnet", "efficientnet") for name in sorted(METHODS)]
CASES += [("byol", "resnet10t"), ("moco", "tf_efficientnet_lite0")]


def norms(seed: int = 0) -> list[tuple[nn.Module, Tensor]]:
    """Layers in float64 with some history, and an input for each."""
    draws = torch.Generator().manual_seed(seed)
    layers = [
        (nn.BatchNorm1d(5), (8, 5)),
        (nn.BatchNorm1d(5), (8, 5, 3)),
        (nn.BatchNorm1d(5, affine=False), (8, 5)),
        (nn.BatchNorm2d(5, momentum=None), (8, 5, 3, 4)),
        (nn.BatchNorm2d(5, track_running_stats=False), (8, 5, 3, 4)),
        (nn.BatchNorm2d(5, momentum=0.3, eps=0.1), (8, 5, 3, 4)),
        (BatchNormAct2d(5, drop_layer=nn.Identity), (8, 5, 3, 4)),
        (BatchNormAct2d(5, act_layer=nn.SiLU), (8, 5, 3, 4)),
        (BatchNormAct2d(5, apply_act=False), (8, 5, 3, 4)),
    ]
    made = []
    for layer, shape in layers:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 1, 0.5, generator=draws)
        # a mean that is large beside the spread
        x = 20 + torch.randn(shape, generator=draws, dtype=torch.float64)
        made.append((layer.double(), x.requires_grad_()))
    return made


def run_norm(layer: nn.Module, x: Tensor, part: slice) -> dict[str, Tensor]:
    """Two batches; the output of the last, its gradients, and the layer's state."""
    x = x.detach().requires_grad_()
    layer((x.detach() + 1)[part])
    output = layer(x[part])
    weights = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)
    (output.pow(2) * weights[part]).sum().backward()
    assert x.grad is not None
    gradients = {f"{key}.grad": p.grad for key, p in layer.named_parameters()}
    return {"output": output.detach(), "x": x.grad, **gradients, **layer.state_dict()}


def make_method(name: str, encoder: str) -> Method:
    """In float64, so that sums in another order differ in the fifteenth digit."""
    method = find_method(name)
    settings = method.Settings.model_validate({**SMALL[name], **CHANGES.get(name, {})})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = create_backbone(encoder)
        return method(backbone, settings, steps=STEPS, num_classes=CLASSES).double()


def make_views(method: Method, step: int, images: int = 12) -> list[Tensor]:
    """Noisy views of one set of patterns; local ones where they are welcome."""
    draws = torch.Generator().manual_seed(step)
    patterns = torch.randn(images, 3, 48, 48, generator=torch.Generator().manual_seed(7))
    sides = [48] * method.num_views + [32] * (2 * method.multi_crop)
    return [
        (p + 0.3 * torch.randn(p.shape, generator=draws)).double()
        for p in (patterns[:, :, :side, :side] for side in sides)
    ]


def train_part(name: str, encoder: str, rank: int, processes: int) -> dict[str, Any]:
    """Steps of SGD on a process's part of each batch."""
    method = make_method(name, encoder)
    views = make_views(method, 0)
    rows = len(views[0]) // processes
    part = slice(rank * rows, (rank + 1) * rows)
    labels = torch.eye(CLASSES, dtype=torch.float64)[make_labels(len(views[0]))]
    labels[:7, 1] = torch.nan  # more unknown labels in one process than in the other
    trained: nn.Module = method
    if processes > 1:
        synchronise_batchnorm(method, CPU)
        trained = DistributedDataParallel(method, broadcast_buffers=False)
    optimiser = torch.optim.SGD(method.decay_groups(1e-4), lr=0.02, momentum=0.9)
    losses = []
    for step in range(STEPS):
        found = trained([view[part] for view in make_views(method, step)], labels[part])
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        method.after_step(step)
        loss = found["loss"].detach()
        if processes > 1:
            torch.distributed.all_reduce(loss.div_(processes))
        losses.append(loss.item())
    return {"losses": losses, "state": method.state_dict()}


def run_process(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    half = slice(rank * 4, rank * 4 + 4)
    found = {
        "norms": [run_norm(synchronise_batchnorm(n, CPU), x, half) for n, x in norms()],
        **{case: train_part(*case, rank, 2) for case in CASES},
    }
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(run_process, (str(folder),), nprocs=2)
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_two_processes_train_as_one(name, encoder, two_processes):
    one = train_part(name, encoder, 0, 1)
    for found in (process[name, encoder] for process in two_processes):
        assert found["losses"] == pytest.approx(one["losses"], rel=1e-9)
        assert list(found["state"]) == list(one["state"])
        for key, value in one["state"].items():
            torch.testing.assert_close(found["state"][key], value, rtol=1e-7, atol=1e-9, msg=key)


@pytest.mark.parametrize("number", range(len(norms())))
def test_a_norm_over_two_processes_is_one_over_the_whole_batch(number, two_processes):
    whole = run_norm(*norms()[number], slice(None))
    parts = [process["norms"][number] for process in two_processes]
    for key, value in whole.items():
        if key == "output":
            found = torch.cat([part[key] for part in parts])
        elif key == "x" or key.endswith(".grad"):
            found = parts[0][key] + parts[1][key]  # of losses that are summed over the processes
        else:
            found = parts[0][key]
            assert torch.equal(found, parts[1][key])
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("number", range(len(norms())))
@pytest.mark.parametrize("training", [True, False])
def test_one_process_or_evaluation_is_torchs_own_to_the_bit(number, training):
    theirs, x = norms()[number]
    ours = synchronise_batchnorm(copy.deepcopy(theirs), CPU)
    one, other = (run_norm(n.train(training), x, slice(None)) for n in (theirs, ours))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_normalisation_and_its_gradient_are_torchs():
    for layer, x in norms():
        eps = layer.eps
        found, mean, variance = normalise(x, eps)
        others = [d for d in range(x.ndim) if d != 1]
        expected = nn.functional.batch_norm(x, None, None, training=True, eps=eps)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(mean, x.mean(others))
        torch.testing.assert_close(variance, x.var(others, correction=0))
        assert torch.autograd.gradcheck(lambda x, eps=eps: normalise(x, eps), x)


def test_half_precision_is_summed_in_single():
    x = (1000 + torch.randn(64, 3, generator=torch.Generator().manual_seed(0))).half()
    found, mean, _ = normalise(x, 1e-5)
    assert found.dtype == mean.dtype == torch.float32
    torch.testing.assert_close(mean, x.double().mean(0).float())
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # layers are made for a GPU without one
@pytest.mark.parametrize("encoder", ["resnet10t", "tf_efficientnet_lite0"])
def test_every_norm_is_replaced_and_all_else_stays(encoder, device):
    method = make_method("byol", encoder)
    optimiser = torch.optim.SGD(method.decay_groups(0.0), lr=0.1)
    method.target_backbone.bn1.eval()
    before = {**dict(method.named_parameters()), **dict(method.named_buffers())}
    keys, plain = list(method.state_dict()), set(method.modules())
    kinds = [type(m) for m in method.modules() if isinstance(m, _BatchNorm)]
    assert synchronise_batchnorm(method, torch.device(device)) is method
    changed = [m for m in method.modules() if isinstance(m, _BatchNorm)]
    assert len(changed) == len(kinds)
    assert not {type(m) for m in changed} & set(kinds)
    assert all(isinstance(m, nn.SyncBatchNorm) is (device == "cuda") for m in changed)
    assert not method.target_backbone.bn1.training
    assert method.backbone.bn1.training
    assert list(method.state_dict()) == keys
    after = {**dict(method.named_parameters()), **dict(method.named_buffers())}
    assert all(after[key] is value for key, value in before.items())
    assert {id(p) for g in optimiser.param_groups for p in g["params"]} == {
        id(p) for p in method.parameters() if p.requires_grad
    }
    assert device == "cuda" or set(method.modules()) == plain


def test_a_second_time_changes_nothing():
    method = make_method("simclr", "resnet10t")
    synchronise_batchnorm(method, CPU)
    kinds = [type(m) for m in method.modules()]
    synchronise_batchnorm(method, CPU)
    assert [type(m) for m in method.modules()] == kinds
    copied = copy.deepcopy(method)
    assert [type(m) for m in copied.modules()] == kinds


def test_an_unknown_norm_is_refused():
    class Odd(nn.BatchNorm2d):
        pass

    module = nn.Sequential(nn.BatchNorm2d(3), Odd(3))
    for device in ("cpu", "cuda"):
        with pytest.raises(ValueError, match=r"no BatchNorm over several processes for .*Odd"):
            synchronise_batchnorm(module, torch.device(device))
    assert type(module[0]) is nn.BatchNorm2d
