"""What the harness costs on top of the model: features and fine-tuning against a bare loop.

    python benchmarks/speed/models.py [--encoder supervised-imagenet] [--device cpu]

The bare loop runs the same backbone on a synthetic batch that is already in memory, in the
format the model likes best. Both sides alternate for several rounds, and the medians count,
so that a slow moment of the machine meets both. All of it once with the C library's habit of
giving freed memory back, and once as commands run, which keep it (`cxrzoo/allocator.py`).
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from tabulate import tabulate

from cxrzoo.allocator import keep_freed_memory

ROUNDS = 5
EMBED_IMAGES = 512
TRAIN_STEPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="supervised-imagenet")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("CXRZOO_CACHE", cache)
        before = measure(arguments.encoder, arguments.device)
        keep_freed_memory()
        rows = measure(arguments.encoder, arguments.device)
    headers = ["", "bare images/s", "harness images/s", "harness / bare", "against given back"]
    table = [(*row, row[2] / given_back[2]) for row, given_back in zip(rows, before, strict=True)]
    print(tabulate(table, headers, tablefmt="github", floatfmt=".3f"))


def measure(name: str, device_name: str) -> list[tuple[str, float, float, float]]:
    """Rows of the table."""
    from cxrzoo.data.budget import Ranking
    from cxrzoo.data.store import prepare
    from cxrzoo.data.table import open_benchmark
    from cxrzoo.device import pick
    from cxrzoo.evaluation.features import batch_size, embed
    from cxrzoo.evaluation.finetune import _Trainer
    from cxrzoo.evaluation.protocol import FinetuneV1
    from cxrzoo.zoo.encoder import load

    device = pick(device_name)
    encoder = load(name).to(device, memory_format=torch.channels_last)
    size = encoder.card.input.size_px
    prepared = prepare(open_benchmark("phantom").limited(400), size, "bilinear")
    pixels = prepared.store[np.arange(EMBED_IMAGES) % len(prepared.store)]
    batch = batch_size(device)
    x = torch.randn(batch, 3, size, size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)

    def bare_embed() -> None:
        with torch.inference_mode():
            for _ in range(EMBED_IMAGES // batch):
                encoder.backbone(x)

    protocol = FinetuneV1()
    trainer = _Trainer(encoder, prepared, protocol, TRAIN_STEPS, 0, device)
    budget = Ranking(prepared.table, 0).budget(200)
    labels = torch.from_numpy(prepared.table.labels[budget.rows])
    train_images = TRAIN_STEPS * protocol.batch_size
    pairs = [
        ("features", EMBED_IMAGES, bare_embed, lambda: embed(encoder, pixels, device)),
        (
            "fine-tuning",
            train_images,
            bare_training(encoder.backbone, protocol.batch_size, size, device),
            lambda: trainer.train(budget.rows, labels, 1e-4),
        ),
    ]
    return [(label, *compare(count, bare, ours, device)) for label, count, bare, ours in pairs]


def bare_training(
    backbone: torch.nn.Module, batch: int, size: int, device: torch.device
) -> Callable[[], None]:
    """The same number of AdamW steps on one synthetic batch, with a linear head."""
    x = torch.randn(batch, 3, size, size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.zeros(batch, 5, device=device)

    def run() -> None:
        model = torch.nn.Sequential(
            copy.deepcopy(backbone), torch.nn.Linear(backbone.num_features, 5, device=device)
        ).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for _ in range(TRAIN_STEPS):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(x)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def compare(
    count: int, bare: Callable[[], object], ours: Callable[[], object], device: torch.device
) -> tuple[float, float, float]:
    """Images a second of both, and the median of their ratio over alternating rounds."""
    bare()
    ours()
    times = [(timed(bare, device), timed(ours, device)) for _ in range(ROUNDS)]
    bare_seconds = statistics.median(t[0] for t in times)
    our_seconds = statistics.median(t[1] for t in times)
    return count / bare_seconds, count / our_seconds, statistics.median(a / b for a, b in times)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``work``, device included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
