"""Duplicates: the index finds what a comparison of all pairs finds."""

from __future__ import annotations

import io
from dataclasses import fields
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrzoo.data import duplicates
from cxrzoo.data.duplicates import MIN_CORRELATION, RADIUS, Duplicates, between, within
from cxrzoo.data.fingerprints import Fingerprints, fingerprint
from cxrzoo.data.table import Table, open_benchmark
from tests.data.helpers import MemoryImages

Pairs = set[tuple[int, int]]


def make_prints(
    bits: np.ndarray,
    thumbs: np.ndarray,
    pixels: np.ndarray | None = None,
    bad: tuple[int, ...] = (),
) -> Fingerprints:
    """Fingerprints of (N, 256) bits; ``pixels`` are (N,) numbers, all different by default."""
    numbers = np.arange(len(bits)) if pixels is None else pixels
    return Fingerprints(
        numbers.astype(np.int64)[:, None].view(np.uint8).repeat(4, axis=1),
        np.packbits(bits, axis=1),
        thumbs,
        dict.fromkeys(bad, "not a readable image"),
    )


def noise(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, 1024), dtype=np.uint8)


def flipped(rng: np.random.Generator, bits: np.ndarray, count: int) -> np.ndarray:
    """A copy of (256,) bits in which ``count`` are flipped."""
    copy = bits.copy()
    copy[rng.choice(256, count, replace=False)] ^= True
    return copy


