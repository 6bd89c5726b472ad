from __future__ import annotations

import errno
import io
import os
import time
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrzoo.errors import RecordError, StorageError
from cxrzoo.evaluation.record import read_records
from cxrzoo.submit import bundle as bundles
from cxrzoo.submit.container import BundleError, files_below, name_problem, read_files, write_zip
from cxrzoo.submit.strict import parse_json, parse_npz
from tests.submit import forge
from tests.submit.forge import Forge

PIECES = st.sampled_from(
    [
        "a",
        "records",
        "..",
        ".",
        "",
        "/",
        "//",
        "\\",
        ":",
        "C:",
        "\x00",
        "\n",
        "é",
        "b.json",
        "~",
        " ",
    ]
)


def test_a_bundle_is_the_same_as_a_folder_and_as_a_zip(sound, tmp_path):
    bundles.write(sound, tmp_path / "folder")
    bundles.write(sound, tmp_path / "file.zip")
    assert bundles.read(tmp_path / "folder") == bundles.read(tmp_path / "file.zip") == sound
    assert "records/my-encoder/phantom" in sound.record_names[0]
    assert sorted(sound.files)[:3] == ["bundle.json", "card/README.md", "card/config.json"]


def test_a_zip_is_the_same_bytes_each_time(sound, tmp_path):
    backwards = dict(reversed(sound.files.items()))
    assert write_zip(sound.files) == write_zip(backwards)
    dates = {m.date_time for m in zipfile.ZipFile(io.BytesIO(write_zip(backwards))).infolist()}
    assert dates == {(1980, 1, 1, 0, 0, 0)}


def test_a_zip_made_by_hand_with_entries_of_folders_is_read(sound, tmp_path):
    path = Forge(sound).save(tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.mkdir("records")
    assert bundles.read(path).manifest == sound.manifest


def test_a_bundle_is_replaced_by_another_of_its_encoder_and_nothing_else_is(sound, tmp_path):
    place = tmp_path / "b"
    bundles.write(sound, place)
    (place / "card" / "old.txt").write_text("left over")
    with pytest.raises(BundleError, match="exists and is no bundle of my-encoder"):
        bundles.write(sound, place)
    (place / "card" / "old.txt").unlink()
    bundles.write(sound, place)
    assert bundles.read(place) == sound
    stranger = forge.make(tmp_path / "made", "stranger")
    with pytest.raises(BundleError, match="is no bundle of stranger"):
        bundles.write(stranger, place)
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize("kind", ["link", "linked folder", "pipe"])
def test_a_folder_with_something_else_than_files_is_refused(sound, tmp_path, kind):
    place = tmp_path / "b"
    bundles.write(sound, place)
    if kind == "pipe":
        os.mkfifo(place / "card" / "pipe")
    else:
        target = tmp_path / "outside"
        target.mkdir() if kind == "linked folder" else target.write_text("secret")
        (place / "card" / "odd").symlink_to(target)
    expected = "neither a file nor a folder" if kind == "pipe" else "card/odd: is a symbolic link"
    with pytest.raises(BundleError, match=expected):
        bundles.read(place)


def test_what_git_and_the_hubs_client_keep_beside_a_checkout_does_not_count(sound, tmp_path):
    place = tmp_path / "b"
    bundles.write(sound, place)
    (place / ".cache" / "huggingface").mkdir(parents=True)
    (place / ".cache" / "huggingface" / "x.lock").touch()
    assert bundles.read(place) == sound


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "b.zip")
    with pytest.raises(BundleError, match="neither a folder nor a file, so it is not opened"):
        bundles.read(tmp_path / "b.zip")


def test_nothing_there_is_said_plainly(tmp_path):
    with pytest.raises(BundleError, match=r"cannot be read \(No such file or directory\)"):
        bundles.read(tmp_path / "nowhere.zip")


@given(st.lists(PIECES, min_size=1, max_size=6).map("".join) | st.text(max_size=30))
def test_a_name_that_is_taken_stays_inside_of_any_folder(name):
    if not name_problem(name):
        parts = PurePosixPath(name).parts
        assert "/".join(parts) == name
        assert not {"", ".", ".."} & set(parts)
        assert os.path.normpath(os.path.join("/base", name)) == f"/base/{name}"
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set("\\:\0 ~")


