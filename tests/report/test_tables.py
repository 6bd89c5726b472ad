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
                "excluded": extra.get("excluded"),
                "limit": extra.get("limit"),
            },
            "budget": {"size": budget, "n": 100, "subset_sha256": "3" * 64},
            "protocol": {"name": extra.get("protocol", "linear-v1")},
            "seed": seed,
            "precision": "float32",
            "control": extra.get("control", "none"),
        }
    )
    status = "undefined" if auroc is None else "ok"
    tests = {
        name: {"macro": {"auroc": value}, "labels": {"x": {"status": status}}}
        for name, value in {"test": auroc, **extra.get("external", {})}.items()
    }
    declared = {
        "notes": extra.get("notes", []),
        "exposure": {"state": extra.get("exposure", "clean"), "reason": extra.get("reason", "")},
        "stages": extra.get("stages", []),
    }
    result = {"tests": tests} | extra.get("result", {})
    return record.seal(spec, declared, result, {}, {})


def test_the_whole_github_table():
    scores = {"supervised-imagenet": (0.8, 0.81, 0.82), "random-init": (0.6, 0.61, 0.59)}
    records = [
        make(encoder, seed=s, auroc=a, notes=["partial, hashed split"])
        for encoder, of_encoder in scores.items()
        for s, a in enumerate(of_encoder)
    ]
    assert table(records) == (
        "| encoder             | b @100                   |\n"
        "|---------------------|--------------------------|\n"
        "| random-init         | 0.600 [0.574, 0.625]     |\n"
        "| supervised-imagenet | **0.810** [0.783, 0.834] |\n"
        "\n"
        "- macro AUROC, mean over 3 seeds [95 % interval over seeds]; linear-v1; a budget counts "
        "every label used, validation included\n"
        "- bold: the best of its column; italics: cannot be told from it at 95 % confidence "
        "(multiple comparisons with the best, each column by itself); incomplete cells take no "
        "part\n"
        "- intervals over seeds only, with other test patients they may be wider\n"
        "- b: partial, hashed split"
    )


def test_what_cannot_be_told_from_the_best_is_in_italics():
    scores = {"a": (0.8, 0.9, 0.7), "b": (0.79, 0.88, 0.72), "c": (0.5, 0.51, 0.5)}
    text = table([make(e, seed=s, auroc=a) for e, of in scores.items() for s, a in enumerate(of)])
    assert "| **0.800** [" in text
    assert "| *0.797* [" in text
    assert "| 0.503 [" in text


@pytest.mark.parametrize(
    ("format_name", "best", "tied"),
    [
        ("latex", r"\textbf{0.850}", r"\textit{0.840}"),
        ("html", "<strong>0.850</strong>", "<em>0.840</em>"),
    ],
)
def test_best_and_ties_in_other_formats(format_name, best, tied):
    scores = {"a": (0.8, 0.9), "b": (0.83, 0.85)}
    records = [make(e, seed=s, auroc=a) for e, of in scores.items() for s, a in enumerate(of)]
    text = table(records, format_name)
    assert best in text
    assert tied in text


def test_an_exposed_encoder_is_never_the_best():
    exposures = {"a": "clean", "b": "clean", "x": "exposed"}
    records = [
        make(e, seed=s, auroc=a + s / 100, exposure=exposures[e])
        for e, a in (("a", 0.6), ("b", 0.5), ("x", 0.9))
        for s in range(3)
    ]
    entries = {e["encoder"]: e for e in json.loads(table(records, "json"))["entries"]}
    assert [entries[e]["best"] for e in "abx"] == [True, False, False]
    assert not entries["x"]["tied"]
    assert "nor do exposed ones" in table(records)


def test_verification_is_a_column_and_the_least_of_a_row_s_records():
    records = [make("a", seed=0), make("a", seed=1), make("b", seed=0)]
    verified = {records[0].digest: "rerun", records[1].digest: "recomputed"}
    text = table(records, verified=verified)
    assert header(text)[:2] == ["encoder", "verification"]
    assert [line.split("|")[2].strip() for line in text.splitlines()[2:4]] == [
        "recomputed",
        "self-reported",
    ]
    assert header(table(records)) == ["encoder", "b @100"]


def test_mean_ranks_have_a_column_where_there_are_several_benchmarks():
    scores = {"a": (0.8, 0.7), "b": (0.6, 0.5), "c": (0.4, 0.6)}
    records = [
        make(e, benchmark=b, auroc=a)
        for e, of in scores.items()
        for b, a in zip(("one", "two"), of, strict=True)
    ] + [make("d", benchmark="one", auroc=0.9)]
    text = table(records)
    ranks = [line.split("|")[2].strip()[:3] for line in text.splitlines()[2:6]]
    assert ranks == ["1.0", "2.5", "2.5", "-"]
    assert "over 2 benchmarks, 2 columns; without d (missing, undefined or exposed)" in text


