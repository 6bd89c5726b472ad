"""Pretrained timm models as encoders: safetensors from the Hub or its cache, nothing else."""

from __future__ import annotations

import hashlib
from typing import Any, cast

from torch import nn

from cxrzoo.errors import UnknownNameError, WeightsError
from cxrzoo.zoo import hub
from cxrzoo.zoo.card import Card, parse_card
from cxrzoo.zoo.hub import Pin
from cxrzoo.zoo.weights import create_backbone, load_strictly, read_safetensors


def load_timm(name: str) -> tuple[Card, nn.Module, str, Pin]:
    """A pretrained timm model, ``timm:arch.tag``: card, backbone, sha256 and commit of its file.

    Raises:
        UnknownNameError: timm has no such model.
        HubError, WeightsError: its safetensors file is neither cached nor to be had, or does not
            fit the architecture.
    """
    import timm

    model_name = name.removeprefix("timm:")
    known = timm.list_pretrained()
    if model_name not in known:
        tags = [m for m in known if m.split(".")[0] == model_name]
        raise UnknownNameError("timm model (arch.tag)", model_name, tags or known)
    config = cast(Any, timm.get_pretrained_cfg(model_name))
    if not config.hf_hub_id:
        raise WeightsError(f"'{name}' is not on the Hub, so its weights cannot be fetched safely")
    pin = hub.resolve(config.hf_hub_id, None)
    path = hub.fetch_file(pin, hub.WEIGHTS_FILE)
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
            "provenance": str(pin),
        },
        name,
    )
    return card, backbone, hashlib.sha256(content).hexdigest(), pin
