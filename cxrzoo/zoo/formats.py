"""Whose checkpoints can be converted: one entry per format, found by the names of its tensors.

An entry says how a file is recognised, where in it the backbone lies, how the backbone's
tensors are called in timm, and which other tensors are known and dropped. What no entry knows
is an error, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cxrzoo.errors import UnknownNameError, WeightsError
from cxrzoo.zoo.card import InputContract, Method

State = dict[str, Tensor]
ARCHITECTURES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "densenet121",
    "vit_small_patch16_224", "vit_base_patch16_224", "tf_efficientnet_lite0",
    "vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2",
)  # fmt: skip
"""timm architectures that are tried when nobody says which one it is."""
HEADS = ("classifier.", "fc.", "head.fc.", "head.")
"""Classifiers and projection heads that stand inside a backbone."""
_CONVOLUTIONS = (
    "conv1.weight", "features.conv0.weight", "patch_embed.proj.weight", "conv_stem.weight",
    "conv1.0.weight", "stem.0.weight", "stem.conv.weight", "stem.conv1.weight",
)  # fmt: skip
_SEQUENCE = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_TRANSFORMERS = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("encoder.layer.", "blocks."),
    (".attention.attention.", ".attn."),
    (".attention.output.dense.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
    ("layernorm.", "norm."),
)
"""What DINOv2's tensors are called in transformers, and what in timm."""
_XRV_LABELS = 18
_SHOWN = 20


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and the key they lay under ('' when they are the file itself).

    ``module.``, which DistributedDataParallel puts before every name, is left off already.
    """

    section: str
    state: State

    def has(self, *prefixes: str) -> bool:
        """Whether a tensor's name begins with one of ``prefixes``."""
        return any(name.startswith(prefixes) for name in self.state)

    def backbone_at(self, prefix: str) -> bool:
        """Whether a backbone's first convolution stands behind ``prefix``."""
        return any(prefix + name in self.state for name in _CONVOLUTIONS)


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint.

    Attributes:
        recognised: whether a checkpoint has this format's structure.
        prefixes: where the backbone lies; the first one that occurs counts.
        extras: tensors, or prefixes ending in a dot, that are known and dropped.
        rename: from a name behind the prefix to timm's.
        method: what the card says of the training; unknown where the format does not tell.
        architectures: what is tried when nobody says which one it is.
        range, mean, std: of the input contract; ``mean`` and ``std`` of red, green and blue.
        sizes_px: side of the input by architecture; 224 px for all others.
        documented: whether the format's authors say so; else the contract is an assumption.
    """

    name: str
    recognised: Callable[[Checkpoint], bool]
    prefixes: tuple[str, ...] = ("",)
    extras: tuple[str, ...] = ()
    rename: Callable[[str], str] = str
    method: Method = "unknown"
    architectures: tuple[str, ...] = ARCHITECTURES
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    sizes_px: Mapping[str, int] = field(default_factory=dict)
    documented: bool = False

    def translate(self, checkpoint: Checkpoint, wanted: Collection[str]) -> State:
        """The backbone's tensors under timm's names.

        Args:
            checkpoint: the file's tensors.
            wanted: names of the architecture; what it wants is never taken for a classifier.

        Raises:
            WeightsError: no backbone where this format has it, or tensors it does not know.
        """
        prefix = self._prefix(checkpoint)
        state, unknown = {}, []
        for name, value in checkpoint.state.items():
            inner = self.rename(name.removeprefix(prefix))
            if self._is_extra(name):
                continue
            if not name.startswith(prefix):
                unknown.append(name)
            elif inner in wanted or not inner.startswith(HEADS):
                state[inner] = value
        if unknown:
            raise WeightsError(
                f"format '{self.name}' does not know {len(unknown)} of the tensors and drops "
                f"none in silence: {_listed(unknown)}. Take them out of the checkpoint if they "
                "are not part of the backbone, or choose another --format"
            )
        return state

    def contract(self, arch: str, channels: int, fixed_px: int | None = None) -> InputContract:
        """The input contract of a new card; ``fixed_px`` is the only size the backbone takes."""
        mean, std = (
            three if channels == 3 else (round(sum(three) / 3, 4),)
            for three in (self.mean, self.std)
        )
        size = fixed_px or self.sizes_px.get(arch, 224)
        content = {"channels": channels, "size_px": size, "range": self.range}
        return InputContract.model_validate(content | {"mean": mean, "std": std})

    def _prefix(self, checkpoint: Checkpoint) -> str:
        for prefix in self.prefixes:
            if checkpoint.has(prefix):
                return prefix
        raise WeightsError(
            f"format '{self.name}' has its backbone at {' or '.join(self.prefixes)}, but the "
            f"tensors are {_listed(checkpoint.state)}. Leave --format out to have it found"
        )

    def _is_extra(self, name: str) -> bool:
        return name in self.extras or name.startswith(
            tuple(extra for extra in self.extras if extra.endswith("."))
        )


class _InOrder(Format):
    """A format with other names for the same layers in the same order."""

    def translate(self, checkpoint: Checkpoint, wanted: Collection[str]) -> State:
        """The backbone's tensors under timm's names, paired one by one."""
        values = [value for name, value in checkpoint.state.items() if not self._is_extra(name)]
        if len(values) != len(wanted):
            raise WeightsError(
                f"expected {len(wanted)} tensors besides the classifier '_fc', got {len(values)}"
            )
        return dict(zip(wanted, values, strict=True))


class _TransformersDinov2(Format):
    """DINOv2 as transformers stores it: query, key and value apart, which timm has in one."""

    def translate(self, checkpoint: Checkpoint, wanted: Collection[str]) -> State:
        """The backbone's tensors under timm's names; an incomplete attention is left as it is."""
        state = super().translate(checkpoint, wanted)
        for name in [n for n in state if ".attn.query." in n]:
            thirds = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            if all(third in state for third in thirds):
                joined = torch.cat([state.pop(third) for third in thirds])
                state[name.replace(".query.", ".qkv.")] = joined
        return state


def find_format(name: str) -> Format:
    """The format of this name; raises UnknownNameError."""
    if name not in FORMATS:
        raise UnknownNameError("checkpoint format", name, FORMATS)
    return FORMATS[name]


def detect(checkpoint: Checkpoint, where: str) -> Format:
    """The one format whose structure a checkpoint has, whatever the order of its tensors.

    Raises:
        WeightsError: none or several have it; ``where`` is how the message calls the file.
    """
    found = [entry for entry in FORMATS.values() if entry.recognised(checkpoint)]
    if not found:
        raise WeightsError(
            f"{where} has the structure of no known format; its tensors are "
            f"{_listed(sorted(checkpoint.state))}. Say what it is with --format: "
            f"{', '.join(FORMATS)}"
        )
    if len(found) > 1:
        names = [entry.name for entry in found]
        raise WeightsError(
            f"{where} may be of the formats {', '.join(names)}, whose files look alike. Say "
            f"which with --format; the card will say how the weights were trained: "
            f"{', '.join(f'{e.name} {e.method}' for e in found)}"
        )
    return found[0]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more


def _by_position(name: str) -> str:
    """A ResNet's children in an nn.Sequential: 4.0.conv1.weight is layer1.0.conv1.weight."""
    position, dot, rest = name.partition(".")
    return _SEQUENCE.get(position, position) + dot + rest


