"""Random views of a batch of images, on any device, in a few batched operations.

``augment`` is ``draw`` (numbers, on the CPU) followed by ``render`` (pixels, on the images'
device). Every image has its own numbers and there is no loop over images.

Departures from torchvision, which the single operations otherwise reproduce: the colour
operations come in one fixed order (brightness, contrast, saturation, hue) instead of a drawn
one; crop and rotation are one resampling, so that a rotated crop shows what lies beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cxrzoo.pretrain.recipe import Views
from cxrzoo.zoo.card import InputContract

_TRIES = 10  # of RandomResizedCrop, before it takes the whole image
_GREY = (0.2989, 0.587, 0.114)  # of red, green and blue, as in torchvision
_MAX_SPACING = 1.5  # between bilinear samples, in pixels, before fine detail aliases
_BLUR_REFERENCE_PX = 224


@dataclass(frozen=True)
class Draws:
    """What makes N views different, on the CPU; a neutral value where an image is spared.

    Attributes:
        boxes: (N, 4) left, top, width, height of the crops, in pixels of the input.
        angles: (N,) rotation about the middle of the crop, in radians.
        mirrored: (N,) bool.
        brightness, contrast, saturation: (N,) factors, 1 for none.
        hue: (N,) turns of the colour circle, 0 for none.
        grey: (N,) bool.
        sigmas: (N,) of the blur, in pixels of the view, 0 for none.
        noise_seed: of the additive noise.
        first, total: the first of the images and the number of all that were drawn for, which
            tell whose part of the noise is theirs.
    """

    boxes: Tensor
    angles: Tensor
    mirrored: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    grey: Tensor
    sigmas: Tensor
    noise_seed: int
    first: int
    total: int

    def part(self, first: int, count: int) -> Draws:
        """The draws of ``count`` images from ``first`` on."""
        if not 0 <= first <= first + count <= len(self.boxes):
            raise ValueError(
                f"expected some of {len(self.boxes)} images, not {count} from number {first} on"
            )
        drawn = {f.name: getattr(self, f.name) for f in fields(self)}
        own: dict[str, Any] = {
            name: numbers[first : first + count]
            for name, numbers in drawn.items()
            if isinstance(numbers, Tensor)
        }
        return replace(self, **own, first=self.first + first)


def as_input(view: Tensor, contract: InputContract) -> Tensor:
    """Views in [0, 1] as they enter a network: (N, C, S, S), one channel repeated as it needs."""
    low, high = contract.range
    mean = view.new_tensor(contract.mean).view(1, -1, 1, 1)
    std = view.new_tensor(contract.std).view(1, -1, 1, 1)
    scaled = (view * (high - low) + low - mean) / std
    return scaled.contiguous(memory_format=torch.channels_last)


def augment(
    pixels: Tensor,
    views: Views,
    generator: torch.Generator,
    *,
    part: tuple[int, int] | None = None,
) -> Tensor:
    """One random view of each image.

    Args:
        pixels: (N, S, S) or (N, C, S, S) uint8 with C in {1, 3}, on any device.
        views: ranges and probabilities of the draws.
        generator: on the CPU, so that a seed means the same draws on every device. A batch
            advances it equally whatever the settings, so that one does not move the others.
        part: (first, total) where ``pixels`` are those from number ``first`` on of ``total``
            images, which several processes share: their views, and the generator after it, are
            those of one process that has all the images.

    Returns:
        (N, C, views.size_px, views.size_px) float32 in [0, 1], channels_last where C is 3.

    Raises:
        ValueError: pixels, generator or part are not as described.
    """
    pixels = _checked(pixels)
    if generator.device.type != "cpu":
        raise ValueError(f"expected a generator on the CPU, not on {generator.device}")
    first, total = part or (0, len(pixels))
    draws = draw(total, pixels.shape[-1], views, generator)
    return render(pixels, draws.part(first, len(pixels)), views)


def local_settings(views: Views) -> Views:
    """The settings of one local view, where ``views`` has such."""
    if views.local is None:
        raise ValueError("these views have no local ones")
    local = {"size_px": views.local.size_px, "crop_scale": views.local.crop_scale}
    return views.model_copy(update={**local, "local": None})


def draw(count: int, side_px: int, views: Views, generator: torch.Generator) -> Draws:
    """The numbers behind views of ``count`` square images with sides of ``side_px`` pixels."""
    noise_seed = int(torch.randint(2**62, (), generator=generator))
    uniform = torch.rand(count, 2 * _TRIES + 12, generator=generator)
    tries = uniform[:, : 2 * _TRIES].view(count, _TRIES, 2)
    left, top, turn, mirror, jitter, bright, contrast, saturation, hue, grey, blur, sigma = uniform[
        :, 2 * _TRIES :
    ].unbind(1)
    jittered = jitter < views.jitter_probability
    low, high = (s * views.size_px / _BLUR_REFERENCE_PX for s in views.blur_sigma)
    return Draws(
        boxes=_boxes(tries, torch.stack([left, top], 1), side_px, views),
        angles=(2 * turn - 1) * math.radians(views.rotation_deg),
        mirrored=mirror < views.flip_probability,
        brightness=_factors(bright, views.brightness, jittered),
        contrast=_factors(contrast, views.contrast, jittered),
        saturation=_factors(saturation, views.saturation, jittered),
        hue=torch.where(jittered, (2 * hue - 1) * views.hue, 0.0),
        grey=grey < views.grey_probability,
        sigmas=torch.where(blur < views.blur_probability, low + (high - low) * sigma, 0.0),
        noise_seed=noise_seed,
        first=0,
        total=count,
    )


def render(pixels: Tensor, draws: Draws, views: Views) -> Tensor:
    """(N, C, S, S) uint8 to (N, C, size_px, size_px) float32 in [0, 1], as drawn.

    What no image drew is not computed.
    """
    x = _resample(pixels, draws, views)
    _jitter_light(x, draws)
    if x.shape[1] == 3:
        _jitter_colour(x, draws)
    _blur(x, draws.sigmas, max_sigma=views.blur_sigma[1] * views.size_px / _BLUR_REFERENCE_PX)
    if views.noise_std > 0:
        x.add_(_noise(draws, x), alpha=views.noise_std).clamp_(0, 1)
    return x.contiguous(memory_format=torch.channels_last) if x.shape[1] == 3 else x


def _boxes(tries: Tensor, places: Tensor, side: int, views: Views) -> Tensor:
    """(N, 4) whole-pixel boxes: the first try that fits, as RandomResizedCrop has it.

    Args:
        tries: (N, T, 2) uniform draws for area and logarithm of the aspect ratio.
        places: (N, 2) uniform draws for left and top.
        side: of the images, in pixels.
        views: ranges.
    """
    low, high = views.crop_scale
    narrow, wide = (math.log(ratio) for ratio in views.crop_ratio)
    area = low + (high - low) * tries[..., 0]
    half = (narrow + (wide - narrow) * tries[..., 1]) / 2
    sizes = torch.stack([area.sqrt() * half.exp(), area.sqrt() * (-half).exp()], -1)
    sizes = (sizes * side).round()
    fits = ((sizes > 0) & (sizes <= side)).all(-1)
    first = fits.byte().argmax(1)
    size = sizes[torch.arange(len(sizes)), first]
    corner = torch.minimum((places * (side - size + 1)).floor(), side - size)
    fallback = _central_box(side, views.crop_ratio).expand(len(sizes), 4)
    return torch.where(fits.any(1, keepdim=True), torch.cat([corner, size], 1), fallback)


def _central_box(side: int, ratios: tuple[float, float]) -> Tensor:
    """(4,) the largest box in the middle with an allowed ratio: the whole image if 1 is one."""
    ratio = min(max(1.0, ratios[0]), ratios[1])
    width, height = round(side * min(1, ratio)), round(side * min(1, 1 / ratio))
    box = [(side - width) // 2, (side - height) // 2, width, height]
    return torch.tensor(box, dtype=torch.float32)


def _factors(uniform: Tensor, spread: float, jittered: Tensor) -> Tensor:
    """(N,) from 1 - spread, but not below 0, to 1 + spread; 1 where not jittered."""
    low, high = max(0.0, 1 - spread), 1 + spread
    return torch.where(jittered, low + (high - low) * uniform, 1.0)


def _resample(pixels: Tensor, draws: Draws, views: Views) -> Tensor:
    """Crop, rotation and mirror in one resampling.

    What a rotated crop shows beyond the image is its reflection: black corners would tell
    the angle, by which two views of one image are easily matched.
    """
    side = pixels.shape[-1]
    pooling, samples = _antialias(side, views)
    x = pixels.to(torch.float32).div_(255)
    if pooling > 1:
        x = functional.interpolate(x, size=side // pooling, mode="area")
    grid = _grid(_affine(draws, side).to(x.device), views.size_px * samples)
    x = functional.grid_sample(
        x, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    if samples > 1:
        x = functional.avg_pool2d(x, samples)
    return x.clamp_(0, 1)  # the four weights may sum to a little more than 1


def _antialias(side: int, views: Views) -> tuple[int, int]:
    """Pooling of the whole batch before, and samples along a view's pixel, for any crop drawn.

    Pooling is cheap, but takes detail from the smallest crops unless they are shrunk that
    much themselves. The larger ones are then sampled more densely and averaged, which costs
    the square of the samples: stored images little larger than the views are best. Neither
    depends on the draws, lest an image's view depend on the others in its batch.
    """
    extreme = max(views.crop_ratio[1], 1 / views.crop_ratio[0])
    smallest = math.sqrt(views.crop_scale[0] / extreme)
    largest = min(1.0, math.sqrt(views.crop_scale[1] * extreme))
    pooling = max(1, math.floor(side * smallest / views.size_px))
    spacing = side * largest / pooling / views.size_px
    return pooling, max(1, math.ceil(spacing / _MAX_SPACING))


def _affine(draws: Draws, side: int) -> Tensor:
    """(N, 2, 3) maps from view to image, both in coordinates from -1 to 1."""
    share = draws.boxes[:, 2:] / side
    centre = (2 * draws.boxes[:, :2] + draws.boxes[:, 2:]) / side - 1
    width, height = share.unbind(1)
    width = torch.where(draws.mirrored, -width, width)
    cos, sin = draws.angles.cos(), draws.angles.sin()
    x = torch.stack([cos * width, -sin * height, centre[:, 0]], 1)
    y = torch.stack([sin * width, cos * height, centre[:, 1]], 1)
    return torch.stack([x, y], 1)


def _grid(theta: Tensor, size: int) -> Tensor:
    """(N, size, size, 2): ``functional.affine_grid`` in a fraction of its time on a CPU.

    x and y are planes in memory; grid_sample reads them as fast as pairs.
    """
    along = (torch.arange(size, device=theta.device, dtype=theta.dtype) * 2 + 1) / size - 1
    columns = theta[:, :, 0].view(-1, 2, 1, 1) * along
    rows = theta[:, :, 1].view(-1, 2, 1, 1) * along.view(-1, 1)
    return (columns + (rows + theta[:, :, 2].view(-1, 2, 1, 1))).permute(0, 2, 3, 1)


def _jitter_light(x: Tensor, draws: Draws) -> None:
    """Brightness, then contrast about the mean grey level, in place."""
    if bool((draws.brightness != 1).any()):
        x.mul_(_per_image(draws.brightness, x)).clamp_(0, 1)
    if bool((draws.contrast != 1).any()):
        _blend(x, _grey(x.mean((2, 3), keepdim=True)), draws.contrast)


def _jitter_colour(x: Tensor, draws: Draws) -> None:
    """Saturation, hue and removal of colour from (N, 3, S, S), in place."""
    if bool((draws.saturation != 1).any()):
        _blend(x, _grey(x), draws.saturation)
    turned = _where(draws.hue != 0, x)
    if len(turned):
        hue = _per_image(draws.hue[draws.hue != 0], x)
        x.index_copy_(0, turned, _turn_hue(x[turned], hue))
    grey = _where(draws.grey, x)
    if len(grey):
        x.index_copy_(0, grey, _grey(x[grey]).expand(-1, 3, -1, -1))


def _blend(x: Tensor, other: Tensor, factors: Tensor) -> None:
    """``other`` at factor 0, ``x`` at factor 1 and beyond it above, in place."""
    factor = _per_image(factors, x)
    x.mul_(factor).add_(other * (1 - factor)).clamp_(0, 1)


def _grey(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, 1, H, W) luma; the same values where C is 1."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.chunk(3, dim=1)
    return (_GREY[0] * red).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def _turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """(N, 3, H, W) colours turned about the grey axis of HSV by (N, 1, 1, 1) turns.

    With h in sixths of the circle, value V and chroma C (V less the smallest channel), red,
    green and blue are V - C clamp(2 - abs(k - 2), 0, 1), where k = (h + n) mod 6, n = 5, 3, 1.
    Much is in place, because on a CPU new memory costs more than the arithmetic.
    """
    red, green, blue = x.chunk(3, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp_min(torch.finfo(x.dtype).tiny).reciprocal_()
    h = (red - green).mul_(scale).add_(4)
    h = torch.where(value == green, (blue - red).mul_(scale).add_(2), h)
    h = torch.where(value == red, (green - blue).mul_(scale), h).add_(6 * turns)
    k = (h + torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)).remainder_(6)
    k.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return k.mul_(chroma).neg_().add_(value)


def _blur(x: Tensor, sigmas: Tensor, *, max_sigma: float) -> None:
    """Gaussian blur of the images with a sigma above 0, each with its own, in place.

    Kernels reach three times ``max_sigma``, whichever sigmas are drawn.
    """
    index = _where(sigmas > 0, x)
    if not len(index):
        return
    radius = min(math.ceil(3 * max_sigma), x.shape[-1] - 1)  # all that reflection can fill
    taps = torch.arange(-radius, radius + 1) / sigmas[sigmas > 0].view(-1, 1)
    kernels = torch.softmax(-taps.square() / 2, dim=1).repeat_interleave(x.shape[1], 0)
    kernels = kernels.to(x.device).view(-1, 1, 1, 2 * radius + 1)
    chosen = functional.pad(x[index], (radius,) * 4, mode="reflect")
    # images as channels of one image, because a convolution has one kernel a channel
    planes = chosen.reshape(1, -1, *chosen.shape[2:])
    planes = functional.conv2d(planes, kernels, groups=len(kernels))
    planes = functional.conv2d(planes, kernels.transpose(2, 3), groups=len(kernels))
    x.index_copy_(0, index, planes.view(-1, *x.shape[1:]))


def _noise(draws: Draws, like: Tensor) -> Tensor:
    """(N, C, S, S) normal noise of these images, on the device of ``like``.

    Drawn for all the images there were draws for: a generator's numbers depend on their count.
    """
    own = torch.Generator().manual_seed(draws.noise_seed)
    noise = torch.randn((draws.total, *like.shape[1:]), generator=own)
    return noise[draws.first : draws.first + len(like)].to(like.device)


def _where(chosen: Tensor, like: Tensor) -> Tensor:
    """(n,) indices of the chosen images, on the device of ``like``."""
    return chosen.nonzero().flatten().to(like.device)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device).view(-1, 1, 1, 1)


def _checked(pixels: Tensor) -> Tensor:
    """(N, C, S, S) uint8, or ValueError."""
    expected = "expected uint8 images of shape (N, S, S), (N, 1, S, S) or (N, 3, S, S), N > 0"
    if not isinstance(pixels, Tensor):
        raise ValueError(f"{expected}, not {type(pixels).__name__}")
    x = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels
    good_shape = x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[2] == x.shape[3]
    if not good_shape or x.numel() == 0:
        raise ValueError(f"{expected}, not {tuple(pixels.shape)}")
    if x.dtype != torch.uint8:
        raise ValueError(f"{expected}, not {x.dtype}: grey levels are 0 to 255 here")
    return x
