"""Benchmarks opened: rows, labels, patients and splits, checked before anything uses them.

A ``Table`` is in canonical order (sorted by image id), so nothing that follows depends on
the order of a CSV or of a directory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cxrzoo import resources
from cxrzoo.data import sources
from cxrzoo.data.benchmark import Benchmark, find
from cxrzoo.data.rows import Images, Rows
from cxrzoo.data.split import check_split, is_inside, split_rows, test_sets, unit_hash
from cxrzoo.errors import DataError


@dataclass(frozen=True)
class Table:
    """The rows of a benchmark, sorted by image id.

    Attributes:
        ids: (N,) image ids, unique.
        patients: (N,) patient keys.
        labels: (N, L) float32 of 0, 1 and NaN (unknown), columns as ``benchmark.labels``.
        splits: (N,) ``train``, ``test``, ``unused`` or the name of an external test set.
        images: how to get the N images.
        notes: what every table that shows this benchmark must say.
        split_name: which split was used, in words.
        split_id: which split was used, as pretraining data name it: ``official`` or
            ``cxrzoo-v<version>``.
        covariates: (N,) texts by name: view, source and what else may be a shortcut.
        excluded: ids left out on the user's explicit word.
        limit: at most so many images of each split were kept; None for all.
    """

    benchmark: Benchmark
    ids: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    images: Images
    notes: tuple[str, ...]
    split_name: str
    split_id: str
    covariates: dict[str, np.ndarray] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> np.ndarray:
        """Indices of the rows in ``split``."""
        return np.flatnonzero(self.splits == split)

    @property
    def test_sets(self) -> list[str]:
        """``test`` and the external test sets, in that order."""
        return test_sets(self.splits)

    @cached_property
    def manifest_sha256(self) -> str:
        """Hash of every row's id, patient, split and labels; independent of file order."""
        return _hash_rows(self.benchmark, self.ids, self.patients, self.splits, self.labels)

    def keep(self, mask: np.ndarray) -> Table:
        """The table with the rows where ``mask`` is true, images included."""
        return replace(
            self,
            ids=self.ids[mask],
            patients=self.patients[mask],
            labels=self.labels[mask],
            splits=self.splits[mask],
            images=self.images.take(np.flatnonzero(mask)),
            covariates={name: values[mask] for name, values in self.covariates.items()},
        )

    def without(self, ids: list[str]) -> Table:
        """The table without ``ids``, which are remembered as excluded."""
        kept = self.keep(~np.isin(self.ids, ids))
        return replace(kept, excluded=tuple(sorted({*self.excluded, *ids})))

    def limited(self, limit: int) -> Table:
        """At most ``limit`` images of each split, by hash: for a quick look, never for a result."""
        order = np.argsort([unit_hash("limit", i) for i in self.ids], kind="stable")
        mask = np.zeros(len(self), dtype=bool)
        for split in np.unique(self.splits):
            mask[order[self.splits[order] == split][:limit]] = True
        return replace(self.keep(mask), limit=limit)


def open_benchmark(
    name: str,
    data_root: Path | str | None = None,
    *,
    exclude_bad: bool = False,
    require_images: bool = True,
) -> Table:
    """Open a benchmark: its rows, labels, patients and split, checked.

    Args:
        name: a benchmark's name, or ``imagefolder:DIR``.
        data_root: folder that holds one folder per benchmark; defaults to ``CXRZOO_DATA``.
        exclude_bad: leave rows out whose image file is missing, and record that.
        require_images: False opens the rows alone, to plan without a download.

    Raises:
        UnknownNameError: no such benchmark.
        DataError: files are missing, labels are not 0, 1 or empty, an id occurs twice, or a
            patient is in train and in test.
    """
    benchmark = find(name)
    root = _root_for(benchmark, data_root)
    rows = _sorted(sources.read(benchmark.source, benchmark.labels, root))
    _check_rows(benchmark, rows)
    rows = _settled(benchmark, rows)
    _check_edition(benchmark, rows)
    missing = rows.ids[rows.stamps == ""].tolist()
    if missing and require_images:
        if not exclude_bad:
            raise DataError(
                f"{benchmark.name}: {len(missing)} of {len(rows.ids)} images are missing "
                f"({', '.join(missing[:3])}{', ...' if missing[3:] else ''}): complete the copy, "
                "or leave them out with --exclude-bad (the records will say so)"
            )
        rows = rows.take(np.flatnonzero(rows.stamps != ""))
    split = split_rows(benchmark, rows, root)
    origin = sources.origin(benchmark.source, root)
    names = sources.covariates(benchmark.source)
    table = Table(
        benchmark=benchmark,
        ids=rows.ids,
        patients=rows.patients,
        labels=rows.labels,
        splits=split.of_rows,
        images=sources.images(benchmark.source, root, rows),
        notes=(*benchmark.all_notes, *split.notes, *((origin,) if origin else ())),
        split_name=split.name,
        split_id=split.id,
        covariates=dict(zip(names, rows.covariates.T, strict=True)),
        excluded=tuple(missing) if require_images else (),
    )
    check_split(benchmark.name, table.patients, table.splits)
    return table


