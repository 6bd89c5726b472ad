"""A user's own folder: understood, or refused with the place of the mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.errors import DataError
from tests.data.helpers import write_image, write_metadata

HEADER = ["file_name", "patient_id", "split", "TB", "Effusion"]
LINES = [
    ["a.png", "p1", "train", 0, 1],
    ["sub/b.png", "p1", "train", 1, ""],
    ["c.png", "p2", "test", 1, 0],
    ["d.png", "p3", "test", 0, "nan"],
]


def opened(folder: Path, lines: list) -> Table:
    return open_benchmark(write_metadata(folder, lines))


def only(table: Table, columns: list[str]) -> list:
    """Lines of ``LINES`` with only some of the columns, header first."""
    index = [HEADER.index(c) for c in columns]
    return [[line[i] for i in index] for line in table]


# metadata.csv --------------------------------------------------------------------------------


def test_a_metadata_file_gives_labels_patients_and_split(tmp_path):
    table = opened(tmp_path / "own", [HEADER, *LINES])
    assert table.benchmark.name == "imagefolder:own"
    assert table.benchmark.labels == ("TB", "Effusion")
    assert table.ids.tolist() == ["a.png", "c.png", "d.png", "sub/b.png"]
    assert table.patients.tolist() == ["p1", "p2", "p3", "p1"]
    assert table.splits.tolist() == ["train", "test", "test", "train"]
    np.testing.assert_array_equal(
        table.labels, np.array([[0, 1], [1, 0], [0, np.nan], [1, np.nan]], np.float32)
    )
    assert table.split_name == "the dataset's own split"
    assert [int(table.images.grey(i)[0, 0]) for i in range(4)] == [0, 2, 3, 1]


def test_without_a_split_column_patients_are_split_by_hash(tmp_path):
    lines = [[f"{n:03d}.png", f"p{n // 2}", n % 2] for n in range(120)]
    table = opened(tmp_path / "own", [["file_name", "patient_id", "TB"], *lines])
    train, test = (set(table.patients[table.rows(s)]) for s in ("train", "test"))
    assert train.isdisjoint(test)
    assert len(train | test) == 60
    assert 10 <= len(test) <= 30, "about a third"
    assert table.split_name == "hashed split"


def test_more_images_do_not_move_the_patients_that_were_there(tmp_path):
    lines = [[f"{n:03d}.png", n % 2] for n in range(60)]
    few = opened(tmp_path / "own", [["file_name", "TB"], *lines[:40]])
    many = opened(tmp_path / "own", [["file_name", "TB"], *lines])
    splits = dict(zip(many.ids, many.splits, strict=True))
    assert [splits[i] for i in few.ids] == few.splits.tolist()


def test_without_patient_ids_every_image_is_a_patient_and_tables_say_so(tmp_path):
    columns = ["file_name", "split", "TB"]
    table = opened(tmp_path / "own", only([HEADER, *LINES], columns))
    assert table.patients.tolist() == table.ids.tolist()
    assert table.benchmark.patient_key == "per-image"
    assert "patients are not known" in " ".join(table.notes)
    with_ids = opened(tmp_path / "own", [HEADER, *LINES])
    assert "patients are not known" not in " ".join(with_ids.notes)


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path):
    name = write_metadata(tmp_path / "own", [HEADER, *LINES])
    path = tmp_path / "own" / "metadata.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_benchmark(name)) == 4


def test_text_in_a_label_column_is_an_error_with_file_line_and_column(tmp_path):
    lines = [*LINES[:2], ["c.png", "p2", "test", "positive", 0], LINES[3]]
    with pytest.raises(
        DataError, match=r"metadata\.csv line 4: label column 'TB' holds text \('positive'\)"
    ):
        opened(tmp_path / "own", [HEADER, *lines])


def test_an_empty_label_column_is_an_error_that_names_it(tmp_path):
    lines = [[*line[:4], empty] for line, empty in zip(LINES, ["", "nan", "NaN", " "], strict=True)]
    with pytest.raises(DataError, match=r"label column 'Effusion' is empty \(NaN in every row\)"):
        opened(tmp_path / "own", [HEADER, *lines])


@pytest.mark.parametrize("value", [2, -1, 0.5, "inf"])
def test_a_label_that_is_neither_0_nor_1_names_image_and_label(tmp_path, value):
    lines = [*LINES[:2], ["c.png", "p2", "test", 1, value], LINES[3]]
    with pytest.raises(DataError, match=f"label 'Effusion' of image c.png is {value}; labels must"):
        opened(tmp_path / "own", [HEADER, *lines])


def test_a_missing_file_name_column_is_an_error_that_lists_the_columns(tmp_path):
    lines = [["path", "TB"], ["a.png", 0], ["b.png", 1]]
    with pytest.raises(
        DataError, match=r"metadata\.csv: no column 'file_name'; there are path, TB"
    ):
        opened(tmp_path / "own", lines)


def test_a_metadata_file_without_labels_is_an_error(tmp_path):
    lines = only([HEADER, *LINES], ["file_name", "patient_id", "split"])
    with pytest.raises(DataError, match=r"metadata\.csv: no label column"):
        opened(tmp_path / "own", lines)


def test_another_word_for_a_split_is_an_error_with_its_line(tmp_path):
    lines = [LINES[0], ["b.png", "p1", "val", 1, 0], *LINES[2:]]
    with pytest.raises(DataError, match="line 3: split is 'val', not train or test"):
        opened(tmp_path / "own", [HEADER, *lines])


def test_a_listed_file_that_is_missing_is_named(tmp_path):
    name = write_metadata(tmp_path / "own", [HEADER, *LINES])
    (tmp_path / "own" / "sub" / "b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 images are missing \(sub/b\.png\)"):
        open_benchmark(name)
    assert open_benchmark(name, exclude_bad=True).excluded == ("sub/b.png",)


def test_a_file_listed_twice_is_named(tmp_path):
    with pytest.raises(DataError, match=r"image id a\.png occurs more than once"):
        opened(tmp_path / "own", [HEADER, *LINES, LINES[0]])


@pytest.mark.parametrize("patient", ["", None], ids=["empty", "line too short"])
def test_a_line_without_a_patient_is_an_error_that_names_the_image(tmp_path, patient):
    lines = [["file_name", "split", "TB", "patient_id"]]
    lines += [["a.png", "train", 0, "p1"], ["b.png", "train", 1], ["c.png", "test", 1, "p3"]]
    if patient is not None:
        lines[2].append(patient)
    with pytest.raises(DataError, match=r"b\.png|line 3"):
        opened(tmp_path / "own", lines)


def test_a_label_column_given_twice_is_an_error_that_names_it(tmp_path):
    lines = [["file_name", "split", "TB", "TB"], ["a.png", "train", 0, 1], ["b.png", "test", 1, 0]]
    with pytest.raises(DataError, match="TB"):
        opened(tmp_path / "own", lines)


def test_a_metadata_file_in_another_encoding_is_an_error_that_names_it(tmp_path):
    name = write_metadata(tmp_path / "own", [HEADER, *LINES])
    path = tmp_path / "own" / "metadata.csv"
    path.write_bytes(path.read_bytes().replace(b"Effusion", "Ergu\xdf".encode("latin-1")))
    with pytest.raises(DataError, match=r"metadata\.csv"):
        open_benchmark(name)


@pytest.mark.parametrize("folder", ["own (2)", "r\u00f6ntgen", "a+b", "_own"])
def test_a_folder_may_have_any_name_that_folders_have(tmp_path, folder):
    assert len(opened(tmp_path / folder, [HEADER, *LINES])) == 4


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match=f"imagefolder: {tmp_path / 'gone'} does not exist"):
        open_benchmark(f"imagefolder:{tmp_path / 'gone'}")


# One folder per class ------------------------------------------------------------------------


def write_classes(folder: Path, classes: list[str], count: int = 30) -> str:
    for label in classes:
        for n in range(count):
            write_image(folder / label / f"{n}.png", n)
    return f"imagefolder:{folder}"


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        (["NORMAL", "PNEUMONIA"], "PNEUMONIA"),
        (["Effusion", "healthy"], "Effusion"),
        (["abscess", "no finding"], "abscess"),
        (["0", "1"], "1"),
        (["left", "right"], "right"),
    ],
)
def test_two_class_folders_are_one_label_and_not_the_normal_one(tmp_path, classes, label):
    table = open_benchmark(write_classes(tmp_path / "own", classes))
    assert table.benchmark.labels == (label,)
    positive = np.char.startswith(table.ids, f"{label}/")
    assert positive.sum() == 30
    assert np.array_equal(table.labels[:, 0], positive.astype(np.float32))
    assert table.split_name == "hashed split"
    assert "patients are not known" in " ".join(table.notes)


def test_three_class_folders_are_three_labels(tmp_path):
    table = open_benchmark(write_classes(tmp_path / "own", ["TB", "COVID", "normal"]))
    assert table.benchmark.labels == ("COVID", "TB", "normal")
    assert np.array_equal(table.labels.sum(1), np.ones(90))
    of_class = [np.char.startswith(table.ids, f"{c}/") for c in table.benchmark.labels]
    assert np.array_equal(table.labels, np.stack(of_class, axis=1))


def test_train_and_test_folders_are_the_split(tmp_path):
    for split, count in (("train", 5), ("test", 3)):
        write_classes(tmp_path / "own" / split, ["normal", "TB"], count)
    table = open_benchmark(f"imagefolder:{tmp_path / 'own'}")
    assert table.benchmark.labels == ("TB",)
    assert (len(table.rows("train")), len(table.rows("test"))) == (10, 6)
    assert all(i.startswith("train/") for i in table.ids[table.rows("train")])
    assert "train/normal/0.png" in table.ids
    assert "test/normal/0.png" in table.ids
    assert table.split_name == "the dataset's own split"


def test_images_below_a_class_folder_count_and_other_files_do_not(tmp_path):
    name = write_classes(tmp_path / "own", ["normal", "TB"])
    write_image(tmp_path / "own" / "TB" / "deep" / "er" / "x.PNG")
    (tmp_path / "own" / "TB" / "notes.txt").write_text("not an image")
    (tmp_path / "own" / "README.md").write_text("nor this")
    table = open_benchmark(name)
    assert len(table) == 61
    assert table.labels[table.ids == "TB/deep/er/x.PNG"] == 1


@pytest.mark.parametrize("classes", [["TB"], []])
def test_fewer_than_two_class_folders_are_an_error_that_says_what_is_needed(tmp_path, classes):
    (tmp_path / "own").mkdir()
    with pytest.raises(DataError, match=f"holds {len(classes)} class folders .* metadata.csv"):
        open_benchmark(write_classes(tmp_path / "own", classes))
