from __future__ import annotations

import csv
import io
import json

import pytest

from cxrzoo.errors import UnknownNameError
from cxrzoo.evaluation import record
from cxrzoo.report.tables import table


def make(encoder="e", benchmark="b", budget=100, seed=0, auroc=0.8, **extra) -> record.Record:
    spec = record.Spec.model_validate(
        {
            "encoder": {
                "name": encoder,
                "arch": "a",
                "weights_sha256": extra.get("weights", "0" * 64),
                "input": {"size_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
            },
            "benchmark": {
                "name": benchmark,
                "version": 1,
                "labels": ["x"],
                "label_policy": "mask",
                "manifest_sha256": extra.get("manifest", "1" * 64),
                "pixels_sha256": extra.get("pixels", "2" * 64),
                "excluded": extra.get("excluded", []),
                "limit": extra.get("limit"),
            },
            "budget": {"size": budget, "n": 100, "subset_sha256": "3" * 64},
            "protocol": {"name": extra.get("protocol", "linear-v1")},
            "seed": seed,
            "precision": "float32",
        }
    )
    status = "undefined" if auroc is None else "ok"
    tests = {
        name: {"macro": {"auroc": value}, "labels": {"x": {"status": status}}}
        for name, value in {"test": auroc, **extra.get("external", {})}.items()
    }
    return record.seal(spec, {"notes": extra.get("notes", [])}, {"tests": tests}, {}, {})


def test_the_whole_github_table():
    records = [
        make("supervised-imagenet", seed=s, auroc=a, notes=["partial, hashed split"])
        for s, a in enumerate((0.8, 0.9))
    ] + [
        make("random-init", seed=s, auroc=a, notes=["partial, hashed split"])
        for s, a in enumerate((0.5, 0.6))
    ]
    assert table(records) == (
        "| encoder             | b @100        |\n"
        "|---------------------|---------------|\n"
        "| random-init         | 0.550 ± 0.071 |\n"
        "| supervised-imagenet | 0.850 ± 0.071 |\n"
        "\n"
        "- macro AUROC, mean ± standard deviation over 2 seeds; linear-v1; a budget counts every "
        "label used, validation included\n"
        "- b: partial, hashed split"
    )


def header(text: str) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]


def test_columns_are_ordered_by_number_with_full_last_and_external_sets_after_their_own():
    records = [make(budget=b, external={"far": 0.7}) for b in ("full", 1000, 100)]
    assert header(table(records)) == [
        "encoder",
        "b @100",
        "b @1000",
        "b @full",
        "b → far @100",
        "b → far @1000",
        "b → far @full",
    ]


def test_other_data_under_the_same_name_gets_its_own_column():
    records = [make(), make(manifest="9" * 64)]
    assert header(table(records)) == ["encoder", "b #11111111 @100", "b #99999999 @100"]


def test_other_weights_under_the_same_name_get_their_own_row():
    text = table([make(), make(weights="9" * 64, auroc=0.1)])
    assert "| e #00000000 | 0.800" in text
    assert "| e #99999999 | 0.100" in text


def test_two_protocols_never_share_a_column():
    assert header(table([make(), make(protocol="finetune-v1")]))[1:] == [
        "b @100 finetune-v1",
        "b @100 linear-v1",
    ]


def test_missing_seeds_undefined_and_absent_cells_are_shown_as_such():
    records = [make(seed=0), make(seed=1), make("f", seed=0), make("g", benchmark="c", auroc=None)]
    text = table(records)
    assert "0.800 (1 of 2 seeds)" in text
    assert "undefined" in text.split("\n\n")[0]
    assert "undefined in test (one class only): x" in text
    assert [c.strip() for c in text.splitlines()[4].split("|")][2:4] == ["-", "undefined"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"excluded": ["i1", "i2"]}, "2 missing or unreadable images left out"),
        ({"limit": 50}, "limited to 50 images a split: a quick look, not a result"),
        ({"notes": ["a phantom"]}, "b: a phantom"),
    ],
)
def test_caveats_stand_below_the_table(changes, note):
    assert note in table([make(**changes)])


def test_records_of_different_image_files_are_called_not_comparable():
    text = table([make("e"), make("f", pixels="7" * 64)])
    assert "b: records come from different image files: not comparable" in text


def test_csv_and_json_hold_the_same_numbers():
    records = [make(seed=0, auroc=0.8), make(seed=1, auroc=0.9)]
    (row,) = csv.DictReader(io.StringIO(table(records, "csv")))
    content = json.loads(table(records, "json"))
    assert float(row["macro_auroc"]) == content["entries"][0]["macro_auroc"] == pytest.approx(0.85)
    assert content["entries"][0]["scores"] == {"0": 0.8, "1": 0.9}


def test_latex_escapes_and_html_escapes():
    records = [make("a_b&c", notes=["<script>alert(1)</script>"])]
    assert r"a\_b\&c" in table(records, "latex")
    html = table(records, "html")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_an_unknown_format_lists_the_known():
    with pytest.raises(UnknownNameError, match="latex"):
        table([make()], "latec")
