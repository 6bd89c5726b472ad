"""Pretraining methods: published losses, what moves and what does not, checkpoints."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from cxrzoo.errors import UnknownNameError
from cxrzoo.pretrain.methods import METHODS, Method, find_method

SMALL: dict[str, dict[str, Any]] = {
    "moco": {"hidden_dim": 32, "output_dim": 16, "queue_size": 32, "momentum": 0.9},
    "simclr": {"hidden_dim": 32, "output_dim": 16},
    "byol": {"hidden_dim": 32, "output_dim": 16, "momentum": 0.9},
    "swav": {"hidden_dim": 32, "output_dim": 16, "prototypes": 12, "frozen_steps": 7},
    "barlow": {"hidden_dim": 32, "output_dim": 16},
    "vicreg": {"hidden_dim": 32, "output_dim": 16},
    "dino": {
        "hidden_dim": 32,
        "bottleneck_dim": 16,
        "output_dim": 24,
        "momentum": 0.9,
        "frozen_steps": 7,
    },
    "supervised": {},
}
"""Settings for a second's work; 7 frozen steps, so that a checkpoint at 5 is within them."""
MOMENTUM = {
    "moco": [("backbone", "key_backbone"), ("head", "key_head")],
    "byol": [("backbone", "target_backbone"), ("head", "target_head")],
    "dino": [("backbone", "teacher_backbone"), ("head", "teacher_head")],
}
STEPS, CLASSES = 30, 3

every_method = pytest.mark.parametrize("name", sorted(METHODS))


class Tiny(nn.Module):
    """A convolutional encoder of 12 features, for one channel."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2),
            nn.BatchNorm2d(12),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


class Given(nn.Identity):
    """Passes embeddings through, so that a method's loss sees just these."""

    num_features = 12


