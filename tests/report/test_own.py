"""The results of one encoder, and the maintainer's tool that writes them into the cards."""

from __future__ import annotations

import shutil
from types import ModuleType

import pytest
from click.testing import CliRunner

from cxrzoo import resources
from cxrzoo.evaluation.record import read_records
from cxrzoo.report.cells import Evidence
from cxrzoo.report.grid import measure
from cxrzoo.report.own import scores_of
from cxrzoo.zoo import registry
from tests.report.fabricated import write
from tests.scripts import script

WEIGHTS = "7" * 64


@pytest.fixture
def tool() -> ModuleType:
    return script("write_results")


def test_only_the_encoders_own_records_count_and_no_control(tmp_path):
    for seed in range(3):
        write(tmp_path, "mine", weights=WEIGHTS, seed=seed)
        write(tmp_path, "other", weights="8" * 64, seed=seed)
        write(tmp_path, "mine", weights=WEIGHTS, seed=seed, control="shuffled-labels")
    records = read_records(tmp_path)
    grid = measure(records, Evidence([tmp_path]))
    (score,) = scores_of(WEIGHTS, grid)
    own = [
        r.result["tests"]["test"]["macro"]["auroc"]
        for r in records
        if r.spec.encoder.name == "mine" and r.spec.control == "none"
    ]
    assert score.mean == pytest.approx(sum(own) / 3)
    assert (score.seeds, score.budget, score.mark) == (3, 20, "")
    assert score.interval is not None
    assert score.interval[0] < score.mean < score.interval[1]
    assert scores_of("9" * 64, grid) == []


def test_the_tool_writes_cards_once_and_finds_those_that_differ(tmp_path, tool, monkeypatch):
    cards, results = tmp_path / "cards", tmp_path / "results"
    shutil.copytree(resources.MODEL_CARDS / "random-init", cards / "random-init")
    monkeypatch.setattr(resources, "MODEL_CARDS", cards)
    digest = registry.find("random-init")[0].weights.sha256
    path = cards / "random-init" / "README.md"

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(tool.main, [str(results), *words])
        return result.exit_code, result.output

    for seed in range(2):
        write(results, "random-init", weights=digest, seed=seed)
    before = path.read_text()
    assert run("--check") == (1, "random-init: 1 results differ\n")
    assert path.read_text() == before
    assert run() == (0, "random-init: 1 results\n")
    assert path.read_text().count("| phantom") == 1
    assert registry.find("random-init")[0].weights.sha256 == digest
    assert run("--check") == (0, "")
    assert len(list((results / "scores").glob("*.npz"))) == 1
    shutil.rmtree(results)
    write(results, "other", weights=WEIGHTS)
    assert run() == (0, "random-init: 0 results\n")
    assert "| phantom" not in path.read_text()


def test_scores_of_records_that_are_gone_are_not_kept(tmp_path, tool):
    for seed in range(2):
        write(tmp_path, "mine", seed=seed)
    folder = tmp_path / "scores"
    tool.keep_scores(measure(read_records(tmp_path), Evidence([tmp_path])), folder)
    before = set(folder.iterdir())
    write(tmp_path, "mine", seed=2)
    tool.keep_scores(measure(read_records(tmp_path), Evidence([tmp_path])), folder)
    assert len(before) == len(set(folder.iterdir())) == 1
    assert before != set(folder.iterdir())


def test_what_a_text_shows_of_commands_is_printed_anew(tool):
    text = "before\n<!-- output: cxrzoo list protocols -->\nold\n<!-- end of output -->\nafter\n"
    made = tool.with_outputs(text)
    assert made.startswith("before\n<!-- output: cxrzoo list protocols -->\n```\n$ cxrzoo list ")
    assert "linear-v1" in made
    assert "\nold\n" not in made
    assert made.endswith("```\n\n<!-- end of output -->\nafter\n")
    assert tool.with_outputs(made) == made


def test_cards_and_readme_say_what_the_committed_records_do(tool, monkeypatch):
    monkeypatch.delenv("CXRZOO_DATA", raising=False)
    result = CliRunner().invoke(tool.main, ["--check"])
    assert (result.exit_code, result.output) == (0, "")
