from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from cxrzoo.pretrain import views as module
from cxrzoo.pretrain.recipe import LocalViews, Views
from cxrzoo.pretrain.views import augment, draw, local_settings, render

SIDE = 64
EVERYTHING = {
    "crop_scale": (0.2, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "rotation_deg": 10.0,
    "flip_probability": 0.5,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter_probability": 0.8,
    "grey_probability": 0.2,
    "blur_probability": 0.5,
    "noise_std": 0.02,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=seeded(seed)).to(torch.uint8)


def still(**changes) -> Views:
    """Settings that leave an image of SIDE pixels as it is, but for the changes."""
    values = {"size_px": SIDE, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    return Views(**(values | changes))


def everything(**changes) -> Views:
    return Views(**({"size_px": SIDE} | EVERYTHING | changes))


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((5, SIDE, SIDE), 1), ((5, 1, SIDE, SIDE), 1), ((5, 3, SIDE, SIDE), 3), ((1, 1, 1, 1), 1)],
)
@pytest.mark.parametrize("size", [32, 48, 96])
def test_shape_type_and_range(shape, channels, size):
    made = augment(images(*shape), everything(size_px=size, noise_std=0.3), seeded())
    assert made.shape == (shape[0], channels, size, size)
    assert made.dtype == torch.float32
    assert made.min() >= 0
    assert made.max() <= 1
    layout = torch.channels_last if channels == 3 else torch.contiguous_format
    assert made.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_seed_gives_the_same_bits_and_no_global_generator_moves(channels):
    pixels, kept = images(8, channels, SIDE, SIDE), images(8, channels, SIDE, SIDE)
    torch_before, numpy_before, python_before = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
        random.getstate(),
    )
    first = augment(pixels, everything(), seeded(1))
    assert torch.equal(torch_before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    assert python_before == random.getstate()
    assert torch.equal(pixels, kept)
    torch.manual_seed(99)
    assert torch.equal(first, augment(pixels, everything(), seeded(1)))
    assert not torch.equal(first, augment(pixels, everything(), seeded(2)))


def test_a_generator_moves_on_and_equally_under_all_settings():
    pixels = images(4, SIDE, SIDE)
    plain, full = seeded(), seeded()
    first, second = augment(pixels, still(), plain), augment(pixels, everything(), full)
    assert torch.equal(plain.get_state(), full.get_state())
    assert not torch.equal(second, augment(pixels, everything(), full))
    assert torch.equal(first, augment(pixels, still(), plain))  # nothing to draw


@pytest.mark.parametrize("shape", [(4, SIDE, SIDE), (4, 1, SIDE, SIDE), (4, 3, SIDE, SIDE)])
def test_identity(shape):
    pixels = images(*shape)
    made = augment(pixels, still(), seeded())
    assert torch.allclose(made, pixels.view(4, -1, SIDE, SIDE) / 255, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "scale", "ratio"),
    [
        (20_000, (0.2, 1.0), (3 / 4, 4 / 3)),
        (20_000, (0.3, 0.6), (0.5, 2.0)),
        (2000, (1.0, 1.0), (3 / 4, 4 / 3)),  # hardly any box fits
        (200, (0.9, 1.0), (1.5, 2.0)),  # none does
    ],
)
def test_boxes_are_distributed_as_torchvision_draws_them(count, scale, ratio):
    side = 128
    views = Views(size_px=side, crop_scale=scale, crop_ratio=ratio)
    left, top, width, height = draw(count, side, views, seeded()).boxes.numpy().T
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        image = torch.empty(1, side, side)
        theirs = np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in left])
    quantiles = [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]
    assert left.min() >= 0
    assert top.min() >= 0
    assert (left + width).max() <= side
    assert (top + height).max() <= side
    for mine, other in [
        (width * height / side**2, theirs[:, 3] * theirs[:, 2] / side**2),
        (np.log(width / height), np.log(theirs[:, 3] / theirs[:, 2])),
        (left / side, theirs[:, 1] / side),
        (top / side, theirs[:, 0] / side),
    ]:
        assert np.quantile(mine, quantiles) == pytest.approx(
            np.quantile(other, quantiles), abs=0.02
        )