def build(name: str, seed: int = 0, backbone: type[nn.Module] = Tiny, **changes: Any) -> Method:
    method = find_method(name)
    settings = method.Settings.model_validate({**SMALL[name], **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method(backbone(), settings, steps=STEPS, num_classes=CLASSES)


def on_embeddings(name: str, **changes: Any) -> Method:
    """A method without networks: views are taken for the heads' outputs (N, 12)."""
    method = build(name, backbone=Given, **{"output_dim": 12, **changes})
    for child in dict(method.named_children()):
        if child.endswith("head") or child == "predictor":
            setattr(method, child, nn.Identity())
    return method


def make_views(seed: int, count: int = 2, images: int = 16) -> list[Tensor]:
    """Noisy views of patterns that are the same for every seed."""
    patterns = torch.randn(images, 1, 32, 32, generator=torch.Generator().manual_seed(7))
    noise = torch.Generator().manual_seed(seed)
    return [patterns + 0.3 * torch.randn(patterns.shape, generator=noise) for _ in range(count)]


def make_labels(images: int = 16) -> Tensor:
    return torch.arange(images) % CLASSES


def make_embeddings(seed: int, images: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(images, 12, generator=generator)
    return left, left + 0.5 * torch.randn(images, 12, generator=generator)


def moved_networks(name: str) -> list[str]:
    return [copied for _, copied in MOMENTUM[name]]


def take_step(method: Method, optimiser: torch.optim.Optimizer, step: int, seed: int) -> float:
    labels = make_labels() if method.needs_labels else None
    loss = method(make_views(seed, method.num_views), labels)["loss"]
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    method.after_step(step)
    return loss.item()


def adam(method: Method, rate: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW(method.decay_groups(1e-4), lr=rate)


def loss_of(method: Method, views: list[Tensor]) -> float:
    return method(views, make_labels() if method.needs_labels else None)["loss"].item()


def test_every_method_is_tested():
    assert set(SMALL) == set(METHODS)


def test_an_unknown_method_lists_the_choices():
    with pytest.raises(UnknownNameError, match="unknown pretraining method 'mocco'; did you mean"):
        find_method("mocco")
    with pytest.raises(UnknownNameError, match="known: barlow, byol, dino"):
        find_method("zzzz")


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="method 'moco' already"):
        type("Other", (Method,), {"name": "moco"})


@every_method
def test_an_unknown_setting_is_refused_and_every_setting_is_described(name):
    settings = find_method(name).Settings
    with pytest.raises(ValidationError, match="extra_forbidden"):
        settings.model_validate({"temprature": 0.1})
    assert all(field.description for field in settings.model_fields.values())


@every_method
def test_what_forward_returns(name):
    method = build(name)
    views = make_views(0, method.num_views)
    found = method(views, make_labels())
    assert found["loss"].shape == ()
    assert found["loss"].requires_grad
    assert found["features"].shape == (16, 12)
    assert not found["features"].requires_grad
    assert 0 <= found["accuracy"] <= 1
    assert not found["accuracy"].requires_grad
    assert ("partners" in found) is (method.num_views == 2)


@pytest.mark.parametrize("name", sorted(n for n, m in METHODS.items() if m.num_views == 2))
def test_partners_are_the_features_of_the_second_view(name):
    method = build(name).eval()  # so that a view's features depend on no other view
    views = make_views(0, 4 if method.multi_crop else 2)
    found = method(views)
    encoder = method.key_backbone if name == "moco" else method.backbone
    assert not found["partners"].requires_grad
    torch.testing.assert_close(found["partners"], encoder(views[1]))
    torch.testing.assert_close(found["features"], method.backbone(views[0]))
    assert not torch.allclose(found["partners"], found["features"])


@every_method
def test_the_wrong_number_of_views_is_refused(name):
    method = build(name)
    with pytest.raises(ValueError, match=rf"{name} takes .*{method.num_views} views, not 0"):
        method([], make_labels())
    if not method.multi_crop:
        with pytest.raises(ValueError, match=f"{method.num_views} views, not 3"):
            method(make_views(0, 3), make_labels())


@every_method
def test_the_loss_falls(name):
    # DINO's loss rises while its centre moves away from zero: here it is there at once
    method = build(name, **({"centre_momentum": 0.0} if name == "dino" else {}))
    optimiser = adam(method)
    losses = [take_step(method, optimiser, step, seed=0) for step in range(STEPS)]
    # from the fourth on, when MoCo's queue holds keys instead of noise
    assert losses[-1] < losses[3] - 0.1 * abs(losses[3])


@every_method
def test_only_construction_draws_random_numbers(name):
    before = torch.get_rng_state()
    method = build(name)
    take_step(method, adam(method), 0, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    again, other = build(name).state_dict(), build(name, seed=1).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in build(name).state_dict().items())
    assert any(not torch.equal(value, again[key]) for key, value in other.items())


@every_method
def test_ten_steps_are_five_and_five_more_from_a_checkpoint(name):
    whole = build(name)
    optimiser = adam(whole)
    losses = [take_step(whole, optimiser, step, seed=step) for step in range(10)]

    first = build(name)
    optimiser = adam(first)
    for step in range(5):
        take_step(first, optimiser, step, seed=step)
    file = io.BytesIO()
    torch.save([first.state_dict(), optimiser.state_dict()], file)

    file.seek(0)
    method_state, optimiser_state = torch.load(file, weights_only=True)
    second = build(name, seed=1)
    optimiser = adam(second)
    second.load_state_dict(method_state)
    optimiser.load_state_dict(optimiser_state)
    rest = [take_step(second, optimiser, step, seed=step) for step in range(5, 10)]

    assert rest == pytest.approx(losses[5:], abs=1e-7)
    reached = second.state_dict()
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(reached[key], value, rtol=0, atol=1e-7, msg=key)
    assert reached["steps_done"] == 10


@every_method
def test_a_loss_that_is_not_finite_is_returned(name):
    method = build(name)
    views = make_views(0, method.num_views)
    views[0][0, 0, 0, 0] = torch.nan
    assert not np.isfinite(loss_of(method, views))


@every_method
def test_autocast_leaves_the_loss_in_float32(name):
    method, exact = build(name), build(name)
    views = make_views(0, method.num_views)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(views, make_labels())["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_of(exact, views), rel=0.1, abs=0.05)


@every_method
def test_every_trained_parameter_is_in_one_group(name):
    method = build(name)
    decayed, spared = method.decay_groups(0.01)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    grouped = [id(p) for group in (decayed, spared) for p in group["params"]]
    trained = [id(p) for p in method.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])


@pytest.mark.parametrize("name", sorted(MOMENTUM))
def test_momentum_networks_get_no_gradient_and_follow_slowly(name):
    method = build(name)
    optimiser = adam(method)
    follower = dict(MOMENTUM[name])
    for source, copied in follower.items():
        for new, old in zip(
            method.get_submodule(source).parameters(),
            method.get_submodule(copied).parameters(),
            strict=True,
        ):
            assert torch.equal(new, old)
    before = {
        c: [p.clone() for p in method.get_submodule(c).parameters()] for c in moved_networks(name)
    }
    method(make_views(0), None)["loss"].backward()
    optimiser.step()
    for copied in follower.values():
        for parameter, old in zip(
            method.get_submodule(copied).parameters(), before[copied], strict=True
        ):
            assert parameter.grad is None
            assert torch.equal(parameter, old)
    method.after_step(0)
    for source, copied in follower.items():
        for new, now, old in zip(
            method.get_submodule(source).parameters(),
            method.get_submodule(copied).parameters(),
            before[copied],
            strict=True,
        ):
            torch.testing.assert_close(now, 0.9 * old + 0.1 * new)


@pytest.mark.parametrize("name", ["byol", "dino"])
def test_momentum_rises_to_one_and_the_network_stands_still(name):
    method = build(name)
    optimiser = adam(method)
    networks = [method.get_submodule(copied) for copied in moved_networks(name)]
    moved = []
    for step in range(STEPS):
        before = [p.clone() for network in networks for p in network.parameters()]
        take_step(method, optimiser, step, seed=step)
        after = [p for network in networks for p in network.parameters()]
        moved.append(max((a - b).abs().max() for a, b in zip(after, before, strict=True)))
    assert moved[1] > 10 * moved[-2] > 0
    assert moved[-1] == 0


@pytest.mark.parametrize(
    ("name", "held"),
    [("swav", "prototypes.heads.0.weight"), ("dino", "head.last_layer.weight_v")],
)
def test_frozen_steps_hold_the_last_layer(name, held):
    method = build(name, frozen_steps=2)
    parameter = method.get_parameter(held)
    optimiser = adam(method)
    start = nn.functional.normalize(parameter.detach().clone(), dim=1)
    for step, still in enumerate([True, True, False]):
        take_step(method, optimiser, step, seed=step)
        direction = nn.functional.normalize(parameter.detach(), dim=1)
        assert torch.allclose(direction, start, atol=1e-6) is still


def test_prototypes_are_unit_vectors_without_bias():
    method = build("swav", frozen_steps=0)
    optimiser = adam(method, rate=0.1)
    for step in range(3):
        (layer,) = method.prototypes.heads
        assert layer.bias is None
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(12))
        take_step(method, optimiser, step, seed=step)


@pytest.mark.parametrize("name", ["byol", "dino", "simclr", "swav", "barlow", "vicreg"])
def test_views_can_change_places(name):
    left, right = make_views(0)
    assert loss_of(build(name), [left, right]) == pytest.approx(
        loss_of(build(name), [right, left]), rel=2e-6
    )


@pytest.mark.parametrize("name", sorted(n for n, m in METHODS.items() if m.multi_crop))
def test_local_views_are_smaller_and_change_the_loss(name):
    views = make_views(0)
    local = [view[:, :, 4:24, 4:24] for view in make_views(1)]
    method = build(name)
    found = method([*views, *local])
    assert found["features"].shape == (16, 12)
    found["loss"].backward()
    assert found["loss"].item() != loss_of(build(name), views)


def test_the_queue_is_filled_in_order_and_the_oldest_goes_first():
    method = on_embeddings("moco", queue_size=9)
    memory = method.loss.memory_bank
    noise, expected = memory.bank.clone(), memory.bank.clone()
    for step in range(5):
        query, key = make_embeddings(step, images=3)
        start = 3 * (step % 3)
        expected[start : start + 3] = nn.functional.normalize(key, dim=1)
        method([query.requires_grad_(), key])
        torch.testing.assert_close(memory.bank, expected)
        assert memory.bank_ptr.item() == (start + 3) % 9
    assert not torch.isclose(memory.bank, noise).all(1).any()
    with torch.no_grad():
        method(list(make_embeddings(9, images=3)))
    torch.testing.assert_close(memory.bank, expected, msg="an evaluation fills no queue")


def test_queue_and_pointer_are_in_the_state():
    state = build("moco").state_dict()
    assert state["loss.memory_bank.bank"].shape == (32, 16)
    assert state["loss.memory_bank.bank_ptr"].shape == (1,)
    assert "loss.center" in build("dino").state_dict()


def test_accuracy_of_moco_is_against_the_queue():
    method = on_embeddings("moco", queue_size=4)
    directions = torch.eye(12)
    method.loss.memory_bank.bank.copy_(directions[:4])
    queries = directions[[0, 5, 6, 7]]
    keys = directions[[8, 5, 6, 7]]
    assert method([queries.requires_grad_(), keys])["accuracy"] == 0.75


def keys_of(method: Method, images: Tensor) -> Tensor:
    with torch.no_grad():
        return method.key_head(method.key_backbone(images))


@pytest.mark.parametrize("statistics", ["batch", "momentum"])
def test_a_key_depends_on_its_batch_only_with_the_statistics_of_the_batch(statistics):
    method = build("moco", key_statistics=statistics).train()
    images, others = make_views(1)[0], make_views(2)[0]
    alone, mixed = images.clone(), others.clone()
    mixed[0] = alone[0]
    same = torch.equal(keys_of(method, alone)[0], keys_of(method, mixed)[0])
    assert same == (statistics == "momentum")
    assert method.backbone.training
    assert not method.eval().key_backbone.training


def test_statistics_of_keys_follow_those_of_the_queries_as_weights_do():
    method = build("moco", key_statistics="momentum").train()
    before = method.key_backbone.layers[1].running_mean.clone()
    method(make_views(1))["loss"].backward()
    own = method.backbone.layers[1].running_mean.clone()
    torch.testing.assert_close(method.key_backbone.layers[1].running_mean, before)
    method.after_step(0)
    expected = 0.9 * before + 0.1 * own
    torch.testing.assert_close(method.key_backbone.layers[1].running_mean, expected)
    assert not torch.equal(own, before)


# The published formulas, in NumPy and float64, independently of lightly.


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def nt_xent(left: np.ndarray, right: np.ndarray, temperature: float) -> float:
    """arXiv 2002.05709, equation 1 and algorithm 1."""
    z, n = unit(np.concatenate([left, right])), len(left)
    similarity = z @ z.T / temperature
    np.fill_diagonal(similarity, -np.inf)
    partner = (np.arange(2 * n) + n) % (2 * n)
    return -log_softmax(similarity)[np.arange(2 * n), partner].mean()


def info_nce(left: np.ndarray, right: np.ndarray, queue: np.ndarray, temperature: float) -> float:
    """arXiv 1911.05722, equation 1."""
    q, k = unit(left), unit(right)
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.T], 1)
    return -log_softmax(logits / temperature)[:, 0].mean()


