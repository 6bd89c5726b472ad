"""Status and check: what a user is told about a copy."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cxrzoo.data.inspect import check, status
from cxrzoo.errors import DataError, UnknownNameError
from tests.data.helpers import write_image, write_metadata


@pytest.mark.parametrize("root", [None, "empty"])
def test_a_benchmark_without_a_folder_is_absent_and_the_user_learns_how_to_get_it(root, tmp_path):
    found = status("nih14", tmp_path if root else None)
    assert (found.name, found.state) == ("nih14", "absent")
    assert found.detail.startswith("Download ChestX-ray14")


def test_one_folder_of_two_is_absent(tmp_path):
    (tmp_path / "nlmtb" / "ChinaSet_AllFiles").mkdir(parents=True)
    assert status("nlmtb", tmp_path).state == "absent"


def test_the_phantom_is_embedded():
    found = status("phantom", None)
    assert (found.state, found.detail) == ("embedded", "4,000 images")


@pytest.mark.parametrize(
    ("name", "state", "detail"),
    [
        ("kermany", "present", "5,840 images; the dataset's own split"),
        ("covid19", "present", "527 images; hashed split"),
        ("nlmtb", "partial", "620 of 800 images"),
        ("nih14", "partial", "1,605 of 112,120 images"),
    ],
)
def test_real_copies_are_present_or_partial(shared_data, name, state, detail):
    found = status(name, shared_data)
    assert found.state == state
    assert detail in found.detail


def copy_covid(root, shared_data):
    """The COVID-19 set with symbolic links to its images."""
    images = root / "covid19" / "images"
    images.mkdir(parents=True)
    shutil.copy(shared_data / "covid19" / "metadata.csv", root / "covid19" / "metadata.csv")
    for image in (shared_data / "covid19" / "images").iterdir():
        (images / image.name).symlink_to(image)
    return images


def test_rows_without_an_image_make_a_copy_partial(shared_data, tmp_path):
    images = copy_covid(tmp_path, shared_data)
    for image in sorted(images.glob("auntminnie-*"))[:3]:
        image.unlink()
    found = status("covid19", tmp_path)
    assert found.state == "partial"
    assert "524 of 527 images, 3 rows without an image" in found.detail


def test_a_copy_that_cannot_be_understood_is_broken_and_does_not_raise(shared_data, tmp_path):
    copy_covid(tmp_path, shared_data)
    (tmp_path / "covid19" / "metadata.csv").write_text("nonsense\n1\n")
    found = status("covid19", tmp_path)
    assert found.state == "broken"
    assert str(tmp_path / "covid19" / "metadata.csv") in found.detail


def test_a_folder_without_images_is_broken(tmp_path):
    (tmp_path / "nih14").mkdir()
    found = status("nih14", tmp_path)
    assert (found.state, str(tmp_path / "nih14" / "images") in found.detail) == ("broken", True)


def test_an_unknown_name_is_an_error():
    with pytest.raises(UnknownNameError, match="did you mean phantom"):
        status("phantm", None)


LINES = [
    ["file_name", "patient_id", "split", "TB", "Rare"],
    ["a.png", "p1", "train", 1, ""],
    ["b.png", "p1", "train", 0, ""],
    ["c.png", "p2", "train", 0, ""],
    ["d.png", "p3", "train", 1, ""],
    ["e.png", "p4", "test", "", 1],
    ["f.png", "p5", "test", 1, 0],
    ["g.png", "p6", "test", 0, 0],
]


def test_a_check_counts_images_patients_and_positives_among_known_labels(tmp_path):
    found = check(write_metadata(tmp_path / "own", LINES), None, 8)
    assert found.problems == ()
    assert (found.images, found.patients) == (7, 6)
    assert found.splits == {
        "train": {"images": 4, "patients": 3},
        "test": {"images": 3, "patients": 3},
    }
    assert found.prevalence == {
        "train": {"TB": 0.5, "Rare": None},
        "test": {"TB": 0.5, "Rare": 0.3333},
    }
    assert found.split == "the dataset's own split"


def test_a_check_names_every_missing_and_unreadable_image(tmp_path):
    name = write_metadata(tmp_path / "own", LINES)
    whole = check(name, None, 8)
    (tmp_path / "own" / "b.png").unlink()
    (tmp_path / "own" / "d.png").write_bytes(b"")
    (tmp_path / "own" / "e.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = check(name, None, 8)
    assert found.problems == (
        "b.png: no such file",
        "d.png: not a readable image",
        "e.png: not a readable image",
    )
    assert found.images == 4
    assert found.splits["train"]["images"] == 2
    assert found.prevalence["train"]["TB"] == 0.5
    assert found.manifest_sha256 != whole.manifest_sha256


def test_a_check_can_be_written_as_json(tmp_path):
    found = check(write_metadata(tmp_path / "own", LINES), None, 8)
    assert json.loads(json.dumps(found.as_dict()))["prevalence"]["train"]["Rare"] is None


def test_a_check_of_a_leaking_split_is_an_error(tmp_path):
    leaking = [*LINES, ["h.png", "p1", "test", 0, 0]]
    with pytest.raises(DataError, match="patient p1 is in train and in test"):
        check(write_metadata(tmp_path / "own", leaking), None, 8)


def test_a_check_decodes_16_bit_images(tmp_path):
    name = write_metadata(tmp_path / "own", LINES)
    write_image(tmp_path / "own" / "a.png", np.full((8, 8), 40_000, np.uint16))
    assert check(name, None, 8).problems == ()


def test_a_check_of_real_images_finds_them_all(shared_data):
    found = check("nlmtb", shared_data, 32)
    assert found.problems == ()
    assert found.splits["montgomery"] == {"images": 98, "patients": 98}
    assert found.prevalence["montgomery"]["Tuberculosis"] == pytest.approx(39 / 98, abs=1e-4)
