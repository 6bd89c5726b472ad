"""What becomes of labels that are uncertain or missing, by policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxrzoo.data.benchmark import LabelPolicy, find, list_benchmarks
from cxrzoo.data.table import Table, open_benchmark
from cxrzoo.errors import DataError
from tests.data.helpers import packaged_fields, use_benchmark
from tests.data.public_sets import VINDR_CLASSES, jpeg, write_pictures

NAN = np.nan
FEW = 12
"""Patients that repeat each case, so that both splits have some."""


def policy(uncertain: str, missing: str = "mask") -> dict[str, str]:
    return {"uncertain": uncertain, "missing": missing}


def with_policy(monkeypatch: Any, folder: Path, name: str, **fields: Any) -> str:
    changed = {**packaged_fields(name), **fields}
    changed.pop("complete", None)
    return use_benchmark(monkeypatch, folder, changed)


# -1 and empty, as CheXpert has them ----------------------------------------------------------

CASES = {"positive": 1.0, "negative": 0.0, "uncertain": -1.0, "missing": NAN}
"""What the table says of pleural effusion, by the name of the case."""


def write_chexpert(root: Path, cases: dict[str, float]) -> dict[str, str]:
    """CheXpert with one case a patient, in train and valid; returns the case by image id."""
    case_of = {}
    for split, first in (("train", 0), ("valid", 50_000)):
        rows = []
        for number in range(FEW * len(cases)):
            case = list(cases)[number % len(cases)]
            image = f"{split}/patient{first + number:05d}/study1/view1_frontal.jpg"
            case_of[image] = case
            rows.append(
                {
                    "Path": f"CheXpert-v1.0-small/{image}",
                    "Sex": "Female",
                    "Age": 50,
                    "Frontal/Lateral": "Frontal",
                    "AP/PA": "AP",
                    "No Finding": 1.0 if case == "healthy" else NAN,
                    "Edema": float(number % 2),
                    "Pleural Effusion": cases[case],
                    "Support Devices": cases[case],
                }
            )
        (root / "chexpert").mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(root / "chexpert" / f"{split}.csv", index=False)
    write_pictures(root / "chexpert", case_of, jpeg())
    return case_of


def values_by_case(table: Table, label: str, case_of: dict[str, str]) -> dict[str, float]:
    """The one value that all images of a case have."""
    column = table.labels[:, table.benchmark.labels.index(label)]
    found: dict[str, set[str]] = {}
    for image, value in zip(table.ids, column, strict=True):
        found.setdefault(case_of[image], set()).add(f"{value:g}")
    assert all(len(values) == 1 for values in found.values()), found
    return {case: float(values.pop()) for case, values in found.items()}


@pytest.mark.parametrize(
    ("chosen", "uncertain", "missing"),
    [
        (policy("mask"), NAN, NAN),
        (policy("ones"), 1, NAN),
        (policy("zeros"), 0, NAN),
        (policy("majority"), NAN, NAN),  # nobody voted
        (policy("mask", "zeros"), NAN, 0),
        (policy("ones", "zeros"), 1, 0),
        (policy("zeros", "zeros"), 0, 0),
    ],
    ids=lambda value: LabelPolicy(**value).name if isinstance(value, dict) else "",
)
def test_uncertain_and_missing_labels_of_chexpert(
    monkeypatch, tmp_path, chosen, uncertain, missing
):
    case_of = write_chexpert(tmp_path, CASES)
    labels = ["Edema", "Effusion"]
    name = with_policy(
        monkeypatch, tmp_path / "files", "chexpert", labels=labels, label_policy=chosen
    )
    found = values_by_case(open_benchmark(name, tmp_path), "Effusion", case_of)
    expected = {"positive": 1, "negative": 0, "uncertain": uncertain, "missing": missing}
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal([found[c] for c in expected], list(expected.values()))


@pytest.mark.parametrize("chosen", ["mask", "ones", "zeros"])
def test_no_finding_denies_an_uncertain_label_but_not_devices(monkeypatch, tmp_path, chosen):
    case_of = write_chexpert(tmp_path, {**CASES, "healthy": -1.0})
    name = with_policy(
        monkeypatch,
        tmp_path / "files",
        "chexpert",
        labels=["Effusion", "Support Devices"],
        label_policy=policy(chosen),
    )
    table = open_benchmark(name, tmp_path)
    assert values_by_case(table, "Effusion", case_of)["healthy"] == 0
    devices = values_by_case(table, "Support Devices", case_of)
    np.testing.assert_array_equal(devices["healthy"], devices["uncertain"])


def test_another_policy_is_another_manifest_and_moves_no_patient(monkeypatch, tmp_path):
    write_chexpert(tmp_path, CASES)
    tables = {}
    for chosen in ("mask", "ones", "zeros"):
        name = with_policy(
            monkeypatch,
            tmp_path / chosen,
            "chexpert",
            labels=["Effusion"],
            label_policy=policy(chosen),
        )
        tables[chosen] = open_benchmark(name, tmp_path)
    assert len({t.manifest_sha256 for t in tables.values()}) == 3
    assert len({tuple(t.splits) for t in tables.values()}) == 1


def test_a_label_that_nobody_knows_is_an_error_under_any_policy(monkeypatch, tmp_path):
    write_chexpert(tmp_path, {"one": NAN, "other": NAN})
    for chosen in (policy("mask"), policy("zeros", "zeros")):
        name = with_policy(
            monkeypatch, tmp_path / "files", "chexpert", labels=["Effusion"], label_policy=chosen
        )
        with pytest.raises(DataError, match="label column 'Effusion' is empty"):
            open_benchmark(name, tmp_path)


# Readers who disagree, as VinDr has them -----------------------------------------------------

VOTES = {"3 of 3": (3, 3), "2 of 3": (2, 3), "1 of 3": (1, 3), "0 of 3": (0, 3), "1 of 2": (1, 2)}


def write_vindr(root: Path) -> dict[str, str]:
    """VinDr with one case an image; returns the case by image id."""
    case_of, rows = {}, []
    for number in range(FEW * len(VOTES)):
        case = list(VOTES)[number % len(VOTES)]
        image = f"{number:032x}"
        case_of[image] = case
        yes, readers = VOTES[case]
        for reader in range(readers):
            marks = ["Pleural effusion"] * 2 if reader < yes else ["No finding"]
            rows += [{"image_id": image, "rad_id": f"R{reader}", "class_name": m} for m in marks]
    (root / "vindr" / "train").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(root / "vindr" / "train.csv", index=False)
    write_pictures(root / "vindr" / "train", [f"{i}.png" for i in case_of])
    return case_of


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("majority", (1, 1, 0, 0, NAN)),
        ("mask", (1, NAN, NAN, 0, NAN)),
        ("ones", (1, 1, 1, 0, 1)),
        ("zeros", (1, 0, 0, 0, 0)),
    ],
)
def test_readers_who_disagree(monkeypatch, tmp_path, chosen, expected):
    case_of = write_vindr(tmp_path)
    name = with_policy(
        monkeypatch, tmp_path / "files", "vindr", labels=["Effusion"], label_policy=policy(chosen)
    )
    found = values_by_case(open_benchmark(name, tmp_path), "Effusion", case_of)
    np.testing.assert_array_equal([found[case] for case in VOTES], expected)


def test_a_reader_who_marks_a_finding_twice_has_one_vote(monkeypatch, tmp_path):
    case_of = write_vindr(tmp_path)  # each mark is there twice: two boxes of one reader
    labels = list(VINDR_CLASSES)
    name = with_policy(monkeypatch, tmp_path / "files", "vindr", labels=labels)
    table = open_benchmark(name, tmp_path)
    assert values_by_case(table, "Effusion", case_of)["1 of 3"] == 0
    others = [column for column, label in enumerate(labels) if label != "Effusion"]
    assert (table.labels[:, others] == 0).all()


# Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        (policy("mask"), "mask"),
        (policy("zeros", "zeros"), "zeros"),
        (policy("ones"), "uncertain ones, missing mask"),
        (policy("zeros"), "uncertain zeros, missing mask"),
        (policy("majority"), "uncertain majority, missing mask"),
        (policy("mask", "zeros"), "uncertain mask, missing zeros"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_has_a_name(chosen, name):
    assert LabelPolicy(**chosen).name == name


def test_the_policies_of_the_packaged_files():
    names = {name: find(name).label_policy.name for name in list_benchmarks()}
    assert names.pop("vindr") == "uncertain majority, missing mask"
    assert set(names.values()) == {"mask"}


@pytest.mark.parametrize("wrong", [policy("drop"), policy("mask", "ones"), {"unknown": "mask"}])
def test_a_policy_that_is_none_is_an_error_that_names_the_field(monkeypatch, tmp_path, wrong):
    name = with_policy(monkeypatch, tmp_path / "files", "chexpert", label_policy=wrong)
    with pytest.raises(DataError, match=r"chexpert\.yaml: label_policy\.(uncertain|missing|unkn)"):
        find(name)
