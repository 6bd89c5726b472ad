"""Check: whatever makes a score untrue is a problem, and the command exits with 1."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cxrzoo import cli
from cxrzoo.data.check import check
from cxrzoo.errors import DataError, UnknownNameError
from tests.data.helpers import packaged_fields, use_benchmark, write_image, write_metadata

LINES: list[list[Any]] = [
    ["file_name", "patient_id", "split", "TB", "Rare"],
    ["a.png", "p1", "train", 1, ""],
    ["b.png", "p1", "train", 0, ""],
    ["c.png", "p2", "train", 0, ""],
    ["d.png", "p3", "train", 1, ""],
    ["e.png", "p4", "test", "", 1],
    ["f.png", "p5", "test", 1, 0],
    ["g.png", "p6", "test", 0, 0],
]


def picture(seed: int) -> np.ndarray:
    """A 96 x 96 image like no other: clouds, as a radiograph has."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC))


def reencoded(pixels: np.ndarray) -> np.ndarray:
    """The image after a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def own(folder: Path, lines: list[list[Any]] = LINES) -> str:
    """A folder of pictures that differ, one for each line."""
    for seed, line in enumerate(lines[1:]):
        write_image(folder / line[0], picture(seed))
    return write_metadata(folder, lines, images=False)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["data", "check", *map(str, arguments)])


# Counts --------------------------------------------------------------------------------------


def test_a_check_counts_images_patients_and_positives_among_known_labels(tmp_path):
    found = check(own(tmp_path / "own"), None)
    assert found.problems == ()
    assert found.twins == ()
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
    name = own(tmp_path / "own")
    whole = check(name, None)
    (tmp_path / "own" / "b.png").unlink()
    (tmp_path / "own" / "d.png").write_bytes(b"")
    (tmp_path / "own" / "e.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = check(name, None)
    assert [problem.split(": ", 1)[0].split("/")[-1] for problem in found.problems] == [
        "b.png",
        "d.png",
        "e.png",
    ]
    assert found.problems[0] == "b.png: no such file"
    assert all("not a readable image" in problem for problem in found.problems[1:])
    assert found.images == 4
    assert found.splits["train"]["images"] == 2
    assert found.prevalence["train"]["TB"] == 0.5
    assert found.twins == (), "images that cannot be read do not look like each other"
    assert found.manifest_sha256 != whole.manifest_sha256


def test_a_check_of_a_leaking_split_is_an_error(tmp_path):
    leaking = [*LINES, ["h.png", "p1", "test", 0, 0]]
    with pytest.raises(DataError, match="patient p1 is in train and in test"):
        check(own(tmp_path / "own", leaking), None)


def test_a_check_decodes_16_bit_images(tmp_path):
    name = own(tmp_path / "own")
    write_image(tmp_path / "own" / "a.png", np.full((8, 8), 40_000, np.uint16))
    assert check(name, None).problems == ()


def test_an_unknown_name_is_an_error():
    with pytest.raises(UnknownNameError, match="did you mean phantom"):
        check("phantm", None)


def test_a_check_of_real_images_finds_them_all(shared_data):
    found = check("nlmtb", shared_data)
    assert found.problems == ()
    assert found.splits["montgomery"] == {"images": 98, "patients": 98}
    assert found.prevalence["montgomery"]["Tuberculosis"] == pytest.approx(39 / 98, abs=1e-4)
    assert found.published == {"Tuberculosis": pytest.approx(336 / 662, abs=1e-4)}


# Images that show the same -------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False], ids=["the same file", "saved as JPEG"])
def test_an_image_in_train_and_test_under_two_names_is_a_problem(tmp_path, exact):
    name = own(tmp_path / "own")
    twin = picture(2)
    write_image(tmp_path / "own" / "f.png", twin if exact else reencoded(twin))
    found = check(name, None)
    (problem,) = found.problems
    assert problem.startswith("c.png (train) and f.png (test) show the same image")
    assert ("equal pixels" in problem) == exact
    (twins,) = found.twins
    assert (twins.first, twins.second, twins.where) == ("c.png", "f.png", ("train", "test"))
    assert twins.exact == exact
    assert (twins.distance == 0) or not exact
    done = command(name)
    assert done.exit_code == 1
    assert problem in done.output


def test_an_image_twice_in_train_is_a_finding_and_no_problem(tmp_path):
    name = own(tmp_path / "own")
    write_image(tmp_path / "own" / "d.png", picture(2))
    found = check(name, None)
    assert found.problems == ()
    assert [(t.first, t.second) for t in found.twins] == [("c.png", "d.png")]
    assert command(name).exit_code == 0


def test_twins_with_other_labels_or_patients_are_counted(tmp_path):
    name = own(tmp_path / "own")
    write_image(tmp_path / "own" / "b.png", picture(0))  # p1 like a, another label
    write_image(tmp_path / "own" / "d.png", picture(2))  # p3 like c of p2, another label
    write_image(tmp_path / "own" / "e.png", picture(6))  # p4 like g of p6, unknown label, Rare
    said = check(name, None).findings
    assert "3 of these pairs have different labels" in said
    assert "2 of these pairs are filed under two patients" in said


def test_unknown_labels_are_in_conflict_with_none(tmp_path):
    lines = [row[:4] for row in LINES]
    name = own(tmp_path / "own", lines)
    write_image(tmp_path / "own" / "e.png", picture(6))  # its label is empty
    found = check(name, None)
    assert len(found.twins) == 1
    assert not any("different labels" in text for text in found.findings)


# Pools ---------------------------------------------------------------------------------------


def pool(folder: Path, *pixels: np.ndarray) -> Path:
    for number, array in enumerate(pixels):
        write_image(folder / "deep" / f"{number}.png", array)
    return folder


@pytest.mark.parametrize("exact", [True, False], ids=["the same file", "saved as JPEG"])
def test_a_pool_that_holds_a_test_image_is_a_problem(tmp_path, exact):
    name = own(tmp_path / "own")
    image = picture(5) if exact else reencoded(picture(5))
    where = pool(tmp_path / "pool", picture(100), image, picture(101))
    found = check(name, None, against=(str(where),))
    (problem,) = found.problems
    assert problem.startswith(f"f.png (test) is in pool {where} as deep/1.png")
    assert any(
        "shares 1 images, 0 of them in train and 1 in test" in text for text in found.findings
    )
    done = command(name, "--against", where)
    assert done.exit_code == 1
    assert "f.png (test) is in pool" in done.output


def test_a_pool_that_holds_training_images_alone_is_told_and_is_no_problem(tmp_path):
    name = own(tmp_path / "own")
    where = pool(tmp_path / "pool", picture(0), picture(1), picture(100))
    found = check(name, None, against=(str(where),))
    assert found.problems == ()
    assert any(
        f"pool {where} (3 images): shares 2 images, 2 of them in train and 0 in test" in text
        for text in found.findings
    )


def test_a_folder_below_the_data_root_is_a_pool(tmp_path):
    name = own(tmp_path / "own")
    pool(tmp_path / "data" / "mypool", picture(4))
    found = check(name, tmp_path / "data", against=("mypool",))
    assert [p.split(" as ")[0] for p in found.problems] == ["e.png (test) is in pool mypool"]


def test_a_benchmark_and_a_split_of_it_are_pools(tmp_path, monkeypatch):
    fields = {
        **packaged_fields("phantom"),
        "name": "mine",
        "source": {"kind": "imagefolder", "path": str(tmp_path / "own")},
        "labels": ["TB", "Rare"],
        "split": {"rule": "given"},
        "complete": None,
    }
    own(tmp_path / "own")
    use_benchmark(monkeypatch, tmp_path / "benchmarks", fields)
    other = [[row[0].replace(".png", "-2.png"), f"q{row[1]}", *row[2:]] for row in LINES[1:]]
    name = own(tmp_path / "other", [LINES[0], *other])
    for pool_name, count, shown in (("mine", 7, 3), ("mine:train", 4, 0), ("mine:test", 3, 3)):
        found = check(name, tmp_path, against=(pool_name,))
        assert len(found.problems) == shown
        assert any(text.startswith(f"pool {pool_name} ({count} ") for text in found.findings)


def test_unreadable_images_of_a_pool_are_counted_and_match_nothing(tmp_path):
    name = own(tmp_path / "own")
    where = pool(tmp_path / "pool", picture(100), picture(101))
    (where / "deep" / "0.png").write_bytes(b"")
    found = check(name, None, against=(str(where),))
    assert found.problems == ()
    assert any("(2 images, 1 of them unreadable): shares 0" in text for text in found.findings)


def test_a_pool_that_is_not_there_is_an_error_that_names_it(tmp_path):
    name = own(tmp_path / "own")
    with pytest.raises(DataError, match="pool 'nosuch' is no benchmark, and no folder"):
        check(name, None, against=("nosuch",))
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match="no images found"):
        check(name, None, against=(str(tmp_path / "hollow"),))


# The command and the published prevalence ----------------------------------------------------


def test_the_command_writes_json_with_twins_and_problems(tmp_path):
    name = own(tmp_path / "own")
    done = command(name, "--json")
    assert done.exit_code == 0
    (content,) = json.loads(done.stdout)
    assert content == json.loads(json.dumps(check(name, None).as_dict()))
    assert content["prevalence"]["train"]["Rare"] is None
    write_image(tmp_path / "own" / "f.png", picture(2))
    done = command(name, "--json")
    assert done.exit_code == 1
    (content,) = json.loads(done.stdout)
    assert content["twins"] == [
        {"first": "c.png", "second": "f.png", "where": ["train", "test"], "exact": True,
         "distance": 0}
    ]  # fmt: skip
    assert len(content["problems"]) == 1


def test_one_benchmark_that_cannot_be_opened_does_not_hide_the_other(tmp_path):
    name = own(tmp_path / "own")
    done = command("imagefolder:/nonexistent", name)
    assert done.exit_code == 1
    assert "7 images" in done.stdout
    assert "/nonexistent does not exist" in done.output


@pytest.mark.parametrize(("share", "odd"), [(0.5, False), (0.02, True)])
def test_a_prevalence_far_from_the_published_one_is_a_finding(tmp_path, monkeypatch, share, odd):
    lines: list[list[Any]] = [["file_name", "split", "TB"]]
    lines += [[f"{n:02d}.png", "test" if n % 3 else "train", n % 2] for n in range(40)]
    folder = tmp_path / "own"
    own(folder, lines)
    fields = {
        **packaged_fields("phantom"),
        "name": "mine",
        "source": {"kind": "imagefolder", "path": str(folder)},
        "labels": ["TB"],
        "split": {"rule": "given"},
        "complete": {"images": 1000, "positives": {"TB": int(1000 * share)}},
    }
    name = use_benchmark(monkeypatch, tmp_path / "benchmarks", fields)
    found = check(name, tmp_path)
    assert found.published == {"TB": share}
    assert any(text.startswith("TB: 50.0% of the images are") for text in found.findings) == odd
    assert f"published {100 * share:.1f}%" in "\n".join(found.lines())
    assert found.problems == (), "worth a word, but no reason to distrust a score"
