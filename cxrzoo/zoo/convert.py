"""From other people's checkpoints to a card directory: strict, pickle-free, checked.

The only place that calls ``torch.load``, and only with ``weights_only=True``. Whose files are
understood is said in ``cxrzoo.zoo.formats``.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from cxrzoo.errors import CardError, WeightsError
from cxrzoo.files import sha256_of_file, write_atomically
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Card, card_text, parse_card, split_front_matter
from cxrzoo.zoo.encoder import Encoder, config_of, load_from
from cxrzoo.zoo.formats import Checkpoint, Format, State, detect, find_format
from cxrzoo.zoo.hub import WEIGHTS_FILE
from cxrzoo.zoo.weights import create_backbone, load_strictly, read_safetensors

SECTIONS = ("state_dict", "model", "model_state_dict", "teacher", "online_network_state_dict")
"""Where a checkpoint keeps the state dict of the network, when it holds more than that."""


def convert(
    source: Path,
    format_name: str | None,
    directory: Path,
    *,
    arch: str | None = None,
    name: str | None = None,
    source_url: str | None = None,
    license: str | None = None,
) -> Encoder:
    """Write weights and config.json into a card directory, and update its card or write one.

    Args:
        source: a checkpoint (torch pickle of tensors, or safetensors).
        format_name: one of ``FORMATS``; None to find it by the names of the tensors.
        directory: where a README.md with the encoder's card lies, its ``weights`` are replaced;
            where none lies, one is written that says no more than what is known.
        arch: timm architecture for a new card; None to find it among a format's usual ones.
        name: for a new card; else the directory's.
        source_url: where the checkpoint was published, for the provenance.
        license: of the weights, for a new card, as the Hub calls it: ``apache-2.0``.

    Returns:
        The encoder, loaded back from the directory with every check of ``load``.

    Raises:
        UnknownNameError: no such format.
        WeightsError: the checkpoint is refused, of no or several formats, or does not fit the
            architecture.
        CardError: the card in ``directory`` is broken or says something else than the arguments.
    """
    format_ = find_format(format_name) if format_name else None
    where = str(directory / CARD_FILE)
    held = _read_front_matter(directory)
    if held:
        _refuse_differences(
            parse_card(held[0], where), where, name=name, arch=arch, license=license
        )
    checkpoint = read_checkpoint(source)
    format_ = format_ or detect(checkpoint, str(source))
    name = name or directory.resolve().name
    front, body = held or _new_card(checkpoint, format_, arch, name, license, source)
    card = parse_card(front, where)
    backbone = create_backbone(card.arch, card.input.channels)
    state = format_.translate(checkpoint, list(backbone.state_dict()))
    closest = "" if held or arch else ", the closest of those tried without --arch"
    load_strictly(backbone, state, f"{source}, as {format_.name} of {card.arch}{closest},")
    content = serialise(compact_state(backbone))
    sha256 = hashlib.sha256(content).hexdigest()
    load_strictly(backbone, read_safetensors(content, WEIGHTS_FILE), WEIGHTS_FILE)

    front["provenance"] = _provenance(str(front["provenance"]), source, source_url)
    front["weights"] = {"file": WEIGHTS_FILE, "sha256": sha256}
    card = parse_card(front, where)
    config = config_of(Encoder(card, backbone, sha256))
    write_atomically(directory / WEIGHTS_FILE, content)
    write_config(directory, config)
    write_atomically(directory / CARD_FILE, card_text(front, body).encode())
    return load_from(card, directory)


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a checkpoint file, by name, in the file's order; nothing else is unpickled.

    Entries beside the state dict (epoch, optimizer, arch) are ignored.
    """
    if not path.is_file():
        raise WeightsError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path.read_bytes(), str(path))
    else:
        content = _unpickle(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict of tensors")
    sections = {"": content} if _is_state(content) else {s: content.get(s, {}) for s in SECTIONS}
    found = [section for section, state in sections.items() if _is_state(state)]
    if not found:
        held = ", ".join(str(key) for key in list(content)[:20]) or "nothing"
        raise WeightsError(
            f"{path} does not hold a state dict of tensors, neither as a whole nor under "
            f"{', '.join(SECTIONS)}; it holds {held}. Save model.state_dict() with torch.save"
        )
    if len(found) > 1:
        raise WeightsError(
            f"{path} holds several state dicts ({', '.join(found)}): save the one you mean alone"
        )
    return Checkpoint(found[0], _without_module(cast(State, sections[found[0]])))


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way inside torch.load
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path} is refused: it does not open with weights_only=True, so it is damaged or "
            f"holds more than tensors ({reason}). If you trust it, open it with the program that "
            "wrote it and save model.state_dict() with torch.save"
        ) from error


def _is_state(content: Any) -> bool:
    """Whether this is a state dict: tensors by name, and at least one."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def _without_module(state: State) -> State:
    """Without the ``module.`` of DistributedDataParallel, when all names have it."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: v for name, v in state.items()}


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


