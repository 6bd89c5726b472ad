"""BatchNorm over the processes of a training: its statistics are those of the global batch.

Equal parts of the global batch on every process are taken for granted.

N is a process's batch, C the channels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` with BatchNorm that, while training, sees the batches of all processes.

    Parameters, buffers and their names stay, so that an optimiser or a checkpoint made before is
    still good. In eval mode, or with one process, nothing is computed otherwise than before.

    Args:
        module: is changed in place; the result is another one only where it is a BatchNorm.
        device: where it is trained. On CUDA layers become torch's SyncBatchNorm, which runs
            nowhere else; on other devices ours, which waits for the other processes twice in
            each direction and keeps more for the backward pass.

    Raises:
        ValueError: a kind of BatchNorm whose other effects are not known here.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        if type(norm) not in _GLOBAL and not isinstance(norm, (nn.SyncBatchNorm, _GlobalBatchNorm)):
            raise ValueError(f"no BatchNorm over several processes for {type(norm).__qualname__}")
    if device.type == "cuda":
        return cast(nn.Module, convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]
    for norm in norms:
        # another class for the same object: whoever holds or hooks the layer does so still
        norm.__class__ = _GLOBAL.get(type(norm), type(norm))
    return module


def normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Standardise channels over the global batch, with gradients across the processes.

    The variance is taken of what is left when the global mean is subtracted: a mean of squares
    less a squared mean would lose its digits where the mean is large.

    Args:
        x: (N, C, ...).
        eps: is added to variances.

    Returns:
        (N, C, ...) standardised; means (C,) and biased variances (C,) of the global batch. In
        float32 at least, whatever ``x`` is.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    others = [d for d in range(x.ndim) if d != 1]
    mean = _mean_over_processes(wide.mean(others, keepdim=True))
    centred = wide - mean
    variance = _mean_over_processes(centred.square().mean(others, keepdim=True))
    return centred * torch.rsqrt(variance + eps), mean.flatten(), variance.flatten()


class _GlobalBatchNorm(_BatchNorm):
    """Goes before a class of BatchNorm, whose arithmetic in training it replaces."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or _processes() == 1:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        output, mean, variance = normalise(input, self.eps)
        if self.track_running_stats:
            self._keep(mean, variance, input.numel() // input.shape[1] * _processes())
        if self.affine:
            shape = (1, -1) + (1,) * (input.ndim - 2)
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return self._finish(output.to(input.dtype))

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of ``count`` values a channel."""
        kept_mean, kept_variance = self.running_mean, self.running_var
        assert kept_mean is not None
        assert kept_variance is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        kept_mean.lerp_(mean.to(kept_mean.dtype), share)
        unbiased = variance * (count / (count - 1))
        kept_variance.lerp_(unbiased.to(kept_variance.dtype), share)

    def _finish(self, output: Tensor) -> Tensor:
        """What the layer does once it has normalised."""
        return output


class _GlobalBatchNorm1d(_GlobalBatchNorm, nn.BatchNorm1d):
    pass


class _GlobalBatchNorm2d(_GlobalBatchNorm, nn.BatchNorm2d):
    pass


class _GlobalBatchNormAct2d(_GlobalBatchNorm, BatchNormAct2d):
    def _finish(self, output: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.drop(output)))


_GLOBAL: dict[type[nn.Module], type[_GlobalBatchNorm]] = {
    nn.BatchNorm1d: _GlobalBatchNorm1d,
    nn.BatchNorm2d: _GlobalBatchNorm2d,
    BatchNormAct2d: _GlobalBatchNormAct2d,
}


class _SumOverProcesses(torch.autograd.Function):
    """all_reduce with a gradient; torch.distributed.nn.functional's is deprecated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # what each process asks of the sum, it asks of every summand
        return cast(Tensor, _SumOverProcesses.apply(gradients[0]))


def _mean_over_processes(x: Tensor) -> Tensor:
    if _processes() == 1:
        return x
    return cast(Tensor, _SumOverProcesses.apply(x)) / _processes()


def _processes() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1
