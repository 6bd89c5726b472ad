"""Stores: the right pixels behind every row, decoded once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cxrzoo import images
from cxrzoo.data import store
from cxrzoo.data.store import directory_for, peek, prepare
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.errors import DataError
from tests.data.helpers import make_table, png, write_image, write_metadata

SIZE = 16


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder with 8-bit, 16-bit, RGBA and palette images of several shapes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "mixed"
    pixels = {
        "eight.png": rng.integers(0, 256, (40, 30), dtype=np.uint8),
        "sixteen.png": np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16),
        "rgba.png": rng.integers(0, 256, (20, 20, 4), dtype=np.uint8),
        "rgb.png": rng.integers(0, 256, (16, 50, 3), dtype=np.uint8),
        "fits.png": rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8),
    }
    for name, array in pixels.items():
        write_image(folder / name, array)
    lines = [[n, "test" if n == "fits.png" else "train", i % 2] for i, n in enumerate(pixels)]
    write_metadata(folder, [["file_name", "split", "TB"], *lines], images=False)
    return folder


def opened(folder: Path) -> Table:
    return open_benchmark(f"imagefolder:{folder}")


def test_pixels_are_those_of_the_file_fitted(mixed):
    table = opened(mixed)
    prepared = prepare(table, SIZE, "bilinear")
    assert prepared.store.shape == (5, SIZE, SIZE)
    for row, name in enumerate(table.ids):
        grey = images.read(mixed / name, name)
        expected = images.fit(grey, SIZE, "bilinear")
        np.testing.assert_array_equal(prepared.pixels(np.array([row]))[0], expected, err_msg=name)


def test_a_16_bit_image_among_8_bit_ones_keeps_its_levels(mixed):
    table = opened(mixed)
    row = np.flatnonzero(table.ids == "sixteen.png")
    ramp = prepare(table, SIZE, "bilinear").pixels(row)[0].astype(int)
    # A cast to 8 bits would wrap or saturate; the fitted ramp rises from row to row.
    assert (np.diff(ramp.mean(axis=1)) > 5).all()
    assert ramp.min() < 20
    assert ramp.max() > 235


def test_the_alpha_channel_of_an_rgba_image_changes_nothing(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name, alpha in (("clear.png", 0), ("solid.png", 255)):
        write_image(tmp_path / "own" / name, np.dstack([grey] * 3 + [np.full_like(grey, alpha)]))
    lines = [["file_name", "split", "TB"], ["clear.png", "train", 0], ["solid.png", "test", 1]]
    table = open_benchmark(write_metadata(tmp_path / "own", lines, images=False))
    clear, solid = prepare(table, SIZE, "bilinear").pixels(np.arange(2))
    np.testing.assert_array_equal(clear, grey)
    np.testing.assert_array_equal(solid, grey)


def numbered(folder: Path, count: int = 12) -> str:
    """Images 00.png, 01.png ... whose grey level is ten times their number."""
    lines = [[f"{n:02d}.png", "test" if n % 4 == 0 else "train", n % 2] for n in range(count)]
    for n, line in enumerate(lines):
        write_image(folder / line[0], 10 * n)
    return write_metadata(folder, [["file_name", "split", "TB"], *lines], images=False)


def levels(prepared: store.Prepared) -> dict[str, int]:
    pixels = prepared.pixels(np.arange(len(prepared.table)))
    return {i: int(p[0, 0]) for i, p in zip(prepared.table.ids, pixels, strict=True)}


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
BAD = {"empty": b"", "truncated": png(NOISE)[:2000], "text": b"no image"}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_an_unreadable_image_is_an_error_that_names_the_file(tmp_path, content):
    name = numbered(tmp_path / "own")
    (tmp_path / "own" / "05.png").write_bytes(content)
    for _ in range(2):  # the second time from the finished store
        with pytest.raises(
            DataError, match=r"1 image.s. cannot be read: .*/own/05\.png: not a read"
        ):
            prepare(open_benchmark(name), SIZE, "bilinear")


def test_unreadable_images_are_left_out_on_request_and_the_others_keep_their_pixels(tmp_path):
    name = numbered(tmp_path / "own")
    for gone, content in zip(("02.png", "05.png", "11.png"), BAD.values(), strict=True):
        (tmp_path / "own" / gone).write_bytes(content)
    table = open_benchmark(name)
    prepared = prepare(table, SIZE, "bilinear", exclude_bad=True)
    assert prepared.table.excluded == ("02.png", "05.png", "11.png")
    kept = [n for n in range(12) if n not in (2, 5, 11)]
    assert levels(prepared) == {f"{n:02d}.png": 10 * n for n in kept}
    assert len(prepared.store) == 12
    assert table.excluded == (), "the table that was passed in is as it was"
    labels = dict(zip(prepared.table.ids, prepared.table.labels[:, 0], strict=True))
    assert labels == {f"{n:02d}.png": n % 2 for n in kept}


def test_missing_and_unreadable_images_are_both_recorded(tmp_path):
    name = numbered(tmp_path / "own")
    (tmp_path / "own" / "03.png").unlink()
    (tmp_path / "own" / "04.png").write_bytes(b"")
    prepared = prepare(open_benchmark(name, exclude_bad=True), SIZE, "bilinear", exclude_bad=True)
    assert prepared.table.excluded == ("03.png", "04.png")
    assert levels(prepared) == {f"{n:02d}.png": 10 * n for n in range(12) if n not in (3, 4)}


def test_pixels_are_taken_in_the_order_of_the_rows_asked_for(tmp_path):
    prepared = prepare(open_benchmark(numbered(tmp_path / "own")), SIZE, "bilinear")
    taken = prepared.pixels(np.array([7, 0, 7, 3]))
    assert taken[:, 0, 0].tolist() == [70, 0, 70, 30]
    assert taken.dtype == np.uint8
    taken[:] = 1  # a copy: the store is not written to
    assert prepared.pixels(np.array([7]))[0, 0, 0] == 70


def test_images_are_decoded_once(tmp_path, monkeypatch):
    name = numbered(tmp_path / "own")
    first = prepare(open_benchmark(name), SIZE, "bilinear")

    def refuse(*args: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "read", refuse)
    again = prepare(open_benchmark(name), SIZE, "bilinear")
    assert levels(again) == levels(first)
    assert again.pixels_sha256 == first.pixels_sha256


def test_a_store_that_is_there_can_be_peeked_at(tmp_path):
    table = open_benchmark(numbered(tmp_path / "own"))
    assert peek(table, SIZE, "bilinear", exclude_bad=False) is None
    prepared = prepare(table, SIZE, "bilinear")
    seen = peek(table, SIZE, "bilinear", exclude_bad=False)
    assert seen is not None
    assert levels(seen) == levels(prepared)
    assert peek(table, SIZE + 1, "bilinear", exclude_bad=False) is None


def test_a_changed_file_has_another_store_with_its_new_pixels(tmp_path):
    name = numbered(tmp_path / "own")
    path = tmp_path / "own" / "06.png"
    table = open_benchmark(name)
    prepare(table, SIZE, "bilinear")
    before = directory_for(table, SIZE, "bilinear")

    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    touched = directory_for(open_benchmark(name), SIZE, "bilinear")
    write_image(path, np.full((30, 30), 99, np.uint8))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    resized = directory_for(open_benchmark(name), SIZE, "bilinear")
    assert len({before, touched, resized}) == 3
    assert levels(prepare(open_benchmark(name), SIZE, "bilinear"))["06.png"] == 99


def test_size_and_interpolation_have_stores_of_their_own_and_labels_have_not(tmp_path):
    folder = tmp_path / "own"
    table = open_benchmark(numbered(folder))
    one = directory_for(table, SIZE, "bilinear")
    assert directory_for(table, SIZE + 1, "bilinear") != one
    assert directory_for(table, SIZE, "bicubic") != one
    lines = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(lines.replace(",1\n", ",0\n").replace("TB", "Other"))
    relabelled = open_benchmark(f"imagefolder:{folder}")
    assert relabelled.benchmark.labels == ("Other",)
    assert not np.array_equal(relabelled.labels, table.labels)
    assert directory_for(relabelled, SIZE, "bilinear") == one


def test_interpolations_give_different_pixels(mixed):
    table = opened(mixed)
    hashes = {prepare(table, SIZE, name).pixels_sha256 for name in images.INTERPOLATIONS}
    assert len(hashes) == len(images.INTERPOLATIONS)


def test_threads_and_chunks_change_no_pixel(tmp_path, monkeypatch):
    table = open_benchmark("phantom").limited(40)
    hashes = []
    for workers, chunk in ((1, 512), (8, 512), (3, 7)):
        monkeypatch.setenv("CXRZOO_CACHE", str(tmp_path / f"{workers}-{chunk}"))
        monkeypatch.setattr(store, "_CHUNK", chunk)
        hashes.append(prepare(table, 64, "bilinear", workers=workers).pixels_sha256)
    assert len(set(hashes)) == 1


def test_a_bad_image_in_a_later_chunk_is_the_one_left_out(monkeypatch):
    monkeypatch.setattr(store, "_CHUNK", 4)
    table = make_table([f"p{n:02d}" for n in range(11)])
    arrays = tuple(None if n == 9 else np.full((8, 8), n, np.uint8) for n in range(11))
    object.__setattr__(table, "images", type(table.images)(table.ids, arrays))
    prepared = prepare(table, 8, "bilinear", exclude_bad=True)
    assert prepared.table.excluded == (table.ids[9],)
    assert list(levels(prepared).values()) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]


def test_real_images_are_stored_as_their_files_show_them(shared_data):
    table = open_benchmark("nlmtb", shared_data)
    prepared = prepare(table, 64, "bilinear")
    assert prepared.store.shape == (620, 64, 64)
    folders = {"C": "ChinaSet_AllFiles", "M": "MontgomerySet"}
    for row in range(0, 620, 50):
        name = str(table.ids[row])
        path = shared_data / "nlmtb" / folders[name[0]] / "CXR_png" / name
        expected = images.fit(images.read(path, name), 64, "bilinear")
        np.testing.assert_array_equal(prepared.pixels(np.array([row]))[0], expected, err_msg=name)
    assert prepared.store.std(axis=(1, 2)).min() > 10, "no radiograph is blank"


def test_test_images_that_are_training_images_too_are_noted(tmp_path):
    draws = np.random.default_rng(0)
    lines = [["file_name", "split", "TB"]]
    for n in range(6):
        write_image(tmp_path / f"{n}.png", draws.integers(0, 256, (9, 9), dtype=np.uint8))
        lines.append([f"{n}.png", "train" if n < 4 else "test", n % 2])
    name = write_metadata(tmp_path, lines, images=False)
    assert "too" not in " ".join(prepare(open_benchmark(name), SIZE, "bilinear").table.notes)
    (tmp_path / "4.png").write_bytes((tmp_path / "1.png").read_bytes())
    for _ in range(2):  # the second time from the digests on disk
        notes = prepare(open_benchmark(name), SIZE, "bilinear").table.notes
        assert "1 test images are in the training split too, pixel for pixel" in notes
