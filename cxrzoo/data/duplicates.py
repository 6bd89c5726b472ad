"""Near-identical images among fingerprints, without comparing all pairs.

Candidates come from multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012): the 256 bits
are cut into 12 bands, and two hashes that differ in at most 23 bits differ in at most one bit
of at least one band, for two in each would make 24. So every band is looked up as it is and
with each of its bits flipped, and what is found there is compared in full.

What is found: every near pair of which at least one image has fewer than 32 images within
RADIUS. An image in a larger crowd, say of thousands of nearly black ones, is compared with at
least 32 of them and linked to those it resembles, not to all. So no input needs more than a few
hundred links an image, nor more than two million candidates in memory. Time grows with the
candidates: 112,120 images with hashes as alike as those of radiographs took 6.5 s and 80 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrzoo.data.fingerprints import Fingerprints

_BITS = 256
_BANDS = 12
RADIUS = 2 * _BANDS - 1
"""Bits of 256 in which the hashes of a near pair may differ. Among the 17 million pairs of
5,840 radiographs of Kermany et al. the 34 of equal pixels lie within it and the next pair is 40
bits apart; in 1,605 of NIH ChestX-ray14 one of equal pixels, the next 42 bits. Of Cohen's COVID-19
set 8 pairs of 527 images lie within it, all of them one image saved twice; the next is 44."""
MIN_CORRELATION = 0.97
"""Pearson correlation of the thumbnails of a near pair, at least: a second opinion, for images
whose frequencies lie on the same sides of the median by chance. The 8 pairs of the COVID-19 set
reach 0.976, the one of them that is windowed differently, and more."""
_CROWD = 32
"""Images within RADIUS from which on an image is in a crowd, and is not searched to the end."""
_SLAB = 4
"""Candidates that are taken at a time from one key; eight times more each further time."""
_BLOCK = 2_000_000
"""Candidates compared at a time: about 120 MB."""
_THUMBS_BLOCK = 4096
"""Pairs of thumbnails compared at a time: about 50 MB."""


@dataclass(frozen=True)
class Duplicates:
    """M links between rows that show one image, sorted by ``first``, then ``second``.

    Attributes:
        first: (M,) int64 row numbers.
        second: (M,) int64 row numbers.
        exact: (M,) bool, every pixel is equal.
        distance: (M,) int64, bits in which the hashes differ.
        correlation: (M,) float32, Pearson correlation of the thumbnails.
    """

    first: np.ndarray
    second: np.ndarray
    exact: np.ndarray
    distance: np.ndarray
    correlation: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, index: np.ndarray) -> Duplicates:
        """The links at ``index``."""
        return Duplicates(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def groups(self) -> list[np.ndarray]:
        """Rows that are linked directly or through others, sorted; only for ``within``."""
        rows, ends = np.unique(np.stack([self.first, self.second]), return_inverse=True)
        one, other = ends.reshape(2, -1)
        graph = coo_array((np.ones(len(self), bool), (one, other)), shape=(len(rows), len(rows)))
        _, component = connected_components(graph, directed=False)
        order = np.argsort(component, kind="stable")
        cuts = np.flatnonzero(np.diff(component[order])) + 1
        found = np.split(rows[order], cuts) if len(rows) else []
        return sorted(found, key=lambda group: int(group[0]))


def within(prints: Fingerprints) -> Duplicates:
    """The links among the rows of one set; ``first`` is the smaller row number.

    Images of equal pixels are each linked to the first of them, and that one alone is
    compared with other images: k of them make k - 1 links.
    """
    (side,) = _sides(prints)
    own, rows = side.members(np.arange(len(side.leaders)))
    exact = _exact(side.leaders[own], rows).take(np.flatnonzero(side.leaders[own] != rows))
    near = _near(side, side)
    ends = np.sort(side.leaders[np.stack([near.first, near.second])], axis=0)
    return _tidy(exact, replace(near, first=ends[0], second=ends[1]))


def between(a: Fingerprints, b: Fingerprints) -> Duplicates:
    """The links between two sets; ``first`` are rows of ``a``, ``second`` rows of ``b``.

    Every row that has a duplicate in the other set has a link. Where j rows of ``a`` and k of
    ``b`` have equal pixels, j + k - 1 links stand for all: from each to the first of the others.
    """
    one, other = _sides(a, b)
    _, first, second = np.intersect1d(
        one.groups, other.groups, assume_unique=True, return_indices=True
    )
    there, back = _near(one, other), _near(other, one)
    links = _tidy(_exact(first, second), there, replace(back, first=back.second, second=back.first))
    link_a, rows_a = one.members(links.first)
    link_b, rows_b = other.members(links.second)
    return _tidy(
        replace(links.take(link_a), first=rows_a, second=other.leaders[links.second[link_a]]),
        replace(links.take(link_b), first=one.leaders[links.first[link_b]], second=rows_b),
    )


def _exact(first: np.ndarray, second: np.ndarray) -> Duplicates:
    count = len(first)
    return Duplicates(
        first, second, np.ones(count, bool), np.zeros(count, np.int64), np.ones(count, np.float32)
    )


def _tidy(*parts: Duplicates) -> Duplicates:
    """All links, sorted, each once."""
    links = Duplicates(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Duplicates)}
    )
    order = np.lexsort((links.second, links.first))
    ends = np.stack([links.first, links.second])[:, order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ends[:, 1:] != ends[:, :-1]).any(axis=0)
    return links.take(order[new])


@dataclass(frozen=True)
class _Side:
    """The readable rows of a set in G groups of equal pixels.

    Attributes:
        prints: the set.
        rows: (n,) its readable rows, group by group.
        starts: (G + 1,) where in ``rows`` each group starts.
        groups: (G,) the groups' numbers, common to both sides; sorted.
    """

    prints: Fingerprints
    rows: np.ndarray
    starts: np.ndarray
    groups: np.ndarray

    @property
    def leaders(self) -> np.ndarray:
        """(G,) the first row of each group."""
        leaders: np.ndarray = self.rows[self.starts[:-1]]
        return leaders

    def members(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All rows of (m,) groups, given by position: which of the m, and the row."""
        which, at = _ranges(self.starts[groups], self.starts[groups + 1])
        return which, self.rows[at]


