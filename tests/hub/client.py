"""The real client in a process of its own: it reads its settings when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.hub.server import Hub

# Retries wait for seconds, which changes nothing but the time a test takes.
NO_WAITING = "import time; time.sleep = lambda _: None\n"


def run_client(
    program: str,
    hub: Hub,
    home: Path,
    *,
    token: str | None = None,
    xet: bool = False,
    offline: bool = False,
    env: dict[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """``python -c program`` against this hub, with its cache in ``home`` and no other settings.

    With ``check`` a failure shows what the program wrote to stderr.
    """
    settings = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": str(int(not xet)),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING_FACE_")) and not name.lower().endswith("_proxy")
    }
    if token is not None:
        settings["HF_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **settings, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"the client failed with {done.returncode}:\n{done.stderr}")
    return done
