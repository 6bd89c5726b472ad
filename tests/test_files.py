"""Files: whole or absent, and hashes that depend on the value alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cxrzoo.errors import StorageError
from cxrzoo.files import (
    canonical_json,
    replaced_folder,
    sha256_of_file,
    sha256_of_json,
    write_atomically,
)


def test_a_written_file_replaces_the_old_one_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.json"]


def test_a_failed_write_leaves_no_temporary_file_and_names_the_path(tmp_path):
    in_the_way = tmp_path / "a.json"
    (in_the_way / "inside").mkdir(parents=True)  # renaming a file over this is refused
    with pytest.raises(StorageError, match=f"cannot write the file at {in_the_way}"):
        write_atomically(in_the_way, b"content")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_rename_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_in_place_of_a_folder_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "file" / "a.json")):
        write_atomically(tmp_path / "file" / "a.json", b"")


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path):
    place = tmp_path / "place"
    for text in ("one", "two"):
        with replaced_folder(place, "it") as fresh:
            (fresh / "a").write_text(text)
            assert not place.exists() or (place / "a").read_text() == "one"
        assert (place / "a").read_text() == text
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_stays_when_the_new_one_fails(tmp_path, monkeypatch):
    place = tmp_path / "place"
    with replaced_folder(place, "it") as fresh:
        (fresh / "a").write_text("one")
    with pytest.raises(RuntimeError), replaced_folder(place, "it"):
        raise RuntimeError
    assert [p.name for p in place.iterdir()] == ["a"]
    rename = Path.rename

    def broken(self, target):
        if self.suffix == ".tmp":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(StorageError, match="place"), replaced_folder(place, "it"):
        pass
    assert (place / "a").read_text() == "one"
    assert list(tmp_path.iterdir()) == [place]


def test_the_hash_of_a_file_is_the_sha256_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_canonical_json_ignores_the_order_of_keys_and_keeps_text():
    assert canonical_json({"b": [1, 2.5, None], "a": "Röntgen"}) == (
        '{"a":"Röntgen","b":[1,2.5,null]}'.encode()
    )
    assert sha256_of_json({"x": 1, "y": 2}) == sha256_of_json({"y": 2, "x": 1})
    assert sha256_of_json({"x": 1}) != sha256_of_json({"x": 2})


def test_nan_has_no_canonical_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json([float("nan")])
