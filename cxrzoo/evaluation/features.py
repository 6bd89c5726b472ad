"""Frozen features, computed once for all budgets and seeds and kept on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cxrzoo import arrays, resources
from cxrzoo.data.store import Prepared
from cxrzoo.files import safe_name, sha256_of_json
from cxrzoo.zoo.encoder import Encoder

PRECISION = "float32"
_BATCH = {"cuda": 256}
_BATCH_ELSEWHERE = 32
"""A CPU is fastest while a batch's activations fit its caches: at 128 px, 32 images embed a third
faster than 64 here."""
_CHUNK = 512
"""A multiple of the batch, so that a resumed run cuts the same batches and gets the same bits."""


def extract(encoder: Encoder, prepared: Prepared, device: torch.device) -> np.ndarray:
    """Features of every image of a store.

    The cache's key holds weights, architecture, input contract, precision and pixels; not the
    split or the labels, which do not change a feature.

    Args:
        encoder: on any device; it is moved to ``device``.
        prepared: decoded images at the encoder's size.
        device: where to compute.

    Returns:
        (N, D) float32, one row for each row of ``prepared.table``.
    """
    identity: list[Any] = [
        encoder.weights_sha256,
        encoder.card.arch,
        encoder.card.input.model_dump(mode="json"),
        PRECISION,
        prepared.pixels_sha256,
    ]
    name = safe_name(encoder.card.name)
    finished = arrays.open_or_build(
        resources.cache_dir() / "features" / f"{name}-{sha256_of_json(identity)[:24]}",
        shape=(len(prepared.store), encoder.num_features),
        dtype="float32",
        chunk=_CHUNK,
        fill=_embedder(encoder, prepared.store, device),
        label=f"embed {prepared.table.benchmark.name} with {encoder.card.name}",
    )
    rows: np.ndarray = finished.data[prepared.positions]
    return rows


def batch_size(device: torch.device) -> int:
    """Images embedded at a time on ``device``."""
    return _BATCH.get(device.type, _BATCH_ELSEWHERE)


def embed(encoder: Encoder, pixels: np.ndarray, device: torch.device) -> np.ndarray:
    """(n, S, S) uint8 grey to (n, D) float32, in batches; the encoder is on ``device``."""
    size = batch_size(device)
    out = np.empty((len(pixels), encoder.num_features), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(pixels), size):
            batch = torch.from_numpy(np.array(pixels[start : start + size]))
            x = encoder.normalize(batch.to(device, non_blocking=True))
            x = x.contiguous(memory_format=torch.channels_last)
            out[start : start + size] = encoder(x).float().cpu().numpy()
    return out


def _embedder(encoder: Encoder, store: np.ndarray, device: torch.device) -> arrays.Fill:
    def fill(start: int, stop: int) -> tuple[np.ndarray, dict[str, str]]:
        encoder.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return embed(encoder, store[start:stop], device), {}

    return fill
