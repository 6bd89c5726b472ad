from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cxrzoo.data.budget import Ranking
from cxrzoo.data.store import prepare
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import CxrzooError
from cxrzoo.evaluation.finetune import Classifier, augment, finetune, predict
from cxrzoo.evaluation.protocol import FinetuneV1
from cxrzoo.zoo.card import InputContract
from cxrzoo.zoo.encoder import Encoder
from cxrzoo.zoo.weights import sha256_of_state

CPU = torch.device("cpu")


@pytest.fixture
def prepared():
    return prepare(open_benchmark("phantom").limited(60), 32, "bilinear")


@pytest.fixture
def encoder() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=2),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )
    contract = InputContract(size_px=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Encoder.from_module(module, name="tiny", num_features=8, contract=contract)


def small(**changes) -> FinetuneV1:
    return FinetuneV1(base_steps=4, batch_size=8, min_epochs=0.5, **changes)


def test_the_encoder_is_left_as_it_was_and_the_copy_has_learned(prepared, encoder):
    before = sha256_of_state(encoder)
    budget = Ranking(prepared.table, 0).budget(40)
    done = finetune(encoder, prepared, budget, small(), seed=1, device=CPU)
    assert sha256_of_state(encoder) == before
    assert sha256_of_state(done.classifier.encoder) != before
    assert len(done.curve) == 3
    assert done.log_loss == min(done.curve)


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generators_say(prepared, encoder):
    budget = Ranking(prepared.table, 0).budget(40)
    rows = prepared.table.rows("test")
    logits = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        done = finetune(encoder, prepared, budget, small(), seed=5, device=CPU)
        logits.append(predict(done.classifier, prepared, rows, CPU))
    other = finetune(encoder, prepared, budget, small(), seed=6, device=CPU)
    assert np.array_equal(*logits)
    assert not np.array_equal(logits[0], predict(other.classifier, prepared, rows, CPU))


def test_training_draws_nothing_from_the_global_generator(prepared, encoder):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    budget = Ranking(prepared.table, 0).budget(20)
    finetune(encoder, prepared, budget, small(learning_rates=(1e-3,)), seed=0, device=CPU)
    assert torch.equal(before, torch.get_rng_state())


def test_the_head_starts_at_the_log_odds(encoder):
    model = Classifier(encoder, torch.tensor([1.5, -2.0])).eval()
    logits = model(torch.zeros(3, 1, 32, 32))
    assert torch.equal(logits, torch.tensor([[1.5, -2.0]]).expand(3, 2))


def test_divergence_at_every_rate_is_an_error_that_names_the_encoder(prepared, encoder):
    budget = Ranking(prepared.table, 0).budget(20)
    with pytest.raises(CxrzooError, match="'tiny' diverged at every learning rate"):
        finetune(encoder, prepared, budget, small(learning_rates=(1e30,)), seed=0, device=CPU)


def test_fine_tuning_separates_an_easy_task(prepared, encoder):
    table = prepared.table
    brightness = prepared.pixels(np.arange(len(table))).mean((1, 2))
    table.labels[:] = (brightness > np.median(brightness))[:, None]
    light = {"brightness": 0.0, "contrast": 0.0, "crop_scale": (1.0, 1.0)}
    protocol = FinetuneV1(base_steps=120, batch_size=16, learning_rates=(1e-2, 3e-2), **light)
    budget = Ranking(table, 0).budget(60)
    done = finetune(encoder, prepared, budget, protocol, seed=0, device=CPU)
    rows = table.rows("test")
    right = (predict(done.classifier, prepared, rows, CPU)[:, 0] > 0) == table.labels[rows, 0]
    assert right.mean() > 0.85


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_keeps_shape_range_and_side(flip):
    half = torch.zeros(64, 1, 32, 32)
    half[..., 16:] = 200.0
    views = augment(half, FinetuneV1(), flip=flip, generator=torch.Generator().manual_seed(0))
    assert views.shape == half.shape
    assert views.min() >= 0
    assert views.max() <= 255
    left_is_darker = views[..., 8:24, 4:8].mean((1, 2, 3)) < views[..., 8:24, -8:-4].mean((1, 2, 3))
    assert bool(left_is_darker.all()) is not flip


def test_without_rotation_crop_and_light_nothing_changes():
    still = FinetuneV1(rotation_deg=0, crop_scale=(1.0, 1.0), brightness=0, contrast=0)
    pixels = torch.randint(0, 256, (4, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    views = augment(pixels.float(), still, flip=False, generator=torch.Generator())
    assert torch.allclose(views, pixels.float(), atol=1e-2)


def test_steps_grow_with_the_budget_and_never_fall_below_five_epochs():
    protocol = FinetuneV1()
    steps = [protocol.steps(n) for n in (50, 100, 1000, 5000, 80_000)]
    assert steps == sorted(steps)
    assert protocol.steps(100) == 80
    assert protocol.steps(80_000) == math.ceil(5 * 80_000 / 32)