@cache
def _outline(arch: str, channels: int) -> nn.Module:
    """An architecture whose tensors have names and shapes, but no values and no cost."""
    with torch.device("meta"):
        return create_backbone(arch, channels)


def _find_architecture(
    checkpoint: Checkpoint, format_: Format, tried: tuple[str, ...], where: str
) -> tuple[str, int]:
    """The one architecture, and its input channels, that fits by all names and shapes.

    When none fits, it is the closest one, of which the strict loader then says what is wrong.
    """
    misfits = {
        (arch, channels): _misfits(checkpoint, format_, _outline(arch, channels))
        for arch in tried
        for channels in (3, 1)
    }
    fitting = [arch for (arch, _), count in misfits.items() if count == 0]
    if len(fitting) > 1:
        raise WeightsError(f"{where} fits {' and '.join(fitting)}: say which with --arch")
    return min(misfits, key=lambda candidate: misfits[candidate])


def _misfits(checkpoint: Checkpoint, format_: Format, outline: nn.Module) -> int:
    """How many tensors are missing, unexpected or of another shape."""
    wanted = {name: value.shape for name, value in outline.state_dict().items()}
    found = format_.translate(checkpoint, list(wanted))
    shapes = {name: value.shape for name, value in found.items()}
    return len(wanted.items() ^ shapes.items())


def _read_front_matter(directory: Path) -> tuple[dict[str, Any], str] | None:
    """Front matter and text of the card in ``directory``; None where there is no card."""
    path = directory / CARD_FILE
    try:
        return split_front_matter(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CardError(f"{path}: {error}") from None


def _refuse_differences(card: Card, where: str, **asked: str | None) -> None:
    """A card that is there is kept, so what was asked for has to agree with it."""
    for field, value in asked.items():
        held = getattr(card, field)
        if value is not None and value != held:
            raise CardError(
                f"{where} says {field}: {held}, not {value}: leave out --{field}, edit the card, "
                "or convert into another directory"
            )


def _new_card(
    checkpoint: Checkpoint,
    format_: Format,
    arch: str | None,
    name: str,
    license: str | None,
    source: Path,
) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card that says what the checkpoint tells, and no more."""
    tried = (arch,) if arch else format_.architectures
    arch, channels = _find_architecture(checkpoint, format_, tried, str(source))
    outline = _outline(arch, channels)
    # a vision transformer's position embedding fixes the size of its input
    fixed = getattr(getattr(outline, "patch_embed", None), "img_size", None)
    contract = format_.contract(arch, channels, fixed[0] if fixed else None)
    front: dict[str, Any] = {
        **({"license": license} if license else {}),
        "library_name": "cxrzoo",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["chest-x-ray", "radiology"],
        "name": name,
        "arch": arch,
        "tier": None,
        "strategy": [{"method": format_.method, "data": None, "init": "unknown"}],
        "input": contract.model_dump(mode="json"),
        "provenance": "",
        "pretraining_data": None,
    }
    return front, _new_text(front, format_, cast(int, outline.num_features), source)


def _new_text(front: dict[str, Any], format_: Format, num_features: int, source: Path) -> str:
    contract, method = front["input"], front["strategy"][0]["method"]
    low, high = contract["range"]
    basis = (
        f"as {format_.name} documents it, but the interpolation is an assumption"
        if format_.documented
        else "all of it an assumption, for the checkpoint does not say; correct `input` if you know"
    )
    trained = (
        "not known, for the checkpoint does not say"
        if method == "unknown"
        else f"`{method}`, assumed of all files of this format; all else about it is not known"
    )
    return f"""# {front["name"]}

`{front["arch"]}` with weights converted by `cxrzoo convert` from `{source.name}`, a checkpoint of
the format `{format_.name}`. This text was written by the program: correct and complete it.

- Input: {contract["size_px"]} x {contract["size_px"]} pixels, {contract["channels"]} channel(s),
  scaled to [{low:g}, {high:g}], mean {_numbers(contract["mean"])}, standard deviation
  {_numbers(contract["std"])}, {contract["interpolation"]} interpolation:
  {basis}.
- Output: {num_features} features after pooling. Classifier and projection heads are dropped.
- Training: {trained}.
- Data seen in pretraining: not known, so exposure to every benchmark is `unknown`.
- License of the weights: {front.get("license") or "not known"}.
- Convolutions are stored in float16, BatchNorm in float32.
- Not a medical device.
"""


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _provenance(text: str, source: Path, url: str | None) -> str:
    """The provenance with the checkpoint's name, sha256 and address at its end, once."""
    old = (
        r"\s*Converted from (?:(?!Converted from ).)+? \(sha256 [0-9a-f]{64}\)"
        r"(, published at \S+)?\."
    )
    published = f", published at {url}" if url else ""
    new = f"Converted from {source.name} (sha256 {sha256_of_file(source)}){published}."
    return f"{re.sub(old, '', text).rstrip()} {new}".lstrip()
