"""Every benchmark file against a copy in its publisher's layout, and against the whole table.

Parametrised over the catalogue: a new benchmark file fails here until it has a test copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cxrzoo.data import sources
from cxrzoo.data.benchmark import Benchmark, find, list_benchmarks
from cxrzoo.data.budget import FULL, Ranking
from cxrzoo.data.rows import Rows
from cxrzoo.data.sources import PhantomSource
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.errors import DataError
from tests.data import public_sets

NAMES = [n for n in list_benchmarks() if not isinstance(find(n).source, PhantomSource)]


def generator_states() -> tuple[bytes, bytes]:
    import torch

    numpy_state = np.random.get_state()[1].tobytes()  # noqa: NPY002
    return numpy_state, torch.get_rng_state().numpy().tobytes()


@dataclass(frozen=True)
class Opened:
    """A copy, the truth about it, and what cxrzoo made of it."""

    root: Path
    copy: public_sets.Copy
    table: Table
    generators_kept: bool


@pytest.fixture(scope="module", params=NAMES)
def opened(request, tmp_path_factory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("copy")
    copy = public_sets.make(request.param, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        before = generator_states()
        table = open_benchmark(request.param, root)
        yield Opened(root, copy, table, generator_states() == before)


# A copy of some hundred rows -----------------------------------------------------------------


def test_all_rows_are_there_and_their_files_are_found(opened):
    assert opened.table.ids.tolist() == sorted(opened.copy)
    assert len(opened.table) >= 200
    assert opened.table.images.missing == 0
    for row in range(0, len(opened.table), 37):
        image = opened.table.images.grey(row)
        assert image.shape == (8, 8)
        assert int(image[-1, -1]) == pytest.approx(63, abs=3)


def test_labels_are_those_of_the_publishers_table(opened):
    names = opened.table.benchmark.labels
    expected = [[opened.copy[i].labels[name] for name in names] for i in opened.table.ids]
    np.testing.assert_array_equal(opened.table.labels, np.array(expected, np.float32))
    assert (opened.table.labels == 1).any(axis=0).sum() >= min(len(names), 5)


def test_patients_are_the_true_ones_and_guesses_are_said_to_be(opened):
    table, benchmark = opened.table, opened.table.benchmark
    assert table.patients.tolist() == [opened.copy[i].patient for i in table.ids]
    guess = "patients are not known: split per image, one patient may be on both sides"
    assert (guess in table.notes) == benchmark.per_image
    if benchmark.per_image:
        assert np.array_equal(table.patients, table.ids)
    elif benchmark.name not in ("nlmtb", "openi"):  # one image a patient, nearly everywhere
        assert len(set(table.patients)) < len(table), "the copy has patients of several images"


def test_no_patient_is_on_both_sides_and_both_are_there(opened):
    table = opened.table
    train = set(table.patients[table.rows("train")])
    assert train
    for test_set in table.test_sets:
        assert len(table.rows(test_set)) > 10
        assert train.isdisjoint(table.patients[table.rows(test_set)])
    rule = table.benchmark.split.rule
    for image, split in zip(table.ids, table.splits, strict=True):
        published = opened.copy[image].split
        assert split == published if published else split in ("train", "test")
    if rule == "given":
        assert table.split_id == "official"
    else:  # these copies are partial, so nobody's official split
        assert table.split_id == f"cxrzoo-v{table.benchmark.version}"


def test_the_notes_say_that_the_copy_is_partial(opened):
    complete = opened.table.benchmark.complete
    if complete is None:
        assert not any("partial" in note for note in opened.table.notes)
    else:
        assert any(f"of {complete.images:,} images" in note for note in opened.table.notes)


def test_what_may_be_a_shortcut_is_known_of_every_row(opened):
    assert list(opened.table.covariates) == sources.covariates(opened.table.benchmark.source)
    for name, values in opened.table.covariates.items():
        assert values.shape == (len(opened.table),)
        assert "" not in values.tolist(), f"{name} is empty somewhere"
        assert len(set(values)) < len(values) / 3, f"{name} is no group"


def test_budgets_are_exact_and_nested(opened):
    ranking = Ranking(opened.table, 0)
    full = ranking.budget(FULL)
    train = opened.table.rows("train")
    assert sorted(full.rows) == train.tolist()
    smaller = np.empty(0, dtype=int)
    for size in (20, 50, 100):
        rows = ranking.budget(size).rows
        assert len(set(rows.tolist())) == size
        assert rows[: len(smaller)].tolist() == smaller.tolist()
        smaller = rows
    for patient in np.unique(opened.table.patients[full.rows]):
        assert len(set(full.folds[opened.table.patients[full.rows] == patient])) == 1


def test_nobodys_random_numbers_are_touched(opened):
    assert opened.generators_kept


def test_the_order_of_the_publishers_rows_changes_nothing(opened, tmp_path):
    name = opened.table.benchmark.name
    again = public_sets.make(name, tmp_path, seed=1)
    table = open_benchmark(name, tmp_path)
    assert again.keys() == opened.copy.keys()
    assert table.manifest_sha256 == opened.table.manifest_sha256
    for size in (50, FULL):
        one, other = (Ranking(t, 3).budget(size).sha256 for t in (table, opened.table))
        assert one == other


def test_rows_from_the_cache_are_the_same(opened):
    again = open_benchmark(opened.table.benchmark.name, opened.root)
    assert again.manifest_sha256 == opened.table.manifest_sha256
    assert again.images.key == opened.table.images.key
    assert {k: v.tolist() for k, v in again.covariates.items()} == {
        k: v.tolist() for k, v in opened.table.covariates.items()
    }


def test_an_image_that_is_gone_is_named_and_left_out_on_request(opened):
    name = opened.table.benchmark.name
    one_file = not isinstance(opened.table.benchmark.source, sources.XrvSource)
    if one_file or name in ("objectcxr", "nlmtb"):  # inside one file, or the images are the table
        assert opened.table.images.missing == 0
        return
    gone = next(p for p in sorted(opened.root.rglob("*")) if p.suffix in (".png", ".jpg"))
    content = gone.read_bytes()
    gone.unlink()
    try:
        with pytest.raises(DataError, match=f"{name}: 1 of .* images are missing"):
            open_benchmark(name, opened.root)
        table = open_benchmark(name, opened.root, exclude_bad=True)
        assert len(table.excluded) == 1
        assert gone.stem in table.excluded[0] or gone.name in table.excluded[0]
        assert len(table) == len(opened.table) - 1
    finally:
        gone.write_bytes(content)


# Complete sets, by the tables that torchxrayvision bundles ------------------------------------

BUNDLED = ("nih-google", "siim", "vindr", "openi", "padchest", "chexpert", "nih14")


@dataclass(frozen=True)
class Whole:
    """A complete set without images: its rows as read, and the table made of them."""

    benchmark: Benchmark
    root: Path
    rows: Rows
    table: Table


def write_empty(name: str, root: Path) -> None:
    """Folders for the images, and what a complete copy needs besides."""
    for part in find(name).source.parts:
        (root / part.folder / part.images).mkdir(parents=True, exist_ok=True)
    if name == "chexpert":  # the validation set is not bundled: one frontal image
        frame = public_sets.bundled("chexpert_train.csv.gz").head(1).copy()
        frame["Path"] = "CheXpert-v1.0-small/valid/patient99999/study1/view1_frontal.jpg"
        frame.to_csv(root / "chexpert" / "valid.csv", index=False)
    if name == "nih14":
        write_nih_lists(root / "nih14")


def write_nih_lists(folder: Path) -> None:
    """Lists as long as the official ones, of whole patients, but not the official ones."""
    frame = public_sets.bundled("Data_Entry_2017_v2020.csv.gz")
    images = frame.groupby("Patient ID")["Image Index"].agg(list)
    test: list[str] = []
    for names in images.to_numpy()[::-1]:
        if len(test) + len(names) <= 25_596:
            test += names
    assert len(test) == 25_596
    train = sorted(set(frame["Image Index"]) - set(test))
    (folder / "train_val_list.txt").write_text("\n".join(train))
    (folder / "test_list.txt").write_text("\n".join(test) + "\n")


@pytest.fixture(scope="module", params=BUNDLED)
def whole(request, tmp_path_factory) -> Iterator[Whole]:
    root = tmp_path_factory.mktemp("whole")
    write_empty(request.param, root)
    benchmark = find(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        rows = sources.read(benchmark.source, benchmark.labels, root)
        patch.setattr(sources, "read", lambda *_: rows)
        table = open_benchmark(request.param, root, require_images=False)
        yield Whole(benchmark, root, rows, table)


def inside(table: Table) -> np.ndarray:
    return np.isin(table.splits, ["train", "test"])


def test_a_complete_set_is_what_its_file_says(whole):
    complete, table = whole.benchmark.complete, whole.table
    here = inside(table)
    assert here.sum() == complete.images == len(set(table.ids[here]))
    if complete.patients:
        assert len(set(table.patients[here])) == complete.patients
    positives = (table.labels[here] == 1).sum(axis=0).tolist()
    assert dict(zip(whole.benchmark.labels, positives, strict=True)) == complete.positives
    assert table.images.missing == len(table)
    assert not any("partial" in note for note in table.notes)
    for split, count in complete.splits.items():
        assert len(table.rows(split)) == count
    if whole.benchmark.split.rule == "official":
        assert (table.split_name, table.split_id) == ("official split", "official")


def test_siim_has_a_row_for_each_mask_and_an_image_once(whole):
    if whole.benchmark.name == "siim":
        assert len(public_sets.bundled("siim-pneumothorax-train-rle.csv.gz")) == 12_954
        assert len(whole.table) == len(set(whole.table.ids)) == 12_047


def relabelled(rows: Rows) -> Rows:
    labels = rows.labels.copy()
    row, column = np.argwhere(labels == 1)[0]
    labels[row, column] = 0
    return replace(rows, labels=labels)


def with_another_patient(rows: Rows) -> Rows:
    patients = rows.patients.astype("U64")
    patients[0] = "someone else"
    return replace(rows, patients=patients)


def with_another_image(rows: Rows) -> Rows:
    ids = rows.ids.astype("U128")
    ids[0] = "0-another"
    return replace(rows, ids=ids, origins=ids)


def with_a_row_more(rows: Rows) -> Rows:
    extra = with_another_patient(with_another_image(rows.take(np.array([0]))))
    return Rows.concatenate([rows, extra])


@pytest.mark.parametrize(
    "change", [relabelled, with_another_patient, with_another_image, with_a_row_more]
)
def test_another_edition_of_a_set_is_refused(whole, monkeypatch, change):
    monkeypatch.setattr(sources, "read", lambda *_: change(whole.rows))
    with pytest.raises(DataError, match=f"{whole.benchmark.name} version 1: .* another edition"):
        open_benchmark(whole.benchmark.name, whole.root, require_images=False)


def test_a_set_with_a_row_less_is_said_to_be_partial(whole, monkeypatch):
    fewer = whole.rows.take(np.arange(1, len(whole.rows)))
    monkeypatch.setattr(sources, "read", lambda *_: fewer)
    table = open_benchmark(whole.benchmark.name, whole.root, require_images=False)
    assert table.split_name == whole.table.split_name, "of 99 % and more the split is the same"
    count = whole.benchmark.complete.images
    assert any(f"({count - 1:,} of {count:,} images)" in note for note in table.notes)


def test_rsna_has_as_many_images_as_its_file_says():
    """No more is stated of it: the map of its images to NIH's patients is not bundled."""
    labels = public_sets.bundled("kaggle_stage_2_train_labels.csv.zip")
    assert labels.patientId.nunique() == find("rsna").complete.images == 26_684
