"""Training one stage: the loop, its checkpoints, its log, and the signs that it goes wrong.

Every random number is drawn from generators seeded by the run's key and the step, so that a
training that was interrupted goes on exactly as one that was not.
"""

from __future__ import annotations

import csv
import hashlib
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from lightly.utils.scheduler import cosine_warmup_schedule
from lightning.fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from cxrzoo.errors import PretrainError, storage_errors
from cxrzoo.pretrain import collapse
from cxrzoo.pretrain.checkpoint import read_last_checkpoint, write_checkpoint
from cxrzoo.pretrain.methods import Method
from cxrzoo.pretrain.recipe import Settings
from cxrzoo.pretrain.views import augment
from cxrzoo.zoo.card import InputContract

CHECKPOINT_SECONDS = 180.0
DIAGNOSE_EVERY = 50
_WATCH_FROM = 200
"""Steps before features are judged: a network from random weights begins nearly collapsed."""
_PATIENCE = 3
"""Diagnoses in a row that must look collapsed before a training is stopped."""
LOG = "log.csv"


@dataclass(frozen=True)
class Run:
    """What a training is made of; ``key`` names all of it.

    ``pixels`` is (N, S, S) or (N, S, S, 3) uint8; ``labels`` (N,) or (N, L) where the method
    needs them.
    """

    key: str
    pixels: np.ndarray
    settings: Settings
    contract: InputContract
    labels: np.ndarray | None = None


@dataclass
class Outcome:
    """What a finished training says of itself."""

    steps: int
    seconds: float
    final_loss: float
    diagnostics: dict[str, float] = field(default_factory=dict)


class Stopped(PretrainError):
    """The training was told to stop; its checkpoint is written."""


