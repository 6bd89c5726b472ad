"""The containment graph: facts one by one, and files that cannot be right."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from cxrzoo import resources
from cxrzoo.data.overlap import load_overlap, relation
from cxrzoo.errors import DataError

OFFICIAL, HASHED = "official", "cxrzoo-v1"

# Facts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pretraining", "split", "benchmark", "split_id", "expected"),
    [  # expected: (any image seen, a test image or patient seen, images)
        # the same dataset
        ("nih14", "all", "nih14", OFFICIAL, (True, True, 112120)),
        ("nih14", "official-train", "nih14", OFFICIAL, (True, False, 86524)),
        ("nih14", "official-test", "nih14", OFFICIAL, (True, True, 25596)),
        ("nih14", "mrm-train", "nih14", OFFICIAL, (True, True, None)),
        ("nih14", "cxrzoo-v1-train", "nih14", OFFICIAL, (True, True, None)),
        ("nih14", "official-train", "nih14", HASHED, (True, True, None)),
        ("nih14", "cxrzoo-v1-train", "nih14", HASHED, (True, False, None)),
        ("nih14", "cxrzoo-v1-test", "nih14", HASHED, (True, True, None)),
        ("nih14", "cxrzoo-v2-train", "nih14", HASHED, (True, True, None)),
        ("nih14", None, "nih14", OFFICIAL, (True, None, None)),
        ("nih14", "offical-train", "nih14", OFFICIAL, (True, None, None)),
        ("kermany", "official-val", "kermany", OFFICIAL, (True, None, None)),
        # RSNA and NIH-Google follow NIH's official split
        ("nih14", "all", "rsna", OFFICIAL, (True, True, 26586)),
        ("nih14", "official-train", "rsna", OFFICIAL, (True, False, 19416)),
        ("nih14", "official-test", "rsna", OFFICIAL, (True, True, 7170)),
        ("nih14", "official-train", "nih-google", OFFICIAL, (True, False, 2414)),
        ("nih14", "official-test", "nih-google", OFFICIAL, (True, True, 1962)),
        ("nih14", "mrm-train", "rsna", OFFICIAL, (True, True, None)),
        ("nih14", "official-train", "rsna", HASHED, (True, True, None)),
        ("nih14", "cxrzoo-v1-train", "rsna", HASHED, (None, None, None)),
        ("nih14", None, "rsna", OFFICIAL, (None, None, None)),
        ("rsna", "all", "nih14", OFFICIAL, (True, True, 26586)),
        ("rsna", "official-train", "nih14", OFFICIAL, (True, False, 19416)),
        ("rsna", "official-test", "nih14", OFFICIAL, (True, True, 7170)),
        ("rsna", None, "nih14", OFFICIAL, (True, None, None)),
        ("nih-google", "official-train", "rsna", OFFICIAL, (None, False, None)),
        ("nih-google", "official-train", "rsna", HASHED, (None, None, None)),
        ("nih-google", "all", "rsna", OFFICIAL, (None, None, None)),
        # SIIM and ChestX-Det: from NIH, by no public map
        ("nih14", "all", "siim", HASHED, (True, True, None)),
        ("nih14", "official-train", "siim", HASHED, (None, None, None)),
        ("siim", "all", "nih14", OFFICIAL, (True, None, None)),
        ("siim", "cxrzoo-v1-train", "nih14", OFFICIAL, (True, None, None)),
        ("siim", "all", "rsna", OFFICIAL, (None, None, None)),
        ("chestx-det", "all", "nih14", OFFICIAL, (True, None, None)),
        # ChestMNIST and NIH-CXR-LT: NIH's images, other splits
        ("chestmnist", "train", "nih14", OFFICIAL, (True, True, None)),
        ("chestmnist", "all", "nih14", OFFICIAL, (True, True, 112120)),
        ("chestmnist", "all", "rsna", OFFICIAL, (True, True, 26586)),
        ("chestmnist", "train", "rsna", OFFICIAL, (True, True, None)),
        ("chestmnist", "all", "siim", HASHED, (True, True, None)),
        ("chestmnist", None, "nih14", OFFICIAL, (None, None, None)),
        ("nih-cxr-lt", "train", "nih14", OFFICIAL, (True, True, None)),
        ("nih-cxr-lt", "train", "rsna", OFFICIAL, (None, None, None)),
        # tuberculosis sets
        ("tbx11k", "all", "nlmtb", HASHED, (True, True, 800)),
        ("tbx11k", "official-train", "nlmtb", HASHED, (None, None, None)),
        ("nlmtb", "all", "tbx11k", OFFICIAL, (True, None, 800)),
        ("shenzhen", "all", "nlmtb", HASHED, (True, None, 662)),
        ("shenzhen", "all", "tbx11k", OFFICIAL, (True, None, 662)),
        # the COVID-19 radiography database, and the pool
        ("covid19-radiography", "all", "rsna", OFFICIAL, (True, None, 14863)),
        ("covid19-radiography", "all", "nih14", OFFICIAL, (True, None, 14863)),
        ("covid19-radiography", "all", "kermany", OFFICIAL, (True, None, 2686)),
        ("covid19-radiography", "all", "covid19", HASHED, (True, None, None)),
        ("covid19-radiography", "all", "padchest", HASHED, (None, None, None)),
        ("covid19-radiography", "all", "nlmtb", HASHED, (False, False, 0)),
        ("covid19-radiography-normals", "all", "covid19", HASHED, (False, False, 0)),
        ("covid19-radiography-viral", "all", "kermany", OFFICIAL, (True, None, 1345)),
        ("covid19-radiography-normals", None, "rsna", OFFICIAL, (None, None, None)),
        ("covidx", "all", "covid19", HASHED, (True, None, None)),
        ("covidx", "all", "chexpert", HASHED, (None, None, None)),
        ("cxr-pool", "all", "nih14", OFFICIAL, (None, None, None)),
        ("cxr-pool", "all", "rsna", OFFICIAL, (None, None, None)),
        ("cxr-pool", "all", "kermany", OFFICIAL, (None, None, None)),
        ("cxr-pool", "all", "nlmtb", HASHED, (False, False, 0)),
        ("cxr-pool", "all", "covid19", HASHED, (False, False, 0)),
        ("cxr-pool", None, "chexpert", HASHED, (False, False, 0)),
        ("mednist-cxr", "all", "nih14", OFFICIAL, (True, None, None)),
        # other hospitals
        ("ms-cxr", "all", "mimic", OFFICIAL, (True, None, None)),
        ("chexpert-plus", "all", "chexpert", HASHED, (True, None, None)),
        ("chexpert", "official-train", "nih14", OFFICIAL, (False, False, 0)),
        ("mimic", None, "chexpert", HASHED, (False, False, 0)),
        # photographs, the web, what nobody has listed, the phantom
        ("imagenet-1k", "train", "nih14", OFFICIAL, (False, False, 0)),
        ("natural-pool", "all", "covid19", HASHED, (False, False, 0)),
        ("imagenet-21k", "all", "nih14", OFFICIAL, (False, False, 0)),
        ("imagenet-21k", "all", "covid19", HASHED, (None, None, None)),
        ("imagenet-1k", "train", "imagefolder:mine", HASHED, (False, False, 0)),
        ("imagenet-21k", "all", "imagefolder:mine", HASHED, (None, None, None)),
        ("chexpert", "all", "imagefolder:mine", HASHED, (None, None, None)),
        ("phantom", "all", "imagefolder:mine", HASHED, (False, False, 0)),
        ("laion-2b", "all", "openi", HASHED, (None, None, None)),
        ("laion-2b", "all", "phantom", HASHED, (False, False, 0)),
        ("nih14", "all", "phantom", HASHED, (False, False, 0)),
        ("phantom", "all", "nih14", OFFICIAL, (False, False, 0)),
        ("phantom", "all", "phantom", HASHED, (True, True, 4000)),
        ("my-hospital", "all", "nih14", OFFICIAL, (None, None, None)),
        ("my-hospital", "all", "my-hospital", HASHED, (None, None, None)),
    ],
)
def test_what_a_dataset_shows_of_another(pretraining, split, benchmark, split_id, expected):
    found = relation(pretraining, split, benchmark, split_id)
    assert (found.seen, found.test, found.images) == expected, found.reason


def test_reasons_say_what_is_known():
    assert relation("nih14", "official-train", "rsna", OFFICIAL).reason == (
        "19,416 of its images are rsna images, none in its test set"
    )
    assert relation("cxr-pool", "all", "nih14", OFFICIAL).reason == (
        "drawn from mednist-cxr: all of its images are nih14 images, and it is not known which"
    )
    assert relation("nih14", "trian", "nih14", OFFICIAL).reason == (
        "no known split (known: all, official-train, official-test, mrm-train, mrm-val, mrm-test)"
    )
    assert relation("nih-google", "all", "rsna", OFFICIAL).reason == (
        "rsna has images of the same archive (NIH Clinical Center, Bethesda), which ones is unknown"
    )


def test_every_fact_has_its_evidence_and_source():
    overlap = load_overlap()
    for step in overlap.overlaps:
        assert step.evidence.endswith("."), step
        assert step.source, step
    used = {archive for dataset in overlap.datasets.values() for archive in dataset.archives or ()}
    assert used == set(overlap.archives)


def test_no_id_is_written_twice():
    """YAML keeps the last of two equal keys and says nothing."""
    text = resources.OVERLAP.read_text()
    node = yaml.compose(text)
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, yaml.MappingNode):
            keys = [key.value for key, _ in item.value]
            assert len(keys) == len(set(keys)), keys
            stack += [value for _, value in item.value]
        elif isinstance(item, yaml.SequenceNode):
            stack += item.value


# Files that cannot be right ------------------------------------------------------------------

SMALL = {
    "archives": {
        "a": {"kind": "radiographs", "title": "Hospital A"},
        "b": {"kind": "radiographs", "title": "Hospital B"},
    },
    "datasets": {
        "big": {
            "title": "Big",
            "archives": ["a"],
            "images": 100,
            "splits": {"official-train": 70, "official-test": 30},
        },
        "small": {"title": "Small", "archives": ["a"], "images": 20},
        "other": {"title": "Other", "archives": ["b"], "images": 20},
        "mix": {"title": "Mix", "drawn_from": ["small", "other"], "images": 10},
    },
    "overlaps": [
        {
            "part": "small",
            "whole": "big",
            "images": 20,
            "all": True,
            "splits": "follows",
            "by_split": {"official-train": 15, "official-test": 5},
            "patients": "known",
            "evidence": "Seen.",
            "source": "here",
        }
    ],
}


def written(folder: Path, content: object) -> Path:
    path = folder / "overlap.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_small_file_loads(tmp_path):
    overlap = load_overlap(written(tmp_path, SMALL))
    assert relation("big", "official-train", "small", OFFICIAL, overlap).images == 15
    assert overlap.archives_of("mix") == {"a", "b"}
    assert relation("mix", "all", "big", OFFICIAL, overlap).test is None


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("overlaps", 0, "part"), "smal", "overlaps.0.part: unknown dataset 'smal'"),
        (("overlaps", 0, "whole"), "bgi", "overlaps.0.whole: unknown dataset 'bgi'"),
        (("overlaps", 0, "whole"), "small", "overlaps.0.whole: small is not a part of itself"),
        (
            ("overlaps", 0, "images"),
            21,
            "overlaps.0.images: 21 images, more than the 20 of small",
        ),
        (
            ("overlaps", 0, "by_split"),
            {"train": 5},
            "overlaps.0.by_split.train: big has no such split",
        ),
        (
            ("overlaps", 0, "by_split"),
            {"official-test": 31},
            "overlaps.0.by_split.official-test: 31 images, more than the 30 there",
        ),
        (
            ("overlaps", 0, "by_split"),
            {"official-train": 18, "official-test": 5},
            "overlaps.0.by_split: 23 images, more than images (20)",
        ),
        (("overlaps", 0, "splits"), "maybe", "overlaps.0.splits: Input should be 'follows'"),
        (("overlaps", 0, "images"), 0, "overlaps.0.images: Input should be greater than or equal"),
        (("overlaps", 0, "colour"), "grey", "overlaps.0.colour: unknown field"),
        (("overlaps", 0), {"part": "small"}, "overlaps.0.whole: Field required"),
        (
            ("datasets", "big", "splits"),
            {},
            "overlaps.0.splits: follows, but big has no official-train and official-test",
        ),
        (
            ("datasets", "big", "splits"),
            {"official-train": 101},
            "datasets.big.splits.official-train: 101 images, more than the 100 of big",
        ),
        (("datasets", "big", "archives"), ["c"], "datasets.big.archives: unknown archive 'c'"),
        (
            ("datasets", "big", "archives"),
            [],
            "datasets.big.archives: empty; null says that they are not known",
        ),
        (
            ("datasets", "small", "archives"),
            ["b"],
            "overlaps.0.whole: small and big have no archive in common",
        ),
        (
            ("datasets", "mix", "archives"),
            ["a"],
            "datasets.mix.drawn_from: stands instead of archives, not beside them",
        ),
        (
            ("datasets", "mix", "drawn_from"),
            ["tiny"],
            "datasets.mix.drawn_from: unknown dataset 'tiny'",
        ),
        (
            ("datasets", "mix", "drawn_from"),
            ["mix"],
            "datasets.mix.drawn_from: 'mix' is itself drawn from others; name those",
        ),
        (("archives", "a", "kind"), "paper", "archives.a.kind: Input should be 'radiographs'"),
        (("patients",), {}, "patients: unknown field"),
    ],
)
def test_a_wrong_file_is_refused_with_its_field(tmp_path, place, value, message):
    content = copy.deepcopy(SMALL)
    item = content
    for key in place[:-1]:
        item = item[key]
    item[place[-1]] = value
    path = written(tmp_path, content)
    with pytest.raises(DataError) as error:
        load_overlap(path)
    assert f"{path}: {message}" in str(error.value)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_same_pair_twice_is_refused(tmp_path, reverse):
    content = copy.deepcopy(SMALL)
    again = dict(content["overlaps"][0], by_split={}, splits="unknown")
    if reverse:
        again |= {"part": "big", "whole": "small"}
    content["overlaps"].append(again)
    with pytest.raises(DataError, match=r"overlaps\.1: .* are listed twice"):
        load_overlap(written(tmp_path, content))


def test_what_is_not_yaml_or_not_there_is_refused(tmp_path):
    path = tmp_path / "overlap.yaml"
    with pytest.raises(DataError, match=str(path)):
        load_overlap(path)
    path.write_text("archives: [")
    with pytest.raises(DataError, match="not valid YAML"):
        load_overlap(path)