def test_mean_ranks_name_the_columns_that_they_leave_out():
    records = [make(e, benchmark=b) for e in "ab" for b in ("one", "two")]
    records += [make(e, benchmark="three", exposure="exposed") for e in "ab"]
    assert "2 columns; without three @100 (missing, undefined or exposed)" in table(records)


def test_the_caption_counts_the_seeds_of_every_column():
    records = [make(seed=s, auroc=0.7 + s / 99) for s in range(3)] + [make(budget=200)]
    assert "mean over 1 to 3 seeds [95 % interval over seeds]" in table(records)


def test_a_note_on_narrow_intervals_names_the_encoders_that_it_is_true_of():
    records = [make("a", seed=s, auroc=0.7 + s / 99) for s in range(3)] + [make("b")]
    text = table(records)
    assert "- b @100 (b): no interval from one seed without predictions" in text
    assert "- b @100 (a): intervals over seeds only" in text


def test_names_with_a_hash_are_explained():
    text = table([make("a"), make("a", weights="1" * 64)])
    assert "- name #hash: this name stands for several things" in text
    assert "name #hash" not in table([make("a #1")])


def test_an_encoder_without_a_tier_stands_beside_one_that_has_it():
    tiers = {"a": None, "b": "lite"}
    records = []
    for name, tier in tiers.items():
        made = make(name)
        records.append(made.model_copy(update={"declared": made.declared | {"tier": tier}}))
    assert "| a         |        | 0.800    |" in table(records)
    assert "| b         | lite   | 0.800    |" in table(records)


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
    assert "0.800 (1 of 2 seeds)" in text.replace("**", "").replace("*", "")
    assert "undefined" in text.split("\n\n")[0]
    assert "undefined in test (one class only): x" in text
    assert [c.strip() for c in text.splitlines()[4].split("|")][2:4] == ["-", "undefined"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (
            {"excluded": {"n": 2, "sha256": "4" * 64, "first": ["i1", "i2"]}},
            "2 missing or unreadable images left out",
        ),
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


def test_what_is_exposed_or_unknown_is_marked_and_explained():
    records = [
        make("c"),
        make("x", exposure="exposed", reason="pretrained on b with labels"),
        make("u", exposure="unknown", reason="the card does not say"),
    ]
    text = table(records)
    assert "| c         | 0.800    |" in text
    assert "0.800 †" in text
    assert "0.800 ?" in text
    assert "- † exposed: x: pretrained on b with labels" in text
    assert "- ? unknown: u: the card does not say" in text
    states = {e["encoder"]: e["exposure"] for e in json.loads(table(records, "json"))["entries"]}
    assert states == {"c": "clean", "x": "exposed", "u": "unknown"}


def test_require_clean_leaves_the_rest_out_and_says_so():
    records = [make("c"), make("x", exposure="exposed"), make("u", exposure="unknown")]
    text = table(records, require_clean=True)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:3]] == ["c"]
    assert "| x" not in text
    assert "| u" not in text
    assert "2 records left out: exposed, or unknown" in text
    assert "left out" not in table(records[:1], require_clean=True)


def shortcut(*scores: float) -> dict:
    labels = {f"l{n}": {"status": "ok", "auroc": s} for n, s in enumerate(scores)}
    macro = sum(scores) / len(scores)
    return {"shortcut": {"test": {"macro": {"auroc": macro}, "labels": labels}}}


def test_a_control_has_its_own_column_and_says_what_it_means():
    records = [
        make(),
        make(auroc=0.51, control="shuffled-labels"),
        make(seed=0, auroc=0.6, control="source", result=shortcut(0.7, 0.9)),
        make(seed=1, auroc=0.7, control="source", result=shortcut(0.9, 0.9)),
    ]
    text = table(records)
    assert header(text) == [
        "encoder",
        "b @100",
        "b @100 [control shuffled-labels]",
        "b @100 [control source]",
    ]
    assert "trained on permuted labels, must end near 0.5" in text
    assert (
        "the source alone, without an image, predicts the labels with AUROC 0.850 (l1 with 0.900)"
    ) in text


def test_what_must_be_known_of_training_data_is_below_every_table_that_shows_it():
    stage = {"method": "moco", "data": "imagenet", "init": "random", "caution": "24,000 images"}
    later = {"method": "moco", "data": "cxr", "init": "moco-imagenet"}
    records = [
        make("moco-imagenet", stages=[stage]),
        make("moco-imagenet-then-cxr", stages=[stage, later]),
        make("moco-cxr", stages=[{**later, "init": "random"}]),
        make("from-a-later-version", stages=["unheard of"]),
    ]
    said = "moco-imagenet, moco-imagenet-then-cxr: 24,000 images"
    for style in ("github", "html", "latex"):
        assert table(records, style).count(said) == 1
    assert "24,000 images" not in table(records[2:])
