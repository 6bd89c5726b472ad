"""Encoders: a backbone, its weights, and the input contract that belongs to them."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cxrzoo import images
from cxrzoo.errors import CxrzooError, WeightsError
from cxrzoo.files import sha256_of_json
from cxrzoo.zoo import hub, registry
from cxrzoo.zoo.card import CONFIG_FILE, Card, InputContract, Weights, parse_card
from cxrzoo.zoo.formats import Checkpoint, find_format
from cxrzoo.zoo.hub import Pin
from cxrzoo.zoo.timm_models import load_timm
from cxrzoo.zoo.weights import (
    create_backbone,
    load_strictly,
    looks_like_pickle,
    read_safetensors,
    sha256_of_state,
)

if TYPE_CHECKING:
    from cxrzoo.evaluation.exposure import Exposure

GOLDEN_TOLERANCE = 1e-3
"""Largest deviation from the golden output, relative to its largest value: float32 kernels of
other processors differ by about 1e-5, another resize or normalisation by far more."""
_GOLDEN_STRIDE = 20
MAX_CONFIG_BYTES = 1_000_000


class Encoder(nn.Module):
    """Maps images to features.

    Attributes:
        card: the model card; says everything about the encoder.
        num_features: D, the length of one feature vector.
        weights_sha256: of the weights file, or of the drawn weights where there is no file; of a
            module given by the caller, of all that is known of it (see ``from_module``).
        pin: the Hub repository and commit the weights were fetched at, if they were.
    """

    def __init__(
        self,
        card: Card,
        backbone: nn.Module,
        weights_sha256: str,
        *,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        self.card = card
        self.backbone = backbone
        self.weights_sha256 = weights_sha256
        self.pin: Pin | None = None
        self.num_features = num_features or int(cast(Any, backbone).num_features)
        low, high = card.input.range
        mean, std = torch.tensor(card.input.mean), torch.tensor(card.input.std)
        # (x/255 * (high - low) + low - mean) / std, as one multiplication and one addition
        self.register_buffer("_scale", ((high - low) / 255.0 / std).view(1, -1, 1, 1), False)
        self.register_buffer("_shift", ((low - mean) / std).view(1, -1, 1, 1), False)
        self.eval()

    @classmethod
    def from_module(
        cls, module: nn.Module, *, name: str, num_features: int, contract: InputContract
    ) -> Encoder:
        """Wrap your own module, which maps (N, C, S, S) to (N, num_features), for ``evaluate``.

        Features and records are kept by ``weights_sha256``. A module's code is not in its state,
        so the hash covers its structure and its golden output too: change ``forward``, and
        nothing old is taken for new.
        """
        card = parse_card(
            {
                "name": name,
                "arch": type(module).__name__,
                "strategy": [{"method": "unknown", "data": None, "init": "unknown"}],
                "input": contract,
                "provenance": "module given by the caller",
            },
            f"Encoder.from_module of '{name}'",
        )
        encoder = cls(card, module, sha256_of_state(module), num_features=num_features)
        golden = [f"{value:.3g}" for value in golden_output(encoder)]
        encoder.weights_sha256 = sha256_of_json([encoder.weights_sha256, repr(module), golden])
        return encoder

    def forward(self, x: Tensor) -> Tensor:
        """Features of prepared images: (N, C, S, S) float32 to (N, D)."""
        return cast(Tensor, self.backbone(x))

    def preprocess(self, batch: Any) -> Tensor:
        """Prepare raw images.

        Args:
            batch: one image, or a sequence or stacked array of them, each as
                ``cxrzoo.images.grey8`` accepts it: a path, PIL, numpy or torch; grey or RGB;
                8 or 16 bit.

        Returns:
            (N, C, S, S) float32 on the encoder's device.

        Raises:
            ImageError: an image cannot be read or has pixels out of range.
        """
        contract = self.card.input
        grey = [images.grey8(one) for one in _as_list(batch)]
        fitted = [images.fit(one, contract.size_px, contract.interpolation) for one in grey]
        return self.normalize(torch.from_numpy(np.stack(fitted)).to(self.device))

    def normalize(self, pixels: Tensor) -> Tensor:
        """(N, S, S) or (N, 1, S, S) grey levels 0..255 to the backbone's (N, C, S, S) input."""
        if pixels.ndim == 3:
            pixels = pixels.unsqueeze(1)
        return torch.addcmul(self._shift, pixels.float(), self._scale)  # type: ignore[arg-type]

    def exposure(self, benchmark: str) -> Exposure:
        """What pretraining has seen of a benchmark: clean, exposed or unknown, and why.

        Raises:
            UnknownNameError: no such benchmark.
        """
        # the one place where the zoo looks at data, so only when asked
        from cxrzoo.data.benchmark import find
        from cxrzoo.evaluation.exposure import exposure

        return exposure(self.card, find(benchmark))

    @property
    def device(self) -> torch.device:
        """The device the encoder lives on."""
        return cast(Tensor, self._scale).device