def _from_transformers(name: str) -> str:
    """encoder.layer.0.attention.output.dense.bias is blocks.0.attn.proj.bias."""
    for theirs, ours in _TRANSFORMERS:
        name = name.replace(theirs, ours)
    return name


def _is_cnn(checkpoint: Checkpoint, prefix: str = "") -> bool:
    """A ResNet or DenseNet, whose names torchvision and timm share."""
    names = (f"{prefix}layer1.0.conv1.weight", f"{prefix}features.norm5.weight")
    return any(name in checkpoint.state for name in names)


def _channels(checkpoint: Checkpoint, prefix: str = "") -> int:
    first = [prefix + n for n in _CONVOLUTIONS if prefix + n in checkpoint.state]
    return checkpoint.state[first[0]].shape[1] if first else 0


def _classes(checkpoint: Checkpoint, prefix: str = "") -> int:
    """Outputs of the linear classifier; 0 without one."""
    heads = [prefix + n for n in ("fc.weight", "classifier.weight", "head.weight")]
    return next((len(checkpoint.state[n]) for n in heads if n in checkpoint.state), 0)


def _is_plain(checkpoint: Checkpoint) -> bool:
    """A backbone and at most its classifier, as in timm."""
    return (
        checkpoint.section != "teacher"
        and checkpoint.backbone_at("")
        and not checkpoint.has("projection_head.", "prototypes.")
        and not _is_torchxrayvision(checkpoint)
    )


