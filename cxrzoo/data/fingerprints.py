"""Fingerprints: what tells whether two radiographs are one image, each image decoded once.

A row is 1,088 bytes: a hash of the pixels, a perceptual hash and a thumbnail. They are kept
in the cache by everything that changes them, as in ``cxrzoo.data.store``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import PIL
from PIL import Image

from cxrzoo import arrays, resources
from cxrzoo.data.rows import Images
from cxrzoo.files import safe_name, sha256_of_json
from cxrzoo.images import VERSION as DECODING_VERSION

VERSION = 1
"""Raise it when any line below changes a byte: it is part of every key."""

_CHUNK = 512
"""Images between two commits to disk: a kill loses at most so many."""
_HASH_SIDE = 16
"""The hash compares 16 x 16 frequencies with their median: 256 bits."""
_SIDE_PX = 64
"""The size that imagehash resizes to by itself for such a hash; it gets the image at it."""
_THUMB_PX = 32
_PIXELS, _HASH, _THUMB = 32, _HASH_SIDE**2 // 8, _THUMB_PX**2
"""Bytes of each part of a row, in this order."""
_ROW = _PIXELS + _HASH + _THUMB


@dataclass(frozen=True)
class Fingerprints:
    """What is compared of N images.

    Attributes:
        pixels: (N, 32) uint8, sha256 of the grey pixels at their native size, and of that size.
        hashes: (N, 32) uint8, the 256 bits of a perceptual hash.
        thumbs: (N, 1024) uint8, the whole image squashed to 32 x 32 grey pixels.
        bad: rows whose image could not be read, with the reason; the arrays hold zeros there.
    """

    pixels: np.ndarray
    hashes: np.ndarray
    thumbs: np.ndarray
    bad: dict[int, str]

    def __len__(self) -> int:
        return len(self.pixels)


def fingerprint(
    images: Images, count: int, name: str, *, workers: int | None = None
) -> Fingerprints:
    """Decode every image once, unless that has been done before.

    Args:
        images: how to get the images.
        count: how many they are.
        name: what the folder in the cache and the progress bar are called.
        workers: decoding threads; defaults to the number of cores.

    Returns:
        Memory maps, in the order of the images.

    Raises:
        StorageError: the disk is full; finished images are kept.
    """
    built = arrays.open_or_build(
        directory_for(images, name),
        shape=(count, _ROW),
        dtype="uint8",
        chunk=_CHUNK,
        fill=arrays.in_threads(lambda i: _row(images.grey(i)), (_ROW,), "uint8", workers),
        label=f"fingerprint {name}",
    )
    pixels, hashes, thumbs = np.split(built.data, [_PIXELS, _PIXELS + _HASH], axis=1)
    return Fingerprints(pixels, hashes, thumbs, built.notes)


def directory_for(images: Images, name: str) -> Path:
    """The folder of the fingerprints of ``images``; it need not exist."""
    key = sha256_of_json(
        [images.key, DECODING_VERSION, PIL.__version__, imagehash.__version__, VERSION]
    )
    return resources.cache_dir() / "fingerprints" / f"{safe_name(name)}-{key[:24]}"


def _row(grey: np.ndarray) -> np.ndarray:
    """(1088,) uint8 of a (H, W) uint8 image."""
    small = Image.fromarray(grey).resize(
        # box-reduced to twice the size first: a tenth of the time at 3,000 px
        (_SIDE_PX, _SIDE_PX),
        Image.Resampling.LANCZOS,
        reducing_gap=2.0,
    )
    thumb = small.resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BOX)
    bits = imagehash.phash(small, hash_size=_HASH_SIDE).hash
    return np.concatenate(
        [_digest(grey), np.packbits(bits.ravel()), np.asarray(thumb).ravel()], dtype=np.uint8
    )


def _digest(grey: np.ndarray) -> np.ndarray:
    """(32,) uint8: sha256 of shape and pixels."""
    digest = hashlib.sha256(f"{grey.shape}".encode())
    digest.update(np.ascontiguousarray(grey).data)
    return np.frombuffer(digest.digest(), dtype=np.uint8)
