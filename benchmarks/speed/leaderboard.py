"""A leaderboard of 30,000 records: seconds to build and to open, sort and filter, and megabytes.

    python benchmarks/speed/leaderboard.py [--encoders 100] [--benchmarks 15] [--seeds 5] [--keep D]

Every record is sealed and read back as any other: 15 benchmarks, of which every third has 14
labels and the others one or five; budgets 20, 100, 1000 and full; scores are made up. There are no
predictions, so that intervals are over seeds. The page is opened from disk in headless Chromium
at 1280 x 800; a sort is timed from the click until the next frame has been drawn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright
from tabulate import tabulate

from cxrzoo.evaluation import record
from cxrzoo.report.grid import measure
from cxrzoo.report.page import build

BUDGETS: tuple[int | str, ...] = (20, 100, 1000, "full")
FULL = 4000
METHODS = ("moco", "simclr", "byol", "swav", "barlow", "vicreg", "dino", "supervised")


def records(encoders: int, benchmarks: int, seeds: int) -> Iterator[record.Record]:
    """Sealed records with made-up scores: better encoders first, more labels are better."""
    rng = np.random.default_rng(0)
    for e in range(encoders):
        for b in range(benchmarks):
            n_labels = (14, 1, 5)[b % 3]
            for i, budget in enumerate(BUDGETS):
                for seed in range(seeds):
                    skill = 0.6 + 0.05 * i + 0.15 * (1 - e / encoders)
                    scores = np.clip(rng.normal(skill, 0.02, n_labels), 0, 1)
                    yield _record(e, b, budget, seed, scores)


def _record(e: int, b: int, budget: int | str, seed: int, scores: np.ndarray) -> record.Record:
    names = tuple(f"Finding {k}" for k in range(len(scores)))
    n_pos = {name: 40 + k for k, name in enumerate(names)}
    labels = {
        name: {
            "status": "ok",
            "n_pos": n_pos[name],
            "n_neg": 900 - n_pos[name],
            "auroc": float(score),
            "auprc": float(score) / 2,
        }
        for name, score in zip(names, scores, strict=True)
    }
    macro = {"auroc": float(scores.mean()), "auprc": float(scores.mean()) / 2}
    test = {"labels": labels, "macro": macro, "n_defined": len(names), "n_images": 900}
    state = ("clean", "clean", "unknown", "exposed")[(e + b) % 4]
    return record.seal(
        record.Spec.model_validate(
            {
                "encoder": {
                    "name": f"{METHODS[e % len(METHODS)]}-encoder-{e:03d}",
                    "arch": "resnet50",
                    "weights_sha256": f"{e:064x}",
                    "input": {"size_px": 224, "mean": [0.5] * 3, "std": [0.25] * 3},
                },
                "benchmark": {
                    "name": f"benchmark-{b:02d}",
                    "version": 1,
                    "labels": names,
                    "label_policy": "mask",
                    "manifest_sha256": f"{b:064x}",
                    "pixels_sha256": f"{b + 100:064x}",
                },
                "budget": {
                    "size": budget,
                    "n": FULL if budget == "full" else budget,
                    "subset_sha256": f"{seed:064x}",
                },
                "protocol": {
                    "name": "linear-v1",
                    "strengths": [10.0 ** (k / 2) for k in range(-10, 1)],
                    "folds": 5,
                },
                "seed": seed,
                "precision": "float32",
            }
        ),
        {
            "tier": ("lite", "resnet50")[e % 2],
            "strategy": f"{METHODS[e % len(METHODS)]} on cxr (pool {e})",
            "license": "apache-2.0",
            "exposure": {"state": state, "reason": f"pool {e} and benchmark {b}: {state}"},
            "notes": [f"made-up scores of benchmark {b}"],
        },
        {
            "status": "ok",
            "chosen": {"strength": 0.01},
            "validation": {"log_loss": 0.5},
            "search": {"trials": 11, "folds": 5, "curve": [0.5] * 11},
            "tests": {"test": test},
            "budget_labels": {name: {"n_pos": n, "n_neg": 900 - n} for name, n in n_pos.items()},
            "predictions_sha256": "0" * 64,
        },
        {"seconds": 1.5, "peak_memory_mb": 1200.0},
        {"cxrzoo": "0.1.0", "python": "3.11.7", "torch": "2.6.0", "device": "cpu"},
    )


def _write(made: record.Record, directory: Path) -> None:
    """As `record.write`, without predictions and without waiting for the disk."""
    path = directory / made.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")


def built(runs: Path, site: Path) -> list[list[object]]:
    """The time of each step of ``cxrzoo report``, and what lies on disk."""
    times = [time.perf_counter()]
    found = record.read_records(runs)
    times.append(time.perf_counter())
    grid = measure(found)
    times.append(time.perf_counter())
    build(grid, site, [runs])
    times.append(time.perf_counter())
    files = [path for path in site.rglob("*") if path.is_file()]
    return [
        ["records", len(found)],
        ["cells", len(grid.cells)],
        ["read and check the records, s", times[1] - times[0]],
        ["measure the grid, s", times[2] - times[1]],
        ["write the site, s", times[3] - times[2]],
        ["all, s", times[3] - times[0]],
        ["site, MB", sum(path.stat().st_size for path in files) / 1e6],
        ["index.html, MB", (site / "index.html").stat().st_size / 1e6],
        ["largest encoder page, MB", _largest(site / "encoders") / 1e6],
        ["records as zip files, MB", sum(p.stat().st_size for p in site.rglob("*.zip")) / 1e6],
    ]


def _largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.iterdir())


UNTIL_DRAWN = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))"


def browsed(site: Path) -> list[list[object]]:
    """Seconds in Chromium, from the act until the next frame has been drawn."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        url = (site / "index.html").as_uri()
        page.goto(url)  # once unmeasured: the first page of a process starts the renderer
        rows: list[list[object]] = []
        for view in ("", "#budget=all"):
            page.goto("about:blank")
            opened = _seconds(page, lambda view=view: page.goto(url + view))
            name = "all budgets" if view else "one budget"
            cells = page.locator("#board tbody td").count()
            rows.append([f"open, {name}: {cells} cells", opened])
            sort = page.locator("#board thead tr").last.locator("button")
            for i in (0, sort.count() - 1):
                button = sort.nth(i)
                took = _seconds(page, lambda button=button: button.evaluate("b => b.click()"))
                rows.append([f"sort, {name}, column {i}", took])
            took = _seconds(page, lambda: page.locator("#search").fill("moco"))
            rows.append([f"search, {name}", took])
        chromium.close()
    return rows


def _seconds(page: Page, act) -> float:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    act()
    page.evaluate(UNTIL_DRAWN)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", type=int, default=100)
    parser.add_argument("--benchmarks", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder to leave the records and the site in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        runs, site = folder / "runs", folder / "site"
        if not runs.exists():
            for made in records(arguments.encoders, arguments.benchmarks, arguments.seeds):
                _write(made, runs)
        rows = built(runs, site) + browsed(site)
    print(f"{os.cpu_count()} cores")
    print(tabulate(rows, floatfmt=".2f"))


if __name__ == "__main__":
    main()
