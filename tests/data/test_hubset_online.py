"""Datasets read from a Hub: the real ``datasets`` and ``huggingface_hub`` against a local one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrzoo.data.hubset import HubSource, LabelColumn, fetch_command
from tests.data.helpers import png
from tests.hub.server import running_hub

CARD = b"""---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
---
"""
PROGRAM = """
import json, sys
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import CxrzooError
try:
    table = open_benchmark("kermany-hub")
    shape, positives = table.images.grey(3).shape, float(table.labels.sum())
    print(json.dumps([len(table), shape, positives, table.notes]))
except CxrzooError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> dict[str, bytes]:
    """A training and a test file: 20 and 10 images, every second one positive."""
    import datasets

    draws = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    files = {}
    for split, count in (("train", 20), ("test", 10)):
        images = [png(draws.integers(0, 256, (16, 12), dtype=np.uint8)) for _ in range(count)]
        rows = {
            "image": [{"bytes": i, "path": None} for i in images],
            "label": [0, 1] * (count // 2),
        }
        path = tmp_path_factory.mktemp("parquet") / f"{split}.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
        files[split] = path.read_bytes()
    return files


def opened(endpoint: str, home: Path, **changes: str):
    """What a fresh process gets: the clients read their settings when they are imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
                "HF_DATASETS_CACHE": str(home / "datasets"), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **settings, **changes},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_repository_is_read_at_one_commit_which_the_table_names(parquet, tmp_path):
    with running_hub() as hub:
        repo = hub.repo("datasets/hf-vision/chest-xray-pneumonia")
        files = {f"data/{split}-0.parquet": content for split, content in parquet.items()}
        sha = repo.commit({**files, "README.md": CARD})
        count, shape, positives, notes = opened(hub.endpoint, tmp_path)
        downloads = [r for r in hub.requests if "/resolve/" in r]
    assert (count, shape, positives) == (30, [16, 12], 15)
    assert f"read from the Hub, hf-vision/chest-xray-pneumonia@{sha[:12]}" in notes
    assert downloads
    assert all(f"/resolve/{sha}/" in request for request in downloads), "never a branch that moves"


def test_without_hub_or_folder_the_error_says_how_to_fetch(tmp_path):
    with running_hub() as hub:
        missing = opened(hub.endpoint, tmp_path)
    offline = opened(hub.endpoint, tmp_path, HF_HUB_OFFLINE="1")
    for message in (missing, offline):
        assert "the Hub does not give dataset hf-vision/chest-xray-pneumonia" in message
        assert "`hf download hf-vision/chest-xray-pneumonia --repo-type dataset " in message


def test_the_fetch_command_names_the_pinned_revision():
    source = HubSource(
        kind="datasets",
        folder="mine",
        repo_id="org/name",
        revision="refs/convert/parquet",
        image_column="image",
        label_columns={"a": LabelColumn(column="a", positive=(1,))},
    )
    assert fetch_command(source) == (
        "hf download org/name --repo-type dataset --revision refs/convert/parquet --local-dir mine"
    )