def _is_torchvision(checkpoint: Checkpoint) -> bool:
    # timm's ResNets and DenseNets look the same; which of the two it is changes nothing
    whole = _is_cnn(checkpoint) and _classes(checkpoint) > 0 and _channels(checkpoint) == 3
    return _is_plain(checkpoint) and whole


def _is_timm(checkpoint: Checkpoint) -> bool:
    return _is_plain(checkpoint) and not _is_torchvision(checkpoint)


def _is_bare(checkpoint: Checkpoint, *markers: str) -> bool:
    """A published backbone without any head: nothing in it says which method trained it."""
    plain = _is_plain(checkpoint) and not checkpoint.has(*HEADS)
    return plain and any(marker in checkpoint.state for marker in markers)


def _is_torchxrayvision(checkpoint: Checkpoint) -> bool:
    prefix = "" if _is_cnn(checkpoint) else "model."
    grey = _is_cnn(checkpoint, prefix) and _channels(checkpoint, prefix) == 1
    known = "op_threshs" in checkpoint.state or _classes(checkpoint, prefix) == _XRV_LABELS
    return grey and known


def _is_byol(checkpoint: Checkpoint) -> bool:
    sthalles = checkpoint.section == "online_network_state_dict"
    return checkpoint.has("online_encoder.net.") or sthalles


def _is_swav(checkpoint: Checkpoint) -> bool:
    # prototypes.prototypes0 would be DeepCluster-v2's
    heads = checkpoint.has("projection_head.") and "prototypes.weight" in checkpoint.state
    return _is_cnn(checkpoint) and heads


def _is_joint(checkpoint: Checkpoint) -> bool:
    """A training state of Barlow Twins or VICReg: backbone and projector under 'model'."""
    inside = checkpoint.backbone_at("backbone.") and checkpoint.has("projector.")
    return checkpoint.section == "model" and inside


def _is_barlow(checkpoint: Checkpoint) -> bool:
    training = _is_joint(checkpoint) and "bn.running_mean" in checkpoint.state
    return training or _is_bare(checkpoint, "layer1.0.conv1.weight")


def _is_vicreg(checkpoint: Checkpoint) -> bool:
    training = _is_joint(checkpoint) and "bn.running_mean" not in checkpoint.state
    return training or _is_bare(checkpoint, "layer1.0.conv1.weight")


def _is_dino(checkpoint: Checkpoint) -> bool:
    training = checkpoint.section == "teacher" and checkpoint.backbone_at("backbone.")
    return training or _is_bare(checkpoint, "layer1.0.conv1.weight", "blocks.0.attn.qkv.weight")


_WRAPPERS = ("model.backbone.", "backbone.", "encoder.")


def _wrapper(checkpoint: Checkpoint) -> str:
    """Where a module of Lightning has its backbone; '' for a teacher or a joint state."""
    if checkpoint.section == "teacher" or _is_joint(checkpoint):
        return ""
    return next((prefix for prefix in _WRAPPERS if checkpoint.backbone_at(prefix)), "")


def _is_simclr(checkpoint: Checkpoint) -> bool:
    prefix = _wrapper(checkpoint)
    parts = (prefix, "projector.", "projection.")
    mlp = checkpoint.has("projector.", "projection.") or f"{prefix}fc.2.weight" in checkpoint.state
    return bool(prefix) and mlp and all(name.startswith(parts) for name in checkpoint.state)


