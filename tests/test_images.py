from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from cxrzoo.errors import ImageError
from cxrzoo.images import INTERPOLATIONS, fit, grey8, read

RNG = np.random.default_rng(0)
RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)
GREY = RNG.integers(0, 256, (40, 56), dtype=np.uint8)
RGB = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
quick = settings(deadline=None, max_examples=60)


def differ(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def png(image: Image.Image | np.ndarray, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def inverted_palette(transparency: bytes | None = None) -> Image.Image:
    image = Image.frombytes("P", RAMP.shape[::-1], RAMP.tobytes())
    image.putpalette([255 - i for i in range(256) for _ in range(3)])
    if transparency:
        image.info["transparency"] = transparency
    return image


# --- colour and bit depth -------------------------------------------------------------------

MODES = {
    "L": (Image.fromarray(RAMP), RAMP),
    "1": (Image.fromarray(RAMP > 99), np.where(RAMP > 99, 255, 0).astype(np.uint8)),
    "LA": (Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1])]), RAMP),
    "RGBA": (
        Image.merge("RGBA", [*[Image.fromarray(RAMP)] * 3, Image.fromarray(RAMP[::-1])]),
        RAMP,
    ),
    "P": (inverted_palette(), 255 - RAMP),
    "P, transparent": (inverted_palette(bytes(range(256))), 255 - RAMP),
    "RGB": (Image.fromarray(RGB), np.asarray(Image.fromarray(RGB).convert("L"))),
    "I;16": (Image.fromarray(RAMP.astype(np.uint16) * 257), RAMP),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_pillow_mode_becomes_the_same_grey_in_memory_and_from_a_png(mode):
    image, expected = MODES[mode]
    assert differ(grey8(image), expected) == 0
    assert differ(read(png(image), "a.png"), expected) == 0


def test_32_bit_integer_and_big_endian_pillow_images_are_rescaled():
    deep = RAMP.astype(np.uint16) * 257
    assert differ(grey8(Image.fromarray(deep.astype(np.int32))), RAMP) == 0
    swapped = Image.frombytes("I;16B", RAMP.shape[::-1], deep.astype(">u2").tobytes())
    assert differ(grey8(swapped), RAMP) == 0


def test_a_16_bit_png_matches_its_8_bit_twin_and_does_not_saturate(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "8.png")
    noise = RNG.integers(-100, 101, GREY.shape)
    deep = np.clip(GREY.astype(int) * 257 + noise, 0, 65535).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "16.png")
    shallow, from_deep = grey8(tmp_path / "8.png"), grey8(tmp_path / "16.png")
    assert differ(shallow, from_deep) <= 1
    assert (from_deep == 255).mean() < 0.02


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_integers_are_rescaled_by_the_bits_they_use(bits):
    values = np.linspace(0, 2**bits - 1, 320).round().astype(np.uint16).reshape(16, 20)
    expected = np.rint(values / (2**bits - 1) * 255).astype(np.uint8)
    assert differ(grey8(values), expected) == 0
    assert differ(read(png(values), "a.png"), expected) == 0


def test_a_dark_16_bit_image_stays_as_dark_as_its_8_bit_twin():
    dark = np.arange(61, dtype=np.uint16)[None]
    assert differ(grey8(dark * 257), dark.astype(np.uint8)) == 0


@quick
@given(st.lists(st.integers(0, 65535), min_size=2, max_size=50))
def test_grey_levels_never_swap_order(values):
    grey = grey8(np.array([sorted(values)], dtype=np.uint16))
    assert (np.diff(grey[0].astype(int)) >= 0).all()


def test_colour_becomes_the_luma_of_pillow():
    assert differ(grey8(RGB), np.asarray(Image.fromarray(RGB).convert("L"))) <= 1


def test_16_bit_colour_keeps_its_range():
    assert differ(grey8(RGB.astype(np.uint16) * 257), grey8(RGB)) <= 1


