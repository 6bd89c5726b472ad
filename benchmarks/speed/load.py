"""How long ``cxrzoo.load`` takes for an encoder that is at hand, and for one in the Hub's cache.

    python benchmarks/speed/load.py

Medians of ten after imports, in one process, with the share of each step; the file is in the
system's cache. The Hub's cache is laid out as its client does it, and no network is used.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COMMIT = "0" * 39 + "1"
REPO = "cxrzoo/supervised-imagenet"


def lay_out(home: Path, card: Path) -> None:
    """A snapshot of the card directory in the cache of huggingface_hub."""
    repo = home / "hub" / f"models--{REPO.replace('/', '--')}"
    (repo / "blobs").mkdir(parents=True)
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in card.iterdir():
        content = path.read_bytes()
        large = path.suffix == ".safetensors"
        git = f"blob {len(content)}\0".encode() + content
        name = hashlib.sha256(content) if large else hashlib.sha1(git)
        (repo / "blobs" / name.hexdigest()).write_bytes(content)
        (snapshot / path.name).symlink_to(Path("../../blobs") / name.hexdigest())


def median_ms(action: Callable[[], object]) -> float:
    """Median of ten, in milliseconds."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    from tabulate import tabulate

    with tempfile.TemporaryDirectory() as home:
        os.environ["HF_HOME"] = home  # read when huggingface_hub is imported
        os.environ["HF_HUB_OFFLINE"] = "1"
        import cxrzoo
        from cxrzoo import resources
        from cxrzoo.zoo import encoder as zoo
        from cxrzoo.zoo.weights import create_backbone, load_strictly, read_safetensors

        directory = resources.MODEL_CARDS / "supervised-imagenet"
        lay_out(Path(home), directory)
        weights = directory / "model.safetensors"
        content = weights.read_bytes()
        state = read_safetensors(content, "")
        loaded = cxrzoo.load("supervised-imagenet")
        backbone = create_backbone(loaded.card.arch)
        steps = {
            "load, at hand": lambda: cxrzoo.load("supervised-imagenet"),
            "load, in the Hub's cache": lambda: cxrzoo.load(f"hf:{REPO}@{COMMIT}"),
            "  read the file": weights.read_bytes,
            "  sha256": lambda: hashlib.sha256(content).hexdigest(),
            "  parse": lambda: read_safetensors(content, ""),
            "  build the network": lambda: create_backbone(loaded.card.arch),
            "  load strictly": lambda: load_strictly(backbone, state, ""),
            "  golden output": lambda: zoo.golden_output(loaded),
        }
        rows = [(name, median_ms(step)) for name, step in steps.items()]
    whole = rows[0][1]
    table = [(name, f"{ms:.1f}", f"{100 * ms / whole:.0f} %") for name, ms in rows]
    print(tabulate(table, ["step", "ms", "of load"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
