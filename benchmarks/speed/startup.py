"""How long the command line takes to say anything, and a table of 112,120 rows to open.

    python benchmarks/speed/startup.py

The rows are NIH ChestX-ray14's, from the CSV that torchxrayvision carries; the images are
absent. The official lists do not come with that CSV, so the script writes its own, of the same
sizes and by patient; the split costs the same. Opening is timed in a fresh process, import of
torchxrayvision included and apart; the second process finds the rows in the cache.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

OPEN = """
import json, os, resource, sys, time
start = time.perf_counter()
if sys.argv[2] == "first time":
    import torchxrayvision  # later its rows come from the cache, and it is not needed
imported = time.perf_counter()
from cxrzoo.data.table import open_benchmark
from cxrzoo.data.budget import Ranking
table = open_benchmark("nih14", sys.argv[1], require_images=False)
opened = time.perf_counter()
for seed in range(5):
    ranking = Ranking(table, seed)
    for size in (50, 100, 250, 500, 1000, 2500, 10_000, "full"):
        ranking.budget(size)
drawn = time.perf_counter()
manifest = table.manifest_sha256
print(json.dumps({
    "rows": len(table),
    "import torchxrayvision": imported - start,
    "open, check and split": opened - imported,
    "draw 8 budgets x 5 seeds": drawn - opened,
    "hash the manifest": time.perf_counter() - drawn,
    "process": time.perf_counter() - start,
    "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
}))
"""


def command_seconds(*arguments: str) -> float:
    """Median seconds of five runs of ``cxrzoo`` with ``arguments``."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        program = str(Path(sys.executable).with_name("cxrzoo"))
        subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def write_lists(root: Path) -> None:
    """An empty image folder, and lists like the official ones."""
    import pandas as pd
    import torchxrayvision as xrv

    bundled = Path(xrv.datasets.datapath) / "Data_Entry_2017_v2020.csv.gz"
    frame = pd.read_csv(bundled)
    sizes = frame.groupby("Patient ID").size().sort_values(ascending=False)
    chosen, room = [], 25_596
    for patient, count in sizes.items():  # the last patients have one image, so it comes out even
        if count <= room:
            chosen.append(patient)
            room -= count
    in_test = frame["Patient ID"].isin(chosen)
    (root / "nih14/images").mkdir(parents=True)
    for name, part in (("train_val", frame[~in_test]), ("test", frame[in_test])):
        (root / f"nih14/{name}_list.txt").write_text("\n".join(part["Image Index"]))


def main() -> None:
    rows = [
        (f"cxrzoo {' '.join(arguments)}", command_seconds(*arguments))
        for arguments in (["--help"], ["list"], ["list", "benchmarks"])
    ]
    print(tabulate(rows, ["command", "seconds"], tablefmt="github", floatfmt=".2f"))
    with tempfile.TemporaryDirectory() as folder:
        write_lists(Path(folder))
        environment = {**os.environ, "CXRZOO_CACHE": f"{folder}/cache"}
        rows = []
        for state in ("first time", "again"):
            done = subprocess.run(
                [sys.executable, "-c", OPEN, folder, state],
                check=True, capture_output=True, text=True, env=environment,
            )  # fmt: skip
            rows.append({"112,120 rows": state, **json.loads(done.stdout)})
    print()
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
