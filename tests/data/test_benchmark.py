"""Benchmarks: files that parse, tables that are right, splits that do not leak."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cxrzoo import resources
from cxrzoo.data.benchmark import at_hand, find, list_benchmarks, read_benchmark
from cxrzoo.data.budget import FULL, Ranking
from cxrzoo.data.hubset import HubSource
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import DataError, UnknownNameError
from tests.data.helpers import packaged_fields, use_benchmark, write_image, write_metadata

FILES = sorted(p for p in resources.BENCHMARKS.glob("*.yaml") if p.stem != "overlap")

# Files ---------------------------------------------------------------------------------------


def test_there_is_a_file_for_every_benchmark_listed():
    assert {"covid19", "kermany", "nih14", "nlmtb", "phantom"} <= set(list_benchmarks())
    assert list_benchmarks() == sorted(path.stem for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_packaged_file_parses_and_is_complete(path):
    benchmark = read_benchmark(path)
    assert benchmark == find(path.stem)
    assert benchmark.name == path.stem
    assert benchmark.labels
    assert len(set(benchmark.labels)) == len(benchmark.labels)
    assert not benchmark.flip_allowed, "a mirrored chest is another diagnosis"
    if benchmark.split.rule == "official":
        assert benchmark.split.train_list
        assert benchmark.split.test_list
        assert benchmark.complete
    if isinstance(benchmark.source, HubSource):
        assert set(benchmark.labels) <= set(benchmark.source.label_columns)


def varied(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "grey"}, "mine.yaml: colour: unknown field"),
        ({"split": {"rule": "hashed", "seed": 1}}, "mine.yaml: split.seed: unknown field"),
        ({"source": {"kind": "phantom", "dpi": 1}}, "mine.yaml: source.phantom.dpi: unknown field"),
        ({"source": {"kind": "dicomweb"}}, "mine.yaml: source: Input tag 'dicomweb'"),
        ({"split": {"rule": "random"}}, "mine.yaml: split.rule: Input should be 'given'"),
        ({"version": 0}, "mine.yaml: version: Input should be greater than or equal to 1"),
        ({"name": "../escape"}, "mine.yaml: name: String should match pattern"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_an_error_that_names_file_and_field(tmp_path, change, message):
    path = varied(tmp_path, yaml.safe_dump({**packaged_fields("phantom"), **change}))
    with pytest.raises(DataError) as caught:
        read_benchmark(path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_field_is_an_error_that_names_it(tmp_path):
    fields = packaged_fields("phantom")
    del fields["licence"]
    with pytest.raises(DataError, match=r"mine\.yaml: licence: Field required"):
        read_benchmark(varied(tmp_path, yaml.safe_dump(fields)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("", "top level"),
        ("- a\n- b\n", "top level"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
    ids=["half a list", "empty", "a list", "python object"],
)
def test_a_file_that_is_no_benchmark_is_an_error_that_names_it(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_benchmark(varied(tmp_path, text))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"), [("nih", "nih14"), ("kermani", "kermany"), ("covid", "covid19")]
)
def test_an_unknown_benchmark_is_answered_with_near_names(wrong, right):
    with pytest.raises(UnknownNameError, match=f"unknown benchmark '{wrong}'; did you mean .*"):
        find(wrong)
    with pytest.raises(UnknownNameError, match=right):
        open_benchmark(wrong)


def test_a_name_like_no_other_is_answered_with_all_names():
    with pytest.raises(UnknownNameError, match=r"known: .*imagefolder:DIR.*nih14"):
        find("zzzzzzzz")


# Real images ---------------------------------------------------------------------------------

SPLITS = {
    "nlmtb": {"train": 345, "test": 177, "montgomery": 98},
    "nih14": {"train": 1049, "test": 556},
    "covid19": {"train": 368, "test": 159},
    "kermany": {"train": 5216, "test": 624},
}
PATIENTS = {"nlmtb": 620, "nih14": 1281, "covid19": 309, "kermany": 3273}
POSITIVES = {
    "nlmtb": {"Tuberculosis": 265 + 39},
    "nih14": {"Pneumonia": 516, "Infiltration": 306, "Hernia": 23},
    "covid19": {"COVID-19": 427},
    "kermany": {"Pneumonia": 3875 + 390},
}
NOTES = {
    "nlmtb": ["partial, hashed split (522 of 662 images)"],
    "nih14": ["partial, hashed split (1,605 of 112,120 images)"],
    "covid19": ["shortcut benchmark"],
    "kermany": ["16 validation images are not used"],
}
MANIFESTS = {
    "phantom": "82de5535fc1b5e6783f5b99538ee030ed4f210cbf3c5653b533b3e5eafb67cea",
    "nlmtb": "9266dcad42d605e320501ceeac3a3ce7fd510bbce952f91e2e5052262ded6116",
    "nih14": "7036ab9715620bf4d592e0a8e0effe9c30c533e981a8a27480c0c03641080057",
    "covid19": "ca730dfca33ab7161e62af9e337f4314722b04b2aedd55e8e8b13cbd8100f45b",
    "kermany": "45cd664e0a37b96aa7be83a0d2dd3485f764128dfa027399e7b0811ceb2bb8ab",
}


@pytest.mark.parametrize("name", SPLITS)
def test_real_images_open_with_the_expected_rows(shared_data, name):
    table = open_benchmark(name, shared_data)
    assert {split: int((table.splits == split).sum()) for split in SPLITS[name]} == SPLITS[name]
    assert len(table) == len(set(table.ids)) == sum(SPLITS[name].values())
    assert table.ids.tolist() == sorted(table.ids)
    assert len(set(table.patients)) == PATIENTS[name]
    assert table.labels.shape == (len(table), len(table.benchmark.labels))
    for label, count in POSITIVES[name].items():
        assert (table.labels[:, table.benchmark.labels.index(label)] == 1).sum() == count
    assert table.images.missing == 0
    for test_set in table.test_sets:
        train = set(table.patients[table.rows("train")])
        assert train.isdisjoint(table.patients[table.rows(test_set)])
    for note in NOTES[name]:
        assert note in " / ".join(table.notes)
    assert table.manifest_sha256 == MANIFESTS[name], (
        "rows, labels or splits moved: raise the benchmark's version and pin the new hash"
    )


def test_the_phantoms_rows_never_move_and_it_says_what_it_is():
    table = open_benchmark("phantom")
    assert table.manifest_sha256 == MANIFESTS["phantom"]
    assert "no evidence for any claim" in table.notes[0]
    assert set(table.patients[table.rows("train")]).isdisjoint(table.patients[table.rows("test")])
    assert len(table.rows("test")) / len(table) == pytest.approx(1 / 3, abs=0.02)


def test_images_of_two_sets_keep_their_sets_and_labels_apart(shared_data):
    table = open_benchmark("nlmtb", shared_data)
    assert table.test_sets == ["test", "montgomery"]
    montgomery = np.char.startswith(table.ids, "MCUCXR")
    assert np.array_equal(table.splits == "montgomery", montgomery)
    in_name = np.char.endswith(table.ids, "_1.png")  # the files say 1 for tuberculosis
    assert np.array_equal(table.labels[:, 0] == 1, in_name)


@pytest.fixture(scope="module")
def nih_lines(shared_data):
    """The CSV's header and its rows by image id."""
    with (shared_data / "nih14" / "Data_Entry_subset.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    return header, lines


def nih_copy(root: Path, shared_data: Path, nih_lines, order) -> Path:
    """A data root with the ``order`` rows of NIH: symbolic links, own CSV, official lists."""
    header, lines = nih_lines
    (root / "nih14" / "images").mkdir(parents=True)
    for name in ("train_val_list.txt", "test_list.txt"):
        shutil.copy(shared_data / "nih14" / name, root / "nih14" / name)
    chosen = [lines[i] for i in order]
    with (root / "nih14" / "Data_Entry_subset.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *chosen])
    for line in chosen:
        image = root / "nih14" / "images" / line[0]
        image.symlink_to(shared_data / "nih14" / "images" / line[0])
    return root


def test_the_order_of_a_csv_changes_neither_manifest_nor_budgets(shared_data, nih_lines, tmp_path):
    order = np.random.default_rng(0).permutation(len(nih_lines[1]))
    table = open_benchmark("nih14", nih_copy(tmp_path, shared_data, nih_lines, order))
    original = open_benchmark("nih14", shared_data)
    assert table.manifest_sha256 == original.manifest_sha256 == MANIFESTS["nih14"]
    for size in (50, 100, 1000, FULL):
        one, two = (Ranking(t, 0).budget(size).sha256 for t in (table, original))
        assert one == two


def test_a_smaller_copy_splits_its_patients_as_the_larger_one(shared_data, nih_lines, tmp_path):
    table = open_benchmark("nih14", nih_copy(tmp_path, shared_data, nih_lines, range(0, 1605, 9)))
    original = open_benchmark("nih14", shared_data)
    splits = dict(zip(original.ids, original.splits, strict=True))
    assert [splits[i] for i in table.ids] == table.splits.tolist()
    assert "partial, hashed split (179 of 112,120 images)" in table.notes


@pytest.fixture
def complete_nih(monkeypatch, tmp_path):
    """The nih14 benchmark, as if the 1,605 images here were all there are."""
    fields = {**packaged_fields("nih14"), "complete": {"images": 1605}}
    return use_benchmark(monkeypatch, tmp_path / "benchmarks", fields)


def test_a_complete_copy_uses_the_official_lists(shared_data, complete_nih):
    table = open_benchmark(complete_nih, shared_data)
    listed = {
        split: set((shared_data / "nih14" / file).read_text().split())
        for split, file in (("train", "train_val_list.txt"), ("test", "test_list.txt"))
    }
    assert (len(table.rows("train")), len(table.rows("test"))) == (1378, 227)
    assert {split: set(table.ids[table.rows(split)]) for split in listed} == listed
    assert table.split_name == "official split"
    assert table.notes == ()


def test_a_complete_copy_without_a_list_is_an_error_that_names_it(
    shared_data, nih_lines, complete_nih, tmp_path
):
    root = nih_copy(tmp_path / "data", shared_data, nih_lines, range(1605))
    (root / "nih14" / "test_list.txt").unlink()
    with pytest.raises(DataError, match=r"official list .*nih14/test_list\.txt is missing"):
        open_benchmark(complete_nih, root)


def test_an_image_in_no_official_list_is_an_error_that_names_it(
    shared_data, nih_lines, complete_nih, tmp_path
):
    root = nih_copy(tmp_path / "data", shared_data, nih_lines, range(1605))
    path = root / "nih14" / "train_val_list.txt"
    gone, *rest = path.read_text().split()
    path.write_text("\n".join(rest))
    with pytest.raises(DataError, match=f"1 images are in no official list, first {gone}"):
        open_benchmark(complete_nih, root)


def test_an_image_without_a_file_is_named_and_left_out_only_on_request(
    shared_data, nih_lines, tmp_path
):
    root = nih_copy(tmp_path, shared_data, nih_lines, range(60))
    whole = open_benchmark("nih14", root)
    gone = whole.ids[7]
    (root / "nih14" / "images" / gone).unlink()
    with pytest.raises(DataError, match=f"1 of 60 images are missing .{gone}.*--exclude-bad"):
        open_benchmark("nih14", root)
    table = open_benchmark("nih14", root, exclude_bad=True)
    assert table.excluded == (gone,)
    assert table.ids.tolist() == [i for i in whole.ids if i != gone]
    assert table.manifest_sha256 != whole.manifest_sha256
    rows_alone = open_benchmark("nih14", root, require_images=False)
    assert (len(rows_alone), rows_alone.images.missing, rows_alone.excluded) == (60, 1, ())


@pytest.mark.parametrize("link", ["nih14", "nih14/images"])
def test_a_folder_may_be_a_symbolic_link(shared_data, nih_lines, tmp_path, link):
    root = nih_copy(tmp_path / "real", shared_data, nih_lines, range(60))
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "nih14").mkdir()
    for name in os.listdir(root / "nih14"):
        (linked / "nih14" / name).symlink_to(root / "nih14" / name)
    if link == "nih14":
        shutil.rmtree(linked / "nih14")
        (linked / "nih14").symlink_to(root / "nih14")
    assert len(open_benchmark("nih14", linked)) == 60


def test_an_image_listed_twice_is_an_error_that_names_it(shared_data, nih_lines, tmp_path):
    root = nih_copy(tmp_path, shared_data, nih_lines, range(20))
    line = ",".join(nih_lines[1][3])
    with (root / "nih14" / "Data_Entry_subset.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=f"image id {nih_lines[1][3][0]} occurs more than once"):
        open_benchmark("nih14", root)


def test_an_image_without_a_patient_is_an_error_that_names_it(shared_data, tmp_path):
    covid_copy(tmp_path, shared_data)
    path = tmp_path / "covid19" / "metadata.csv"
    header, first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, first[first.index(",") :], *rest]))
    with pytest.raises(DataError, match="no patient id for 1 images, first auntminnie-a"):
        open_benchmark("covid19", tmp_path)


