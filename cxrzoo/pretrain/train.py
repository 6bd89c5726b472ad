"""Training one stage: the loop, its checkpoints, its log, and the signs that it goes wrong.

Every random number is drawn from generators seeded by the run's key and the step, so that a
training that was interrupted goes on exactly as one that was not.
"""

from __future__ import annotations

import csv
import hashlib
import io
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
from cxrzoo.files import write_atomically
from cxrzoo.pretrain import collapse
from cxrzoo.pretrain.checkpoint import read_last_checkpoint, write_checkpoint
from cxrzoo.pretrain.distributed import synchronise_batchnorm
from cxrzoo.pretrain.layers import freeze_statistics, scaled_groups
from cxrzoo.pretrain.methods import Method
from cxrzoo.pretrain.recipe import Settings, Views
from cxrzoo.pretrain.views import as_input, augment, local_settings
from cxrzoo.pretrain.watch import Watch
from cxrzoo.zoo.card import InputContract

VERSION = 1
"""Raised when the same settings lead to other weights: of views, methods and this loop."""
CHECKPOINT_SECONDS = 180.0
DIAGNOSE_EVERY = 50
_WATCHES = 10
"""Looks at the watched benchmark over a training, besides the one before its first step."""
_WATCH_FROM = 200
"""Steps before features are judged: a network from random weights begins nearly collapsed."""
_PATIENCE = 3
"""Diagnoses, or scores, in a row that must look collapsed before a training is stopped."""
LOG = "log.csv"


@dataclass(frozen=True)
class Run:
    """What a training is made of; ``key`` names all of it.

    ``pixels`` is (N, S, S) or (N, S, S, 3) uint8; ``labels`` (N,) or (N, L) where the method
    needs them. ``watch`` changes no weight, but may stop the training.
    """

    key: str
    pixels: np.ndarray
    settings: Settings
    contract: InputContract
    labels: np.ndarray | None = None
    watch: Watch | None = None


@dataclass
class Outcome:
    """What a finished training says of itself."""

    seconds: float
    final_loss: float
    diagnostics: dict[str, float] = field(default_factory=dict)


class Stopped(PretrainError):
    """The training was told to stop; its checkpoint is written."""


