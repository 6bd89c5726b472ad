"""Metadata that are broken as downloads and spreadsheets break them: a clear error, or no harm."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxrzoo.data.benchmark import find
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.errors import CxrzooError, DataError
from tests.data import public_sets
from tests.data.helpers import packaged_fields, use_benchmark, write_image, write_metadata

NIH_CSV = "nih14/Data_Entry_2017_v2020.csv"
GOOGLE_CSV = "nih-google/google2019_nih-chest-xray-labels.csv"
MIMIC = "mimic/mimic-cxr-2.0.0"
MAPPING = "rsna/pneumonia-challenge-dataset-mappings_2018.json"


@pytest.fixture(scope="session")
def originals(tmp_path_factory) -> dict[str, Path]:
    return {}


@pytest.fixture
def copy_of(originals, tmp_path, tmp_path_factory):
    """Copies of the small sets, to be broken; each is made once."""

    def copied(name: str) -> Path:
        if name not in originals:
            originals[name] = tmp_path_factory.mktemp(f"whole-{name}")
            public_sets.make(name, originals[name])
        root = tmp_path / "data"
        shutil.copytree(originals[name] / name, root / name)
        return root

    return copied


def edit(path: Path, change: Any) -> None:
    """Rewrite a CSV by a function of its frame of texts."""
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


def fails(name: str, root: Path, *texts: object) -> None:
    """Opening is a DataError that says all of ``texts``, and only such an error."""
    with pytest.raises(DataError) as caught:
        open_benchmark(name, root)
    for text in texts:
        assert str(text) in str(caught.value)


def set_cell(row: int, column: str, value: Any) -> Any:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return change


# Columns and cells ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [
        ("nih14", NIH_CSV, "Patient ID"),
        ("nih14", NIH_CSV, "Finding Labels"),
        ("nih14", NIH_CSV, "Image Index"),
        ("nih-google", GOOGLE_CSV, "Set Id"),
        ("nih-google", GOOGLE_CSV, "Airspace opacity"),
        ("chexpert", "chexpert/train.csv", "Pleural Effusion"),
        ("chexpert", "chexpert/valid.csv", "Edema"),
        ("chexpert", "chexpert/train.csv", "Path"),
        ("brax", "brax/master_spreadsheet_update.csv", "PatientID"),
        ("brax", "brax/master_spreadsheet_update.csv", "Manufacturer"),
        ("mimic", f"{MIMIC}-chexpert.csv.gz", "No Finding"),
        ("mimic", f"{MIMIC}-chexpert.csv.gz", "Pneumonia"),
        ("mimic", f"{MIMIC}-metadata.csv.gz", "dicom_id"),
        ("mimic", f"{MIMIC}-split.csv.gz", "split"),
        ("vindr", "vindr/train.csv", "rad_id"),
        ("siim", "siim/train-rle.csv", "ImageId"),
        ("padchest", "padchest/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "PatientID"),
        ("covid19", "covid19/metadata.csv", "filename"),
        ("covid19", "covid19/metadata.csv", "url"),
        ("objectcxr", "objectcxr/dev.csv", "annotation"),
        ("rsna", "rsna/stage_2_train_labels.csv", "Target"),
    ],
)
def test_a_missing_column_is_named_with_its_place(copy_of, name, file, column):
    root = copy_of(name)
    edit(root / file, lambda frame: frame.drop(columns=column))
    fails(name, root, root / file.split("/")[0], column)


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("nih14", NIH_CSV, "Image Index"),
        ("covid19", "covid19/metadata.csv", "filename"),
        ("chexpert", "chexpert/train.csv", "Path"),
        ("brax", "brax/master_spreadsheet_update.csv", "PngPath"),
        ("mimic", f"{MIMIC}-metadata.csv.gz", "dicom_id"),
        ("objectcxr", "objectcxr/dev.csv", "image_name"),
    ],
)
def test_an_image_in_two_rows_is_named(copy_of, name, file, key):
    root = copy_of(name)
    image = open_benchmark(name, root).ids[0]
    edit(
        root / file,
        lambda f: pd.concat([f, f[f[key].str.endswith(image)]]),
    )
    fails(name, root, f"{name}: image id {image} occurs more than once (1 such rows)")


@pytest.mark.parametrize("value", ["2", "-2", "7.5"])
def test_a_label_that_is_no_label_is_named_with_its_image(copy_of, value):
    root = copy_of("brax")
    table = open_benchmark("brax", root)
    image = table.ids[5]
    path = root / "brax" / "master_spreadsheet_update.csv"
    rows = pd.read_csv(path).PngPath
    row = int(np.flatnonzero(rows == f"images/{image}")[0])
    edit(path, set_cell(row, "No Finding", None))
    edit(path, set_cell(row, "Edema", value))
    fails("brax", root, f"brax: label 'Edema' of image {image} is {value}", "0, 1 or empty")


def test_text_in_a_label_column_is_an_error_that_names_the_file(copy_of):
    root = copy_of("chexpert")
    edit(root / "chexpert/train.csv", set_cell(3, "Edema", "perhaps"))
    fails("chexpert", root, root / "chexpert/train.csv")


def test_a_label_column_without_a_value_is_named(copy_of):
    root = copy_of("brax")
    path = root / "brax" / "master_spreadsheet_update.csv"
    edit(path, lambda f: f.assign(Fracture=None, **{"No Finding": None}))
    fails("brax", root, "brax: label column 'Fracture' is empty")


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [
        ("nih14", NIH_CSV, "Patient ID"),
        ("covid19", "covid19/metadata.csv", "patientid"),
        ("brax", "brax/master_spreadsheet_update.csv", "PatientID"),
        ("nih-google", GOOGLE_CSV, "Patient ID"),
    ],
)
def test_an_image_without_a_patient_is_named(copy_of, name, file, column):
    root = copy_of(name)
    keys = {"nih14": "Image Index", "covid19": "filename", "brax": "PngPath"}
    key = keys.get(name, "Image Index")
    image = open_benchmark(name, root).ids[0]
    edit(root / file, lambda f: f.assign(**{column: f[column].mask(f[key].str.endswith(image))}))
    fails(name, root, f"no patient id for 1 images, first {image}")


# Files as spreadsheets and downloads leave them ----------------------------------------------

CSVS = [
    ("nih14", NIH_CSV),
    ("covid19", "covid19/metadata.csv"),
    ("chexpert", "chexpert/train.csv"),
    ("vindr", "vindr/train.csv"),
    ("siim", "siim/train-rle.csv"),
    ("rsna", "rsna/stage_2_train_labels.csv"),
    ("objectcxr", "objectcxr/train.csv"),
]


@pytest.mark.parametrize(("name", "file"), CSVS)
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(copy_of, name, file):
    root = copy_of(name)
    before = open_benchmark(name, root)
    content = (root / file).read_bytes().replace(b"\n", b"\r\n")
    (root / file).write_bytes(b"\xef\xbb\xbf" + content)
    assert open_benchmark(name, root).manifest_sha256 == before.manifest_sha256


@pytest.mark.parametrize(("name", "file"), CSVS)
@pytest.mark.parametrize("damage", ["semicolons", "empty", "header alone", "binary"])
def test_a_file_that_is_no_such_table_is_named(copy_of, name, file, damage):
    root = copy_of(name)
    text = (root / file).read_text()
    if damage == "semicolons":
        pd.read_csv(root / file, dtype=str).to_csv(root / file, index=False, sep=";")
    elif damage == "empty":
        (root / file).write_text("")
    elif damage == "header alone":
        (root / file).write_text(text.split("\n")[0] + "\n")
    else:
        (root / file).write_bytes(bytes(range(256)) * 20)
    fails(name, root, name)


def test_a_file_in_latin_1_is_named(copy_of):
    root = copy_of("covid19")
    path = root / "covid19" / "metadata.csv"
    text = path.read_text().splitlines()
    text = [f"{line},{'place' if n == 0 else 'São Paulo'}" for n, line in enumerate(text)]
    path.write_text("\n".join(text), encoding="utf-8")
    assert len(open_benchmark("covid19", root)) > 100
    path.write_text("\n".join(text), encoding="latin-1")
    fails("covid19", root, path, "utf-8")


@pytest.mark.parametrize(("name", "file"), CSVS)
def test_a_download_that_broke_off_inside_a_line_is_not_taken_for_whole(copy_of, name, file):
    """Left alone, pandas fills the line up, and a row whose view is lost is no frontal one."""
    root = copy_of(name)
    path = root / file
    lines = path.read_text().rstrip("\n").split("\n")
    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1].split(",")[0])
    fails(name, root, name)


def test_a_table_of_another_name_is_missed_by_its_name(copy_of):
    root = copy_of("covid19")
    (root / "covid19/metadata.csv").rename(root / "covid19/meta.csv")
    fails("covid19", root, root / "covid19", "metadata.csv")


def test_a_missing_validation_table_of_chexpert_is_missed_by_its_name(copy_of):
    """torchxrayvision's bundled training table must not take its place."""
    root = copy_of("chexpert")
    (root / "chexpert" / "valid.csv").unlink()
    fails("chexpert", root, "valid.csv")


