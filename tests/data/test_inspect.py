"""Status: what a user is told about a copy."""

from __future__ import annotations

import shutil

import pytest

from cxrzoo.data.inspect import status
from cxrzoo.errors import UnknownNameError


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
