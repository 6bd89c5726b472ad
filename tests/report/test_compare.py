from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

import cxrzoo
from cxrzoo.cli import main
from cxrzoo.errors import RecordError, UnknownNameError
from cxrzoo.report.compare import compare_encoders
from cxrzoo.report.comparison import as_text
from tests.report.fabricated import write


def pair(directory, seeds=(3, 3), skills=(2.0, 0.5), **changes):
    for encoder, n, skill in zip("ab", seeds, skills, strict=True):
        for seed in range(n):
            write(directory, encoder, skill, seed, **changes)


def compared(directory, a="a", b="b", **settings):
    return compare_encoders(a, b, [directory], **{"resamples": 200, **settings})


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def test_a_clear_difference_is_told(tmp_path):
    pair(tmp_path)
    (row,) = compared(tmp_path).rows
    assert row.difference.estimate == pytest.approx(row.a_mean - row.b_mean)
    assert row.difference.over == "seeds and patients"
    assert 0 < row.difference.low < row.difference.estimate < row.difference.high
    assert row.p == row.p_adjusted < 0.05
    assert row.n_seeds == 3
    assert row.n_patients > 1
    text = as_text(compared(tmp_path))
    assert "On phantom at 20 labels a scores 0." in text
    assert " more than b (95 % interval: 0." in text
    assert "no difference" not in text
    assert "- phantom: limited to 60 images a split" in text


def test_no_difference_is_told_between_equals(tmp_path):
    pair(tmp_path, skills=(1.0, 1.0))
    text = as_text(compared(tmp_path))
    assert "less to 0." in text
    assert "): no difference can be told." in text


def test_b_against_a_is_the_same_with_the_other_sign(tmp_path):
    pair(tmp_path, seeds=(3, 2), skills=(1.0, 0.8))
    (one,), (other,) = compared(tmp_path).rows, compared(tmp_path, "b", "a").rows
    assert other.n_seeds == 2
    assert other.difference.estimate == pytest.approx(-one.difference.estimate)
    assert other.difference.low == pytest.approx(-one.difference.high)
    assert other.difference.high == pytest.approx(-one.difference.low)
    assert other.p == pytest.approx(one.p)


def test_means_are_over_the_seeds_of_both(tmp_path):
    pair(tmp_path, seeds=(4, 1))
    (row,) = compared(tmp_path).rows
    assert row.n_seeds == 1
    assert row.a_mean == pytest.approx(write(tmp_path, "a", 2.0, 0).macro_auroc)
    assert row.difference.over == "patients"
    assert "over patients only, as there is one seed" in as_text(compared(tmp_path))


def test_without_data_the_interval_is_over_seeds_and_a_note_says_why(tmp_path):
    pair(tmp_path, manifest="9" * 64)
    result = compared(tmp_path)
    (row,) = result.rows
    assert row.difference.over == "seeds"
    assert row.n_patients is None
    assert "(95 % interval over seeds only: " in as_text(result)
    assert any("interval over seeds only" in note for note in result.notes)
    assert any("patients not resampled: the data at hand are another" in n for n in result.notes)


def test_one_seed_without_data_has_no_interval(tmp_path):
    pair(tmp_path, seeds=(1, 1), manifest="9" * 64)
    (row,) = compared(tmp_path).rows
    assert (row.p, row.p_adjusted, row.difference.over) == (None, None, "nothing")
    assert "from one seed and without predictions: no difference can be told" in as_text(
        compared(tmp_path)
    )


def test_holm_is_over_all_rows_and_budgets_are_in_order(tmp_path):
    for budget in ("full", 100, 20):
        pair(tmp_path, skills=(2.0, 0.5), budget=budget)
    result = compared(tmp_path)
    assert [r.budget for r in result.rows] == [20, 100, "full"]
    assert all(r.p_adjusted >= r.p for r in result.rows)
    assert min(r.p_adjusted for r in result.rows) == pytest.approx(
        3 * min(r.p for r in result.rows)
    )
    assert "at the full budget" in as_text(result)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": {"strengths": [1]}}, "different protocol settings"),
        ({"manifest": "9" * 64}, r"different rows \(manifest\)"),
        ({"subset": "9" * 64}, r"different training images \(subset\)"),
        ({"pixels": "9" * 64}, r"different image files \(pixels\)"),
    ],
)
def test_what_was_measured_differently_is_not_compared(tmp_path, changes, reason):
    write(tmp_path, "a")
    write(tmp_path, "b", **changes)
    with pytest.raises(RecordError, match=f"phantom @20 linear-v1: not compared: {reason}"):
        compared(tmp_path)
    pair(tmp_path, budget=100)
    result = compared(tmp_path)
    assert [r.budget for r in result.rows] == [100]
    assert any("phantom @20 linear-v1: not compared" in note for note in result.notes)


