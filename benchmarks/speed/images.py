"""Images a second from the store against torchxrayvision's own datasets, in one run.

    python benchmarks/speed/images.py --data-root DIR [--workers 2]

Both sides deliver 224 px images of nih14 and nlmtb: torchxrayvision through its dataset class
with XRayCenterCrop and XRayResizer(224) in a DataLoader, the store as normalised batches. The
store is built in a fresh cache, so that decoding is really timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

SIZE_PX = 224
BATCH = 64
ROUNDS = 3  # of building and of the peer, in turn; the medians count
EPOCHS = 5  # an epoch from the store is too short to be timed once; the median counts
NAMES = ("nih14", "nlmtb")


def xrv_epoch(root: Path, workers: int) -> tuple[int, float]:
    """Images and seconds of one epoch over torchxrayvision's datasets."""
    import torchxrayvision as xrv
    from torchvision import transforms

    views = transforms.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(SIZE_PX)])
    datasets = [
        xrv.datasets.NIH_Dataset(
            str(root / "nih14/images"),
            csvpath=str(root / "nih14/Data_Entry_subset.csv"),
            views=["PA", "AP"],
            unique_patients=False,
            transform=views,
        ),
        *(
            xrv.datasets.NLMTB_Dataset(str(root / "nlmtb" / part), views=["PA"], transform=views)
            for part in ("ChinaSet_AllFiles", "MontgomerySet")
        ),
    ]
    images, start = 0, time.perf_counter()
    for dataset in datasets:
        loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=workers)
        images += sum(len(batch["img"]) for batch in loader)
    return images, time.perf_counter() - start


def store_build(root: Path, workers: int) -> tuple[list, int, float]:
    """Prepared benchmarks, images, and seconds to decode them into a fresh store."""
    from cxrzoo.data.store import prepare
    from cxrzoo.data.table import open_benchmark

    tables = [open_benchmark(name, root) for name in NAMES]
    start = time.perf_counter()
    prepared = [prepare(table, SIZE_PX, "bilinear", workers=workers) for table in tables]
    return prepared, sum(map(len, tables)), time.perf_counter() - start


def store_epoch(prepared: list) -> tuple[int, float]:
    """Images and seconds of one epoch of shuffled float batches in [-1, 1] from the store."""
    times = []
    for _ in range(EPOCHS):
        images, start = 0, time.perf_counter()
        for one in prepared:
            order = np.random.default_rng(0).permutation(len(one.table))
            for at in range(0, len(order), BATCH):
                batch = torch.from_numpy(one.pixels(order[at : at + BATCH]))
                images += len(batch.float().sub_(127.5).div_(127.5))
        times.append(time.perf_counter() - start)
    return images, statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    peers, builds = [], []
    with tempfile.TemporaryDirectory() as cache:
        for number in range(ROUNDS):
            os.environ["CXRZOO_CACHE"] = f"{cache}/{number}"
            prepared, count, seconds = store_build(arguments.data_root, arguments.workers)
            builds.append(seconds)
            theirs, seconds = xrv_epoch(arguments.data_root, arguments.workers)
            peers.append(seconds)
            assert count == theirs, (count, theirs)
        count, epoch = store_epoch(prepared)
    peer, build = statistics.median(peers), statistics.median(builds)
    rows = [
        ("torchxrayvision epoch", peer, count / peer, 1.0),
        ("store, building it", build, count / build, peer / build),
        ("store, an epoch from it", epoch, count / epoch, peer / epoch),
    ]
    print(f"{count} images of {' and '.join(NAMES)} at {SIZE_PX} px, {arguments.workers} workers")
    print(tabulate(rows, ["", "seconds", "images/s", "ratio"], tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