def train(run: Run, method: Method, directory: Path, fabric: Fabric) -> Outcome:
    """Train ``method`` on ``run`` and leave its weights as they are at the last step.

    Goes on from the last checkpoint in ``directory``, writes one every few minutes and when it is
    told to stop, and a row of ``log.csv`` for every step.

    Raises:
        PretrainError: a loss is no number, or the features have collapsed; the last good
            checkpoint stays.
        Stopped: SIGINT or SIGTERM came.
        StorageError: a checkpoint could not be written; those before it stay.
    """
    settings, optimiser = run.settings, _optimiser(method, run.settings)
    prepared, optimiser = fabric.setup(method, optimiser)
    loop = _Loop(run, prepared, method, optimiser, fabric)
    state = read_last_checkpoint(directory)
    first, seconds = 0, 0.0
    if state is not None:
        if state["key"] != run.key:
            raise PretrainError(f"{directory} holds a checkpoint of another training: move it away")
        method.load_state_dict(state["method"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["step"], state["seconds"]
        loop.resume(state)
    log = _Log(directory / LOG, first) if fabric.is_global_zero else None
    bar = tqdm(total=settings.steps, initial=first, unit="step", disable=not fabric.is_global_zero)
    started, saved = time.monotonic() - seconds, time.monotonic()
    with _stop_signals() as stop:
        for step in range(first, settings.steps):
            row = loop.step(step)
            if log:
                log.write(step, {**row, "seconds": time.monotonic() - started})
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            bar.update()
            last = step + 1 == settings.steps
            if last or stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
                if fabric.is_global_zero:
                    passed = time.monotonic() - started
                    write_checkpoint(directory, step + 1, loop.state(step + 1, passed))
                saved = time.monotonic()
            if stop and not last:
                raise Stopped(f"stopped at step {step + 1:,}; run the same command to go on")
    bar.close()
    seconds = time.monotonic() - started
    return Outcome(settings.steps, seconds, loop.mean_loss(), loop.diagnostics)


class _Loop:
    """The steps of a training and what is watched of them."""

    def __init__(
        self,
        run: Run,
        prepared: nn.Module,
        method: Method,
        optimiser: Any,
        fabric: Fabric,
    ) -> None:
        self.run, self.prepared, self.method = run, prepared, method
        self.optimiser, self.fabric = optimiser, fabric
        self.diagnostics: dict[str, float] = {}
        self._losses: list[float] = []
        self._bad = 0
        self._order = (-1, np.empty(0, dtype=np.int64))
        mean, std = torch.tensor(run.contract.mean), torch.tensor(run.contract.std)
        self._mean = mean.view(1, -1, 1, 1).to(fabric.device)
        self._std = std.view(1, -1, 1, 1).to(fabric.device)
        prepared.train()
        if run.settings.batchnorm == "frozen":
            for name, module in method.named_children():
                if name.endswith("backbone"):  # momentum copies too
                    _freeze_statistics(module)

    def step(self, step: int) -> dict[str, float]:
        """One optimiser step; returns what the log keeps of it."""
        settings = self.run.settings
        rate = cosine_warmup_schedule(
            step=step,
            max_steps=settings.steps,
            start_value=settings.optimiser.learning_rate,
            end_value=0.0,
            warmup_steps=min(settings.optimiser.warmup_steps, settings.steps - 1),
            warmup_start_value=0.0,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rows = self._rows(step)
        pixels = self._pixels(rows)
        views = [self._view(pixels, step, number) for number in range(self.method.num_views)]
        labels = self._labels(rows)
        result = self.prepared(views) if labels is None else self.prepared(views, labels)
        loss = float(
            cast(Tensor, self.fabric.all_reduce(result["loss"].detach(), reduce_op="mean"))
        )
        if not math.isfinite(loss):
            raise PretrainError(
                f"the loss of step {step + 1:,} is {loss}: a lower learning rate may help; the "
                "last checkpoint is from before it"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(result["loss"])
        self.optimiser.step()
        self.method.after_step(step)
        self._losses = [*self._losses[-99:], loss]
        row = {"loss": loss, "learning_rate": rate}
        if step % DIAGNOSE_EVERY == 0 or step + 1 == settings.steps:
            row |= self._diagnose(result["features"], step)
        return row

    def state(self, step: int, seconds: float) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "key": self.run.key,
            "step": step,
            "seconds": seconds,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "losses": self._losses,
            "collapsed_diagnoses": self._bad,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """What is watched goes on as well, so that it says the same at the end."""
        self._losses, self._bad = state["losses"], state["collapsed_diagnoses"]

    def mean_loss(self) -> float:
        """Mean of the last hundred steps."""
        return float(np.mean(self._losses)) if self._losses else math.nan

    def _rows(self, step: int) -> np.ndarray:
        """This process's images of a step: every epoch is one permutation of the pool."""
        size = self.run.settings.batch_size
        whole = np.concatenate(
            [
                self._epoch(epoch)[max(0, start) : stop]
                for epoch, start, stop in _slices(step * size, size, len(self.run.pixels))
            ]
        )
        return whole[self.fabric.global_rank :: self.fabric.world_size]

    def _epoch(self, epoch: int) -> np.ndarray:
        """The order of an epoch, drawn when the epoch begins."""
        if self._order[0] != epoch:
            draws = np.random.default_rng(_seed(self.run.key, "epoch", epoch))
            self._order = (epoch, draws.permutation(len(self.run.pixels)))
        return self._order[1]

    def _pixels(self, rows: np.ndarray) -> Tensor:
        """The images of the rows on the device: (n, S, S) or (n, 3, S, S) uint8."""
        pixels = torch.from_numpy(self.run.pixels[np.sort(rows)]).to(
            self.fabric.device, non_blocking=True
        )
        return pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels

    def _view(self, pixels: Tensor, step: int, number: int) -> Tensor:
        """One augmented view of the images, normalised: (n, C, S, S)."""
        seed = _seed(self.run.key, f"view {number} of rank {self.fabric.global_rank}", step)
        generator = torch.Generator().manual_seed(seed)
        view = augment(pixels, self.run.settings.views, generator)
        low, high = self.run.contract.range
        view = (view * (high - low) + low - self._mean) / self._std
        return view.contiguous(memory_format=torch.channels_last)

    def _labels(self, rows: np.ndarray) -> Tensor | None:
        if not self.method.needs_labels:
            return None
        assert self.run.labels is not None
        return torch.from_numpy(self.run.labels[np.sort(rows)]).to(self.fabric.device)

    def _diagnose(self, features: Tensor, step: int) -> dict[str, float]:
        self.diagnostics = collapse.diagnose(features)
        reason = collapse.verdict(self.diagnostics)
        self._bad = self._bad + 1 if reason and step >= _WATCH_FROM else 0
        if self._bad >= _PATIENCE:
            raise PretrainError(
                f"the features have collapsed by step {step + 1:,}: {reason}, at {_PATIENCE} "
                "diagnoses in a row; the log shows when it began"
            )
        return self.diagnostics


class _Log:
    """A row of CSV for every step; rows behind the checkpoint that is gone on from are cut off."""

    _COLUMNS = ("step", "loss", "learning_rate", "seconds",
                "feature_std", "effective_rank", "uniformity")  # fmt: skip

    def __init__(self, path: Path, first: int) -> None:
        self._path = path
        kept = []
        if first and path.exists():
            with path.open(newline="") as file:
                kept = [r for r in csv.DictReader(file) if int(r["step"]) <= first]
        with storage_errors(path, "the log"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._COLUMNS)
                writer.writeheader()
                writer.writerows(kept)

    def write(self, step: int, row: dict[str, float]) -> None:
        values = {key: f"{value:.6g}" for key, value in row.items()}
        with storage_errors(self._path, "the log"), self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._COLUMNS).writerow({"step": step + 1, **values})


def _optimiser(method: Method, settings: Settings) -> torch.optim.Optimizer:
    chosen = settings.optimiser
    groups = method.decay_groups(chosen.weight_decay)
    if chosen.name == "adamw":
        return torch.optim.AdamW(groups, lr=chosen.learning_rate)
    if chosen.name == "sgd":
        return torch.optim.SGD(groups, lr=chosen.learning_rate, momentum=chosen.momentum)
    from lightly.utils.lars import LARS

    made: torch.optim.Optimizer = LARS(groups, lr=chosen.learning_rate, momentum=chosen.momentum)
    return made


def _freeze_statistics(backbone: nn.Module) -> None:
    """BatchNorm normalises with the statistics of the start, in training too."""
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _slices(start: int, count: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(epoch, first, last) of the parts that ``count`` rows from ``start`` on have in epochs."""
    while count:
        epoch, offset = divmod(start, length)
        taken = min(count, length - offset)
        yield epoch, offset, offset + taken
        start, count = start + taken, count - taken


def _seed(key: str, purpose: str, number: int) -> int:
    digest = hashlib.sha256(f"{key}|{purpose}|{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that is no longer empty once SIGINT or SIGTERM came; a second one ends at once."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