def planted(seed: int) -> Fingerprints:
    """Rows of which many are copies of others: same thumbnail or not, 0 to 30 bits apart,
    equal pixels or not; a few are unreadable or of one grey level."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 40))
    bits, thumbs, pixels = rng.random((count, 256)) < 0.5, noise(rng, count), np.arange(count)
    for row in range(1, count):
        source, kind = int(rng.integers(row)), rng.random()
        if kind < 0.6:
            bits[row] = flipped(rng, bits[source], int(rng.integers(0, 31)))
            thumbs[row] = thumbs[source] if kind < 0.4 else thumbs[row]
        elif kind < 0.75:
            bits[row], thumbs[row], pixels[row] = bits[source], thumbs[source], pixels[source]
        elif kind < 0.8:
            thumbs[row] = 7
    bad = tuple(np.flatnonzero(rng.random(count) < 0.1).tolist())
    return make_prints(bits, thumbs, pixels, bad)


def alike(a: Fingerprints, i: int, b: Fingerprints, j: int) -> bool:
    """The definition of a duplicate."""
    if i in a.bad or j in b.bad:
        return False
    if np.array_equal(a.pixels[i], b.pixels[j]):
        return True
    if a.thumbs[i].std() == 0 or b.thumbs[j].std() == 0:
        return False
    apart = np.unpackbits(a.hashes[i] ^ b.hashes[j]).sum()
    return bool(apart <= RADIUS and np.corrcoef(a.thumbs[i], b.thumbs[j])[0, 1] >= MIN_CORRELATION)


def firsts(prints: Fingerprints) -> list[int]:
    """The first readable row of every group of equal pixels."""
    seen = {
        prints.pixels[i].tobytes(): i for i in reversed(range(len(prints))) if i not in prints.bad
    }
    return sorted(seen.values())


def halves(prints: Fingerprints, cut: int) -> tuple[Fingerprints, Fingerprints]:
    """The rows before ``cut`` and those from there on."""
    parts = []
    for start, stop in ((0, min(cut, len(prints))), (min(cut, len(prints)), len(prints))):
        bad = {row - start: why for row, why in prints.bad.items() if start <= row < stop}
        arrays = (prints.pixels, prints.hashes, prints.thumbs)
        parts.append(Fingerprints(*(array[start:stop] for array in arrays), bad))
    return parts[0], parts[1]


def pairs(found: Duplicates) -> Pairs:
    listed = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert len(set(listed)) == len(listed), "no link comes twice"
    return set(listed)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_within_finds_exactly_what_a_comparison_of_all_pairs_finds(seed):
    prints = planted(seed)
    found = within(prints)
    leaders = firsts(prints)
    near = {(i, j) for i, j in combinations(leaders, 2) if alike(prints, i, prints, j)}
    assert pairs(found.take(np.flatnonzero(~found.exact))) == near
    same = {
        (i, j)
        for i in leaders
        for j in range(i + 1, len(prints))
        if j not in prints.bad and np.array_equal(prints.pixels[i], prints.pixels[j])
    }
    assert pairs(found.take(np.flatnonzero(found.exact))) == same


@given(st.integers(0, 2**32), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_between_finds_exactly_what_a_comparison_of_all_pairs_finds(seed, cut):
    a, b = halves(planted(seed), cut)
    found = pairs(between(a, b))
    every = {(i, j) for i in range(len(a)) for j in range(len(b)) if alike(a, i, b, j)}
    assert found <= every
    assert {i for i, _ in found} == {i for i, _ in every}, "every row has a link that has a pair"
    assert {j for _, j in found} == {j for _, j in every}
    leaders = set(firsts(a)), set(firsts(b))
    assert found == {(i, j) for i, j in every if i in leaders[0] or j in leaders[1]}


@given(st.integers(0, 2**32), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_between_is_symmetric(seed, cut):
    a, b = halves(planted(seed), cut)
    there, back = between(a, b), between(b, a)
    assert pairs(there) == {(i, j) for j, i in pairs(back)}
    assert there.exact.sum() == back.exact.sum()
    np.testing.assert_array_equal(np.sort(there.distance), np.sort(back.distance))
    np.testing.assert_allclose(np.sort(there.correlation), np.sort(back.correlation), rtol=1e-6)


@pytest.mark.parametrize("apart", [0, 1, 12, 23, 24])
def test_the_radius_is_where_it_is_said_to_be(apart):
    rng = np.random.default_rng(apart)
    bits, thumbs = rng.random((1000, 256)) < 0.5, noise(rng, 1000)
    copies = np.array([flipped(rng, row, apart) for row in bits])
    found = within(make_prints(np.concatenate([bits, copies]), np.tile(thumbs, (2, 1))))
    expected = {(i, 1000 + i) for i in range(1000)} if apart <= 23 else set()
    assert pairs(found) == expected
    assert set(found.distance.tolist()) <= {apart}


@pytest.mark.parametrize("correlation", [-1.0, 0.0, 0.965, 0.975])
def test_thumbnails_must_be_alike_too(correlation):
    x, y = np.random.default_rng(0).normal(size=(2, 1024))
    mixed = correlation * x + np.sqrt(1 - correlation**2) * y
    thumbs = np.clip(128 + 30 * np.stack([x, mixed]), 0, 255).astype(np.uint8)
    found = within(make_prints(np.zeros((2, 256), bool), thumbs))
    assert len(found) == (correlation > 0.97)


def test_links_say_how_alike_two_rows_are():
    rng = np.random.default_rng(0)
    bits, thumbs = np.repeat(rng.random((1, 256)) < 0.5, 3, axis=0), noise(rng, 1).repeat(3, axis=0)
    bits[1] = flipped(rng, bits[1], 9)
    thumbs[1] = np.clip(thumbs[1] + rng.normal(0, 10, 1024), 0, 255).astype(np.uint8)
    found = within(make_prints(bits, thumbs, pixels=np.array([0, 1, 0])))
    assert list(zip(found.first, found.second, strict=True)) == [(0, 1), (0, 2)]
    assert found.exact.tolist() == [False, True]
    assert found.distance.tolist() == [9, 0]
    correlation = np.corrcoef(thumbs[0], thumbs[1])[0, 1]
    assert found.correlation.tolist() == pytest.approx([correlation, 1.0])
    assert [f.name for f in fields(found) if len(getattr(found, f.name)) != 2] == []


def test_groups_are_rows_linked_directly_or_through_others():
    first, second = np.array([2, 9, 4, 3]), np.array([7, 30, 9, 8])
    links = Duplicates(first, second, first > 0, first, first.astype(np.float32))
    assert [group.tolist() for group in links.groups()] == [[2, 7], [3, 8], [4, 9, 30]]


def test_equal_pixels_make_one_link_less_than_there_are_images():
    rng = np.random.default_rng(0)
    pixels = np.array([5, 1, 5, 2, 5, 5, 2])
    prints = make_prints(rng.random((6, 256))[pixels] < 0.5, noise(rng, 6)[pixels], pixels)
    found = within(prints)
    assert pairs(found) == {(0, 2), (0, 4), (0, 5), (3, 6)}
    assert found.exact.all()
    assert [group.tolist() for group in found.groups()] == [[0, 2, 4, 5], [3, 6]]
    assert pairs(between(prints, prints)) == {
        *((row, row) for row in (0, 1, 3)),
        *((0, row) for row in (2, 4, 5)),
        *((row, 0) for row in (2, 4, 5)),
        (3, 6),
        (6, 3),
    }


def test_unreadable_rows_match_nothing():
    prints = make_prints(
        np.zeros((4, 256), bool),
        np.zeros((4, 1024), np.uint8),
        pixels=np.zeros(4),
        bad=(0, 2),
    )
    assert pairs(within(prints)) == {(1, 3)}
    assert pairs(between(prints, prints)) == {(1, 1), (1, 3), (3, 1)}


def test_nothing_is_found_among_no_images():
    none = make_prints(np.zeros((0, 256), bool), np.zeros((0, 1024), np.uint8))
    lost = make_prints(np.zeros((2, 256), bool), np.zeros((2, 1024), np.uint8), bad=(0, 1))
    for found in (within(none), within(lost), between(none, lost), between(none, none)):
        assert len(found) == 0
        assert found.groups() == []


def test_ten_thousand_black_images_are_one_group():
    black = np.zeros((10_000, 256), bool), np.zeros((10_000, 1024), np.uint8)
    same = make_prints(*black, pixels=np.zeros(10_000))
    assert len(within(same)) == 9_999
    assert len(between(same, same)) == 19_999
    # black, but each of another size: nothing but their pixels could tell that they are one image
    assert len(within(make_prints(*black))) == 0


def crowd(count: int, *, similar: bool) -> Fingerprints:
    """Images whose hashes differ from one by up to four bits; thumbnails are alike or not."""
    rng = np.random.default_rng(0)
    base = rng.random(256) < 0.5
    bits = np.array([flipped(rng, base, int(rng.integers(0, 5))) for _ in range(count)])
    thumbs = noise(rng, count)
    return make_prints(bits, thumbs[0] // 2 + thumbs // 64 if similar else thumbs)


def test_a_crowd_has_links_in_proportion_and_loses_no_image(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 20_000)
    found = within(crowd(2000, similar=True))
    assert len(found) < 300 * 2000
    (group,) = found.groups()
    assert len(group) == 2000


def test_a_crowd_of_equal_hashes_alone_is_no_duplicate():
    assert len(within(crowd(2000, similar=False))) == 0


def test_an_image_that_resembles_a_crowd_is_found_from_either_side():
    many = crowd(1000, similar=True)
    one = halves(many, 1)[0]
    assert {row for row, _ in pairs(between(many, one))} == set(range(1000))
    assert {row for _, row in pairs(between(one, many))} == set(range(1000))


def test_an_image_at_the_edge_of_a_crowd_keeps_all_its_links():
    rng = np.random.default_rng(1)
    many = crowd(1000, similar=False)
    bits, thumbs = np.unpackbits(many.hashes, axis=1).astype(bool), many.thumbs.copy()
    centre = int(np.argmax((bits != bits[0]).sum(axis=1)))
    # a row that is near to the outermost of the crowd and, flipped away from them, to few others
    odd = np.flatnonzero(bits.mean(axis=0).round() != bits[centre])
    even = np.setdiff1d(np.arange(256), odd)
    bits[999] = bits[centre]
    bits[999, rng.choice(even, RADIUS, replace=False)] ^= True
    thumbs[999] = thumbs[centre]
    assert pairs(within(make_prints(bits, thumbs))) == {(centre, 999)}


@pytest.mark.parametrize(("name", "value"), [("_BLOCK", 40), ("_THUMBS_BLOCK", 3), ("_SLAB", 1)])
def test_blocks_change_nothing(monkeypatch, name, value):
    prints = crowd(20, similar=True)
    whole = within(prints)
    assert len(whole) == 20 * 19 // 2
    monkeypatch.setattr(duplicates, name, value)
    again = within(prints)
    assert pairs(again) == pairs(whole)
    np.testing.assert_array_equal(again.distance, whole.distance)
    np.testing.assert_allclose(again.correlation, whole.correlation, rtol=1e-6)


def test_the_same_rows_give_the_same_links():
    prints = planted(3)
    for part in fields(Duplicates):
        one, other = (getattr(within(prints), part.name) for _ in range(2))
        np.testing.assert_array_equal(one, other)


def jpeg(grey: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def resized(grey: np.ndarray) -> np.ndarray:
    image = Image.fromarray(grey)
    small = image.resize((image.width * 200 // 224, image.height * 200 // 224))
    return np.asarray(small.resize(image.size))


def halved(grey: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).reduce(2))


def brightened(grey: np.ndarray) -> np.ndarray:
    return np.minimum(grey.astype(int) + 12, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [jpeg, resized, halved, brightened])
def test_a_changed_copy_of_an_image_is_found_and_no_other_image(change):
    images = open_benchmark("phantom").images
    originals = [images.grey(index) for index in range(25)]
    copies = [change(grey) for grey in originals]
    assert not any(map(np.array_equal, originals, copies))
    memory = MemoryImages(np.arange(50).astype(str), (*originals, *copies))
    found = within(fingerprint(memory, 50, "copies"))
    assert pairs(found) == {(index, 25 + index) for index in range(25)}
    assert not found.exact.any()


@pytest.fixture(scope="module")
def kermany(shared_data) -> Table:
    return open_benchmark("kermany", shared_data)


@pytest.mark.parametrize("change", [jpeg, resized, halved, brightened])
def test_changed_copies_of_radiographs_are_found(change, kermany):
    images = kermany.images.take(np.arange(0, 5800, 58))
    originals = [images.grey(index) for index in range(100)]
    memory = MemoryImages(np.arange(200).astype(str), (*originals, *map(change, originals)))
    prints = fingerprint(memory, 200, "copies")
    assert pairs(between(*halves(prints, 100))) == {(index, index) for index in range(100)}


def test_the_34_pairs_of_kermany_are_found_and_none_is_in_train_and_test(kermany):
    groups = within(fingerprint(kermany.images, len(kermany), "kermany")).groups()
    assert sum(len(group) * (len(group) - 1) // 2 for group in groups) == 34
    assert all(len(set(kermany.splits[group])) == 1 for group in groups)