def _sides(*sets: Fingerprints) -> list[_Side]:
    readable = [np.setdiff1d(np.arange(len(s)), list(s.bad)).astype(np.int64) for s in sets]
    pixels = np.concatenate([s.pixels[rows] for s, rows in zip(sets, readable, strict=True)])
    width = pixels.shape[1]
    _, numbers = np.unique(pixels.view(f"V{width}").ravel(), return_inverse=True)
    parts = np.split(numbers, np.cumsum([len(rows) for rows in readable])[:-1])
    sides = []
    for prints, rows, part in zip(sets, readable, parts, strict=True):
        order = np.argsort(part, kind="stable")
        groups, starts = np.unique(part[order], return_index=True)
        sides.append(_Side(prints, rows[order], np.append(starts, len(rows)), groups))
    return sides


def _near(a: _Side, b: _Side) -> Duplicates:
    """Near pairs of groups, by position; all of them for a group of ``a`` that is in no crowd."""
    rows_a, rows_b = a.leaders, b.leaders
    searched_a, searched_b = _varied(a.prints.thumbs, rows_a), _varied(b.prints.thumbs, rows_b)
    found = [_exact(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    candidates = _candidates(
        _band_keys(a.prints.hashes[rows_a[searched_a]]),
        _band_keys(b.prints.hashes[rows_b[searched_b]]),
        a.groups[searched_a],
        b.groups[searched_b],
    )
    for i, j, distance in candidates:
        first, second = searched_a[i], searched_b[j]
        correlation = _correlations(a.prints.thumbs, rows_a[first], b.prints.thumbs, rows_b[second])
        links = Duplicates(first, second, np.zeros(len(i), bool), distance, correlation)
        found.append(links.take(np.flatnonzero(correlation >= MIN_CORRELATION)))
    return _tidy(*found)


def _varied(thumbs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions in ``rows`` of thumbnails with more than one grey level; the others have no
    correlation, so that nothing but equal pixels makes them duplicates."""
    parts = [thumbs[rows[n : n + _THUMBS_BLOCK]] for n in range(0, len(rows), _THUMBS_BLOCK)]
    varied = [part.min(axis=1) < part.max(axis=1) for part in parts]
    return np.flatnonzero(np.concatenate(varied)) if varied else np.zeros(0, np.int64)


def _correlations(
    thumbs_a: np.ndarray, rows_a: np.ndarray, thumbs_b: np.ndarray, rows_b: np.ndarray
) -> np.ndarray:
    """(n,) float32: Pearson correlation of thumbnail ``rows_a[k]`` with ``rows_b[k]``."""
    result = np.zeros(len(rows_a), dtype=np.float32)
    for start in range(0, len(rows_a), _THUMBS_BLOCK):
        block = slice(start, start + _THUMBS_BLOCK)
        one, other = _centred(thumbs_a[rows_a[block]]), _centred(thumbs_b[rows_b[block]])
        scale = np.sqrt(_dot(one, one) * _dot(other, other))
        result[block] = _dot(one, other) / scale
    return result


def _centred(thumbs: np.ndarray) -> np.ndarray:
    """(n, 1024) float32 of mean zero."""
    values = thumbs.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    product: np.ndarray = np.einsum("ij,ij->i", one, other)
    return product


def _band_keys(hashes: np.ndarray) -> np.ndarray:
    """(12, n) uint32: the bits of each band as a number; together they are all 256 bits."""
    bits = np.unpackbits(hashes, axis=1)
    # shuffled: neighbouring bits are low frequencies, in which all chests are alike
    bands = np.array_split(np.random.default_rng(0).permutation(_BITS), _BANDS)
    keys = np.zeros((_BANDS, len(hashes)), dtype=np.uint32)
    for key, columns in zip(keys, bands, strict=True):
        for column in columns:
            key <<= np.uint32(1)
            key |= bits[:, column]
    return keys


def _candidates(
    keys_a: np.ndarray, keys_b: np.ndarray, groups_a: np.ndarray, groups_b: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs within RADIUS whose groups differ, each once, with their distance; in blocks.

    Args:
        keys_a, keys_b: (12, n) and (12, m) band keys.
        groups_a, groups_b: (n,) and (m,) what must differ.
    """
    partners = np.zeros(len(groups_a), dtype=np.int64)
    for band in range(_BANDS):
        order = np.argsort(keys_b[band], kind="stable")
        for rows, starts, stops in _lookups(keys_a[band], keys_b[band][order]):
            slab = _SLAB
            while len(rows):
                ends = np.minimum(starts + slab, stops)
                for which, at in _in_blocks(starts, ends, _BLOCK // slab):
                    i, j = rows[which], order[at]
                    other = groups_a[i] != groups_b[j]
                    i, j, distance = _within_radius(keys_a, keys_b, i[other], j[other], band)
                    np.add.at(partners, i, 1)
                    if len(i):
                        yield i, j, distance
                left = (ends < stops) & (partners[rows] < _CROWD)
                rows, starts, stops = rows[left], ends[left], stops[left]
                slab = min(8 * slab, _BLOCK)


def _lookups(
    queries: np.ndarray, keys: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where queries stand among sorted keys, as they are and with each bit flipped in turn.

    Yields (k,) positions of queries that are there, and from where to where in ``keys``.
    """
    distinct, starts = np.unique(keys, return_index=True)
    stops = np.append(starts[1:], len(keys))
    for flip in (0, *(1 << bit for bit in range(-(-_BITS // _BANDS)))):
        wanted = queries ^ np.uint32(flip)
        at = np.minimum(np.searchsorted(distinct, wanted), max(len(distinct) - 1, 0))
        there = np.flatnonzero(distinct[at] == wanted) if len(distinct) else at[:0]
        yield there, starts[at[there]], stops[at[there]]


def _ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers in ranges ``starts[k]:stops[k]``, one range behind the other: k, number."""
    counts = stops - starts
    which = np.repeat(np.arange(len(counts)), counts)
    offsets = starts - (np.cumsum(counts) - counts)
    return which, np.arange(len(which)) + offsets[which]


def _in_blocks(
    starts: np.ndarray, stops: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``_ranges``, ``size`` of them at a time."""
    for n in range(0, len(starts), size):
        which, at = _ranges(starts[n : n + size], stops[n : n + size])
        yield n + which, at


def _within_radius(
    keys_a: np.ndarray, keys_b: np.ndarray, i: np.ndarray, j: np.ndarray, band: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The candidates (i, j) that are near and that no band before ``band`` finds; distances."""
    distance = np.zeros(len(i), dtype=np.int64)
    for n in range(_BANDS):
        differing = np.bitwise_count(keys_a[n][i] ^ keys_b[n][j])
        distance += differing
        kept = distance <= RADIUS
        if n < band:
            kept &= differing > 1
        i, j, distance = i[kept], j[kept], distance[kept]
    return i, j, distance
