"""How long a plan will take, from a timed batch on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from cxrzoo.data.budget import FULL
from cxrzoo.data.split import TRAIN
from cxrzoo.evaluation.features import batch_size, embed
from cxrzoo.evaluation.finetune import Classifier
from cxrzoo.evaluation.protocol import FinetuneV1
from cxrzoo.evaluation.sweep import Planned, Sweep
from cxrzoo.zoo.encoder import Encoder

_REPEATS = 2


def embedding_rate(encoder: Encoder, device: torch.device) -> float:
    """Images a second of frozen features, after one batch of warming up."""
    size = encoder.card.input.size_px
    pixels = np.zeros((batch_size(device), size, size), dtype=np.uint8)
    encoder = encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return len(pixels) / _seconds(lambda: embed(encoder, pixels, device), device)


def training_rate(encoder: Encoder, protocol: FinetuneV1, device: torch.device) -> float:
    """Images a second of fine-tuning, forward and backward."""
    size = encoder.card.input.size_px
    model = Classifier(encoder, torch.zeros(1)).train()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.zeros(protocol.batch_size, 1, size, size, device=device)

    def step() -> None:
        model(pixels).sum().backward()

    return protocol.batch_size / _seconds(step, device)


def describe(grid: Sweep, planned: Sequence[Planned]) -> list[str]:
    """Lines that say how long the missing cells of a grid will take, encoder by encoder."""
    missing = [entry for entry in planned if entry.state == "missing"]
    lines = [
        f"{name}: about {words(_seconds_for(grid, name, missing))}, without decoding"
        for name in dict.fromkeys(entry.encoder for entry in missing)
    ]
    return lines or ["nothing to compute"]


def default_protocol_note(grid: Sweep, planned: Sequence[Planned]) -> str:
    """Which protocol was chosen and why; on a CPU, with what fine-tuning would take."""
    name = grid.protocol.name
    if grid.device.type != "cpu":
        return f"protocol {name} ({grid.device.type})"
    missing = [entry for entry in planned if entry.state == "missing"]
    if not missing:
        return f"no GPU: protocol {name}"
    other = dataclasses.replace(grid, protocol=FinetuneV1())
    names = dict.fromkeys(entry.encoder for entry in missing)
    seconds = sum(_seconds_for(other, encoder, missing) for encoder in names)
    return f"no GPU: protocol {name}; --protocol finetune would take about {words(seconds)} here"


def words(seconds: float) -> str:
    """A duration as a person says it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds_for(grid: Sweep, encoder_name: str, missing: Sequence[Planned]) -> float:
    entries = [entry for entry in missing if entry.encoder == encoder_name]
    encoder = entries[0].subject.encoder
    if isinstance(grid.protocol, FinetuneV1):
        rate = training_rate(encoder, grid.protocol, grid.device)
        return sum(_finetune_images(grid.protocol, entry) for entry in entries) / rate
    tables = {entry.benchmark: len(entry.table) for entry in entries}
    return sum(tables.values()) / embedding_rate(encoder, grid.device)


def _finetune_images(protocol: FinetuneV1, entry: Planned) -> int:
    """Images that one cell trains on, all trials and the refit."""
    count = len(entry.table.rows(TRAIN)) if entry.budget == FULL else int(entry.budget)
    batch = min(protocol.batch_size, count)
    return (protocol.trials + 1) * protocol.steps(count) * batch


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    _wait(device)
    start = time.perf_counter()
    for _ in range(_REPEATS):
        work()
    _wait(device)
    return (time.perf_counter() - start) / _REPEATS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
