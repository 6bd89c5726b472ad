"""Backbones and their tensors: built, hashed, and loaded strictly from safetensors."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialise
from torch import Tensor, nn

from cxrzoo.errors import WeightsError

_MAX_HEADER_BYTES = 10_000_000
"""Ten times that of the largest vision models; safetensors itself allows 100 MB."""
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
               "U8": 1, "BOOL": 1}  # fmt: skip


def create_backbone(arch: str, channels: int = 3, seed: int = 0) -> nn.Module:
    """A timm architecture without its classifier, with weights drawn from ``seed``.

    The global generator is left as it was. Raises WeightsError for an unknown architecture.
    """
    import timm  # two seconds, which a sweep with nothing to compute should not pay

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach CUDA's too
        try:
            return timm.create_model(arch, num_classes=0, in_chans=channels)
        except RuntimeError as error:
            raise WeightsError(f"timm cannot build architecture '{arch}': {error}") from None


def sha256_of_state(module: nn.Module) -> str:
    """sha256 of a module's state as safetensors would store it."""
    # cloned, because safetensors refuses tensors that share memory
    state = {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}
    return hashlib.sha256(serialise(state)).hexdigest()


def load_strictly(backbone: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load ``state`` as float32; every key and shape must match, else WeightsError lists them."""
    wanted = backbone.state_dict()
    problems = [f"missing {k}" for k in wanted if k not in state]
    problems += [f"unexpected {_printable(k)}" for k in state if k not in wanted]
    problems += [
        f"{k} has shape {tuple(v.shape)}, not {tuple(wanted[k].shape)}"
        for k, v in state.items()
        if k in wanted and v.shape != wanted[k].shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + (
            f"; and {len(problems) - 6} more" if problems[6:] else ""
        )
        raise WeightsError(f"{where} does not fit the architecture: {shown}")
    backbone.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True
    )


def _printable(name: str) -> str:
    """A tensor's name from elsewhere, without what a terminal would obey."""
    return name if name.isprintable() and len(name) < 200 else repr(name[:200])


def read_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file; anything else, a pickle above all, is refused unread."""
    if looks_like_pickle(content):
        raise WeightsError(
            f"{where} is a pickle, not a safetensors file, and is not opened; "
            "`cxrzoo convert` turns trusted checkpoints into safetensors"
        )
    try:
        check_header(content)
        return parse_safetensors(content)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise WeightsError(f"{where} is not a safetensors file, or damaged ({error})") from None


def check_header(content: bytes) -> None:
    """Read a safetensors header by itself, before anything is allocated for what it promises.

    Raises ValueError unless names are unique, types and shapes are plain, and the tensors' bytes
    follow each other without gap or overlap to the end of the file.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(_MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"it announces a header of {length:,} bytes in {len(content):,}")
    header = json.loads(content[8 : 8 + length], object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    header.pop("__metadata__", None)
    spans = sorted(_span(name, entry) for name, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise ValueError(f"tensor {name[:80]!r} begins at byte {start:,}, not {end:,}")
        end = stop
    if end != len(content) - 8 - length:
        raise ValueError(f"it holds {len(content) - 8 - length:,} bytes of tensors, not {end:,}")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    """Where a tensor's bytes begin and end, by a header entry that says what it must."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"tensor {name[:80]!r} has no dtype, shape and data_offsets") from None
    numbers = [*shape, start, stop] if isinstance(shape, list) else [None]
    plain = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES or not plain or len(numbers) > 10:
        said = f"dtype {dtype!r:.40}, shape {shape!r:.40}, bytes {start!r:.20}:{stop!r:.20}"
        raise ValueError(f"tensor {name[:80]!r} has {said}")
    if stop - start != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(
            f"tensor {name[:80]!r} of shape {shape} does not fill bytes {start}:{stop}"
        )
    return start, stop, name


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"its header names {max(names, key=names.count)[:80]!r} twice")
    return dict(pairs)


def looks_like_pickle(content: bytes) -> bool:
    """A pickle of protocol 2 or later, or the zip archive that torch.save makes.

    A safetensors file may begin like one, with the length of its header; the header itself,
    which begins at the ninth byte with a brace, tells them apart.
    """
    return content[8:9] != b"{" and (content[:1] == b"\x80" or content[:2] == b"PK")