def test_a_csv_that_cannot_be_read_is_an_error_that_names_it(shared_data, nih_lines, tmp_path):
    root = nih_copy(tmp_path, shared_data, nih_lines, range(5))
    path = root / "nih14" / "Data_Entry_subset.csv"
    path.write_text(path.read_text().replace("View Position", "View"))
    with pytest.raises(DataError, match=f"{path}: torchxrayvision's NIH_Dataset cannot read it"):
        open_benchmark("nih14", root)


# Folders that are not there ------------------------------------------------------------------


def test_without_a_data_root_the_error_says_how_to_give_one():
    with pytest.raises(DataError, match=r"nih14 needs images: .* --data-root DIR or CXRZOO_DATA"):
        open_benchmark("nih14")


def test_the_environment_may_name_the_data_root(shared_data, monkeypatch):
    monkeypatch.setenv("CXRZOO_DATA", str(shared_data))
    assert len(open_benchmark("covid19")) == 527


def test_a_data_root_that_does_not_exist_is_named(tmp_path):
    for call in (lambda root: open_benchmark("nih14", root), at_hand):
        with pytest.raises(DataError, match=f"data root {tmp_path / 'gone'} does not exist"):
            call(tmp_path / "gone")


@pytest.mark.parametrize("name", SPLITS)
def test_a_folder_that_does_not_exist_is_named(name, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/{name}.* does not exist"):
        open_benchmark(name, tmp_path)


def test_a_folder_without_an_images_folder_is_named(tmp_path):
    (tmp_path / "nih14").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/nih14/images does not exist"):
        open_benchmark("nih14", tmp_path)


def test_benchmarks_at_hand_are_those_with_folders_else_the_phantom(tmp_path):
    assert at_hand(None) == at_hand(tmp_path) == ["phantom"]
    (tmp_path / "nlmtb" / "ChinaSet_AllFiles").mkdir(parents=True)
    (tmp_path / "covid19").mkdir()
    assert at_hand(tmp_path) == ["covid19"], "nlmtb needs both of its folders"


# Splits --------------------------------------------------------------------------------------


def test_a_patient_in_train_and_test_is_an_error_that_names_the_patient(tmp_path):
    name = write_metadata(
        tmp_path / "own",
        [
            ["file_name", "patient_id", "split", "TB"],
            ["a.png", "smith", "train", 0],
            ["b.png", "jones", "train", 1],
            ["c.png", "jones", "test", 1],
            ["d.png", "brown", "test", 0],
        ],
    )
    with pytest.raises(DataError, match=r"patient jones is in train and in test \(1 such"):
        open_benchmark(name)


@pytest.mark.parametrize(("split", "lacking"), [("train", "test"), ("test", "train")])
def test_a_split_without_images_is_an_error(tmp_path, split, lacking):
    lines = [["file_name", "split", "TB"], ["a.png", split, 0], ["b.png", split, 1]]
    with pytest.raises(DataError, match=f"no image is in split '{lacking}'"):
        open_benchmark(write_metadata(tmp_path / "own", lines))


def test_a_limit_keeps_so_many_images_of_each_split_and_is_remembered():
    table = open_benchmark("phantom")
    few = table.limited(20)
    assert (len(few.rows("train")), len(few.rows("test")), few.limit) == (20, 20, 20)
    assert table.limit is None
    assert set(few.ids) < set(table.ids)
    same = int(np.flatnonzero(table.ids == few.ids[3])[0])
    assert np.array_equal(few.images.grey(3), table.images.grey(same))
    assert set(table.limited(10).ids) < set(few.ids), "a smaller limit is inside a larger one"
    assert len(table.limited(10_000)) == len(table)


def test_rows_left_out_are_remembered_and_the_others_keep_their_images():
    table = open_benchmark("phantom").limited(5)
    gone = [table.ids[0], table.ids[4]]
    kept = table.without(gone)
    assert kept.excluded == tuple(sorted(gone))
    assert kept.ids.tolist() == [i for i in table.ids if i not in gone]
    assert np.array_equal(kept.images.grey(0), table.images.grey(1))
    assert kept.manifest_sha256 != table.manifest_sha256


@pytest.mark.parametrize("field", ["patients", "splits", "labels"])
def test_the_manifest_covers_every_column(field):
    table = open_benchmark("phantom").limited(5)
    changed = getattr(table, field).copy()
    changed[0] = {"patients": "someone", "splits": "unused", "labels": np.nan}[field]
    other = type(table)(**{**vars(table), field: changed})
    assert other.manifest_sha256 != table.manifest_sha256


# The cache of rows, and torchxrayvision's habits ---------------------------------------------


def covid_copy(root: Path, shared_data: Path) -> Path:
    """A data root with COVID-19: symbolic links to the images and a CSV to be changed."""
    (root / "covid19" / "images").mkdir(parents=True)
    shutil.copy(shared_data / "covid19" / "metadata.csv", root / "covid19" / "metadata.csv")
    for image in (shared_data / "covid19" / "images").iterdir():
        (root / "covid19" / "images" / image.name).symlink_to(image)
    return root


def test_rows_read_once_are_read_again_without_torchxrayvision(shared_data):
    table = open_benchmark("nih14", shared_data)
    program = (
        "import sys\n"
        "from cxrzoo.data.table import open_benchmark\n"
        f"table = open_benchmark('nih14', {str(shared_data)!r})\n"
        "print(table.manifest_sha256, table.images.key)\n"
        "print(*{'torch', 'torchxrayvision', 'pandas'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    hashes, loaded = done.stdout.split("\n")[:2]
    assert hashes == f"{table.manifest_sha256} {table.images.key}"
    assert loaded == ""


def test_a_changed_csv_is_read_again(shared_data, tmp_path):
    covid_copy(tmp_path, shared_data)
    before = open_benchmark("covid19", tmp_path)
    path = tmp_path / "covid19" / "metadata.csv"
    old = path.stat()
    text = path.read_text()
    path.write_text(text.replace(",COVID-19,", ",Sarcoids,", 1))  # as long as before
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert path.stat().st_size == old.st_size
    after = open_benchmark("covid19", tmp_path)
    assert (after.labels == 1).sum() == (before.labels == 1).sum() - 1


def test_a_damaged_cache_of_rows_is_read_anew(shared_data):
    before = open_benchmark("covid19", shared_data)
    (cached,) = (resources.cache_dir() / "rows").iterdir()
    for damage in ("", cached.read_text()[:1000], "{}"):
        cached.write_text(damage)
        assert open_benchmark("covid19", shared_data).manifest_sha256 == before.manifest_sha256


def test_torchxrayvisions_seeding_does_not_reach_our_generators(shared_data):
    import torch
    import torchxrayvision as xrv

    def states() -> tuple[bytes, bytes]:
        numpy_state = np.random.get_state()[1].tobytes()  # noqa: NPY002
        return numpy_state, torch.get_rng_state().numpy().tobytes()

    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    before = states()
    open_benchmark("covid19", shared_data)
    assert states() == before
    folder = shared_data / "covid19"
    xrv.datasets.COVID19_Dataset(str(folder / "images"), csvpath=str(folder / "metadata.csv"))
    assert states()[0] != before[0], "torchxrayvision no longer seeds numpy: the guard may go"


def test_a_users_image_that_vanishes_is_noticed(tmp_path):
    lines = [["file_name", "split", "TB"], ["a.png", "train", 0], ["b.png", "test", 1]]
    name = write_metadata(tmp_path / "own", lines)
    assert len(open_benchmark(name)) == 2
    (tmp_path / "own" / "b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images are missing \(b\.png\)"):
        open_benchmark(name)
    write_image(tmp_path / "own" / "b.png")
    assert len(open_benchmark(name)) == 2