def test_chexpert_may_lie_below_a_folder_called_train(copy_of, tmp_path):
    """torchxrayvision looks for 'train' in the whole path of valid.csv."""
    root = copy_of("chexpert")
    before = open_benchmark("chexpert", root)
    root.rename(tmp_path / "training")
    assert open_benchmark("chexpert", tmp_path / "training").manifest_sha256 == (
        before.manifest_sha256
    )


# Labels that torchxrayvision reads wrongly -----------------------------------------------------


def siim_without_masks(root: Path, text: str) -> Table:
    """SIIM with images of no pneumothorax alone, or their mask written as ``text``."""
    frame = public_sets.bundled("siim-pneumothorax-train-rle.csv.gz")
    frame = frame[frame[" EncodedPixels"] == "-1"].head(60)
    folder = root / "siim"
    folder.mkdir()
    frame.assign(**{" EncodedPixels": text}).to_csv(folder / "train-rle.csv", index=False)
    public_sets.write_pictures(folder / "images", [f"{i}.png" for i in frame.ImageId])
    return open_benchmark("siim", root)


@pytest.mark.parametrize("text", ["-1", " -1"], ids=["minus one", "a blank before"])
def test_images_without_a_mask_are_negative(tmp_path, text):
    """pandas makes numbers of a column of -1 alone, and torchxrayvision compares with a text."""
    assert siim_without_masks(tmp_path, text).labels.max() == 0