def test_other_protocols_and_no_common_seed_list_what_each_has(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b", protocol={"name": "finetune-v1"})
    write(tmp_path, "c", seed=1)
    with pytest.raises(RecordError) as error:
        compared(tmp_path)
    assert str(error.value).splitlines() == [
        "nothing to compare a and b on:",
        "a has phantom @20 linear-v1",
        "b has phantom @20 finetune-v1",
    ]
    with pytest.raises(RecordError, match="not compared: no seed in common"):
        compared(tmp_path, "a", "c")


def test_what_only_one_has_is_noted_and_controls_are_left_out(tmp_path):
    pair(tmp_path, seeds=(2, 2))
    write(tmp_path, "a", budget=100)
    write(tmp_path, "a", control="shuffled-labels")
    write(tmp_path, "b", control="shuffled-labels")
    result = compared(tmp_path)
    assert len(result.rows) == 1
    assert "only a has: phantom @100 linear-v1" in result.notes


def test_unknown_and_ambiguous_names(tmp_path):
    write(tmp_path, "moco-one")
    write(tmp_path, "b")
    write(tmp_path, "b", weights="9" * 64)
    with pytest.raises(UnknownNameError, match="did you mean moco-one"):
        compared(tmp_path, "moco-on", "b")
    with pytest.raises(RecordError, match=r"2 different weights.* 'b #00000000' or 'b #99999999'"):
        compared(tmp_path, "moco-one", "b")
    assert compared(tmp_path, "moco-one", "b #99999999").rows[0].b == "b #99999999"
    with pytest.raises(RecordError, match="compared with itself"):
        compared(tmp_path, "b", "b")


def test_exposure_is_marked_and_explained(tmp_path):
    write(tmp_path, "a", exposure={"state": "exposed", "reason": "it saw the phantom"})
    write(tmp_path, "b")
    text = as_text(compared(tmp_path))
    assert " †" in text.splitlines()[2]
    assert "- † exposed: a: it saw the phantom" in text


def test_too_few_resamples_for_so_many_rows_are_noted(tmp_path):
    for budget in range(20, 23):
        pair(tmp_path, seeds=(1, 1), budget=budget)
    few = compared(tmp_path, resamples=100).notes
    assert any("the least Holm p is 0.059: take more with --resamples" in note for note in few)
    assert not any("least Holm" in note for note in compared(tmp_path, resamples=400).notes)


def test_the_command_on_a_real_run(tmp_path):
    cxrzoo.evaluate(
        ["random-init", "supervised-imagenet"], ["phantom"], budgets=[20], seeds=2, limit=60,
        output=tmp_path / "runs", device="cpu",
    )  # fmt: skip
    names = ("random-init", "supervised-imagenet")
    text = run(*names, tmp_path / "runs").stdout
    assert "seeds and patients" in text
    assert "On phantom at 20 labels random-init scores" in text
    result = run(*names, tmp_path / "runs", "--json", "--resamples", 100, "--seed", 1)
    (row,) = json.loads(result.stdout)
    assert row["difference"]["estimate"] == pytest.approx(row["a_mean"] - row["b_mean"], abs=1e-12)
    assert row["n_patients"] > 1
    assert "limited to 60 images" in result.stderr
    assert "did you mean random-init" in run("random-int", names[1], tmp_path, status=1).stderr


def test_the_command_imports_no_torch(tmp_path):
    pair(tmp_path, seeds=(2, 2))
    code = (
        "import sys; from click.testing import CliRunner; from cxrzoo.cli import main\n"
        f"r = CliRunner().invoke(main, ['compare', 'a', 'b', {str(tmp_path)!r}])\n"
        "assert r.exit_code == 0, r.output\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