def _is_lightning(checkpoint: Checkpoint) -> bool:
    prefix = _wrapper(checkpoint)
    parts = (prefix, "fc.", "head.")
    alone = bool(prefix) and all(name.startswith(parts) for name in checkpoint.state)
    return alone and not _is_simclr(checkpoint)


def _is_solo_learn(checkpoint: Checkpoint) -> bool:
    # its modules always train a linear classifier beside the method
    return bool(_wrapper(checkpoint)) and checkpoint.has("classifier.")


def _is_lightly(checkpoint: Checkpoint) -> bool:
    names = ("backbone.0.weight", "backbone.4.0.conv1.weight")
    sequence = all(name in checkpoint.state for name in names)
    named = bool(_wrapper(checkpoint)) and checkpoint.has("projection_head.layers.")
    return sequence or named


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("timm", _is_timm),
        Format("torchvision", _is_torchvision),
        Format(
            "moco",  # v1 and v2; model.encoder_q. is CovidPrognosis's
            lambda c: c.has("encoder_q.", "model.encoder_q."),
            prefixes=("encoder_q.", "model.encoder_q."),
            extras=(
                "encoder_k.",
                "queue",
                "queue_ptr",
                "model.encoder_k.",
                "model.queue",
                "model.queue_ptr",
            ),
            method="moco",
        ),
        Format(
            "moco-v3",
            lambda c: c.has("base_encoder."),
            prefixes=("base_encoder.",),
            extras=("momentum_encoder.", "predictor."),
            method="moco",
        ),
        Format(
            "simclr",
            _is_simclr,
            prefixes=_WRAPPERS,
            extras=("projector.", "projection."),
            method="simclr",
        ),
        Format("lightning", _is_lightning, prefixes=_WRAPPERS, extras=("fc.", "head.")),
        Format(
            "byol",  # lucidrains names the network, sthalles has it as a sequence (and 'projetion')
            _is_byol,
            prefixes=("online_encoder.net.", "encoder."),
            extras=(
                "net.",
                "online_encoder.projector.",
                "online_predictor.",
                "target_encoder.",
                "projetion.",
                "projection.",
            ),
            rename=_by_position,
            method="byol",
        ),
        Format("swav", _is_swav, extras=("projection_head.", "prototypes."), method="swav"),
        Format(
            "barlow",
            _is_barlow,
            prefixes=("backbone.", ""),
            extras=("projector.", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"),
            method="barlow",
        ),
        Format("vicreg", _is_vicreg, prefixes=("backbone.", ""), extras=("projector.",)),
        Format("dino", _is_dino, prefixes=("backbone.", ""), extras=("head.",)),
        Format(
            "torchxrayvision",
            _is_torchxrayvision,
            prefixes=("model.", ""),
            extras=("op_threshs",),
            method="supervised",
            range=(-1024.0, 1024.0),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            sizes_px={"resnet50": 512, "resnet101": 512},
            documented=True,
        ),
        Format(
            "solo-learn",
            _is_solo_learn,
            prefixes=_WRAPPERS,
            extras=(
                "projector.",
                "predictor.",
                "classifier.",
                "prototypes.",
                "queue",
                "queue_ptr",
                "momentum_backbone.",
                "momentum_encoder.",
                "momentum_projector.",
                "momentum_predictor.",
                "momentum_classifier.",
            ),
        ),
        Format(
            "lightly",
            _is_lightly,
            prefixes=_WRAPPERS,
            extras=(
                "projection_head.",
                "prediction_head.",
                "prototypes.",
                "backbone_momentum.",
                "projection_head_momentum.",
                "online_classifier.",
                "criterion.",
            ),
            rename=_by_position,
        ),
        _TransformersDinov2(
            "transformers-dinov2",
            lambda c: "encoder.layer.0.layer_scale1.lambda1" in c.state,
            extras=("embeddings.mask_token",),
            rename=_from_transformers,
            architectures=tuple(arch for arch in ARCHITECTURES if arch.endswith("_dinov2")),
        ),
        _InOrder(
            "efficientnet-lite0-pytorch",
            lambda c: "_conv_stem.weight" in c.state,
            extras=("_fc.",),
            method="supervised",
            architectures=("tf_efficientnet_lite0",),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    )
}