def barlow(left: np.ndarray, right: np.ndarray, weight: float) -> float:
    """arXiv 2103.03230, equations 1 and 2."""
    left, right = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (left, right))
    c = left.T @ right / len(left)
    return ((1 - np.diag(c)) ** 2).sum() + weight * (c**2 - np.diag(np.diag(c**2))).sum()


def byol(left: np.ndarray, right: np.ndarray) -> float:
    """arXiv 2006.07733, equation 2: the distance of unit vectors, as 4 + 4 times our loss."""
    return (((unit(left) - unit(right)) ** 2).sum(1).mean() * 2 - 4) / 4


def vicreg(left: np.ndarray, right: np.ndarray) -> float:
    """arXiv 2105.04906, equations 1 to 6, with the published code's halved variance term."""
    loss = 25 * ((left - right) ** 2).mean()
    for x in (left, right):
        loss += 25 * np.maximum(0, 1 - np.sqrt(x.var(0, ddof=1) + 1e-4)).mean() / 2
        c = np.cov(x.T)
        loss += (c**2 - np.diag(np.diag(c**2))).sum() / x.shape[1]
    return loss


def swav(left: np.ndarray, right: np.ndarray, prototypes: np.ndarray) -> float:
    """arXiv 2006.09882, equations 2 to 5, and the pseudo-code of its appendix."""
    scores = [unit(x) @ prototypes.T for x in (left, right)]
    codes = []
    for score in scores:
        q = np.exp(score / 0.05).T
        q /= q.sum()
        for _ in range(3):
            q /= q.sum(1, keepdims=True) * len(q)
            q /= q.sum(0, keepdims=True) * q.shape[1]
        codes.append((q * q.shape[1]).T)
    return sum(-(codes[i] * log_softmax(scores[1 - i] / 0.1)).sum(1).mean() / 2 for i in range(2))


