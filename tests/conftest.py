"""Every test gets its own cache, and none may reach the Hub."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# huggingface_hub and datasets read these when they are imported, so before any test module is.
_HF_HOME = tempfile.TemporaryDirectory(prefix="cxrzoo-hf-")
os.environ["HF_HOME"] = _HF_HOME.name
os.environ["HF_DATASETS_CACHE"] = f"{_HF_HOME.name}/datasets"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
# small tensors: more threads only wait for each other, above all on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("CXRZOO_DATA", raising=False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real radiographs beside the checkout; they are not part of the project."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no real images here: ../shared/data does not exist")
    return path