# Splits ----------------------------------------------------------------------------------------


def test_a_patient_in_both_published_splits_is_named(copy_of):
    root = copy_of("nih-google")
    frame = pd.read_csv(root / GOOGLE_CSV, dtype=str)
    first = frame[frame["Set Id"] == "val"].groupby("Patient ID").filter(lambda g: len(g) > 1)
    patient = first["Patient ID"].iloc[0]
    edit(root / GOOGLE_CSV, set_cell(int(first.index[0]), "Set Id", "test"))
    fails("nih-google", root, f"patient {patient} is in train and in test (1 such patients)")


def test_a_patient_in_both_lists_of_mimic_is_named(copy_of):
    root = copy_of("mimic")
    table = open_benchmark("mimic", root)
    row = table.rows("train")[0]
    path = root / f"{MIMIC}-split.csv.gz"
    edit(path, lambda f: f.assign(split=f.split.mask(f.dicom_id == table.ids[row], "test")))
    fails("mimic", root, f"patient {table.patients[row]} is in train and in test")


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [("nih-google", GOOGLE_CSV, "Set Id"), ("mimic", f"{MIMIC}-split.csv.gz", "split")],
)
@pytest.mark.parametrize("word", ["holdout", None])
def test_an_unknown_word_for_a_split_is_named(copy_of, name, file, column, word):
    root = copy_of(name)
    images = set(open_benchmark(name, root).ids)
    key = "Image Index" if name == "nih-google" else "dicom_id"
    row = int(np.flatnonzero(pd.read_csv(root / file)[key].isin(images))[0])
    edit(root / file, set_cell(row, column, word))
    fails(name, root, root / name, f"unknown split '{word or ''}'; known: ", "test")


def test_an_image_in_no_row_of_the_split_table_is_named(copy_of):
    root = copy_of("mimic")
    image = open_benchmark("mimic", root).ids[0]
    path = root / f"{MIMIC}-split.csv.gz"
    edit(path, lambda f: f[f.dicom_id != image])
    fails("mimic", root, path, f"no row for {image} (1 such rows)")


