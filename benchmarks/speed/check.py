"""``cxrzoo data check`` on generated images: seconds and peak memory, and how they grow.

    python benchmarks/speed/check.py [--images 10000 --images 112120] [--size 224]

Smooth random fields with noise, as PNG, three images a patient, with one training image copied
into the test split and one re-encoded as JPEG: both must be found. Needs 40 kB of disk an image;
generating 112,120 of them takes a few minutes. Each check runs in a process of its own, first
with an empty cache, then again.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tabulate import tabulate


def generate(number: int, folder: Path, size_px: int) -> str:
    """Write image ``number``; returns its name below ``folder``."""
    draws = np.random.default_rng(number)
    field = draws.normal(size=(24, 24)).cumsum(0).cumsum(1)
    grey = (255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)
    smooth = Image.fromarray(grey).resize((size_px, size_px), Image.Resampling.BICUBIC)
    noise = draws.integers(-6, 7, (size_px, size_px), dtype=np.int16)
    pixels = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
    name = f"{number // 5000:03d}/{number:06d}.png"
    Image.fromarray(pixels).save(folder / name, compress_level=1)
    return name


def make_folder(folder: Path, count: int, size_px: int) -> None:
    """``count`` images, two of them copies of training images in the test split."""
    for number in range(0, count, 5000):
        (folder / f"{number // 5000:03d}").mkdir(parents=True)
    with Pool(os.cpu_count()) as pool:
        job = partial(generate, folder=folder, size_px=size_px)
        names = pool.map(job, range(count - 2), chunksize=500)
    rows = [
        [name, f"p{n // 3}", "train" if n // 3 % 4 else "test", n % 10 == 0]
        for n, name in enumerate(names)
    ]
    in_train = [row for row in rows if row[2] == "train"]
    (folder / "copy.png").write_bytes((folder / in_train[0][0]).read_bytes())
    Image.open(folder / in_train[-1][0]).save(folder / "again.jpg", quality=70)
    rows += [["copy.png", "copy", "test", False], ["again.jpg", "again", "test", False]]
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "patient_id", "split", "finding"])
        writer.writerows([*row[:3], int(row[3])] for row in rows)


def check(folder: Path, cache: Path) -> tuple[float, float, int]:
    """Seconds, peak MB and problems found of one run in a process of its own."""
    program = (
        "import resource, sys; from click.testing import CliRunner; from cxrzoo.cli import main;"
        "said = CliRunner().invoke(main, ['data', 'check', sys.argv[1], '--json']).stderr;"
        "print(said.count('show the same image'));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, f"imagefolder:{folder}"],
        env={**os.environ, "CXRZOO_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    copies, peak_mb = done.stdout.split()
    return seconds, float(peak_mb), int(copies)


@click.command()
@click.option("--images", "counts", multiple=True, type=int, default=(10_000, 112_120))
@click.option("--size", "size_px", default=224, show_default=True, help="Side in pixels.")
def main(counts: tuple[int, ...], size_px: int) -> None:
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            folder, cache = Path(place) / "images", Path(place) / "cache"
            make_folder(folder, count, size_px)
            for run in ("first", "second"):
                seconds, peak_mb, problems = check(folder, cache)
                rows.append([f"{count:,}", run, f"{seconds:.1f}", f"{peak_mb:,.0f}", problems])
    print(tabulate(rows, ["images", "run", "s", "peak MB", "copies found"], disable_numparse=True))


if __name__ == "__main__":
    main()