@given(st.text("abcXYZ019_", min_size=1, max_size=8), st.text("abc._-9", max_size=8))
def test_the_names_of_records_are_taken(first, rest):
    assert name_problem(f"records/{first}{rest.rstrip('.')}x/linear-v1-b100-s0-0a1b2c3d.json") == ""


@given(st.binary(max_size=400))
def test_bytes_of_any_kind_are_a_bundle_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "b.zip"
    path.write_bytes(b"PK" + content)
    with pytest.raises(BundleError):
        bundles.read(path)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_zip_with_one_wrong_byte_gives_what_was_in_it_or_is_refused(tmp_path_factory, at, value):
    files = {"a.json": b'{"x": 1}' * 20, "records/b.npz": bytes(200)}
    content = bytearray(write_zip(files))
    content[at % len(content)] = value
    path = tmp_path_factory.mktemp("fuzz") / "b.zip"
    path.write_bytes(content)
    try:
        found = read_files(path)
    except BundleError:
        return
    assert set(found.values()) <= set(files.values())
    assert not any(map(name_problem, found))


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_predictions_or_refused(content):
    for data in (content, b"PK" + content, write_zip({"test.npy": b"\x93NUMPY\x01\x00" + content})):
        with pytest.raises(BundleError):
            parse_npz(data, "x.npz")


def test_predictions_are_read_as_numpy_wrote_them():
    arrays = {"test": np.arange(6, dtype="f2").reshape(2, 3), "other": np.ones((1, 3), "f2").T}
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        found = parse_npz(buffer.getvalue(), "x.npz")
        assert all((found[name] == value).all() for name, value in arrays.items())


@pytest.mark.parametrize(("text", "message"), [
    ('{"a": NaN}', "no finite number"),
    ('{"a": -Infinity}', "no finite number"),
    ('{"a": [1e400]}', "no finite number"),
    ('{"a": 1, "a": 2}', "names 'a' twice"),
    ('{"a": {"b": 1, "b": 1}}', "names 'b' twice"),
    ("[" * 100_000, "not valid JSON"),
    ("[" * 300 + "]" * 300, "nested more than 20 deep"),
    ("{", "not valid JSON"),
    ("9" * 5000, "not valid JSON"),
    ("\ud800", "not valid JSON"),
])  # fmt: skip
def test_json_that_readers_could_take_in_two_ways_is_refused(text, message):
    with pytest.raises(BundleError, match=message):
        parse_json(text.encode(errors="surrogatepass"), "x.json")


def test_many_keys_of_which_one_is_twice_are_refused_at_once():
    keys = ",".join(f'"{n:x}":1' for n in range(40_000))
    started = time.perf_counter()
    with pytest.raises(BundleError, match="names '0' twice"):
        parse_json(f'{{{keys},"0":2}}'.encode(), "x.json")
    assert time.perf_counter() - started < 5


def test_many_wrong_fields_are_listed_at_once():
    content = {"schema": bundles.SCHEMA, "files": {f"{n:x}": "" for n in range(20_000)}}
    started = time.perf_counter()
    with pytest.raises(BundleError, match=r"files\.0: "):
        bundles.parse_manifest(content)
    assert time.perf_counter() - started < 10


def test_folders_nested_without_end_are_refused(tmp_path):
    place = tmp_path
    for _ in range(30):
        place = place / "a"
    place.mkdir(parents=True)
    with pytest.raises(BundleError, match="a/a/a: folders nested more than 20 deep"):
        files_below(tmp_path)


def test_a_bundle_stays_when_its_successor_cannot_take_its_place(sound, tmp_path, monkeypatch):
    place = tmp_path / "b"
    bundles.write(sound, place)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        bundles.write(sound, place)
    assert bundles.read(place) == sound
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_results_folder_is_read_as_records(sound, tmp_path):
    bundles.write(sound, tmp_path / "results" / "my-encoder")
    (tmp_path / "results" / ".cache").mkdir()
    (tmp_path / "results" / ".cache" / "x.json").write_text("{}")
    assert len(read_records(tmp_path / "results")) == 4
    (tmp_path / "results" / "my-encoder" / "records" / "other.json").write_text("{}")
    with pytest.raises(RecordError, match=r"other\.json"):
        read_records(tmp_path / "results")


def test_files_below_a_folder_have_plain_names(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").touch()
    assert list(files_below(tmp_path)) == ["a/b/c.txt"]