def dino(left: np.ndarray, right: np.ndarray) -> float:
    """arXiv 2104.14294, algorithm 1, with the centre at its start, zero."""
    teacher = [np.exp(log_softmax(x / 0.04)) for x in (left, right)]
    student = [log_softmax(x / 0.1) for x in (left, right)]
    return sum(-(teacher[i] * student[1 - i]).sum(1).mean() / 2 for i in range(2))


FORMULAS = {
    "moco": lambda m, a, b: info_nce(a, b, m.loss.memory_bank.bank.double().numpy(), 0.2),
    "simclr": lambda m, a, b: nt_xent(a, b, 0.1),
    "byol": lambda m, a, b: byol(a, b),
    "swav": lambda m, a, b: swav(a, b, m.prototypes.heads[0].weight.detach().double().numpy()),
    "barlow": lambda m, a, b: barlow(a, b, 0.0051),
    "vicreg": lambda m, a, b: vicreg(a, b),
    "dino": lambda m, a, b: dino(a, b),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_the_published_one(name, seed):
    method = on_embeddings(name)
    left, right = make_embeddings(seed)
    expected = FORMULAS[name](method, left.double().numpy(), right.double().numpy())
    assert method([left, right])["loss"].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_unknown_labels_count_for_nothing():
    method = build("supervised")
    (images,) = make_views(0, 1)
    labels = torch.randint(0, 2, (16, CLASSES), generator=torch.Generator().manual_seed(0)).float()
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.4] = torch.nan
    found = method([images], labels)
    known = ~labels.isnan()
    logits = method.head(method.backbone(images))
    expected = nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known])
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    assert found["accuracy"] == ((logits > 0) == (labels == 1))[known].float().mean()
    found["loss"].backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_no_known_label_is_a_loss_of_zero():
    found = build("supervised")(make_views(0, 1), torch.full((16, CLASSES), torch.nan))
    assert found["loss"].item() == 0
    found["loss"].backward()


def test_classes_are_learnt_by_cross_entropy():
    method = build("supervised")
    (images,) = make_views(0, 1)
    found = method([images], make_labels())
    logits = method.head(method.backbone(images))
    expected = -log_softmax(logits.detach().double().numpy())[range(16), make_labels()].mean()
    assert found["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_supervised_says_what_is_missing():
    with pytest.raises(ValueError, match="supervised needs labels"):
        build("supervised")(make_views(0, 1))
    method = find_method("supervised")
    with pytest.raises(ValueError, match="needs num_classes"):
        method(Tiny(), method.Settings(), steps=1)