def load(name: str) -> Encoder:
    """Load an encoder, in eval mode, with strictly checked weights.

    Args:
        name: a zoo name (``supervised-imagenet``), a directory in the card shape
            (``./my-encoder``), ``hf:org/repo[@revision]``, or ``timm:arch.tag``.

    Raises:
        UnknownNameError: no such encoder.
        CardError: its card is malformed.
        HubError: the Hub does not give it.
        WeightsError: its weights do not exist yet, have another sha256, do not fit the
            architecture, or do not reproduce the golden output.
    """
    if name.startswith("timm:"):
        card, backbone, sha256, pin = load_timm(name)
        encoder = Encoder(card, backbone, sha256)
        encoder.pin = pin
        return encoder
    return load_from(*locate(name))


def locate(name: str) -> tuple[Card, Path, Pin | None]:
    """The card of a zoo name, a local card directory or ``hf:org/repo[@revision]``, its
    directory, and the commit it was fetched at."""
    if name.startswith(hub.SCHEME):
        fetched = hub.fetch(name)
        return fetched.card, fetched.directory, fetched.pin
    card, directory = registry.locate(name)
    return card, directory, _pin_of(card.weights, directory)


def fetch_files(name: str) -> tuple[Card, Path, Pin | None]:
    """Card, directory of the weights and commit of an encoder whose files are put into the cache
    if they are not at hand; nothing is loaded.

    Args:
        name: as ``load`` takes it; a zoo name may carry ``@revision`` too, of its repository.

    Raises:
        HubError: see ``load``.
        WeightsError: the encoder has no weights yet, or a zoo encoder of that name no repository.
    """
    plain, at, revision = name.partition("@")
    if at and plain in registry.list_encoders():
        card, _ = registry.find(plain)
        if card.weights is None or card.weights.repo_id is None:
            raise WeightsError(
                f"'{plain}' has no repository on the Hub, so no revision '{revision}'"
            )
        name = f"{hub.SCHEME}{card.weights.repo_id}@{revision}"
    card, directory, pin = locate(name)
    if card.weights is None:
        raise WeightsError(how_to_train(card))
    if card.weights.file is not None:
        directory = _weights_file(card.weights, directory, pin).parent
    return card, directory, pin


def load_from(card: Card, directory: Path, pin: Pin | None = None) -> Encoder:
    """Build the encoder of ``card`` with the weights in ``directory``, else with those in the
    repository that the card names, and check it."""
    if card.weights is None:
        raise WeightsError(how_to_train(card))
    if card.weights.file is None:
        backbone = create_backbone(card.arch, card.input.channels, cast(int, card.weights.seed))
        encoder = Encoder(card, backbone, sha256_of_state(backbone))
        if encoder.weights_sha256 != card.weights.sha256:
            raise WeightsError(
                f"'{card.name}': torch {torch.__version__} draws other weights from seed "
                f"{card.weights.seed} (sha256 {encoder.weights_sha256}) than the card's "
                f"{card.weights.sha256}; records made with them would not be comparable"
            )
    else:
        pin = pin or _pin_of(card.weights, directory)
        encoder = _load_file(card, _weights_file(card.weights, directory, pin))
        encoder.pin = pin
    if card.verified or (directory / CONFIG_FILE).exists():
        _check_golden(encoder, directory / CONFIG_FILE)
    return encoder


def how_to_train(card: Card) -> str:
    """Why an encoder without weights cannot be loaded, and how it is trained, or converted."""
    if not card.verified:
        return (
            f"'{card.name}' has no weights that can be opened safely; the README.md in its folder "
            f"(`cxrzoo info {card.name}`) says how to convert those there are"
        )
    steps = [
        f"  {i}. {s.method} on {s.data}, starting from {s.init}"
        for i, s in enumerate(card.strategy, 1)
    ]
    return "\n".join(
        [
            f"'{card.name}' has no weights yet. Its strategy:",
            *steps,
            f"It is trained with `cxrzoo pretrain {card.name} --tier {card.tier} -o DIR`, and then "
            f"loaded as DIR/{card.name}.",
        ]
    )