@pytest.fixture
def listed(monkeypatch, copy_of, tmp_path) -> Path:
    """NIH as if the copy were complete, with lists of whole patients."""
    root = copy_of("nih14")
    frame = pd.read_csv(root / NIH_CSV)
    test = frame["Patient ID"] % 3 == 0
    counts = {"train": int((~test).sum()), "test": int(test.sum())}
    fields = packaged_fields("nih14")
    fields["complete"] = {"images": len(frame), "splits": counts}
    use_benchmark(monkeypatch, tmp_path / "files", fields)
    for name, here in (("train_val_list.txt", ~test), ("test_list.txt", test)):
        (root / "nih14" / name).write_text("\n".join(frame["Image Index"][here]) + "\n")
    return root


def test_the_lists_are_used_as_they_are(listed):
    table = open_benchmark("nih14", listed)
    patients = table.patients.astype(int)
    assert np.array_equal(table.splits == "test", patients % 3 == 0)
    assert table.split_id == "official"
    for name in ("train_val_list.txt", "test_list.txt"):  # as a Windows editor saves them
        path = listed / "nih14" / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert open_benchmark("nih14", listed).manifest_sha256 == table.manifest_sha256


def test_an_image_in_both_lists_is_named(listed):
    path = listed / "nih14" / "test_list.txt"
    image = open_benchmark("nih14", listed).ids[0]
    for name in ("train_val_list.txt", "test_list.txt"):
        path = listed / "nih14" / name
        path.write_text(f"{path.read_text()}{image}\n")
    fails("nih14", listed, f"image {image} is in both official lists")


def test_an_unlisted_image_is_named(listed):
    path = listed / "nih14" / "test_list.txt"
    gone, *rest = path.read_text().split()
    path.write_text("\n".join(rest))
    fails("nih14", listed, f"1 images are in no official list, first {gone}")


def test_lists_of_another_split_are_refused(listed):
    """All images of a patient moved: each list is fine, and is not the official one."""
    table = open_benchmark("nih14", listed)
    patient = table.patients[table.rows("test")[0]]
    moved = set(table.ids[table.patients == patient])
    for name in ("train_val_list.txt", "test_list.txt"):
        path = listed / "nih14" / name
        others = set(path.read_text().split()) - moved
        path.write_text("\n".join(others | (moved if "train" in name else set())))
    fails("nih14", listed, "the official split is {", "another split")


def test_lists_that_cut_through_a_patient_are_refused(listed):
    """As many images as the official lists, and a patient on both sides."""
    table = open_benchmark("nih14", listed)
    counts = dict(zip(*np.unique(table.patients, return_counts=True), strict=True))
    several = [i for i, p in zip(table.ids, table.patients, strict=True) if counts[p] > 1]
    splits = dict(zip(table.ids, table.splits, strict=True))
    one = next(i for i in several if splits[i] == "train")
    other = next(i for i in several if splits[i] == "test")
    for name in ("train_val_list.txt", "test_list.txt"):
        path = listed / "nih14" / name
        names = path.read_text().split()
        swap = {one: other, other: one}
        path.write_text("\n".join(swap.get(i, i) for i in names))
    fails("nih14", listed, "is in train and in test (2 such patients)")


