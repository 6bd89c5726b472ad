"""One way from any radiograph to square 8-bit grey pixels, shared by encoders and stores.

Geometry: the central square, resized with antialiasing. Grey levels: 16-bit data are
rescaled by the bit depth they use, never cast, because a cast saturates.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxrzoo.errors import ImageError

VERSION = 1
"""Raise it when any line below changes a pixel: it is part of every store's key."""

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_DEPTHS_BITS = (8, 12, 16)
"""Depths that integers come in; 12 bits in a 16-bit container are common. Not every depth is
tried: with 14 on the list, a dark 16-bit image would become four times as bright."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's "L"


def read(source: Path | bytes, name: str) -> np.ndarray:
    """Decode a file's content to grey.

    Args:
        source: a path, or the encoded bytes.
        name: how errors call the image.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: the file is absent, empty, truncated or not an image.
    """
    with _errors_name(name):
        if _is_dicom(source):
            return grey8(_open_dicom(source))
        with _open(source) as image:
            return grey8(image)


def read_size(source: Path | bytes, name: str) -> tuple[int, int]:
    """Height and width in pixels by a file's header: those of ``read``, without decoding.

    Args:
        source: a path, or the encoded bytes.
        name: how errors call the image.

    Raises:
        ImageError: the file is absent, empty or not an image. One that breaks off behind its
            header has a size here; only ``read`` can tell.
    """
    with _errors_name(name):
        if _is_dicom(source):
            header = _open_dicom(source, stop_before_pixels=True)
            return int(header.Rows), int(header.Columns)
        with _open(source) as image:
            return image.height, image.width


def read_rgb(source: Path | bytes, name: str) -> np.ndarray:
    """Decode a file's content to colour; grey images get three equal channels.

    Args:
        source: a path, or the encoded bytes.
        name: how errors call the image.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: the file is absent, empty, truncated or not an image.
    """
    with _errors_name(name):
        if not _is_dicom(source):
            with _open(source) as image:
                if not image.mode.startswith(("I", "F")):
                    return np.asarray(image.convert("RGBA").convert("RGB"))
    return np.repeat(read(source, name)[:, :, None], 3, axis=2)


def grey8(image: Any) -> np.ndarray:
    """Turn one image into 8-bit grey.

    Args:
        image: a path, a PIL image, a pydicom dataset, or a numpy array or torch tensor of
            shape (H, W), (1, H, W), (3, H, W), (H, W, 1), (H, W, 3) or (H, W, 4);
            integers of 8 to 16 bits, or floats in [0, 1].

    Returns:
        (H, W) uint8. Colour becomes luma; an alpha channel is dropped.
    """
    if isinstance(image, str | Path):
        return read(Path(image), str(image))
    if isinstance(image, Image.Image):
        return _grey8_pil(image)
    if hasattr(image, "PhotometricInterpretation"):
        return _grey8_dicom(image)
    if hasattr(image, "detach"):  # a torch tensor, without importing torch
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"expected a path, PIL image, pydicom dataset, numpy array or torch tensor, "
            f"got {type(image).__name__}"
        )
    return _luma(_levels(_channels_last(image)))


def fit(grey: np.ndarray, size_px: int, interpolation: str = "bilinear") -> np.ndarray:
    """The central square of a (H, W) or (H, W, 3) uint8 image, with sides of ``size_px``."""
    height, width = grey.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    if side == size_px:
        return np.ascontiguousarray(grey[top : top + side, left : left + side])
    box = (left, top, left + side, top + side)
    # cropped first: resize(box=...) would let pixels outside the box into its edge
    square = Image.fromarray(grey).crop(box)
    return np.asarray(square.resize((size_px, size_px), INTERPOLATIONS[interpolation]))


@contextmanager
def _errors_name(name: str) -> Iterator[None]:
    """Whatever goes wrong with a file is an ImageError that begins with its name."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        raise ImageError(f"{name}: not a readable image ({_short(error)})") from error


def _open(source: Path | bytes) -> Image.Image:
    """A Pillow image; pixels are decoded when they are asked for."""
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _grey8_pil(image: Image.Image) -> np.ndarray:
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise ImageError(f"not a readable image ({_short(error)})") from error
    if image.mode in ("L", "1", "LA", "La"):
        return np.asarray(image if image.mode == "L" else image.convert("L"))
    if image.mode.startswith("I") or image.mode == "F":
        return _levels(np.asarray(image))
    if image.mode == "P":  # Pillow wants transparent palettes to go through RGBA
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB").convert("L"))


def _channels_last(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) from any accepted layout."""
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3, 4):
        image = np.moveaxis(image, 0, 2)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    colour = image.ndim == 3 and image.shape[2] in (3, 4)
    if not (image.ndim == 2 or colour) or 0 in image.shape:
        raise ImageError(
            f"expected one image of shape (H, W), (1|3, H, W) or (H, W, 1|3|4), got {image.shape}"
        )
    return image[:, :, :3] if colour else image


def _luma(image: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W) or (H, W, 3) uint8."""
    if image.ndim == 2:
        return image
    grey: np.ndarray = np.rint(image.astype(np.float32) @ _LUMA).astype(np.uint8)
    return grey


def _levels(image: np.ndarray) -> np.ndarray:
    """Any number type to uint8 by the range that type stands for."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    low, high = float(image.min()), float(image.max())
    if image.dtype.kind == "f":
        if not (low >= 0.0 and high <= 1.0 + 1e-6):  # False for NaN too
            raise ImageError(
                f"float pixels must lie in [0, 1], got [{low:g}, {high:g}]; "
                "rescale them, or pass the integers they came from"
            )
        return np.rint(image * 255.0).clip(0, 255).astype(np.uint8)
    bits = next((b for b in _DEPTHS_BITS if high < 2**b), None)
    if low < 0 or bits is None:
        raise ImageError(
            f"integer pixels must lie in [0, 65535], got [{low:g}, {high:g}]; "
            "apply the rescale slope and intercept first"
        )
    grey: np.ndarray = np.rint(image.astype(np.float32) * (255.0 / (2**bits - 1))).astype(np.uint8)
    return grey


def _is_dicom(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return source[128:132] == b"DICM"
    if source.suffix.lower() in _SUFFIXES:
        return False
    with source.open("rb") as file:
        return source.suffix.lower() in (".dcm", ".dicom") or file.read(132)[128:] == b"DICM"


def _open_dicom(source: Path | bytes, *, stop_before_pixels: bool = False) -> Any:
    try:
        import pydicom
    except ImportError:
        raise ImageError("DICOM needs pydicom: pip install 'cxrzoo[dicom]'") from None
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return pydicom.dcmread(file, stop_before_pixels=stop_before_pixels)


def _grey8_dicom(dataset: Any) -> np.ndarray:
    """Modality and window look-ups as in a viewer; MONOCHROME1 (white is low) is inverted."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    meaning, pixels = dataset.PhotometricInterpretation, dataset.pixel_array
    if meaning not in ("MONOCHROME1", "MONOCHROME2") or pixels.ndim != 2:
        raise ImageError(f"expected one grey DICOM frame, got {meaning} of shape {pixels.shape}")
    values = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    unit = (values - low) / max(high - low, 1e-6)
    if meaning == "MONOCHROME1":
        unit = 1.0 - unit
    grey: np.ndarray = np.rint(unit * 255.0).astype(np.uint8)
    return grey


def _short(error: Exception) -> str:
    text = str(error).split("\n")[0]
    # Pillow prints the object's address for bytes; it says nothing to a reader.
    return "unknown or empty content" if "cannot identify" in text else text or type(error).__name__
