"""Pretrained timm models as encoders: safetensors from the Hub or its cache, nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

from torch import nn

from cxrzoo.errors import UnknownNameError, WeightsError
from cxrzoo.zoo.card import Card, parse_card
from cxrzoo.zoo.weights import create_backbone, load_strictly, read_safetensors


def load_timm(name: str) -> tuple[Card, nn.Module, str]:
    """A pretrained timm model, ``timm:arch.tag``: card, backbone and sha256 of its file."""
    import timm

    model_name = name.removeprefix("timm:")
    known = timm.list_pretrained()
    if model_name not in known:
        tags = [m for m in known if m.split(".")[0] == model_name]
        raise UnknownNameError("timm model (arch.tag)", model_name, tags or known)
    config = cast(Any, timm.get_pretrained_cfg(model_name))
    path, revision = _fetch_timm(name, config.hf_hub_id)
    content = path.read_bytes()
    classifiers = [config.classifier] if isinstance(config.classifier, str) else config.classifier
    state = {
        key: value
        for key, value in read_safetensors(content, str(path)).items()
        if key.rsplit(".", 1)[0] not in (classifiers or ())
    }
    backbone = create_backbone(model_name.split(".")[0])
    load_strictly(backbone, state, str(path))
    card = parse_card(
        {
            "name": name,
            "arch": model_name.split(".")[0],
            "strategy": [{"method": "unknown", "data": None, "init": "unknown"}],
            "input": {
                "size_px": config.input_size[-1],
                "mean": config.mean,
                "std": config.std,
                "interpolation": config.interpolation,
            },
            "license": config.license,
            "provenance": f"hf:{config.hf_hub_id}@{revision}",
        },
        name,
    )
    return card, backbone, hashlib.sha256(content).hexdigest()


def _fetch_timm(name: str, repo_id: str | None) -> tuple[Path, str]:
    """The model's safetensors file from the Hub's cache or the Hub, and its commit."""
    from huggingface_hub import hf_hub_download

    if not repo_id:
        raise WeightsError(f"'{name}' is not on the Hub, so its weights cannot be fetched safely")
    try:
        path = Path(hf_hub_download(repo_id, "model.safetensors"))
    except Exception as error:  # the client raises its own, httpx's and the system's errors
        reason = str(error).split("\n")[0]
        raise WeightsError(
            f"'{name}': model.safetensors of {repo_id} is not in the Hub cache and could not be "
            f"fetched ({type(error).__name__}: {reason})"
        ) from error
    return path, path.parent.name
