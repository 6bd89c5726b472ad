"""Which device to compute on, and what to say about it in a record."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import version
from typing import Any

import torch

from cxrzoo import __version__
from cxrzoo.errors import CxrzooError


def pick(name: str = "auto") -> torch.device:
    """``auto`` is CUDA, else Apple's MPS, else the CPU; anything else is torch's own name."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise CxrzooError(f"device '{name}' cannot be used here ({reason})") from None
    return device


def probe_device(device: torch.device) -> torch.device:
    """Where the linear probe is solved: in float64, which MPS does not have."""
    return torch.device("cpu") if device.type == "mps" else device


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware of a record: never a user, a host or a path."""
    packages = ("torch", "timm", "numpy", "pillow")
    cuda = device.type == "cuda"
    return {
        "cxrzoo": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "threads": torch.get_num_threads(),
    }


def peak_memory_mb(device: torch.device) -> float:
    """The largest memory in use so far: the device's on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)  # bytes there, KiB here
