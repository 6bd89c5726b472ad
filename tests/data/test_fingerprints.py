"""Fingerprints: one row an image, computed once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from threading import Lock

import imagehash
import numpy as np
import pytest
from PIL import Image

from cxrzoo.data import fingerprints
from cxrzoo.data.fingerprints import directory_for, fingerprint
from cxrzoo.data.table import open_benchmark
from tests.data.helpers import MemoryImages


@dataclass
class Counted:
    """Random images that count how often each was decoded; from ``broken`` on, none can be."""

    count: int
    broken: int | None = None
    decoded: list[int] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def grey(self, index: int) -> np.ndarray:
        if self.broken is not None and index >= self.broken:
            raise RuntimeError("killed")
        with self._lock:
            self.decoded.append(index)
        return np.random.default_rng(index).integers(0, 256, (40, 50), dtype=np.uint8)

    def take(self, index: np.ndarray) -> Counted:
        raise NotImplementedError

    @property
    def key(self) -> str:
        return f"counted {self.count}"

    @property
    def missing(self) -> int:
        return 0


def memory(*arrays: np.ndarray | None) -> MemoryImages:
    names = [hashlib.sha256(b"" if a is None else a.tobytes()).hexdigest() for a in arrays]
    return MemoryImages(np.array(names), arrays)


def phantoms(count: int) -> list[np.ndarray]:
    images = open_benchmark("phantom").images
    return [images.grey(index) for index in range(count)]


def test_a_row_describes_its_image():
    grey = np.arange(100 * 120, dtype=np.uint16).reshape(100, 120).astype(np.uint8)
    prints = fingerprint(memory(grey, grey.T.copy()), 2, "two")
    assert len(prints) == 2
    assert [a.shape for a in (prints.pixels, prints.hashes, prints.thumbs)] == [
        (2, 32),
        (2, 32),
        (2, 1024),
    ]
    assert {a.dtype.name for a in (prints.pixels, prints.hashes, prints.thumbs)} == {"uint8"}
    assert isinstance(prints.thumbs, np.memmap)
    expected = hashlib.sha256(b"(100, 120)" + grey.tobytes()).digest()
    assert prints.pixels[0].tobytes() == expected


def test_equal_bytes_of_another_shape_are_other_pixels():
    grey = np.arange(240, dtype=np.uint8)
    prints = fingerprint(memory(grey.reshape(12, 20), grey.reshape(20, 12)), 2, "two")
    assert not np.array_equal(prints.pixels[0], prints.pixels[1])


def test_the_hash_is_that_of_imagehash():
    images = phantoms(5)
    prints = fingerprint(memory(*images), 5, "phantoms")
    for grey, row in zip(images, prints.hashes, strict=True):
        theirs = imagehash.phash(Image.fromarray(grey), hash_size=16).hash.ravel()
        assert (np.unpackbits(row).astype(bool) ^ theirs).sum() <= 4, "rounding at 64 px alone"


def test_the_thumbnail_is_the_whole_image_with_its_grey_levels():
    # left half dark, right half bright, twice as wide as high
    grey = np.repeat(np.array([40, 200], np.uint8), 150)[None].repeat(150, axis=0)
    thumb = fingerprint(memory(grey), 1, "halves").thumbs.reshape(32, 32)
    np.testing.assert_allclose(thumb[:, :14], 40, atol=3)
    np.testing.assert_allclose(thumb[:, 18:], 200, atol=3)


def test_a_large_image_keeps_no_moire():
    stripes = np.tile(np.array([0, 255], np.uint8), (3000, 1500))
    thumb = fingerprint(memory(stripes), 1, "stripes").thumbs
    np.testing.assert_allclose(thumb, 127, atol=3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2)])
def test_odd_shapes_have_a_row(shape):
    assert fingerprint(memory(np.full(shape, 9, np.uint8)), 1, "odd").thumbs.min() == 9


def test_an_unreadable_image_is_told_with_its_reason():
    images = MemoryImages(
        np.array(["a.png", "b.png", "c.png"]),
        (np.full((4, 4), 1, np.uint8), None, np.full((4, 4), 2, np.uint8)),
    )
    for _ in range(2):  # the second time from the cache
        prints = fingerprint(images, 3, "three")
        assert prints.bad == {1: "b.png: not a readable image"}
        assert not prints.pixels[1].any()
        assert prints.thumbs[[0, 2], 0].tolist() == [1, 2]


def test_every_image_is_decoded_once():
    images = Counted(70)
    first = fingerprint(images, 70, "counted", workers=3)
    again = fingerprint(images, 70, "counted")
    assert sorted(images.decoded) == list(range(70))
    np.testing.assert_array_equal(first.thumbs, again.thumbs)


def test_what_was_finished_before_a_kill_is_not_decoded_again(monkeypatch):
    monkeypatch.setattr(fingerprints, "_CHUNK", 20)
    whole = fingerprint(Counted(70), 70, "whole")
    with pytest.raises(RuntimeError, match="killed"):
        fingerprint(Counted(70, broken=50), 70, "counted")
    images = Counted(70)
    resumed = fingerprint(images, 70, "counted")
    assert sorted(images.decoded) == list(range(40, 70))
    for part in ("pixels", "hashes", "thumbs"):
        np.testing.assert_array_equal(getattr(resumed, part), getattr(whole, part))


def test_threads_and_chunks_change_no_byte(monkeypatch):
    seen = set()
    for workers, chunk in ((1, 512), (8, 512), (3, 7)):
        monkeypatch.setattr(fingerprints, "_CHUNK", chunk)
        prints = fingerprint(Counted(40), 40, f"{workers}-{chunk}", workers=workers)
        seen.add(b"".join(a.tobytes() for a in (prints.pixels, prints.hashes, prints.thumbs)))
    assert len(seen) == 1


def test_other_images_and_other_code_have_another_folder(monkeypatch):
    one = directory_for(Counted(3), "a name/with a slash")
    assert one.parent.name == "fingerprints"
    assert directory_for(Counted(4), "a name/with a slash") != one
    for name in ("VERSION", "DECODING_VERSION"):
        with monkeypatch.context() as patched:
            patched.setattr(fingerprints, name, 99)
            assert directory_for(Counted(3), "a name/with a slash") != one
    with monkeypatch.context() as patched:
        patched.setattr(fingerprints.imagehash, "__version__", "99")
        assert directory_for(Counted(3), "a name/with a slash") != one


def test_no_images_are_no_rows():
    assert len(fingerprint(Counted(0), 0, "none")) == 0


def test_an_error_that_is_not_about_an_image_is_not_swallowed():
    with pytest.raises(RuntimeError, match="killed"):
        fingerprint(Counted(3, broken=1), 3, "broken")
