"""``finetune-v1``: the whole network is trained on the budget, on any device."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from cxrzoo.data.budget import Budget
from cxrzoo.data.store import Prepared
from cxrzoo.errors import CxrzooError
from cxrzoo.evaluation.protocol import FinetuneV1
from cxrzoo.zoo.encoder import Encoder

_EVAL_BATCH = 128


@dataclass(frozen=True)
class Finetuned:
    """A trained classifier and how its learning rate was chosen.

    ``curve`` is the validation log-loss of each learning rate; infinite where training broke.
    """

    classifier: Classifier
    learning_rate: float
    log_loss: float
    curve: tuple[float, ...]
    steps: int


class Classifier(nn.Module):
    """A copy of an encoder with a linear head that starts at the labels' log-odds."""

    def __init__(self, encoder: Encoder, log_odds: Tensor) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        # on "meta" first, because nn.Linear's initialisation draws from the global generator
        head = nn.Linear(encoder.num_features, len(log_odds), device="meta")
        self.head = head.to_empty(device="cpu")
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(log_odds)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 1, S, S) grey levels 0..255 to (N, L) logits."""
        x = self.encoder.normalize(pixels).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.encoder(x))
        return logits


def finetune(
    encoder: Encoder,
    prepared: Prepared,
    budget: Budget,
    protocol: FinetuneV1,
    *,
    seed: int,
    device: torch.device,
) -> Finetuned:
    """Try every learning rate on folds 1 to 4, judge on fold 0, refit the best on all.

    Args:
        encoder: left unchanged.
        prepared: decoded images at the encoder's size.
        budget: the only labels looked at.
        protocol: steps, grid and augmentation.
        seed: of the order of images and the augmentation; the same for every encoder.
        device: where to train; bfloat16 autocast on CUDA.
    """
    labels = torch.from_numpy(prepared.table.labels[budget.rows])
    validation = torch.from_numpy(budget.folds == protocol.validation_fold)
    steps = protocol.steps(len(budget))
    trainer = _Trainer(encoder, prepared, protocol, steps, seed, device)
    curve = []
    for rate in protocol.learning_rates:
        model = trainer.train(budget.rows[~validation.numpy()], labels[~validation], rate)
        logits = predict(model, prepared, budget.rows[validation.numpy()], device)
        loss = _log_loss(torch.from_numpy(logits), labels[validation])
        curve.append(float(loss) if torch.isfinite(loss) else math.inf)
    best = int(np.argmin(curve))
    if math.isinf(curve[best]):
        raise CxrzooError(
            f"fine-tuning '{encoder.card.name}' diverged at every learning rate "
            f"{protocol.learning_rates}"
        )
    model = trainer.train(budget.rows, labels, protocol.learning_rates[best])
    return Finetuned(model, protocol.learning_rates[best], curve[best], tuple(curve), steps)


def predict(
    model: Classifier, prepared: Prepared, rows: np.ndarray, device: torch.device
) -> np.ndarray:
    """(n, L) float32 logits of table rows, in eval mode, without augmentation."""
    model.eval()
    parts = []
    with torch.inference_mode(), _autocast(device):
        for start in range(0, len(rows), _EVAL_BATCH):
            pixels = torch.from_numpy(prepared.pixels(rows[start : start + _EVAL_BATCH]))
            parts.append(model(pixels.to(device).unsqueeze(1)).float().cpu().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Trainer:
    encoder: Encoder
    prepared: Prepared
    protocol: FinetuneV1
    steps: int
    seed: int
    device: torch.device

    def train(self, rows: np.ndarray, labels: Tensor, learning_rate: float) -> Classifier:
        """A classifier trained on ``rows``; every trial sees the same order and augmentation."""
        from timm.optim._param_groups import param_groups_weight_decay

        generator = torch.Generator().manual_seed(self.seed)
        model = Classifier(self.encoder, _log_odds(labels))
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train()
        optimizer = torch.optim.AdamW(
            param_groups_weight_decay(model, self.protocol.weight_decay), lr=learning_rate
        )
        warmup = max(1, round(self.steps * self.protocol.warmup_percent / 100))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _warmup_cosine(step, warmup, self.steps)
        )
        batches = _batches(len(rows), self.protocol.batch_size, generator)
        name = f"finetune {self.encoder.card.name} lr {learning_rate:g}"
        for _ in tqdm(range(self.steps), desc=name, unit="step", leave=False):
            index = next(batches)
            pixels = torch.from_numpy(self.prepared.pixels(rows[index.numpy()]))
            views = augment(
                pixels.to(self.device, non_blocking=True).unsqueeze(1).float(),
                self.protocol,
                flip=self.prepared.table.benchmark.flip_allowed,
                generator=generator,
            )
            with _autocast(self.device):
                logits = model(views)
            loss = _log_loss(logits.float(), labels[index].to(self.device))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        return model


def augment(
    pixels: Tensor, protocol: FinetuneV1, *, flip: bool, generator: torch.Generator
) -> Tensor:
    """Random crop and rotation in one resampling, then brightness and contrast.

    Args:
        pixels: (N, 1, S, S) float grey levels 0..255, on the training device.
        protocol: ranges of the draws.
        flip: whether mirrored images are allowed; off where left and right mean something.
        generator: on the CPU, so that a seed means the same draws on every device.

    Returns:
        (N, 1, S, S) float grey levels 0..255.
    """
    count = len(pixels)
    draws = torch.rand(7, count, generator=generator) * 2 - 1  # uniform in [-1, 1]
    theta = _affine(draws[:5], protocol, flip).to(pixels.device)
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    views = functional.grid_sample(pixels, grid, mode="bilinear", align_corners=False)
    contrast, brightness = (1 + protocol.contrast * draws[5]), 255 * protocol.brightness * draws[6]
    centre = views.mean((1, 2, 3), keepdim=True)
    views = (views - centre) * _per_image(contrast, views) + centre
    return (views + _per_image(brightness, views)).clamp(0, 255)


def _affine(draws: Tensor, protocol: FinetuneV1, flip: bool) -> Tensor:
    """(N, 2, 3) output-to-input maps from (5, N) draws: angle, crop, shift x and y, mirror."""
    angle = draws[0] * math.radians(protocol.rotation_deg)
    low, high = protocol.crop_scale
    side = torch.sqrt(low + (high - low) * (draws[1] + 1) / 2)
    shift = (1 - side) * draws[2:4]
    mirror = torch.where((draws[4] < 0) & flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) * side, torch.sin(angle) * side
    first = torch.stack([cos * mirror, -sin, shift[0]], 1)
    second = torch.stack([sin * mirror, cos, shift[1]], 1)
    return torch.stack([first, second], 1)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device).view(-1, 1, 1, 1)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of indices from one permutation after another, without end."""
    size, rest = min(size, count), torch.empty(0, dtype=torch.long)
    while True:
        while len(rest) < size:
            rest = torch.cat([rest, torch.randperm(count, generator=generator)])
        yield rest[:size]
        rest = rest[size:]


def _warmup_cosine(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _log_odds(labels: Tensor) -> Tensor:
    """(L,) smoothed log-odds of the known labels."""
    positives = torch.nansum(labels, 0)
    negatives = (~torch.isnan(labels)).sum(0) - positives
    return torch.log((positives + 0.5) / (negatives + 0.5))


def _log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary log-loss over the known labels; 0 when none is known."""
    known = ~torch.isnan(labels)
    loss = functional.binary_cross_entropy_with_logits(
        logits, torch.nan_to_num(labels), reduction="none"
    )
    return (loss * known).sum() / known.sum().clamp_min(1)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def precision(device: torch.device) -> str:
    """How a record calls the arithmetic used on ``device``."""
    return "bfloat16-autocast" if device.type == "cuda" else "float32"
