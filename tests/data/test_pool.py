"""Pools: their labels, what of them may be trained on, and the sizes of their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrzoo import images
from cxrzoo.data.pool import Pool, open_pool, sizes, training_pool
from cxrzoo.data.table import open_benchmark
from cxrzoo.errors import DataError, ImageError
from tests.data.helpers import packaged_fields, png, use_benchmark, write_image, write_metadata
from tests.test_images import BAD_FILES, STORED, dicom, tiff

GREY = np.arange(96, dtype=np.uint8).reshape(8, 12)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
NOT_AN_IMAGE = {"bytes": b"no image", "path": None}


def write_hub(folder: Path, kind: Any = None, /, column: str = "label", **splits: list) -> Path:
    """A Hub dataset folder: for each split one image a value; with a kind, they are a column."""
    import datasets  # it reads the cache's folder from the environment when it is imported

    for split, values in splits.items():
        columns: dict[str, list] = {"image": [{"bytes": png(GREY), "path": None}] * len(values)}
        features: dict[str, Any] = {"image": datasets.Image()}
        if kind is not None:
            columns[column], features[column] = values, kind
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        made.to_parquet(path)
    return folder


def class_label(*names: str) -> Any:
    import datasets

    return datasets.ClassLabel(names=list(names))


def value(kind: str) -> Any:
    import datasets

    return datasets.Value(kind)


def write_files(folder: Path, *files: str) -> Path:
    for level, file in enumerate(files):
        write_image(folder / file, level)
    return folder


@pytest.fixture
def benchmark(monkeypatch, tmp_path) -> str:
    """A benchmark ``mine`` with four training images and three test images."""
    lines = [
        ["file_name", "patient_id", "split", "TB", "Rare"],
        *[[f"{n}.png", f"p{n}", "train", n % 2, "" if n else 1] for n in range(4)],
        *[[f"{n}.png", f"p{n}", "test", n % 2, 0] for n in range(4, 7)],
    ]
    write_metadata(tmp_path / "own", lines)
    fields = {
        **packaged_fields("phantom"),
        "name": "mine",
        "source": {"kind": "imagefolder", "path": str(tmp_path / "own")},
        "labels": ["TB", "Rare"],
        "split": {"rule": "given"},
        "complete": None,
    }
    return use_benchmark(monkeypatch, tmp_path / "benchmarks", fields)


# Labels --------------------------------------------------------------------------------------


def test_a_benchmarks_labels_are_those_of_its_table():
    pool, table = training_pool("phantom:train", None), open_benchmark("phantom")
    rows = table.rows("train")
    assert pool.ids.tolist() == table.ids[rows].tolist()
    np.testing.assert_array_equal(pool.labels, table.labels[rows])
    assert pool.label_names == table.benchmark.labels


def test_unknown_labels_of_a_benchmark_are_nan(benchmark):
    pool = open_pool(benchmark, None)
    expected = [[0, 1], [1, np.nan], [0, np.nan], [1, np.nan], [0, 0], [1, 0], [0, 0]]
    np.testing.assert_array_equal(pool.labels, np.array(expected, np.float32))


def test_a_hub_folders_class_labels_come_in_the_order_of_its_images(tmp_path):
    kind = class_label("dog", "ant", "cat")
    write_hub(tmp_path / "pool", kind, column="animal", train=[2, 0, 1], test=[1, None, -1])
    pool = open_pool("pool", tmp_path)
    assert pool.ids.tolist() == ["test:0", "test:1", "test:2", "train:0", "train:1", "train:2"]
    assert pool.labels.dtype == np.int64
    assert pool.labels.tolist() == [1, -1, -1, 2, 0, 1]
    assert pool.label_names == ("dog", "ant", "cat")


@pytest.mark.parametrize(
    ("kind", "train", "test", "labels", "names"),
    [
        ("string", ["b", "a"], ["c", None], [2, -1, 1, 0], ("a", "b", "c")),
        ("large_string", ["b", "a"], ["a"], [0, 1, 0], ("a", "b")),
        ("int64", [10, 9], [None, 10], [-1, 1, 1, 0], ("9", "10")),
        ("uint8", [1, 0], [1], [1, 1, 0], ("0", "1")),
    ],
)
def test_a_plain_column_called_label_is_classes_over_all_splits(
    tmp_path, kind, train, test, labels, names
):
    write_hub(tmp_path / "pool", value(kind), train=train, test=test)
    pool = open_pool("pool", tmp_path)
    assert pool.labels.tolist() == labels
    assert pool.label_names == names


def test_a_class_label_goes_before_a_plain_column_called_label(tmp_path):
    import datasets

    features = {
        "label": datasets.Value("string"),
        "image": datasets.Image(),
        "kind": datasets.ClassLabel(names=["x", "y"]),
    }
    columns = {
        "label": ["a", "b"],
        "image": [{"bytes": png(GREY), "path": None}] * 2,
        "kind": [1, 0],
    }
    (tmp_path / "pool").mkdir()
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    made.to_parquet(tmp_path / "pool" / "train.parquet")
    pool = open_pool("pool", tmp_path)
    assert (pool.labels.tolist(), pool.label_names) == ([1, 0], ("x", "y"))


@pytest.mark.parametrize(
    ("kind", "column", "values"),
    [
        (None, "", [0, 0]),
        ("string", "source", ["a", "b"]),
        ("float32", "label", [0.5, 1.5]),
        ("string", "label", [None, None]),
    ],
    ids=["no column", "another name", "numbers with fractions", "no row has one"],
)
def test_a_hub_folder_may_have_no_labels(tmp_path, kind, column, values):
    write_hub(tmp_path / "pool", kind and value(kind), column=column, train=values)
    pool = open_pool("pool", tmp_path)
    assert pool.labels is None
    assert pool.label_names == ()


def test_folders_of_images_are_classes_numbered_as_torchvision_does(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    files = ["b/2.png", "b/1.png", "a/9.png", "B/0.png", "a10/1.png", "a9/1.png", "a/deeper.txt"]
    write_files(tmp_path / "pool", *files[:-1])
    (tmp_path / "pool" / files[-1]).write_text("no image")
    pool = open_pool("pool", tmp_path)
    known = torchvision.datasets.ImageFolder(tmp_path / "pool")
    truth = {str(Path(f).relative_to(tmp_path / "pool")): label for f, label in known.samples}
    assert dict(zip(pool.ids.tolist(), pool.labels.tolist(), strict=True)) == truth
    assert pool.label_names == tuple(known.classes)
    assert pool.labels.dtype == np.int64


@pytest.mark.parametrize(
    "files",
    [
        ["1.png", "2.png"],
        ["a/1.png", "a/2.png"],
        ["a/1.png", "b/2.png", "root.png"],
        ["a/1.png", "b/deep/2.png"],
        ["train/1.png", "Test/2.png"],
    ],
    ids=["in the root", "one folder", "some in the root", "some deeper", "folders of splits"],
)
def test_folders_of_another_shape_have_no_classes(tmp_path, files):
    pool = open_pool(str(write_files(tmp_path / "pool", *files)), None)
    assert len(pool) == len(files)
    assert pool.labels is None
    assert pool.label_names == ()


def test_labels_are_read_without_an_image_being_decoded(tmp_path, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("an image was read")

    for name in ("read", "read_rgb", "read_size"):
        monkeypatch.setattr(images, name, never)
    monkeypatch.setattr("datasets.Image.decode_example", never)
    write_hub(tmp_path / "hub", class_label("x", "y"), train=[0, 1])
    write_files(tmp_path / "files", "a/1.png", "b/2.png")
    for name in ("hub", "files", "phantom"):
        assert training_pool(name, tmp_path).labels is not None


def test_keeping_images_keeps_their_ids_pixels_and_labels(tmp_path):
    write_files(tmp_path / "pool", "a/1.png", "b/2.png", "b/3.png")
    pool = open_pool("pool", tmp_path)
    kept = pool.keep(np.array([True, False, True]))
    assert kept.ids.tolist() == ["a/1.png", "b/3.png"]
    assert kept.labels.tolist() == [0, 1]
    assert [int(kept.images.grey(n)[0, 0]) for n in range(2)] == [0, 2]
    assert kept.images.key != pool.images.key
    assert (kept.name, kept.label_names, kept.split) == (pool.name, pool.label_names, "all")
    write_image(tmp_path / "plain" / "1.png")
    assert open_pool("plain", tmp_path).keep(np.array([True])).labels is None


# What may be trained on ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine", "mine:train", "mine:"])
def test_a_benchmark_gives_a_training_its_training_images_alone(benchmark, name):
    pool = training_pool(name, None)
    assert pool.ids.tolist() == ["0.png", "1.png", "2.png", "3.png"]
    assert (pool.name, pool.split) == ("mine:train", "official-train")
    assert len(open_pool("mine", None)) == 7
    assert open_pool("mine:test", None).split == "official-test"


@pytest.mark.parametrize("split", ["test", "unused", "montgomery", "all", "train:test"])
def test_any_other_split_of_a_benchmark_is_refused_to_a_training(benchmark, split):
    with pytest.raises(DataError) as caught:
        training_pool(f"mine:{split}", None)
    assert str(caught.value) == (
        f"pool 'mine:{split}': scores on a benchmark's test patients mean nothing once a "
        "pretraining has seen them, so write 'mine:train'"
    )


def test_a_training_leaves_out_missing_images(benchmark, tmp_path):
    (tmp_path / "own" / "2.png").unlink()
    assert training_pool("mine", None).ids.tolist() == ["0.png", "1.png", "3.png"]


def test_a_benchmark_goes_before_a_folder_of_its_name(benchmark, tmp_path):
    write_files(tmp_path / "mine", "x.png")
    assert len(training_pool("mine", tmp_path)) == 4
    assert training_pool(str(tmp_path / "mine"), None).ids.tolist() == ["x.png"]


def test_a_training_takes_the_train_split_of_a_hub_folder_that_has_others(tmp_path):
    write_hub(tmp_path / "pool", value("string"), train=["b", "a"], test=["c"], validation=["d"])
    pool = training_pool("pool", tmp_path)
    assert pool.ids.tolist() == ["train:0", "train:1"]
    assert (pool.labels.tolist(), pool.label_names) == ([1, 0], ("a", "b"))
    assert (pool.name, pool.dataset, pool.split) == ("pool:train", "pool", "train")
    whole = open_pool("pool", tmp_path)
    assert (len(whole), whole.name, whole.split) == (4, "pool", "all")


@pytest.mark.parametrize("open_", [open_pool, training_pool])
def test_a_split_of_a_hub_folder_may_be_named(tmp_path, open_):
    write_hub(tmp_path / "pool", None, train=[0, 0], extra=[0])
    pool = open_("pool:extra", tmp_path)
    assert pool.ids.tolist() == ["extra:0"]
    assert (pool.name, pool.dataset, pool.split) == ("pool:extra", "pool", "extra")


@pytest.mark.parametrize(
    ("splits", "name"),
    [({"train": [0]}, "pool"), ({"train": [0]}, "pool:train"), ({"a": [0], "b": [0]}, "pool")],
)
def test_a_hub_folder_that_is_taken_whole_is_called_all(tmp_path, splits, name):
    write_hub(tmp_path / "pool", None, **splits)
    pool = training_pool(name, tmp_path)
    assert (pool.name, pool.split, len(pool)) == (name, "all", len(splits))


def test_a_colon_in_a_folders_name_is_part_of_it(tmp_path):
    write_files(tmp_path / "a:b", "x.png")
    assert open_pool("a:b", tmp_path).dataset == "a:b"


@pytest.mark.parametrize("open_", [open_pool, training_pool])
def test_names_that_lead_nowhere_are_errors_that_say_why(tmp_path, open_):
    write_hub(tmp_path / "hub", None, train=[0], test=[0])
    write_files(tmp_path / "files", "x.png")
    for name, message in (
        ("hub:valid", "no split 'valid'; there are test, train"),
        ("files:train", "is no Hugging Face dataset and has no splits"),
        ("nosuch", "is no benchmark, and no folder of that name is there"),
        ("nosuch:train", "is no benchmark, and no folder of that name is there"),
        ("", "is no benchmark, and no folder of that name is there"),
    ):
        with pytest.raises(DataError, match=f"pool '{name}'.*{message}"):
            open_(name, tmp_path)


# Sizes ---------------------------------------------------------------------------------------


def decoded_sizes(pool: Pool) -> list[list[int]]:
    return [list(pool.images.grey(index).shape) for index in range(len(pool))]


def test_sizes_are_height_and_width_of_the_decoded_images(tmp_path):
    write_image(tmp_path / "pool" / "a.png", GREY)
    write_image(tmp_path / "pool" / "b.png", NOISE)
    write_hub(tmp_path / "hub", None, train=[0, 0])
    for name, expected in (("pool", [[8, 12], [64, 64]]), ("hub", [[8, 12], [8, 12]])):
        pool = open_pool(name, tmp_path)
        found = sizes(pool, workers=2)
        assert (found.dtype, found.tolist()) == (np.int32, expected)
        assert found.tolist() == decoded_sizes(pool)


def test_sizes_of_rendered_images_are_known(tmp_path):
    pool = open_pool("phantom:test", None)
    pool = pool.keep(np.arange(len(pool)) < 3)
    assert sizes(pool).tolist() == decoded_sizes(pool)


def test_sizes_are_read_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    write_files(tmp_path / "pool", "a.png", "b.png")
    assert sizes(open_pool("pool", tmp_path)).tolist() == [[8, 8], [8, 8]]
    read = images.read_size
    calls: list[str] = []
    monkeypatch.setattr(images, "read_size", lambda s, name: (calls.append(name), read(s, name))[1])
    sizes(open_pool("pool", tmp_path))
    assert calls == []
    write_image(tmp_path / "pool" / "b.png", NOISE)
    assert sizes(open_pool("pool", tmp_path)).tolist() == [[8, 8], [64, 64]]


def test_sizes_choose_what_is_kept(tmp_path):
    write_image(tmp_path / "pool" / "a" / "small.png", GREY)
    write_image(tmp_path / "pool" / "b" / "large.png", NOISE)
    pool = open_pool("pool", tmp_path)
    kept = pool.keep(sizes(pool).min(axis=1) >= 64)
    assert (kept.ids.tolist(), kept.labels.tolist()) == (["b/large.png"], [1])
    assert sizes(kept).tolist() == [[64, 64]]
    assert sizes(pool.keep(np.zeros(2, bool))).shape == (0, 2)


def test_files_without_a_readable_header_are_counted_and_the_first_named(tmp_path):
    folder = write_files(tmp_path / "pool", *(f"{n}.png" for n in range(6)))
    for n, content in enumerate([b"", b"text", png(GREY)[:20], b"\x89PNG"]):
        (folder / f"{n}.png").write_bytes(content)
    with pytest.raises(DataError) as caught:
        sizes(open_pool("pool", tmp_path))
    text = str(caught.value)
    assert text.startswith("pool pool: 4 image(s) cannot be read (")
    assert [f"{n}.png" in text for n in range(6)] == [True, True, True, False, False, False]


def test_an_image_that_breaks_off_behind_its_header_has_a_size(tmp_path):
    (write_files(tmp_path / "pool", "a.png") / "b.png").write_bytes(png(NOISE)[:2000])
    pool = open_pool("pool", tmp_path)
    assert sizes(pool).tolist() == [[8, 8], [64, 64]]
    with pytest.raises(DataError, match=r"b\.png: not a readable image"):
        pool.images.grey(1)


def test_a_row_without_an_image_is_named(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image()})
    rows = [{"bytes": png(GREY), "path": None}, None, NOT_AN_IMAGE]
    (tmp_path / "pool").mkdir()
    made = datasets.Dataset.from_dict({"image": rows}, features=features)
    made.to_parquet(tmp_path / "pool" / "train.parquet")
    with pytest.raises(DataError, match=r"2 image.s. cannot be read .*image train:1: .*train:2: "):
        sizes(open_pool("pool", tmp_path))


@pytest.mark.parametrize("given_as", ["path", "bytes"])
@pytest.mark.parametrize(
    "content",
    [
        png(GREY),
        png(np.dstack([GREY] * 3)),
        png(GREY.astype(np.uint16) * 257),
        tiff(GREY),
        dicom(STORED),
    ],
    ids=["grey", "colour", "16 bits", "tiff", "dicom"],
)
def test_a_size_is_that_of_the_decoded_image(tmp_path, content, given_as):
    (tmp_path / "a").write_bytes(content)
    source = tmp_path / "a" if given_as == "path" else content
    assert images.read_size(source, "a") == images.read(source, "a").shape


@pytest.mark.parametrize("name", ["header.png", "empty.png", "text.png", "text.dcm"])
@pytest.mark.parametrize("given_as", ["path", "bytes"])
def test_a_bad_header_is_an_error_that_starts_with_its_name(tmp_path, name, given_as):
    path = tmp_path / name
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(ImageError, match=f"^patient 7/{name}: "):
        images.read_size(path if given_as == "path" else BAD_FILES[name], f"patient 7/{name}")
    with pytest.raises(ImageError, match=r"^gone: no such file$"):
        images.read_size(tmp_path / "missing.png", "gone")


# Real pools ----------------------------------------------------------------------------------


def test_the_real_pools_have_the_labels_and_sizes_they_are_described_with(shared_data):
    photographs = training_pool("natural-pool", shared_data)
    assert np.bincount(photographs.labels).tolist() == [120] * 200
    assert len(photographs.label_names) == 200
    radiographs = training_pool("cxr-pool", shared_data)
    assert radiographs.labels is None
    found, counts = np.unique(sizes(radiographs), axis=0, return_counts=True)
    assert found.tolist() == [[64, 64], [128, 128]]
    assert counts.tolist() == [8880, 8589]


def test_a_real_hub_folder_by_its_path_gives_its_train_split(shared_data):
    pool = training_pool(str(shared_data / "kermany"), None)
    assert (len(pool), pool.split, pool.label_names) == (5216, "train", ("NORMAL", "PNEUMONIA"))
    table = open_benchmark("kermany", shared_data)
    rows = table.rows("train")
    assert pool.labels.sum() == table.labels[rows].sum()