def golden_input() -> np.ndarray:
    """(211, 187, 3) uint8: a fixed image that is neither square nor grey nor of a usual size,
    so that cropping, resizing, luma and normalisation all show in its features."""
    y, x, c = np.meshgrid(np.arange(211), np.arange(187), np.arange(3), indexing="ij")
    waves = x * (3 + c) + y * (5 - c) + (x * y) // 37 + 40 * ((x // 16 + y // 16) % 2)
    image: np.ndarray = (waves % 256).astype(np.uint8)
    return image


def golden_output(encoder: Encoder) -> list[float]:
    """Every 20th feature of the golden input, computed on the encoder's device."""
    with torch.inference_mode():
        features = encoder(encoder.preprocess(golden_input()))[0]
    return [float(v) for v in features[::_GOLDEN_STRIDE].double().cpu()]


def config_of(encoder: Encoder) -> dict[str, Any]:
    """What ``config.json`` beside a card holds: architecture and golden output."""
    return {
        "architecture": encoder.card.arch,
        "num_classes": 0,
        "num_features": encoder.num_features,
        "golden": {
            "input": "cxrzoo.zoo.encoder.golden_input",
            "stride": _GOLDEN_STRIDE,
            "features": [float(f"{v:.6g}") for v in golden_output(encoder)],
        },
    }


def _pin_of(weights: Weights | None, directory: Path) -> Pin | None:
    """The commit to take weights from that are not beside their card; None where they are."""
    if weights is None or weights.file is None or weights.repo_id is None:
        return None
    if (directory / weights.file).exists():
        return None
    if weights.revision is not None:
        return Pin(weights.repo_id, weights.revision)
    return hub.resolve(weights.repo_id, None)


def _weights_file(weights: Weights, directory: Path, pin: Pin | None) -> Path:
    """The weights beside the card, else from the Hub at ``pin``."""
    name = str(weights.file)
    path = directory / name
    if path.exists() or pin is None:
        return path
    return hub.fetch_file(pin, name, weights.sha256)


def _load_file(card: Card, path: Path) -> Encoder:
    weights = cast(Weights, card.weights)
    sha256 = weights.sha256
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"'{card.name}': weights file {path} is missing") from None
    actual = hashlib.sha256(content).hexdigest()
    if sha256 and actual != sha256 and not looks_like_pickle(content):
        raise WeightsError(
            f"{path} has sha256 {actual}, but the card of '{card.name}' says {sha256}: "
            "the file or the card was changed; fetch both again"
        )
    backbone = create_backbone(card.arch, card.input.channels)
    state = read_safetensors(content, str(path))
    if weights.format is not None:
        checkpoint = Checkpoint("", state)
        state = find_format(weights.format).translate(checkpoint, backbone.state_dict())
    state = {k: v for k, v in state.items() if not k.startswith(weights.drop)}
    load_strictly(backbone, state, str(path))
    return Encoder(card, backbone, actual)


def _check_golden(encoder: Encoder, path: Path) -> None:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {MAX_CONFIG_BYTES:,} bytes")
        golden = json.loads(path.read_text(encoding="utf-8"))["golden"]["features"]
        if not all(isinstance(value, float | int) for value in golden):
            raise ValueError("it holds values that are no numbers")
        expected = np.array(golden, dtype=np.float64)
    except FileNotFoundError:
        raise WeightsError(
            f"'{encoder.card.name}': {path} with the golden output is missing"
        ) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WeightsError(f"{path}: no golden output in it ({error!r:.200})") from None
    actual = np.array(golden_output(encoder))
    if actual.shape != expected.shape:
        raise WeightsError(f"{path}: golden output has {expected.size} values, not {actual.size}")
    deviation = float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6))
    if not deviation <= GOLDEN_TOLERANCE:
        raise WeightsError(
            f"'{encoder.card.name}' does not reproduce its golden output (deviation "
            f"{deviation:.2g}, allowed {GOLDEN_TOLERANCE:g}): preprocessing, torch "
            f"{torch.__version__} or timm {version('timm')} is not what the encoder was made with"
        )


def _as_list(batch: Any) -> list[Any]:
    """A batch as a list of single images."""
    stacked = bool(getattr(batch, "shape", ()))
    if (stacked or isinstance(batch, list | tuple)) and not len(batch):
        raise CxrzooError("preprocess got no images")
    if isinstance(batch, list | tuple):
        return list(batch)
    ndim = getattr(batch, "ndim", None)
    single_rgb = ndim == 3 and (batch.shape[0] in (1, 3) or batch.shape[2] in (1, 3, 4))
    if ndim == 4 or (ndim == 3 and not single_rgb):
        return list(batch)
    return [batch]
