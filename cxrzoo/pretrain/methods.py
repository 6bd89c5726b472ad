"""Methods of pretraining: a loss over views of images, around the encoder that is kept.

Losses, heads, prototypes, momentum and schedules are lightly's. One class is one method, found in
``METHODS`` by its ``name``. Defaults are those of the published ImageNet recipe, so that a recipe
for another scale states what it changes.

Randomness: constructing a method draws weights and queue from torch's global CPU generator and
from nothing else, so ``torch.random.fork_rng(devices=[])`` with a seed makes them repeatable;
several processes must use one seed. ``forward`` and ``after_step`` draw nothing of their own (a
backbone with dropout or stochastic depth does).

Precision: losses are computed in float32 at least, under any autocast, which would otherwise
round similarities to three digits before they are divided by a temperature.

Several processes: losses see the global batch, and averaging gradients over the processes, as
DistributedDataParallel does, gives those of one process with that batch. This holds with
BatchNorm only where ``distributed.synchronise_batchnorm`` has been at the method, or frozen.

N is a process's batch, C the channels, S a view's side, D the backbone's features, L the labels.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cxrzoo.errors import CxrzooError, UnknownNameError
from cxrzoo.schema import Strict

try:
    from lightly.loss import (
        BarlowTwinsLoss,
        DINOLoss,
        NegativeCosineSimilarity,
        NTXentLoss,
        SwaVLoss,
        VICRegLoss,
    )
    from lightly.models.modules import heads
    from lightly.models.utils import (
        deactivate_requires_grad,
        get_weight_decay_parameters,
        update_momentum,
    )
    from lightly.utils import dist
    from lightly.utils.scheduler import cosine_schedule
except ImportError as _error:
    raise CxrzooError(f"pretraining: {_error}; pip install 'cxrzoo[pretrain]'") from _error

METHODS: dict[str, type[Method]] = {}
"""Every method by its name; a class enters when it is defined."""

_GATHER = torch.distributed.is_available()
"""Passed to losses as gather_distributed; they gather only where there are several processes."""


def find_method(name: str) -> type[Method]:
    """The method called ``name``; UnknownNameError lists the choices."""
    if name not in METHODS:
        raise UnknownNameError("pretraining method", name, METHODS)
    return METHODS[name]


class Method(nn.Module):
    """What every method shares. ``backbone`` is kept at the end, everything else is dropped.

    All that changes while training is in ``state_dict``: a method restored from it goes on as
    if it had never stopped. Children called ``*backbone`` are encoders: the kept one and its
    momentum copy, so that what is done to the layers of one can be done to the other.

    Args:
        backbone: maps (N, C, S, S) to (N, D), with D its ``num_features``; trained in place.
        settings: of the method's own ``Settings``.
        steps: optimiser steps of the whole training, over which schedules run.
        num_classes: labels, for a method that needs them.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Strict]]
    num_views: ClassVar[int] = 2
    multi_crop: ClassVar[bool] = False
    """More views than ``num_views`` are welcome: local ones, usually smaller, after the others."""
    needs_labels: ClassVar[bool] = False

    steps_done: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            if cls.name in METHODS:
                raise ValueError(f"there is a pretraining method '{cls.name}' already")
            METHODS[cls.name] = cls

    def __init__(
        self, backbone: nn.Module, settings: Strict, *, steps: int, num_classes: int | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.steps = steps
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Loss and diagnostics of one batch.

        Args:
            views: ``num_views`` tensors (N, C, S, S).
            labels: (N,) or (N, L), only where ``needs_labels``.

        Returns:
            "loss", a scalar, returned as it is when it is not finite; and detached, of this
            process's images, "accuracy", a share that each method defines, "features" (N, D) of
            the first view and, where there is one, "partners" (N, D) of the second, by the
            encoder that it went through.
        """
        if len(views) < self.num_views or (len(views) > self.num_views and not self.multi_crop):
            least = "at least " * self.multi_crop
            raise ValueError(f"{self.name} takes {least}{self.num_views} views, not {len(views)}")
        if self.needs_labels and labels is None:
            raise ValueError(f"{self.name} needs labels, and the images have none")
        return self._outputs(views, labels)

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """What follows optimiser step ``step``, the first being 0: momentum updates and the like.

        To be called after every step, on the method itself where something wraps it.
        """
        self.steps_done.fill_(step + 1)

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Trained parameters for an optimiser: weights decay, biases and normalisation do not.

        lightly's LARS leaves layers of the second group unscaled too.
        """
        decayed, spared = get_weight_decay_parameters([self])
        return [
            {"name": name, "params": [p for p in group if p.requires_grad], "weight_decay": decay}
            for name, group, decay in [
                ("decay", decayed, weight_decay),
                ("no_decay", spared, 0.0),
            ]
        ]

    def _hold(self, parameter: nn.Parameter, steps: int) -> None:
        """Make a parameter's gradient zero for the first ``steps`` steps.

        Not ``requires_grad = False`` (lightly) nor ``grad = None`` (the authors): with these,
        DistributedDataParallel would have to search every graph for unused parameters. Weight
        decay still shrinks the parameter, which must therefore be one whose length is irrelevant.
        """

        def only_later(gradient: Tensor) -> Tensor:
            return gradient * (self.steps_done >= steps)

        parameter.register_hook(only_later)  # type: ignore[no-untyped-call]


class MoCo(Method):
    """Momentum contrast, version 2 (arXiv 2003.04297): one positive against a queue of keys.

    "accuracy" is the share of queries closer to their key than to the whole queue.

    Keys are gathered before they enter the queue, so that every process holds the same one. The
    authors take BatchNorm's statistics on each device and shuffle keys over the devices, so that a
    query cannot tell its key by the statistics they share. Here statistics are those of the global
    batch and nothing is shuffled: a query and its key share them, as on one device, while keys in
    the queue have those of earlier batches. ``batchnorm: frozen`` leaves nothing to tell, and so
    does ``key_statistics: momentum`` (EMAN, arXiv:2101.08482), by which a key depends on its image
    alone: the key encoder normalises with averages that follow the query encoder's.
    """

    name = "moco"

    class Settings(Strict):
        """Defaults: facebookresearch/moco README:42-51 and main_moco.py."""

        hidden_dim: int = Field(2048, ge=1, description="width of the projection's hidden layer")
        output_dim: int = Field(128, ge=1, description="length of queries and keys")
        temperature: float = Field(0.2, gt=0, description="similarities are divided by it")
        queue_size: int = Field(65_536, ge=1, description="keys, over all processes")
        momentum: float = Field(0.999, ge=0, le=1, description="share of the key encoder kept")
        key_statistics: Literal["batch", "momentum"] = Field(
            "batch", description="what BatchNorm of keys normalises with"
        )

    settings: MoCo.Settings

    def __init__(
        self,
        backbone: nn.Module,
        settings: MoCo.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        self.head = heads.MoCoProjectionHead(
            _num_features(backbone), settings.hidden_dim, settings.output_dim
        )
        self.key_backbone = _momentum_copy(self.backbone)
        self.key_head = _momentum_copy(self.head)
        self.loss = NTXentLoss(
            temperature=settings.temperature,
            memory_bank_size=(settings.queue_size, settings.output_dim),
            gather_distributed=_GATHER,
        )
        bank = self.loss.memory_bank
        for buffer_name, buffer in list(bank.named_buffers()):
            # lightly leaves queue and pointer out of checkpoints
            bank.register_buffer(buffer_name, buffer, persistent=True)

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        features = self.backbone(views[0])
        queries = self.head(features)
        with torch.no_grad():
            partners = self.key_backbone(views[1])
            keys = self.key_head(partners)
            accuracy = self._accuracy(queries, keys)  # before the loss puts the keys in the queue
        return _result(_in_float32(self.loss, queries, keys), accuracy, features, partners)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.settings.key_statistics == "momentum":
            self.key_backbone.eval()
            self.key_head.eval()
        return self

    def _accuracy(self, queries: Tensor, keys: Tensor) -> Tensor:
        queries, keys = _unit(queries), _unit(keys)
        queue = cast(Tensor, self.loss.memory_bank.bank)
        return ((queries * keys).sum(1) > (queries @ queue.T).amax(1)).float().mean()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        for model, follower in ((self.backbone, self.key_backbone), (self.head, self.key_head)):
            update_momentum(model, follower, self.settings.momentum)
            if self.settings.key_statistics == "momentum":
                _update_statistics(model, follower, self.settings.momentum)


class SimCLR(Method):
    """SimCLR (arXiv 2002.05709): a view's other view against all other images of the batch.

    "accuracy" is the share of first views nearest to their own second view.
    """

    name = "simclr"

    class Settings(Strict):
        """Defaults: google-research/simclr README, "default hyperparameters in our paper"."""

        hidden_dim: int = Field(2048, ge=1, description="width of the projection's hidden layer")
        output_dim: int = Field(128, ge=1, description="length of projections")
        temperature: float = Field(0.1, gt=0, description="similarities are divided by it")

    def __init__(
        self,
        backbone: nn.Module,
        settings: SimCLR.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        self.head = heads.SimCLRProjectionHead(
            _num_features(backbone), settings.hidden_dim, settings.output_dim
        )
        self.loss = NTXentLoss(temperature=settings.temperature, gather_distributed=_GATHER)

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        # views share their BatchNorm statistics, as the authors' do
        features, (left, right) = _together(self.backbone, self.head, views)
        return _result(_in_float32(self.loss, left, right), _matched(left, right), *features)


class BYOL(Method):
    """BYOL (arXiv 2006.07733): predict what a slowly moving target makes of the other view.

    The loss is the mean of two negative cosines, -1 at best. The paper's is 4 + 4 times that:
    the same for optimisers that ignore a gradient's length (LARS, Adam), not for plain SGD.

    "accuracy" is the share of predictions nearest to their own image's target.
    """

    name = "byol"

    class Settings(Strict):
        """Defaults: deepmind-research byol/configs/byol.py, the preset of 1000 epochs."""

        hidden_dim: int = Field(4096, ge=1, description="width of both heads' hidden layers")
        output_dim: int = Field(256, ge=1, description="length of projections")
        momentum: float = Field(
            0.996, ge=0, le=1, description="share of the target kept, at first; 1 at the end"
        )

    settings: BYOL.Settings

    def __init__(
        self,
        backbone: nn.Module,
        settings: BYOL.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        hidden, output = settings.hidden_dim, settings.output_dim
        self.head = heads.BYOLProjectionHead(_num_features(backbone), hidden, output)
        self.predictor = heads.BYOLPredictionHead(output, hidden, output)
        self.target_backbone = _momentum_copy(self.backbone)
        self.target_head = _momentum_copy(self.head)
        self.loss = NegativeCosineSimilarity()

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        features = [self.backbone(view) for view in views]
        left, right = (self.predictor(self.head(f)) for f in features)
        with torch.no_grad():
            target_left, target_right = (self.target_head(self.target_backbone(v)) for v in views)
        loss = _in_float32(self.loss, left, target_right)
        loss = (loss + _in_float32(self.loss, right, target_left)) / 2
        return _result(loss, _matched(left, target_right), *features)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        momentum = cosine_schedule(step, self.steps, self.settings.momentum, 1.0)
        update_momentum(self.backbone, self.target_backbone, momentum)
        update_momentum(self.head, self.target_head, momentum)


class SwAV(Method):
    """SwAV (arXiv 2006.09882): predict one view's prototypes from another's.

    Views after the first two are local ones, from which prototypes are predicted only. Without
    the authors' queue, which they add for batches far smaller than the prototypes: there, set
    fewer ``prototypes``.

    "accuracy" is the share of first views nearest to their own second view.
    """

    name = "swav"
    multi_crop = True

    class Settings(Strict):
        """Defaults: facebookresearch/swav main_swav.py and scripts/swav_800ep_pretrain.sh."""

        hidden_dim: int = Field(2048, ge=1, description="width of the projection's hidden layer")
        output_dim: int = Field(128, ge=1, description="length of projections")
        prototypes: int = Field(3000, ge=2, description="number of prototypes")
        temperature: float = Field(0.1, gt=0, description="of the predicted assignments")
        sinkhorn_epsilon: float = Field(0.05, gt=0, description="softness of the assignments")
        sinkhorn_iterations: int = Field(3, ge=1, description="iterations that balance them")
        frozen_steps: int = Field(313, ge=0, description="first steps without moving prototypes")

    def __init__(
        self,
        backbone: nn.Module,
        settings: SwAV.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        self.head = heads.SwaVProjectionHead(
            _num_features(backbone), settings.hidden_dim, settings.output_dim
        )
        self.prototypes = heads.SwaVPrototypes(settings.output_dim, settings.prototypes)
        # the authors' prototypes are points, without the bias that lightly's have
        self.prototypes.heads[0].register_parameter("bias", None)
        self.prototypes.normalize()
        self._hold(self.prototypes.heads[0].weight, settings.frozen_steps)
        self.loss = SwaVLoss(
            temperature=settings.temperature,
            sinkhorn_iterations=settings.sinkhorn_iterations,
            sinkhorn_epsilon=settings.sinkhorn_epsilon,
            sinkhorn_gather_distributed=_GATHER,
        )

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        features, projections = _together(self.backbone, self.head, views)
        logits = [_in_float32(self.prototypes, _unit(projection)) for projection in projections]
        loss = _in_float32(self.loss, logits[: self.num_views], logits[self.num_views :])
        return _result(loss.squeeze(), _matched(projections[0], projections[1]), *features[:2])

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.prototypes.normalize()


class BarlowTwins(Method):
    """Barlow Twins (arXiv 2103.03230): correlate features of two views with themselves only.

    "accuracy" is the share of first views nearest to their own second view.
    """

    name = "barlow"

    class Settings(Strict):
        """Defaults: facebookresearch/barlowtwins main.py:29-41."""

        hidden_dim: int = Field(8192, ge=1, description="width of the projection's hidden layers")
        output_dim: int = Field(8192, ge=1, description="length of projections")
        redundancy_weight: float = Field(
            0.0051, ge=0, description="weight of correlations between different features"
        )

    def __init__(
        self,
        backbone: nn.Module,
        settings: BarlowTwins.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        self.head = heads.BarlowTwinsProjectionHead(
            _num_features(backbone), settings.hidden_dim, settings.output_dim
        )
        # lightly's own gathering standardises every process's projections by themselves, where
        # the authors' synchronised BatchNorm does so over the global batch; see _gathered
        self.loss = BarlowTwinsLoss(lambda_param=settings.redundancy_weight)

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        features = [self.backbone(view) for view in views]
        left, right = (self.head(f) for f in features)
        loss = _in_float32(self.loss, _gathered(left), _gathered(right))
        return _result(loss, _matched(left, right), *features)


class VICReg(Method):
    """VICReg (arXiv 2105.04906): two views alike, features varied and uncorrelated.

    "accuracy" is the share of first views nearest to their own second view.
    """

    name = "vicreg"

    class Settings(Strict):
        """Defaults: facebookresearch/vicreg main_vicreg.py:37-62."""

        hidden_dim: int = Field(8192, ge=1, description="width of the projection's hidden layers")
        output_dim: int = Field(8192, ge=2, description="length of projections")
        invariance_weight: float = Field(25.0, ge=0, description="weight of the views' distance")
        variance_weight: float = Field(25.0, ge=0, description="weight of features' spread below 1")
        covariance_weight: float = Field(1.0, ge=0, description="weight of features' covariances")

    def __init__(
        self,
        backbone: nn.Module,
        settings: VICReg.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        self.head = heads.VICRegProjectionHead(
            _num_features(backbone), settings.hidden_dim, settings.output_dim
        )
        self.loss = VICRegLoss(
            lambda_param=settings.invariance_weight,
            mu_param=settings.variance_weight,
            nu_param=settings.covariance_weight,
            gather_distributed=_GATHER,
        )

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        features = [self.backbone(view) for view in views]
        left, right = (self.head(f) for f in features)
        return _result(_in_float32(self.loss, left, right), _matched(left, right), *features)


class DINO(Method):
    """DINO (arXiv 2104.14294): match the soft classes that a slowly moving teacher assigns.

    Views after the first two are local ones, which only the student sees.

    "accuracy" is the share of first views nearest, by the student's output, to the teacher's of
    their own second view.
    """

    name = "dino"
    multi_crop = True

    class Settings(Strict):
        """Defaults: facebookresearch/dino main_dino.py, its ResNet-50 as README:205-207."""

        hidden_dim: int = Field(2048, ge=1, description="width of the head's hidden layers")
        bottleneck_dim: int = Field(256, ge=1, description="width before the last layer")
        output_dim: int = Field(65_536, ge=2, description="number of soft classes")
        momentum: float = Field(
            0.996, ge=0, le=1, description="share of the teacher kept, at first; 1 at the end"
        )
        teacher_temperature: float = Field(0.04, gt=0, description="sharpness of the teacher")
        student_temperature: float = Field(0.1, gt=0, description="sharpness of the student")
        centre_momentum: float = Field(0.9, ge=0, le=1, description="share of the centre kept")
        frozen_steps: int = Field(
            1251, ge=0, description="first steps without moving the last layer: one epoch"
        )

    settings: DINO.Settings

    def __init__(
        self,
        backbone: nn.Module,
        settings: DINO.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        self.head, self.teacher_head = self._new_head(), self._new_head()
        # by its state, because the old weight_norm in lightly's head cannot be deep-copied
        self.teacher_head.load_state_dict(self.head.state_dict())
        deactivate_requires_grad(self.teacher_head)
        self.teacher_backbone = _momentum_copy(self.backbone)
        self._hold(self.head.last_layer.weight_v, settings.frozen_steps)
        self.loss = DINOLoss(
            output_dim=settings.output_dim,
            teacher_temp=settings.teacher_temperature,
            student_temp=settings.student_temperature,
            center_momentum=settings.centre_momentum,
        )

    def _new_head(self) -> Any:
        width, settings = _num_features(self.backbone), self.settings
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*weight_norm.* is deprecated", FutureWarning)
            return heads.DINOProjectionHead(
                width, settings.hidden_dim, settings.bottleneck_dim, settings.output_dim
            )

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        features, student = _together(self.backbone, self.head, views)
        with torch.no_grad():
            both = views[: self.num_views]
            _, teacher = _together(self.teacher_backbone, self.teacher_head, both)
        loss = _in_float32(self.loss, teacher, student)
        return _result(loss, _matched(student[0], teacher[1]), *features[:2])

    def after_step(self, step: int) -> None:
        super().after_step(step)
        momentum = cosine_schedule(step, self.steps, self.settings.momentum, 1.0)
        update_momentum(self.backbone, self.teacher_backbone, momentum)
        update_momentum(self.head, self.teacher_head, momentum)


class Supervised(Method):
    """Labels: cross-entropy over classes (N,), or binary over labels (N, L) where NaN is unknown.

    "accuracy" is the share of images whose class, or of known labels whose side, is right.
    """

    name = "supervised"
    num_views = 1
    needs_labels = True

    class Settings(Strict):
        """None: torchvision's reference training of ResNet-50 has no setting of its own."""

    def __init__(
        self,
        backbone: nn.Module,
        settings: Supervised.Settings,
        *,
        steps: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(backbone, settings, steps=steps)
        if not num_classes:
            raise ValueError("supervised needs num_classes, the number of classes or labels")
        self.head = nn.Linear(_num_features(backbone), num_classes)

    def _outputs(self, views: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        features = self.backbone(views[0])
        logits = _widened(self.head(features))
        assert labels is not None  # forward has refused that
        if labels.ndim == 1:
            right = (logits.argmax(1) == labels).float()
            return _result(F.cross_entropy(logits, labels), right.mean(), features)
        known = ~torch.isnan(labels)
        right = ((logits > 0) == (labels > 0.5))[known].float()
        return _result(_masked_bce(logits, labels), right.mean(), features)


def _masked_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of the known labels; zero when none is.

    The divisor is the mean number of known labels over the processes, so that the mean over the
    processes is the mean over the global batch. ``logits`` and ``labels`` are (N, L).
    """
    known = ~torch.isnan(labels)
    each = F.binary_cross_entropy_with_logits(
        logits, torch.nan_to_num(labels).to(logits.dtype), reduction="none"
    )
    count = known.sum()
    if dist.world_size() > 1:
        torch.distributed.all_reduce(count)
    loss: Tensor = (each * known).sum() / count.clamp(min=1) * dist.world_size()
    return loss


def _num_features(backbone: nn.Module) -> int:
    return cast(int, backbone.num_features)


def _momentum_copy(module: nn.Module) -> nn.Module:
    """A copy without gradients, which keeps its own BatchNorm statistics."""
    copied = copy.deepcopy(module)
    deactivate_requires_grad(copied)
    return copied


@torch.no_grad()
def _update_statistics(model: nn.Module, follower: nn.Module, momentum: float) -> None:
    """BatchNorm's averages follow as weights do, which lightly's ``update_momentum`` leaves out."""
    for own, followed in zip(model.buffers(), follower.buffers(), strict=True):
        if own.is_floating_point():
            followed.lerp_(own, 1 - momentum)


def _together(
    backbone: nn.Module, head: nn.Module, views: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Features (N, D) and head's outputs of each view, from as few passes as sizes allow.

    Neighbouring views of one size share a pass of the backbone, and all views one of the head,
    and so BatchNorm statistics, as in facebookresearch/swav src/resnet50.py.
    """
    features: list[Tensor] = []
    for _, same_size in itertools.groupby(views, key=lambda view: view.shape[-2:]):
        group = list(same_size)
        features += backbone(torch.cat(group)).split([len(view) for view in group])
    outputs = head(torch.cat(features)).split([len(f) for f in features])
    return features, list(outputs)


def _gathered(outputs: Tensor) -> Tensor:
    """(N, ...) of every process, one after the other, with gradients."""
    return torch.cat(list(dist.gather(outputs))) if dist.world_size() > 1 else outputs


def _in_float32(module: nn.Module, *inputs: Tensor | list[Tensor]) -> Tensor:
    """``module`` of ``inputs`` in float32 at least, whatever autocast is on."""
    first = inputs[0] if isinstance(inputs[0], Tensor) else inputs[0][0]
    with torch.autocast(first.device.type, enabled=False):
        output: Tensor = module(
            *(_widened(i) if isinstance(i, Tensor) else [_widened(x) for x in i] for i in inputs)
        )
    return output


def _widened(x: Tensor) -> Tensor:
    """``x`` in float32, or float64 where it has it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unit(x: Tensor) -> Tensor:
    """The rows of ``x`` (N, D), in float32 at least, with a length of 1."""
    return F.normalize(_widened(x), dim=1)


@torch.no_grad()
def _matched(left: Tensor, right: Tensor) -> Tensor:
    """Share of ``left`` (N, D) whose nearest of ``right`` (N, D), by cosine, is its own."""
    similarity = _unit(left) @ _unit(right).T
    own = torch.arange(len(left), device=left.device)
    return (similarity.argmax(1) == own).float().mean()


def _result(
    loss: Tensor, accuracy: Tensor, features: Tensor, partners: Tensor | None = None
) -> dict[str, Tensor]:
    result = {"loss": loss, "accuracy": accuracy.detach(), "features": features.detach()}
    return result if partners is None else {**result, "partners": partners.detach()}