def rows_sha256(benchmark: Benchmark, rows: Rows | Table) -> str:
    """Hash of id, patient and labels of the rows outside external test sets, whatever the split:
    what a benchmark file states of the complete public set. Rows are sorted by id."""
    inside = is_inside(rows.splits)
    nothing = np.full(int(inside.sum()), "")
    return _hash_rows(
        benchmark, rows.ids[inside], rows.patients[inside], nothing, rows.labels[inside]
    )


def _root_for(benchmark: Benchmark, data_root: Path | str | None) -> Path:
    if not sources.folders(benchmark.source):
        return Path()
    root = Path(data_root) if data_root else resources.default_data_root()
    if root is None and not sources.needs_root(benchmark.source):
        return resources.cache_dir() / "no-data-root"
    if root is None:
        raise DataError(
            f"{benchmark.name} needs images: say where they are with --data-root DIR or CXRZOO_DATA"
        )
    if not root.is_dir():
        raise DataError(f"data root {root} does not exist or is not a directory")
    return root


def _sorted(rows: Rows) -> Rows:
    return rows.take(np.argsort(rows.ids, kind="stable"))


def _check_rows(benchmark: Benchmark, rows: Rows) -> None:
    name = benchmark.name
    if not len(rows.ids):
        raise DataError(f"{name}: no images found. {benchmark.get}")
    twice = rows.ids[1:][rows.ids[1:] == rows.ids[:-1]].tolist()
    if twice:
        raise DataError(
            f"{name}: image id {twice[0]} occurs more than once ({len(twice)} such rows)"
        )
    nobody = rows.ids[np.isin(rows.patients, ["", "nan"])].tolist()
    if nobody:
        raise DataError(f"{name}: no patient id for {len(nobody)} images, first {nobody[0]}")
    for column, label in enumerate(benchmark.labels):
        values = rows.labels[:, column]
        odd = ~(np.isnan(values) | (values == 0) | (values == 1))
        odd &= ~sources.is_undecided(benchmark.source, values)
        if odd.any():
            first = int(np.argmax(odd))
            raise DataError(
                f"{name}: label '{label}' of image {rows.ids[first]} is {values[first]:g}; "
                "labels must be 0, 1 or empty"
            )
        if np.isnan(values).all():
            raise DataError(f"{name}: label column '{label}' is empty (NaN in every row)")


def _settled(benchmark: Benchmark, rows: Rows) -> Rows:
    """The rows with labels of 0, 1 and NaN, by the benchmark's policy."""
    policy, raw = benchmark.label_policy, rows.labels
    labels = raw.copy()
    undecided = sources.is_undecided(benchmark.source, raw)
    labels[undecided] = {"ones": 1.0, "zeros": 0.0}.get(policy.uncertain, np.nan)
    if policy.uncertain == "majority":
        labels[undecided & (raw > 0.5)] = 1.0
        labels[undecided & (raw > 0) & (raw < 0.5)] = 0.0
    if policy.missing == "zeros":
        labels[np.isnan(raw)] = 0.0
    return replace(rows, labels=labels)


def _check_edition(benchmark: Benchmark, rows: Rows) -> None:
    """A copy as large as the public set must be that set: results of another edition would look
    comparable and not be."""
    complete, count = benchmark.complete, int(is_inside(rows.splits).sum())
    if complete is None or count < complete.images:
        return
    found = rows_sha256(benchmark, rows)
    if count > complete.images or (complete.rows_sha256 or found) != found:
        stated = f" with {complete.rows_sha256[:16]}" if complete.rows_sha256 else ""
        raise DataError(
            f"{benchmark.name} version {benchmark.version}: {count:,} rows with sha256 "
            f"{found[:16]}, but the public set has {complete.images:,}{stated}: ids, patients or "
            "labels are those of another edition. Use the edition described under `get`, or "
            "describe yours in a benchmark file of its own name and version"
        )


def _hash_rows(
    benchmark: Benchmark,
    ids: np.ndarray,
    patients: np.ndarray,
    splits: np.ndarray,
    labels: np.ndarray,
) -> str:
    """sha256 of rows in the order given, under the benchmark's name, version and labels."""
    text = np.nan_to_num(labels, nan=2).astype("U1")
    rows = zip(ids, patients, splits, map("".join, text), strict=True)
    header = f"{benchmark.name}\t{benchmark.version}\t{benchmark.labels}\n"
    return hashlib.sha256((header + "\n".join(map("\t".join, rows))).encode()).hexdigest()