LAYOUTS = {
    "(H, W)": GREY,
    "(1, H, W)": GREY[None],
    "(H, W, 1)": GREY[..., None],
    "(3, H, W)": np.stack([GREY] * 3),
    "(H, W, 3)": np.dstack([GREY] * 3),
    "(H, W, 4)": np.dstack([GREY, GREY, GREY, GREY[::-1]]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_every_layout_and_number_type_is_the_same_image(layout, kind, library):
    array = LAYOUTS[layout]
    array = array / np.array(255, kind) if kind.startswith("float") else array.astype(kind)
    image = torch.from_numpy(array) if library == "torch" else array
    assert differ(grey8(image), GREY) == 0


def test_channels_first_and_last_colour_agree():
    assert differ(grey8(np.ascontiguousarray(RGB.transpose(2, 0, 1))), grey8(RGB)) == 0


def test_booleans_are_black_and_white():
    assert set(np.unique(grey8(RAMP > 99))) == {0, 255}


def test_half_precision_tensors_are_read():
    for kind in (torch.float16, torch.bfloat16):
        assert differ(grey8(torch.from_numpy(GREY).to(kind) / 255), GREY) <= 1


def test_a_tensor_that_requires_a_gradient_is_read():
    assert differ(grey8((torch.from_numpy(GREY) / 255).requires_grad_()), GREY) == 0


# --- what is refused ------------------------------------------------------------------------

red = np.zeros((4, 5, 3), np.float32)
red[..., 0] = 2.0
minus = np.full((4, 5, 3), 200, np.int16)
minus[..., 0] = -5
REFUSED = {
    "float above 1": (np.full((4, 5), 1.5), r"\[0, 1\]"),
    "float below 0": (np.full((4, 5), -0.1), r"\[0, 1\]"),
    "NaN": (np.full((4, 5), np.nan), r"\[0, 1\]"),
    "one NaN": (np.where(np.eye(5) > 0, np.nan, 0.5), r"\[0, 1\]"),
    "infinity": (np.full((4, 5), np.inf), r"\[0, 1\]"),
    "normalised tensor": (torch.linspace(-2, 2, 60).reshape(3, 4, 5), r"\[0, 1\]"),
    "one colour above 1": (red, r"\[0, 1\]"),
    "negative integers": (np.full((4, 5), -1, np.int16), r"\[0, 65535\]"),
    "one negative colour": (minus, r"\[0, 65535\]"),
    "integers above 16 bits": (np.full((4, 5), 65536, np.int64), r"\[0, 65535\]"),
    "one dimension": (np.zeros(5), "shape"),
    "four dimensions": (np.zeros((2, 3, 4, 5)), "shape"),
    "two channels": (np.zeros((4, 5, 2)), "shape"),
    "no rows": (np.zeros((0, 5), np.uint8), "shape"),
    "no rows, colour": (np.zeros((0, 5, 3), np.uint8), "shape"),
    "no rows, float colour": (np.zeros((0, 5, 3)), "shape"),
    "None": (None, "NoneType"),
    "a list": ([[0, 1]], "list"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_pixels_that_are_not_an_image_are_refused(what):
    image, match = REFUSED[what]
    with pytest.raises(ImageError, match=match):
        grey8(image)


def tiff(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF")
    return buffer.getvalue()


BAD_FILES = {
    "truncated.png": png(GREY)[:600],
    "header.png": png(GREY)[:20],
    "corrupt.png": png(GREY)[:80] + b"\0" * 500,
    "empty.png": b"",
    "text.png": b"this is a text file, not an image\n",
    "text.dcm": b"this is a text file, not a DICOM file\n",
    "range.tiff": tiff(np.full((4, 5), 300, np.float32)),
    "negative.tiff": tiff(np.full((4, 5), -3, np.int32)),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("given_as", ["path", "bytes"])
def test_a_bad_file_is_an_error_that_starts_with_its_name(tmp_path, name, given_as):
    path = tmp_path / name
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(ImageError) as caught:
        read(path if given_as == "path" else BAD_FILES[name], f"patient 7/{name}")
    assert str(caught.value).startswith(f"patient 7/{name}: ")
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.png", "missing.dcm"])
def test_a_missing_file_is_an_error_that_starts_with_its_path(tmp_path, name):
    for path in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(ImageError) as caught:
            grey8(path)
        assert str(caught.value) == f"{tmp_path / name}: no such file"


def test_a_folder_is_not_an_image(tmp_path):
    with pytest.raises(ImageError, match=r"^folder: "):
        read(tmp_path, "folder")


def test_a_truncated_pillow_image_is_an_image_error():
    with pytest.raises(ImageError):
        grey8(Image.open(io.BytesIO(BAD_FILES["truncated.png"])))


# --- geometry -------------------------------------------------------------------------------


def test_fit_takes_the_central_square():
    assert (fit(GREY, 40) == GREY[:, 8:48]).all()
    assert (fit(GREY.T, 40) == GREY.T[8:48]).all()


def test_fit_keeps_an_image_that_has_the_size():
    assert (fit(GREY[:, :40], 40) == GREY[:, :40]).all()


@pytest.mark.parametrize("interpolation", sorted(set(INTERPOLATIONS) - {"nearest"}))
def test_fit_antialiases(interpolation):
    checkers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(fit(checkers, 32, interpolation).astype(int) - 127.5).max() < 4


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size_px", [17, 128])
def test_fit_of_a_square_is_pillows_resize(interpolation, size_px):
    square = Image.fromarray(GREY[:, :40])
    expected = np.asarray(square.resize((size_px, size_px), INTERPOLATIONS[interpolation]))
    assert differ(fit(GREY[:, :40], size_px, interpolation), expected) == 0


def test_pixels_outside_the_central_square_do_not_count():
    other = GREY.copy()
    other[:, :8], other[:, 48:] = 255, 255
    assert differ(fit(GREY, 16), fit(other, 16)) == 0


sides = st.integers(1, 90)


@quick
@given(sides, sides, sides, st.integers(0, 255), st.sampled_from(sorted(INTERPOLATIONS)))
def test_fit_never_changes_a_constant_image(height, width, size_px, level, interpolation):
    fitted = fit(np.full((height, width), level, np.uint8), size_px, interpolation)
    assert (fitted.shape, fitted.dtype) == ((size_px, size_px), np.uint8)
    assert (fitted == level).all()


# --- DICOM ----------------------------------------------------------------------------------

STORED = np.linspace(0, 4095, 240).round().astype(np.uint16).reshape(12, 20)


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", **fields) -> bytes:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_pixel_data(pixels, photometric, 8 if pixels.dtype == np.uint8 else 12)
    for field, value in fields.items():
        setattr(dataset, field, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_12_bit_dicom_is_rescaled_to_grey():
    expected = np.rint(STORED / 4095 * 255).astype(np.uint8)
    assert differ(read(dicom(STORED), "a.dcm"), expected) == 0


def test_monochrome1_is_the_inverse_of_monochrome2():
    white_is_high = read(dicom(STORED, "MONOCHROME2"), "a.dcm")
    white_is_low = read(dicom(STORED, "MONOCHROME1"), "a.dcm")
    assert white_is_high.min() == 0
    assert white_is_high.max() == 255
    assert differ(white_is_low, 255 - white_is_high) == 0


def test_a_dicom_window_clips_what_lies_outside():
    grey = read(dicom(STORED, WindowCenter=2048, WindowWidth=1000), "a.dcm")
    assert (grey[STORED < 1540] == 0).all()
    assert (grey[STORED > 2555] == 255).all()
    assert np.unique(grey[(STORED > 1560) & (STORED < 2540)]).size > 20


def test_a_negative_rescale_intercept_does_not_wrap():
    plain = read(dicom(STORED), "a.dcm")
    shifted = read(dicom(STORED, RescaleSlope=1, RescaleIntercept=-1024), "a.dcm")
    assert differ(plain, shifted) == 0


def test_dicom_path_bytes_and_dataset_agree(tmp_path):
    content = dicom(STORED)
    (tmp_path / "a.dcm").write_bytes(content)
    expected = grey8(tmp_path / "a.dcm")
    assert differ(read(content, "no suffix"), expected) == 0
    assert differ(grey8(pydicom.dcmread(io.BytesIO(content))), expected) == 0


@pytest.mark.parametrize("file", ["a.dcm", "IM000001"])
def test_dicom_is_recognised_whatever_errors_call_it(tmp_path, file):
    (tmp_path / file).write_bytes(dicom(STORED))
    assert differ(read(tmp_path / file, "row 7"), read(dicom(STORED), "a.dcm")) == 0


def palette_dicom() -> bytes:
    table = np.arange(256, dtype=np.uint8)[::-1].tobytes()
    colours = ("Red", "Green", "Blue")
    fields = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 8] for c in colours}
    fields |= {f"{c}PaletteColorLookupTableData": table for c in colours}
    return dicom(RAMP, "PALETTE COLOR", **fields)


NOT_ONE_GREY_FRAME = {
    "multi-frame": lambda: dicom(np.stack([STORED, STORED])),
    "colour": lambda: dicom(RGB, "RGB"),
    "palette": palette_dicom,
}


@pytest.mark.parametrize("kind", NOT_ONE_GREY_FRAME)
def test_dicom_of_several_frames_or_colour_is_refused(kind):
    with pytest.raises(ImageError, match=r"^p7/a\.dcm: .*grey"):
        read(NOT_ONE_GREY_FRAME[kind](), "p7/a.dcm")


def test_without_pydicom_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.chdir(tmp_path)
    Path("a.dcm").write_bytes(b"anything")
    with pytest.raises(ImageError, match=r"^a\.dcm: .*pip install 'cxrzoo\[dicom\]'"):
        read(Path("a.dcm"), "a.dcm")
