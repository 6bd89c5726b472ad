"""Two views of every image: ``augment`` on a batch against lightly's transform in a DataLoader.

    python benchmarks/speed/views.py [--size 128] [--workers 2] [--threads 2]

Both sides have the same settings (MoCo v2's for colour; crop, rotation and light for grey
levels) and the same generated images, decoded and in memory. lightly works on one PIL image
after another in worker processes, ``augment`` in this process. Both alternate for several
rounds, and the medians count, so that a slow moment of the machine meets both.

Where other work wants the same cores, threads that wait for each other actively make
``augment`` several times slower: take ``--threads 1``, or set OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset

from cxrzoo.pretrain.recipe import Views
from cxrzoo.pretrain.views import augment

ROUNDS = 5
BATCH = 64
IMAGES = 16 * BATCH
COMMON = {"crop_scale": (0.2, 1.0), "brightness": 0.4, "contrast": 0.4, "jitter_probability": 0.8}
MOCO_V2 = COMMON | {
    "flip_probability": 0.5,
    "saturation": 0.4,
    "hue": 0.1,
    "grey_probability": 0.2,
    "blur_probability": 0.5,
}
RADIOGRAPHS = COMMON | {"rotation_deg": 10.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="of images and views, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="of lightly's DataLoader")
    parser.add_argument("--threads", type=int, default=2, help="of augment")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = arguments.size
    rows = [
        ("colour, MoCo v2", *compare((size, size, 3), MOCO_V2, arguments.workers)),
        ("grey, MoCo v2", *compare((size, size), MOCO_V2, arguments.workers)),
        ("grey, crop, rotation, light", *compare((size, size), RADIOGRAPHS, arguments.workers)),
    ]
    headers = [f"{size} px, two views", "lightly images/s", "augment images/s", "augment / lightly"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=(".0f", ".0f", ".0f", ".1f")))


def compare(
    shape: tuple[int, ...], settings: dict[str, Any], workers: int
) -> tuple[float, float, float]:
    """Images a second of both, and the median of their ratio over alternating rounds."""
    images = smooth_images(shape)
    views = Views(size_px=shape[0], **settings)
    loader = DataLoader(
        TwoViews(images, views),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )
    theirs, ours = (lambda: drain(loader)), (lambda: drain(batches(images, views)))
    theirs()
    ours()
    times = [(timed(theirs), timed(ours)) for _ in range(ROUNDS)]
    lightly, own = (IMAGES / statistics.median(column) for column in zip(*times, strict=True))
    return lightly, own, statistics.median(a / b for a, b in times)


def smooth_images(shape: tuple[int, ...]) -> np.ndarray:
    """(IMAGES, *shape) uint8: coarse random patches, enlarged."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (IMAGES, 8, 8, *shape[2:]), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize(shape[:2])) for c in coarse])


class TwoViews(Dataset[list[torch.Tensor]]):
    """lightly's two views of one image after another."""

    def __init__(self, images: np.ndarray, views: Views) -> None:
        from lightly.transforms import MoCoV2Transform

        self.images = [Image.fromarray(image) for image in images]
        scale = views.size_px / 224
        self.transform = MoCoV2Transform(
            input_size=views.size_px,
            cj_prob=views.jitter_probability,
            cj_bright=views.brightness,
            cj_contrast=views.contrast,
            cj_sat=views.saturation,
            cj_hue=views.hue,
            min_scale=views.crop_scale[0],
            random_gray_scale=views.grey_probability,
            gaussian_blur=views.blur_probability,
            sigmas=(views.blur_sigma[0] * scale, views.blur_sigma[1] * scale),
            hf_prob=views.flip_probability,
            rr_prob=float(views.rotation_deg > 0),
            rr_degrees=views.rotation_deg,
            normalize=None,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        two: list[torch.Tensor] = self.transform(self.images[index])
        return two


def batches(images: np.ndarray, views: Views) -> Iterator[list[torch.Tensor]]:
    """The same by ``augment``, from a random order of the same images."""
    generator = torch.Generator().manual_seed(0)
    for index in torch.randperm(len(images), generator=generator).split(BATCH):
        pixels = torch.from_numpy(images[index.numpy()])
        if pixels.ndim == 4:
            pixels = pixels.permute(0, 3, 1, 2)
        yield [augment(pixels, views, generator) for _ in range(2)]


def drain(source: Any) -> None:
    for left, right in source:
        if left.shape != right.shape:
            raise RuntimeError("two views of different shapes")


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