# The map of RSNA's images to NIH's patients --------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("a row less", "no row for "),
        ("no such key", "no column 'img_id'"),
        ("half of it", "not a readable table"),
        ("empty", "not a readable table"),
        ("gone", "there is no pneumonia-challenge-dataset-mappings_2018.json"),
        ("another name", "is not like ^(\\d+)_"),
        ("an empty name", "no patient id for 1 images"),
    ],
)
def test_a_map_to_patients_that_is_broken_is_named(copy_of, damage, said):
    root = copy_of("rsna")
    path = root / MAPPING
    text = path.read_text()
    rows = json.loads(text)
    changed = {
        "a row less": json.dumps(rows[1:]),
        "no such key": text.replace('"img_id"', '"image"'),
        "half of it": text[: len(text) // 2],
        "empty": "",
        "gone": "",
        "another name": text.replace(rows[0]["img_id"], "patient-4.png"),
        "an empty name": text.replace(rows[0]["img_id"], ""),
    }[damage]
    path.write_text(changed)
    if damage == "gone":
        path.unlink()
    fails("rsna", root, "rsna", said)
    if damage == "a row less":
        fails("rsna", root, path, rows[0]["subset_img_id"], "(1 such rows)")


# Archives and names of files -----------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_a_zip_file_that_is_none_is_named(copy_of, damage):
    root = copy_of("objectcxr")
    path = root / "objectcxr" / "train.zip"
    content = path.read_bytes()
    path.write_bytes({"text": b"<html>", "empty": b"", "cut": content[: len(content) // 2]}[damage])
    fails("objectcxr", root, path)


def test_an_image_that_is_not_in_the_archive_is_named(copy_of):
    root = copy_of("objectcxr")
    path = root / "objectcxr" / "dev.csv"
    edit(path, set_cell(0, "image_name", "another.jpg"))
    fails("objectcxr", root, "1 of 280 images are missing (another.jpg)")


@pytest.mark.parametrize("name", ["nih14", "siim"])
def test_two_files_of_one_name_are_named(copy_of, name):
    root = copy_of(name)
    first, *_ = sorted((root / name / "images").rglob("*.png"))
    (root / name / "images" / "again").mkdir()
    shutil.copy(first, root / name / "images" / "again" / first.name)
    fails(name, root, "two files of one name", first.relative_to(root), f"again/{first.name}")


@pytest.mark.parametrize("litter", [".DS_Store", "Thumbs.db", "index.html"])
def test_what_other_programs_leave_in_each_folder_is_no_harm(copy_of, litter):
    """Names need not be unique of files that no row asks for."""
    root = copy_of("nih14")
    before = open_benchmark("nih14", root).manifest_sha256
    for folder in sorted((root / "nih14" / "images").glob("images_*/images")):
        (folder / litter).write_bytes(b"")
    assert open_benchmark("nih14", root).manifest_sha256 == before


@pytest.mark.parametrize(
    ("name", "file", "key", "prefix"),
    [
        ("nih14", NIH_CSV, "Image Index", ""),
        ("covid19", "covid19/metadata.csv", "filename", ""),
        ("brax", "brax/master_spreadsheet_update.csv", "PngPath", "images/"),
    ],
)
@pytest.mark.parametrize("escape", ["../secret.png", "../../secret.png", "{root}/secret.png"])
def test_a_name_that_leaves_the_folder_is_a_missing_image(copy_of, name, file, key, prefix, escape):
    root = copy_of(name)
    for folder in (root, root / name):
        write_image(folder / "secret.png", 200)
    image = open_benchmark(name, root).ids[0]
    escape = escape.format(root=root)
    edit(
        root / file,
        lambda f: f.assign(**{key: f[key].mask(f[key].str.endswith(image), prefix + escape)}),
    )
    fails(name, root, "images are missing", escape)


@pytest.mark.parametrize("escape", ["../secret.png", "{root}/secret.png"])
def test_a_users_table_may_not_leave_the_users_folder(tmp_path, escape):
    write_image(tmp_path / "secret.png", 200)
    escape = escape.format(root=tmp_path)
    lines: list[list[Any]] = [["file_name", "split", "TB"]]
    lines += [["a.png", "train", 0], ["b.png", "test", 1]]
    name = write_metadata(tmp_path / "own", lines)
    path = tmp_path / "own" / "metadata.csv"
    path.write_text(path.read_text().replace("b.png", escape))
    with pytest.raises(DataError, match=re.escape(escape)):
        open_benchmark(name)


def test_every_error_is_ours_wherever_a_table_is_cut(copy_of):
    """Cuts all through a table: opening works or fails in words, never with a traceback."""
    root = copy_of("covid19")
    path = root / "covid19" / "metadata.csv"
    whole, said = path.read_bytes(), []
    for size in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:size])
        try:
            open_benchmark("covid19", root)
        except CxrzooError as error:
            said.append(str(error))
    assert said
    assert all("covid19" in text for text in said)


def test_the_copies_here_are_those_of_the_catalogue(copy_of):
    """What is broken above opens when it is whole."""
    for name in ("tbx11k", "openi"):
        assert open_benchmark(name, copy_of(name)).benchmark == find(name)
