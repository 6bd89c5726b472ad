"""Several processes: ``torchrun`` of the command, against one process with the same batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cxrzoo

NAME = "supervised-imagenet-then-moco-cxr"


@pytest.fixture
def root(tmp_path) -> Path:
    draws = np.random.default_rng(0)
    (tmp_path / "data" / "cxr-pool").mkdir(parents=True)
    for n in range(24):
        blobs = Image.fromarray(draws.integers(0, 256, (6, 6), dtype=np.uint8))
        blobs.resize((64, 64)).save(tmp_path / "data" / "cxr-pool" / f"{n:02d}.png")
    return tmp_path / "data"


def run(root: Path, output: Path, *start: str) -> list[float]:
    """Losses of four steps, so small that they do not multiply what float32 rounds differently:
    larger ones differ as much between one thread and two."""
    settings = ("batch_size=16", "images_seen=64", "views.size_px=64", "store_px=64", "min_px=0",
                "method.queue_size=32", "batchnorm=train", "frozen_stages=0",
                "optimiser.warmup_steps=2", "optimiser.learning_rate=0.00001")  # fmt: skip
    changes = [word for setting in settings for word in ("--set", setting)]
    words = ["-m", "cxrzoo", "pretrain", NAME, "--data-root", root, "-o", output,
             "--device", "cpu", "--watch", "none", *changes]  # fmt: skip
    made = subprocess.run(
        [*start, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert made.returncode == 0, made.stderr[-3000:]
    assert made.stdout.count("sha256") == 1
    with (output / "training" / NAME / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_train_as_one_with_the_same_batch(root, tmp_path):
    """BatchNorm in training mode, so that its statistics have to be those of both."""
    one = run(root, tmp_path / "one", sys.executable)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    two = run(root, tmp_path / "two", *torchrun, "--nproc-per-node", "2")
    assert len(one) == 4
    np.testing.assert_allclose(two, one, rtol=1e-3)
    first, second = (cxrzoo.load(str(tmp_path / d / NAME)) for d in ("one", "two"))
    assert "on 2 x cpu" in second.card.provenance
    for name, value in first.backbone.state_dict().items():
        other = second.backbone.state_dict()[name].double().numpy()
        np.testing.assert_allclose(other, value.double().numpy(), rtol=2e-3, atol=2e-3)
