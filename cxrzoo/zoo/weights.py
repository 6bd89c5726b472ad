"""Backbones and their tensors: built, hashed, and loaded strictly from safetensors."""

from __future__ import annotations

import hashlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialise
from torch import Tensor, nn

from cxrzoo.errors import WeightsError


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
    problems += [f"unexpected {k}" for k in state if k not in wanted]
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


def read_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file; anything else, a pickle above all, is refused unread."""
    if looks_like_pickle(content):
        raise WeightsError(
            f"{where} is a pickle, not a safetensors file, and is not opened; "
            "`cxrzoo convert` turns trusted checkpoints into safetensors"
        )
    try:
        return parse_safetensors(content)
    except SafetensorError as error:
        raise WeightsError(f"{where} is not a safetensors file, or damaged ({error})") from None


def looks_like_pickle(content: bytes) -> bool:
    """A pickle of protocol 2 or later, or the zip archive that torch.save makes."""
    return content[:1] == b"\x80" or content[:2] == b"PK"
