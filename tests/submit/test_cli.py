"""``cxrzoo submit`` and ``validate`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cxrzoo.cli import main
from cxrzoo.evaluation import verification
from cxrzoo.evaluation.record import read_records
from cxrzoo.submit import bundle as bundles
from tests.submit import forge
from tests.submit.forge import Forge
from tests.zoo.cards import copy_card, edit_card


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_submit_validate_and_accept_on_the_phantom(tmp_path):
    directory = copy_card("supervised-imagenet", tmp_path)
    edit_card(directory, name="my-encoder")
    runs, results = tmp_path / "runs", tmp_path / "results"
    results.mkdir()
    words = ["submit", directory, "--grid", "tiny", "--runs", runs, "--device", "cpu"]

    done = run(*words, "--out", tmp_path / "b.zip")
    assert done.exit_code == 0, done.output
    assert "valid: my-encoder, 4 records on the grid tiny, 4 recomputed" in done.stdout
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json")}
    done = run(*words, "--with-weights", "--out", tmp_path / "folder")
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.json")} == before
    assert (tmp_path / "folder" / "card" / "model.safetensors").is_file()
    made = bundles.read(tmp_path / "folder")
    assert str(tmp_path) not in "".join(
        content.decode() for name, content in made.files.items() if name.endswith(".json")
    )

    done = run("validate", tmp_path / "b.zip", "--base", results, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tier"] == "recomputed"
    done = run("validate", tmp_path / "folder", "--base", results, "--rerun", "--accept",
               "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "4 recomputed, 3 repeated; tier rerun" in done.stdout
    assert f"written: {results / 'my-encoder'}" in done.stdout
    assert set(verification.tiers([results]).values()) == {"rerun"}
    assert len(read_records(results)) == 4
    assert "my-encoder" in run("table", results).stdout


def test_problems_are_lines_on_stderr_and_the_status_is_1(sound, tmp_path):
    bad = Forge(sound)
    bad.files["evil.pkl"] = b"\x80"
    bad.alter(lambda c: c["declared"].update(strategy="magic"))
    path = bad.save(tmp_path / "b.zip")
    done = run("validate", path)
    assert done.exit_code == 1
    assert done.stdout == ""
    first, *problems = done.stderr.splitlines()
    assert first == "refused: 2 problems"
    assert problems[0] == "evil.pkl: is no part of a bundle, and is not opened; take it out"
    assert problems[1].startswith("records/my-encoder/phantom/linear-v1-b20-s0-")
    done = run("validate", path, "--json")
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert (content["ok"], content["tier"], content["problems"]) == (False, None, problems)


def test_nothing_is_accepted_that_is_refused(sound, tmp_path):
    bad = Forge(sound)
    bad.files["evil.pkl"] = b"\x80"
    (tmp_path / "results").mkdir()
    done = run("validate", bad.save(tmp_path / "b.zip"), "--base", tmp_path / "results", "--accept")
    assert done.exit_code == 1
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(("words", "message"), [
    (["submit", "x"], "say where the bundle goes: --out BUNDLE, or --push"),
    (["submit", "x", "--push", "--repo-id", "a/b", "--offline"], "--push needs the network"),
    (["submit", "x", "--push"], "--push needs --repo-id ORG/NAME"),
    (["validate", "x", "--accept"], "--accept needs --base RESULTS"),
    (["validate", "x", "--cells", "2"], "are of --rerun"),
])  # fmt: skip
def test_wrong_usage_is_status_2(words, message):
    done = run(*words)
    assert done.exit_code == 2
    assert message in done.output


def test_data_that_the_grid_does_not_know_is_said_before_hours_of_work(tmp_path, monkeypatch):
    from cxrzoo.submit import grid as grids

    grid = forge.tiny_grid()
    (rows,) = grid.benchmarks["phantom"].rows
    other = grid.benchmarks["phantom"].model_copy(
        update={"rows": (rows.model_copy(update={"manifest_sha256": "0" * 64}),)}
    )
    changed = grid.model_copy(update={"benchmarks": {"phantom": other}})
    monkeypatch.setattr(grids, "find", lambda name: changed)
    directory = forge.card_directory(tmp_path)
    done = run("submit", directory, "--grid", "tiny", "--runs", tmp_path / "runs",
               "--out", tmp_path / "b")  # fmt: skip
    assert done.exit_code == 1
    assert "phantom: the copy at hand (120 images, rows" in done.output
    assert not Path(tmp_path / "runs").exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"pretraining_data": None}, "pretraining_data is missing, so exposure is not declared"),
    ({"name": "Random-Init"}, "the name Random-Init is too close to random-init"),
    ({"strategy": [{"method": "moco", "data": "cxr", "init": "random"}]}, "its strategy trains"),
])  # fmt: skip
def test_a_card_that_is_refused_later_is_refused_before_hours_of_work(tmp_path, change, message):
    directory = forge.card_directory(tmp_path)
    edit_card(directory, **change)
    done = run("submit", directory, "--grid", "tiny", "--runs", tmp_path / "runs",
               "--out", tmp_path / "b")  # fmt: skip
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "runs").exists()


def test_a_repository_that_is_none_is_said_before_hours_of_work(tmp_path):
    done = run("submit", forge.card_directory(tmp_path), "--grid", "tiny", "--push",
               "--repo-id", "results", "--runs", tmp_path / "runs")  # fmt: skip
    assert done.exit_code == 1
    assert "'results' is no dataset repository on the Hub; write ORG/NAME" in done.output
    assert not (tmp_path / "runs").exists()


def test_a_trial_grid_is_not_pushed_unless_asked(tmp_path):
    done = run("submit", forge.card_directory(tmp_path), "--grid", "practice", "--push",
               "--repo-id", "lab/results", "--runs", tmp_path / "runs")  # fmt: skip
    assert done.exit_code == 1
    assert "grid practice is for trying the machinery" in done.output
    assert not (tmp_path / "runs").exists()


def test_an_encoder_of_timm_has_no_card(tmp_path):
    done = run("submit", "timm:resnet18", "--grid", "tiny", "--out", tmp_path / "b")
    assert done.exit_code == 1
    assert "`cxrzoo convert` makes one" in done.output


def test_a_folder_that_is_something_else_is_not_overwritten(sound, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.md").write_text("years of work")
    with pytest.raises(bundles.BundleError, match="is no bundle of my-encoder"):
        bundles.write(sound, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "text.md").read_text() == "years of work"