def train(run: Run, method: Method, directory: Path, fabric: Fabric) -> Outcome:
    """Train ``method`` on ``run`` and leave its weights as they are at the last step.

    Goes on from the last checkpoint in ``directory``, writes one every few minutes and when it is
    told to stop, and a row of ``log.csv`` for every step. Several processes, which must divide the
    batch evenly, see what one would see: the global batch decides views, losses and BatchNorm's
    statistics.

    Raises:
        PretrainError: a loss is no number, or the features have collapsed; the last good
            checkpoint stays.
        Stopped: SIGINT or SIGTERM came.
        StorageError: a checkpoint could not be written; those before it stay.
    """
    settings = run.settings
    if fabric.world_size > 1:
        synchronise_batchnorm(method, fabric.device)
    prepared, optimiser = fabric.setup(method, _optimiser(method, settings))
    loop = _Loop(run, prepared, method, optimiser, fabric)
    state = read_last_checkpoint(directory)
    first, seconds = 0, 0.0
    if state is not None:
        if state["key"] != run.key:
            raise PretrainError(
                f"{directory} holds a checkpoint of another training of this encoder, with other "
                "settings or images: move it away, throw it away with --restart where it is no "
                "longer wanted, or start from its encoder with --init"
            )
        method.load_state_dict(state["method"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["step"], state["seconds"]
        loop.resume(state)
    log = _Log(directory / LOG, first) if fabric.is_global_zero else None
    bar = tqdm(
        total=settings.steps * settings.batch_size,
        initial=first * settings.batch_size,
        unit="img",
        unit_scale=True,
        disable=not fabric.is_global_zero,
    )
    started, saved = time.monotonic() - seconds, time.monotonic()
    with _stop_signals() as came:
        for step in range(first, settings.steps):
            row, stop = loop.step(step, stop=bool(came))
            if log:
                log.write(step, {**row, "seconds": time.monotonic() - started})
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            bar.update(settings.batch_size)
            last = step + 1 == settings.steps
            if last or stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
                if fabric.is_global_zero:
                    passed = time.monotonic() - started
                    write_checkpoint(directory, step + 1, loop.state(step + 1, passed))
                saved = time.monotonic()
            if stop and not last:
                fabric.barrier()  # torchrun ends all processes once one of them has
                raise Stopped(f"stopped at step {step + 1:,}; run the same command to go on")
    bar.close()
    seconds = time.monotonic() - started
    return Outcome(seconds, loop.mean_loss(), loop.diagnostics)


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
        self._knn: list[float] = []
        self._bad = self._lost = 0
        self._order = (-1, np.empty(0, dtype=np.int64))
        prepared.train()
        frozen = None if run.settings.batchnorm == "frozen" else run.settings.frozen_stages
        for name, module in method.named_children():
            if name.endswith("backbone"):  # momentum copies too
                freeze_statistics(module, frozen)

    def step(self, step: int, *, stop: bool = False) -> tuple[dict[str, float], bool]:
        """One optimiser step; returns what the log keeps of it, and whether any process was told
        to stop."""
        before = self._watch(step)
        rate = self._set_rate(step)
        rows = self._rows(step)
        views, labels = self._views(self._pixels(rows), step), self._labels(rows)
        result = self.prepared(views) if labels is None else self.prepared(views, labels)
        loss, accuracy, stops = self._mean_of(result["loss"], result["accuracy"], stop)
        if not math.isfinite(loss):
            raise PretrainError(
                f"the loss of step {step + 1:,} is {loss}: checkpoints are from before it. Start "
                "again with a lower learning rate (--set optimiser.learning_rate=..., --restart), "
                "or look at the images of this step"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(result["loss"])
        self.optimiser.step()
        self.method.after_step(step)
        self._losses = [*self._losses[-99:], loss]
        row = {"loss": loss, "accuracy": accuracy, "learning_rate": rate, **before}
        if step % DIAGNOSE_EVERY == 0 or self._is_last(step):
            row |= self._diagnose(result, step)
        if self._is_last(step):
            row |= self._watch(step + 1)
        return row, stops > 0

    def _is_last(self, step: int) -> bool:
        return step + 1 == self.run.settings.steps

    def _set_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero; layers may have a share of it."""
        settings = self.run.settings
        rate: float = cosine_warmup_schedule(
            step=step,
            max_steps=settings.steps,
            start_value=settings.optimiser.learning_rate,
            end_value=0.0,
            warmup_steps=settings.optimiser.warmup_steps,
            warmup_start_value=0.0,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        return rate

    def _mean_of(self, loss: Tensor, accuracy: Tensor, stop: bool) -> tuple[float, ...]:
        """Loss, accuracy and request to stop as means over the processes, which so agree."""
        own = torch.stack([loss.detach().float(), accuracy.float(), accuracy.new_tensor(stop)])
        return tuple(cast(Tensor, self.fabric.all_reduce(own, reduce_op="mean")).tolist())

    def state(self, step: int, seconds: float) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "key": self.run.key,
            "step": step,
            "seconds": seconds,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "losses": self._losses,
            "knn": self._knn,
            "collapsed_diagnoses": self._bad,
            "lost_scores": self._lost,
            "diagnostics": self.diagnostics,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """What is watched goes on as well, so that it says the same at the end."""
        self._losses, self._knn = state["losses"], state["knn"]
        self._bad, self._lost = state["collapsed_diagnoses"], state["lost_scores"]
        self.diagnostics = state["diagnostics"]

    def mean_loss(self) -> float:
        """Mean of the last hundred steps."""
        return float(np.mean(self._losses)) if self._losses else math.nan

    def _rows(self, step: int) -> np.ndarray:
        """This process's images of a step: every epoch is one permutation of the pool.

        Those of a step are sorted, for the disk's sake, before the processes share them.
        """
        size = self.run.settings.batch_size
        whole = np.concatenate(
            [
                self._epoch(epoch)[max(0, start) : stop]
                for epoch, start, stop in _slices(step * size, size, len(self.run.pixels))
            ]
        )
        own = size // self.fabric.world_size
        first = self.fabric.global_rank * own
        return np.sort(whole)[first : first + own]

    def _epoch(self, epoch: int) -> np.ndarray:
        """The order of an epoch, drawn when the epoch begins."""
        if self._order[0] != epoch:
            draws = np.random.default_rng(_seed(self.run.key, "epoch", epoch))
            self._order = (epoch, draws.permutation(len(self.run.pixels)))
        return self._order[1]

    def _pixels(self, rows: np.ndarray) -> Tensor:
        """The images of the rows on the device: (n, S, S) or (n, 3, S, S) uint8."""
        pixels = torch.from_numpy(self.run.pixels[rows]).to(self.fabric.device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels

    def _views(self, pixels: Tensor, step: int) -> list[Tensor]:
        """The views of a step, the local ones last, normalised: each (n, C, S, S)."""
        views = self.run.settings.views
        settings = [views] * self.method.num_views
        if views.local is not None:
            settings += [local_settings(views)] * views.local.count
        return [self._view(pixels, own, step, number) for number, own in enumerate(settings)]

    def _view(self, pixels: Tensor, views: Views, step: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(_seed(self.run.key, f"view {number}", step))
        size, rank = self.run.settings.batch_size, self.fabric.global_rank
        view = augment(pixels, views, generator, part=(rank * len(pixels), size))
        return as_input(view, self.run.contract)

    def _labels(self, rows: np.ndarray) -> Tensor | None:
        if not self.method.needs_labels:
            return None
        assert self.run.labels is not None
        return torch.from_numpy(self.run.labels[rows]).to(self.fabric.device)

    def _diagnose(self, result: dict[str, Tensor], step: int) -> dict[str, float]:
        shown = [self._of_all(result[key]) for key in ("features", "partners") if key in result]
        measures = collapse.diagnose(*shown)
        self.diagnostics |= measures
        reason = collapse.verdict(measures)
        self._bad = self._bad + 1 if reason and step >= _WATCH_FROM else 0
        if self._bad >= _PATIENCE:
            raise PretrainError(
                f"the features have collapsed by step {step + 1:,}: {reason}, at {_PATIENCE} "
                "diagnoses in a row; the log shows when it began"
            )
        return measures

    def _watch(self, step: int) -> dict[str, float]:
        """The k-NN score after ``step`` steps, where it is time for one."""
        watch, steps = self.run.watch, self.run.settings.steps
        every = max(1, steps // _WATCHES)
        if watch is None or (step % every and step != steps):
            return {}
        # every process embeds all images, so that they agree
        self._knn = [*self._knn, watch.score(self.method.backbone)]
        self.diagnostics["knn"] = self._knn[-1]
        reason = collapse.verdict({}, self._knn)
        # random weights score well on some benchmarks and worse when they begin to learn
        self._lost = self._lost + 1 if reason and step >= _WATCH_FROM else 0
        if self._lost >= _PATIENCE:
            raise PretrainError(
                f"the features have collapsed by step {step:,}: {reason} ({watch.name}), at "
                f"{_PATIENCE} looks in a row; the log shows when it began"
            )
        return {"knn": self._knn[-1]}

    def _of_all(self, features: Tensor) -> Tensor:
        """(n, D) of every process, one after the other."""
        gathered = cast(Tensor, self.fabric.all_gather(features))
        return gathered.reshape(-1, features.shape[-1])


class _Log:
    """A row of CSV for every step; rows behind the checkpoint that is gone on from are cut off."""

    _COLUMNS = ("step", "loss", "accuracy", "learning_rate", "seconds", "feature_std",
                "effective_rank", "alignment", "uniformity", "knn")  # fmt: skip

    def __init__(self, path: Path, first: int) -> None:
        self._path = path
        content = io.StringIO(newline="")
        writer = csv.DictWriter(content, self._COLUMNS, extrasaction="ignore")
        writer.writeheader()
        if first and path.exists():
            with path.open(newline="") as file:
                # a row may be cut short by a crash of the machine
                whole = [r for r in csv.DictReader(file) if (r["step"] or "").isdecimal()]
            writer.writerows(r for r in whole if int(r["step"]) <= first)
        with storage_errors(path, "the log"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getvalue().encode())

    def write(self, step: int, row: dict[str, float]) -> None:
        values = {key: f"{value:.6g}" for key, value in row.items()}
        with storage_errors(self._path, "the log"), self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._COLUMNS).writerow({"step": step + 1, **values})


def _optimiser(method: Method, settings: Settings) -> torch.optim.Optimizer:
    chosen = settings.optimiser
    groups = method.decay_groups(chosen.weight_decay)
    groups = scaled_groups(groups, method.backbone, chosen.layer_decay)
    if chosen.name == "adamw":
        return torch.optim.AdamW(groups, lr=chosen.learning_rate, fused=True)
    if chosen.name == "sgd":
        return torch.optim.SGD(
            groups, lr=chosen.learning_rate, momentum=chosen.momentum, fused=True
        )
    from lightly.utils.lars import LARS

    made: torch.optim.Optimizer = LARS(groups, lr=chosen.learning_rate, momentum=chosen.momentum)
    return made


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
    """A list that is no longer empty once SIGINT or SIGTERM came; a second SIGINT ends at once.

    A second SIGTERM does not: torchrun and job schedulers send more than one.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in came:
            raise KeyboardInterrupt
        came.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