def test_a_crop_of_the_views_size_is_cut_out_exactly():
    pixels = images(16, SIDE, SIDE)
    views = still(size_px=32, crop_scale=(0.25, 0.25))
    boxes = draw(16, SIDE, views, seeded(3)).boxes.int().tolist()
    made = augment(pixels, views, seeded(3))
    assert len({tuple(box) for box in boxes}) > 10
    for image, view, (left, top, width, height) in zip(pixels, made, boxes, strict=True):
        cut = image[top : top + height, left : left + width] / 255
        assert torch.allclose(view[0], cut, atol=1e-4)


def test_a_crop_is_resized_as_torchvision_does():
    pixels = smooth(images(8, 3, SIDE, SIDE))
    views = still(size_px=96, crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3))
    boxes = draw(8, SIDE, views, seeded(3)).boxes.int().tolist()
    made = augment(pixels, views, seeded(3))
    for image, view, (left, top, width, height) in zip(pixels, made, boxes, strict=True):
        theirs = reference.resized_crop(image / 255, top, left, height, width, [96, 96])
        # theirs stops at the crop's edge, ours sees the pixel beside it
        assert torch.allclose(view[:, 4:-4, 4:-4], theirs[:, 4:-4, 4:-4], atol=1e-3)


def smooth(pixels: Tensor) -> Tensor:
    return reference.gaussian_blur(pixels, [9, 9], [2.0, 2.0])


@pytest.mark.parametrize(("side", "scale"), [(256, 1.0), (128, 0.2), (150, 0.2), (64, 0.2)])
def test_fine_detail_is_averaged_where_a_crop_is_shrunk(side, scale):
    pixels = (torch.arange(side) % 2 * 255).to(torch.uint8).expand(64, side, side)
    pixels = pixels ^ pixels.transpose(1, 2)  # a chessboard
    views = still(size_px=32, crop_scale=(scale, 1.0), rotation_deg=10)
    made = augment(pixels, views, seeded())
    shrunk = draw(64, side, views, seeded()).boxes[:, 2] > 1.8 * 32
    assert shrunk.sum() > 5
    assert made[shrunk].std((1, 2, 3)).max() < 0.2  # 0.5 in the image
    assert made[shrunk].mean((1, 2, 3)).sub(0.5).abs().max() < 0.02


def test_rotation_stays_within_its_bounds_and_turns_both_ways():
    angles = draw(5000, SIDE, still(rotation_deg=10), seeded()).angles.rad2deg()
    assert angles.abs().max() <= 10
    assert angles.min() < -9.9
    assert angles.max() > 9.9
    assert not draw(10, SIDE, still(), seeded()).angles.any()


def test_a_quarter_turn_is_a_rotation():
    pixels = images(2, SIDE, SIDE)
    draws = draw(2, SIDE, still(), seeded())
    draws = dataclasses.replace(draws, angles=torch.tensor([math.pi / 2, 0.0]))
    upright = render(
        pixels.unsqueeze(1), dataclasses.replace(draws, angles=torch.zeros(2)), still()
    )
    turned = render(pixels.unsqueeze(1), draws, still())
    assert torch.allclose(turned[0], torch.rot90(upright[0], 1, (1, 2)), atol=1e-3)
    assert torch.allclose(turned[1], upright[1], atol=1e-6)


def test_a_flip_is_a_mirror_and_happens_as_often_as_asked():
    pixels = images(4, 3, SIDE, SIDE)
    made = augment(pixels, still(flip_probability=1.0), seeded())
    assert torch.allclose(made, pixels.flip(-1) / 255, atol=1e-3)
    share = draw(5000, SIDE, still(flip_probability=0.3), seeded()).mirrored.float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.03)


