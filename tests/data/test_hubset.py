"""Benchmarks that are Hugging Face dataset repositories: real parquet, written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrzoo import images
from cxrzoo.data.store import prepare
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.errors import DataError
from tests.data.helpers import png, use_benchmark

RAMP_16 = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
RGBA = np.dstack([GREY, GREY, GREY, np.zeros_like(GREY)])
PIXELS = {"sixteen": RAMP_16, "grey": GREY, "rgba": RGBA}

FIELDS: dict[str, Any] = {
    "name": "mine",
    "version": 1,
    "title": "A tiny repository",
    "source": {
        "kind": "datasets",
        "folder": "mine",
        "splits": {"train": "train", "test": "test"},
        "image_column": "image",
        "id_column": "name",
        "patient_column": "patient",
        "label_columns": {
            "TB": {"column": "tb", "positive": [1]},
            "Woman": {"column": "sex", "positive": ["F", "f"]},
        },
    },
    "labels": ["TB", "Woman"],
    "patient_key": "patient",
    "split": {"rule": "given"},
    "verified": "images",
    "access": "own",
    "licence": "none",
    "get": "made by a test",
    "citation": "none",
}
TRAIN = {
    "image": [{"bytes": png(p), "path": None} for p in PIXELS.values()],
    "name": list(PIXELS),
    "patient": [7, 8, 9],
    "tb": [1, 0, None],
    "sex": ["F", "M", "f"],
}
TEST = {
    "image": [{"bytes": png(GREY + 100), "path": None}, {"bytes": png(GREY), "path": None}],
    "name": ["t1", "t2"],
    "patient": [10, 11],
    "tb": [0, 1],
    "sex": ["M", None],
}
TYPES = {"name": "string", "patient": "int64", "tb": "int64", "sex": "string"}


def write_split(root: Path, split: str, columns: dict[str, list]) -> None:
    import datasets  # it reads the cache's folder from the environment when it is imported

    kinds = {name: datasets.Value(kind) for name, kind in TYPES.items()}
    kinds["image"] = datasets.Image()
    features = datasets.Features({name: kinds[name] for name in columns})
    path = root / "mine" / "data" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


def write_repository(root: Path, train: dict[str, list], test: dict[str, list] | None) -> None:
    write_split(root, "train", train)
    if test is not None:
        write_split(root, "test", test)


def without(columns: dict[str, list], name: str) -> dict[str, list]:
    return {key: value for key, value in columns.items() if key != name}


@pytest.fixture
def mine(monkeypatch, tmp_path) -> str:
    return use_benchmark(monkeypatch, tmp_path / "benchmarks", FIELDS)


@pytest.fixture
def table(mine, tmp_path) -> Table:
    write_repository(tmp_path, TRAIN, TEST)
    return open_benchmark(mine, tmp_path)


def test_rows_come_with_ids_patients_labels_and_splits(table):
    assert table.ids.tolist() == ["grey", "rgba", "sixteen", "t1", "t2"]
    assert table.patients.tolist() == ["8", "9", "7", "10", "11"]
    assert table.splits.tolist() == ["train", "train", "train", "test", "test"]
    nan = np.nan
    expected = np.array([[0, 0], [nan, 1], [1, 1], [0, 0], [1, nan]], np.float32)
    np.testing.assert_array_equal(table.labels, expected)
    assert table.images.missing == 0


def test_a_16_bit_image_does_not_saturate(table):
    grey = table.images.grey(table.ids.tolist().index("sixteen"))
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, np.rint(RAMP_16 / 257))
    assert len(np.unique(grey)) == 256


def test_each_row_has_its_own_pixels(table):
    for index, expected in ((0, GREY), (1, GREY), (3, GREY + 100), (4, GREY)):
        np.testing.assert_array_equal(table.images.grey(index), expected)
    taken = table.images.take(np.array([3, 0]))
    np.testing.assert_array_equal(taken.grey(0), GREY + 100)
    np.testing.assert_array_equal(taken.grey(1), GREY)


def test_a_store_of_it_holds_the_same_pixels(table):
    prepared = prepare(table, 8, "bilinear", workers=4)
    expected = [images.fit(table.images.grey(i), 8, "bilinear") for i in range(len(table))]
    np.testing.assert_array_equal(prepared.pixels(np.arange(len(table))), expected)


def test_a_rewritten_repository_is_read_again_and_has_another_store(mine, tmp_path):
    write_repository(tmp_path, TRAIN, TEST)
    before = open_benchmark(mine, tmp_path)
    write_split(tmp_path, "test", {**TEST, "tb": [1, 1], "name": ["t1", "t3"]})
    after = open_benchmark(mine, tmp_path)
    assert after.ids.tolist()[-1] == "t3"
    assert after.labels[-2:, 0].tolist() == [1, 1]
    assert after.images.key != before.images.key


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("image", "no image column 'image'"),
        ("name", "no column 'name'; there are patient, tb, sex"),
        ("patient", "no column 'patient'; there are name, tb, sex"),
        ("tb", "no column 'tb'; there are name, patient, sex"),
    ],
)
def test_a_missing_column_is_an_error_that_names_folder_and_column(mine, tmp_path, gone, message):
    write_repository(tmp_path, without(TRAIN, gone), without(TEST, gone))
    with pytest.raises(DataError, match=message) as caught:
        open_benchmark(mine, tmp_path)
    assert str(tmp_path / "mine") in str(caught.value)


def test_a_missing_split_is_an_error_that_names_folder_and_split(mine, tmp_path):
    write_repository(tmp_path, TRAIN, None)
    with pytest.raises(DataError, match=f"{tmp_path}/mine: datasets cannot load split 'test'"):
        open_benchmark(mine, tmp_path)


def test_a_folder_without_data_is_an_error_that_names_it(mine, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/mine: datasets cannot load split"):
        open_benchmark(mine, tmp_path)


def test_a_label_without_a_column_is_an_error_that_names_it(monkeypatch, tmp_path):
    fields = {**FIELDS, "labels": ["TB", "Woman", "Nodule"]}
    mine = use_benchmark(monkeypatch, tmp_path / "benchmarks", fields)
    write_repository(tmp_path, TRAIN, TEST)
    with pytest.raises(DataError, match="Nodule"):
        open_benchmark(mine, tmp_path)


@pytest.mark.parametrize(
    "content",
    [{"bytes": b"", "path": None}, {"bytes": png(NOISE)[:2000], "path": None}, None],
    ids=["empty", "truncated", "null"],
)
def test_an_unreadable_image_is_named(mine, tmp_path, content):
    train = {**TRAIN, "image": [TRAIN["image"][0], content, TRAIN["image"][2]]}
    write_repository(tmp_path, train, TEST)
    table = open_benchmark(mine, tmp_path)
    with pytest.raises(DataError, match=r"1 image.s. cannot be read: .*split train image grey"):
        prepare(table, 8, "bilinear")
    prepared = prepare(table, 8, "bilinear", exclude_bad=True)
    assert prepared.table.excluded == ("grey",)
    assert prepared.table.ids.tolist() == ["rgba", "sixteen", "t1", "t2"]
