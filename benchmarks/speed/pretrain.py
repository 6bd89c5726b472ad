"""Throughput of the MoCo step: cxrzoo's training, lightly's tutorial loop, and the bare passes.

    python benchmarks/speed/pretrain.py [--pool cxr-pool] [--data-root DIR] [--size 128]
        [--batch 64] [--steps 30] [--rounds 5] [--workers 2] [--threads 2] [--device cpu]

All sides have the same images, network, head, queue, optimiser and views. Ours is ``train``,
timed by its own log; the checkpoint of every few minutes is added by its share. lightly's loop
is that of its MoCo v2 tutorial over image files as large as the pool's, with or without worker
processes, whichever a first try finds quicker: as it is, with channels_last, and with grey
images too, which become three channels after the views. The bare passes are forward, the key's
forward and backward on ready-made random views. All alternate for several rounds.

--pool is a folder or a benchmark; without it and without data, images are generated.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from lightning.fabric import Fabric
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader, RandomSampler
from views import TwoViews, smooth_images

from cxrzoo import images
from cxrzoo.data.pool import open_pool
from cxrzoo.errors import DataError
from cxrzoo.pretrain import collapse
from cxrzoo.pretrain.chain import fabric_for
from cxrzoo.pretrain.methods import MoCo
from cxrzoo.pretrain.recipe import Optimiser, Settings, Views
from cxrzoo.pretrain.train import CHECKPOINT_SECONDS, DIAGNOSE_EVERY, LOG, Run, train
from cxrzoo.pretrain.views import augment
from cxrzoo.zoo.encoder import load
from cxrzoo.zoo.registry import find
from cxrzoo.zoo.weights import create_backbone

ENCODER = "supervised-imagenet"
HEAD = {"hidden_dim": 1280, "output_dim": 128, "queue_size": 8192, "momentum": 0.99}
OPTIMISER = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4}
VIEWS = {"crop_scale": (0.3, 1.0), "rotation_deg": 10.0, "brightness": 0.4, "contrast": 0.4}
STORE = 1.25  # sides of stored images in those of views
WARM = 4  # first steps, which are not counted
IMAGES = 2048  # at most, of the pool
REPEATS = 10  # of each piece of the breakdown
PEERS = (
    ("lightly", torch.contiguous_format, "RGB"),
    ("lightly, channels_last", torch.channels_last, "RGB"),
    ("lightly, channels_last, grey", torch.channels_last, "L"),
)
ASKED = {"bare passes": 0.85, "lightly": 1.5}


class Case(NamedTuple):
    """What every side is given."""

    run: Run
    backbone: torch.nn.Module
    files: list[Path]
    fabric: Fabric
    steps: int  # counted ones

    def method(self) -> MoCo:
        settings = MoCo.Settings.model_validate(HEAD)
        return MoCo(copy.deepcopy(self.backbone), settings, steps=WARM + self.steps).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", help="default: cxr-pool, or generated images without data")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("CXRZOO_DATA"))
    parser.add_argument("--device", default="cpu")
    numbers = {"size": 128, "batch": 64, "steps": 30, "rounds": 5, "workers": 2, "threads": 2}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        case = made_case(arguments, Path(folder))
        sides: dict[str, Callable[[], float]] = {"cxrzoo": partial(ours, case)}
        for label, *options in PEERS:
            tried = {n: lightly(case, n, *options) for n in {0, arguments.workers}}
            best = min(tried, key=lambda n: tried[n])
            sides[f"{label}, {best} workers"] = partial(lightly, case, best, *options)
        sides["bare passes"] = partial(bare, case)
        rounds = []
        for number in range(arguments.rounds):
            order = list(sides)[:: -1 if number % 2 else 1]
            rounds.append({label: sides[label]() for label in order})
        report({label: [times[label] for times in rounds] for label in sides}, arguments.batch)
        breakdown(case, *(median(t[side] for t in rounds) for side in ("cxrzoo", "bare passes")))


def made_case(arguments: argparse.Namespace, folder: Path) -> Case:
    size, batch, store_px = arguments.size, arguments.batch, round(STORE * arguments.size)
    settings = Settings(
        images_seen=(WARM + arguments.steps) * batch,
        batch_size=batch,
        optimiser=Optimiser.model_validate(OPTIMISER),
        views=Views.model_validate({"size_px": size, "jitter_probability": 0.8, **VIEWS}),
        store_px=store_px,
        method=HEAD,
    )
    card, _ = find(ENCODER)
    backbone = load(ENCODER).backbone if card.has_weights else create_backbone(card.arch)
    source, greys = grey_images(arguments)
    for number, grey in enumerate(greys):
        Image.fromarray(grey).save(folder / f"{number}.jpg", quality=95)
    np.save(folder / "store.npy", np.stack([images.fit(grey, store_px) for grey in greys]))
    pixels = np.load(folder / "store.npy", mmap_mode="r")
    fabric, sides = fabric_for(arguments.device), [max(grey.shape) for grey in greys]
    print(f"{len(greys)} images of {source}, {min(sides)} to {max(sides)} px, kept at {store_px};")
    print(f"{card.arch}, {size} px, batches of {batch}, {arguments.threads} threads")
    run = Run("speed", pixels, settings, card.input)
    return Case(run, backbone, sorted(folder.glob("*.jpg")), fabric, arguments.steps)


def grey_images(arguments: argparse.Namespace) -> tuple[str, list[np.ndarray]]:
    """Where the (H, W) uint8 images are from, and they."""
    try:
        pool = open_pool(arguments.pool or "cxr-pool", arguments.data_root)
    except DataError:
        if arguments.pool:
            raise
        return "random patches", list(smooth_images((256, 256)))
    chosen = np.random.default_rng(0).permutation(len(pool))[:IMAGES].tolist()
    return pool.name, [pool.images.grey(index) for index in chosen]


def ours(case: Case) -> float:
    """Seconds of a step of ``train``."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        outcome = train(case.run, case.method(), Path(folder), case.fabric)
        with (Path(folder) / LOG).open(newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    checkpoint = outcome.seconds - seconds[-1]  # written behind the last row
    return (seconds[-1] - seconds[WARM - 1]) / case.steps * (1 + checkpoint / CHECKPOINT_SECONDS)


class FileViews(TwoViews):
    """lightly's two views of one image file after another, as LightlyDataset reads them."""

    def __init__(self, case: Case, mode: str) -> None:
        super().__init__(np.empty(0), case.run.settings.views)
        self.files, self.mode = case.files, mode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        with Image.open(self.files[index]) as image:
            two: list[torch.Tensor] = self.transform(image.convert(self.mode))
        return two


def lightly(case: Case, workers: int, order: torch.memory_format, mode: str) -> float:
    """Seconds of a step of the loop of docs.lightly.ai/self-supervised-learning/examples/moco."""
    total = WARM + case.steps
    model = case.method().to(case.fabric.device, memory_format=order)
    optimiser = optimiser_of(model)
    dataset = FileViews(case, mode)
    # one epoch, so long that workers are still busy at the end
    sampler = RandomSampler(dataset, replacement=True, num_samples=2**20)
    batch = case.run.settings.batch_size
    loader = DataLoader(dataset, batch, sampler=sampler, num_workers=workers)

    def steps() -> Iterator[None]:
        for step, views in enumerate(loader):
            momentum = cosine_schedule(step, total, model.settings.momentum, 1)
            update_momentum(model.backbone, model.key_backbone, m=momentum)
            update_momentum(model.head, model.key_head, m=momentum)
            left, right = (normalised(view, case).to(memory_format=order) for view in views)
            with case.fabric.autocast():
                query = model.head(model.backbone(left))
                with torch.no_grad():
                    key = model.key_head(model.key_backbone(right))
                loss = model.loss(query, key)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            yield

    return per_step(steps(), case)


def bare(case: Case) -> float:
    """Seconds of the method's forward and backward passes."""
    method, two = case.fabric.setup_module(case.method()), random_views(case)

    def step(_: int) -> None:
        method.zero_grad(set_to_none=True)
        case.fabric.backward(method(two)["loss"])

    return per_step(map(step, itertools.count()), case)


def optimiser_of(method: MoCo) -> torch.optim.Optimizer:
    groups = method.decay_groups(float(OPTIMISER["weight_decay"]))
    return torch.optim.AdamW(groups, lr=float(OPTIMISER["learning_rate"]))


def normalised(view: torch.Tensor, case: Case) -> torch.Tensor:
    """(N, 1 or C, S, S) in [0, 1] to (N, C, S, S) on the device, as the encoder takes it."""
    contract, device = case.run.contract, case.fabric.device
    (low, high), pair = contract.range, torch.tensor([contract.mean, contract.std], device=device)
    mean, std = pair.view(2, 1, -1, 1, 1)
    return (view.to(device) * (high - low) + low - mean) / std


def random_views(case: Case) -> list[torch.Tensor]:
    side = case.run.settings.views.size_px
    shape = (case.run.settings.batch_size, case.run.contract.channels, side, side)
    views = [torch.randn(shape, device=case.fabric.device) for _ in range(2)]
    return [view.contiguous(memory_format=torch.channels_last) for view in views]


def per_step(steps: Iterator[None], case: Case) -> float:
    """Seconds of a counted step."""
    list(itertools.islice(steps, WARM))
    return timed(lambda: list(itertools.islice(steps, case.steps)), case) / case.steps


def timed(work: Callable[[], object], case: Case) -> float:
    wait = torch.cuda.synchronize if case.fabric.device.type == "cuda" else int
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def report(seconds: dict[str, list[float]], batch: int) -> None:
    """Table of all sides, from the seconds of a step in every round."""
    rows = []
    for label, own in seconds.items():
        speeds = [batch / s for s in own]
        ratios = [s / mine for s, mine in zip(own, seconds["cxrzoo"], strict=True)]
        spreads = [(median(v), f"{min(v):.3g} to {max(v):.3g}") for v in (speeds, ratios)]
        rows.append((label, *spreads[0], *spreads[1], ASKED.get(label.split(",")[0])))
    headers = ["", "images/s", "range", "ours / it", "range", "asked"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", ".1f", "", ".2f", "", "")))


def breakdown(case: Case, step: float, passes: float) -> None:
    """Where our step goes, by its pieces timed one by one."""
    run, device = case.run, case.fabric.device
    method = case.method().to(device)
    optimiser = optimiser_of(method)
    result = method(random_views(case))
    result["loss"].backward()
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def read() -> torch.Tensor:
        chosen = np.sort(rng.integers(0, len(run.pixels), run.settings.batch_size))
        return torch.from_numpy(run.pixels[chosen]).to(device)

    def two_views() -> None:
        for _ in range(2):
            view = normalised(augment(pixels, run.settings.views, generator), case)
            view.contiguous(memory_format=torch.channels_last)

    pixels = read()
    rows = [("forward and backward passes", passes)]
    for label, work, every in (
        ("two views", two_views, 1),
        ("reading pixels", read, 1),
        ("optimiser", optimiser.step, 1),
        ("momentum update", lambda: method.after_step(0), 1),
        ("diagnosis, by its share", lambda: collapse.diagnose(result["features"]), DIAGNOSE_EVERY),
    ):
        work()
        rows.append((label, median(timed(work, case) for _ in range(REPEATS)) / every))
    rows.append(("rest: log, bar, checkpoints, cold caches", step - sum(s for _, s in rows)))
    rows.append(("whole step", step))
    table = [(label, 1e3 * seconds, 100 * seconds / step) for label, seconds in rows]
    print()
    print(tabulate(table, ["", "ms a step", "%"], tablefmt="github", floatfmt=("", ".2f", ".1f")))


if __name__ == "__main__":
    main()