def test_a_mirrored_rotated_crop_is_the_mirror_of_the_rotated_crop():
    views = everything(flip_probability=0.0, noise_std=0.0)
    pixels = images(8, 1, SIDE, SIDE)
    draws = draw(8, SIDE, views, seeded())
    mirrored = dataclasses.replace(draws, mirrored=torch.ones(8, dtype=torch.bool))
    same = render(pixels, draws, views).flip(-1)
    assert torch.allclose(render(pixels, mirrored, views), same, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_light_and_colour_equal_torchvisions(channels):
    jitter = {"brightness": 0.6, "contrast": 0.6, "saturation": 0.6, "hue": 0.5}
    pixels, views = images(32, channels, SIDE, SIDE), still(**jitter, jitter_probability=0.7)
    draws, made = draw(32, SIDE, views, seeded(4)), augment(pixels, views, seeded(4))
    spared = (draws.brightness == 1) & (draws.contrast == 1) & (draws.hue == 0)
    assert 3 < spared.sum() < 20
    for k, image in enumerate(pixels / 255):
        theirs = reference.adjust_brightness(image, float(draws.brightness[k]))
        theirs = reference.adjust_contrast(theirs, float(draws.contrast[k]))
        theirs = reference.adjust_saturation(theirs, float(draws.saturation[k]))
        theirs = reference.adjust_hue(theirs, float(draws.hue[k]))
        # a hue beside the border of a sextant magnifies rounding
        assert (made[k] - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("one", ["brightness", "contrast", "saturation", "hue"])
def test_each_operation_alone_equals_torchvisions(one):
    pixels, views = images(8, 3, SIDE, SIDE), still(**{one: 0.5})
    factors = getattr(draw(8, SIDE, views, seeded(5)), one)
    made = augment(pixels, views, seeded(5))
    adjust = getattr(reference, f"adjust_{one}")
    for image, view, factor in zip(pixels / 255, made, factors.tolist(), strict=True):
        assert torch.allclose(view, adjust(image, factor), atol=2e-5)


def test_factors_span_their_range_and_never_fall_below_zero():
    draws = draw(5000, SIDE, still(brightness=0.4, contrast=1.5, hue=0.1), seeded())
    for values, low, high in [
        (draws.brightness, 0.6, 1.4),
        (draws.contrast, 0.0, 2.5),
        (draws.hue, -0.1, 0.1),
    ]:
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high


def test_grey_levels_survive_a_turn_of_hue_and_a_change_of_saturation():
    pixels = images(8, 1, SIDE, SIDE).expand(8, 3, SIDE, SIDE)
    made = augment(pixels, still(saturation=0.4, hue=0.5), seeded())
    assert torch.allclose(made, pixels / 255, atol=1e-3)


def test_removed_colour_is_luma_in_all_channels_of_the_drawn_images():
    pixels, views = images(32, 3, SIDE, SIDE), still(grey_probability=0.5)
    grey, made = draw(32, SIDE, views, seeded()).grey, augment(pixels, views, seeded())
    assert 5 < grey.sum() < 27
    theirs = reference.rgb_to_grayscale(pixels / 255, num_output_channels=3)
    assert torch.allclose(made[grey], theirs[grey], atol=1e-4)
    assert torch.allclose(made[~grey], pixels[~grey] / 255, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_equals_torchvisions(channels):
    pixels = images(16, channels, SIDE, SIDE)
    views = still(blur_probability=0.7, blur_sigma=(0.1, 7.0))  # 2 pixels at this size
    sigmas, made = draw(16, SIDE, views, seeded()).sigmas, augment(pixels, views, seeded())
    assert 0 < (sigmas == 0).sum() < 10
    assert 1.5 < sigmas.max() <= 2.0
    for image, view, sigma in zip(pixels / 255, made, sigmas.tolist(), strict=True):
        theirs = reference.gaussian_blur(image, [17, 17], [sigma, sigma]) if sigma else image
        assert (view - theirs).abs().max() < 1e-2


def test_blur_grows_with_the_views():
    sigmas = [
        draw(50, SIDE, still(size_px=size, blur_probability=1.0), seeded()).sigmas
        for size in (112, 224)
    ]
    assert torch.allclose(2 * sigmas[0], sigmas[1])
    assert 1.9 < sigmas[1].max() <= 2.0


def test_a_blur_wider_than_the_view_is_cut_to_it():
    views = still(size_px=32, blur_probability=1.0, blur_sigma=(300.0, 400.0))
    made = augment(images(2, SIDE, SIDE), views, seeded())
    assert made.std() < 0.05


def test_noise_has_its_spread_and_no_two_pixels_share_it():
    pixels = torch.full((4, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    noise = augment(pixels, still(noise_std=0.1), seeded()) - 128 / 255
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(noise.mean())) < 0.002
    flat = torch.corrcoef(noise.reshape(12, -1))
    assert (flat - torch.eye(12)).abs().max() < 0.1


def test_no_corner_is_black():
    white = torch.full((64, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    views = still(rotation_deg=45, crop_scale=(0.5, 1.0), blur_probability=0.5)
    assert augment(white, views, seeded()).min() > 0.999


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_has_its_own_view_whatever_its_neighbours(channels):
    pixels = images(1, channels, SIDE, SIDE).repeat(6, 1, 1, 1)
    made = augment(pixels, everything(), seeded())
    without_noise = augment(pixels, everything(noise_std=0.0), seeded())
    for k in range(1, 6):
        assert (without_noise[0] - without_noise[k]).abs().mean() > 0.01
    others = images(6, channels, SIDE, SIDE, seed=1)
    others[2] = pixels[2]
    assert torch.equal(augment(others, everything(), seeded())[2], made[2])
    fewer = augment(others[:3], everything(), seeded())
    assert torch.allclose(fewer[2], made[2], atol=1e-5)


def test_what_cannot_happen_costs_nothing(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("computed for nothing")

    for name in ("_blend", "_turn_hue", "_grey", "_per_image"):
        monkeypatch.setattr(module, name, refuse)
    for name in ("conv2d", "pad", "avg_pool2d", "interpolate"):
        monkeypatch.setattr(torch.nn.functional, name, refuse)
    monkeypatch.setattr(torch, "randn", refuse)
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    views = still(rotation_deg=10, flip_probability=0.5, **jitter, jitter_probability=0.0)
    augment(images(4, 3, SIDE, SIDE), views, seeded())


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), "expected uint8 images .* not ndarray"),
        (torch.zeros(2, 8, 8), "not torch.float32"),
        (torch.full((2, 8, 8), math.nan), "not torch.float32"),
        (torch.zeros(2, 8, 8, dtype=torch.int64), "not torch.int64"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"not \(8, 8\)"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), r"not \(2, 2, 8, 8\)"),
        (torch.zeros(2, 8, 9, dtype=torch.uint8), r"not \(2, 8, 9\)"),
        (torch.zeros(0, 8, 8, dtype=torch.uint8), r"N > 0, not \(0, 8, 8\)"),
        (torch.zeros(2, 0, 0, dtype=torch.uint8), r"not \(2, 0, 0\)"),
    ],
)
def test_other_input_is_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        augment(pixels, still(), seeded())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [33, SIDE])  # noise is drawn in sixteens, which 33 leaves open
def test_processes_make_the_views_that_one_makes(channels, size):
    pixels, views = images(7, channels, SIDE, SIDE), everything(size_px=size)
    together = seeded()
    whole = augment(pixels, views, together)
    for first, last in [(0, 4), (4, 7)]:
        apart = seeded()
        part = augment(pixels[first:last], views, apart, part=(first, 7))
        assert torch.allclose(part, whole[first:last], rtol=0, atol=1e-6)
        assert torch.equal(apart.get_state(), together.get_state())


def test_a_part_of_a_part_is_one_of_the_whole():
    draws = draw(7, SIDE, everything(), seeded())
    nested, direct = draws.part(2, 5).part(1, 2), draws.part(3, 2)
    for field in dataclasses.fields(draws):
        one, other = getattr(nested, field.name), getattr(direct, field.name)
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    assert torch.equal(direct.boxes, draws.boxes[3:5])


@pytest.mark.parametrize("part", [(6, 7), (-1, 7), (0, 1)])
def test_a_part_beyond_the_whole_is_refused(part):
    with pytest.raises(ValueError, match=f"expected some of {part[1]} images, not 2 from number"):
        augment(images(2, SIDE, SIDE), still(), seeded(), part=part)


def test_local_views_are_smaller_and_otherwise_as_the_others():
    local = LocalViews(count=4, size_px=32, crop_scale=(0.05, 0.3))
    views = local_settings(everything(local=local))
    assert views == everything(size_px=32, crop_scale=(0.05, 0.3))
    assert augment(images(2, SIDE, SIDE), views, seeded()).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="no local ones"):
        local_settings(views)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_gpu_gives_the_same_views(channels):
    pixels = images(8, channels, SIDE, SIDE)
    here = augment(pixels, everything(), seeded())
    there = augment(pixels.cuda(), everything(), seeded())
    assert there.is_cuda
    assert torch.allclose(here, there.cpu(), atol=2e-3)
