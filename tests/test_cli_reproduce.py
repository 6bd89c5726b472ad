from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cxrzoo.cli import main
from cxrzoo.evaluation import record
from tests.data.public_sets import make
from tests.report.test_findings import grid


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, ["reproduce", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def write(directory: Path, records) -> Path:
    for one in records:
        path = directory / one.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one.model_dump(mode="json", by_alias=True)))
    return directory


def test_records_of_several_folders_are_read_and_judged(tmp_path):
    one = write(tmp_path / "one", grid({"moco-cxr": 0.05}))
    two = write(tmp_path / "two", grid({"moco-imagenet": 0.05}))
    result = run(one, two)
    assert result.stdout.count("\n  Verdict  ") == 3
    assert "Verdict  not supported" in result.stdout
    assert "patients" not in result.stderr
    brief = run(one, two, "--brief").stdout
    assert brief.count("\n  Verdict  ") == 3
    assert "Test  " not in brief
    assert "Other studies" not in brief
    assert "kermany" in result.stdout
    assert "kermany" not in brief
    assert set(brief.splitlines()) <= set(result.stdout.splitlines())
    (report,) = json.loads(run(one, two, "--json").stdout)
    assert [c["verdict"] for c in report["claims"]] == [
        "not supported",
        report["claims"][1]["verdict"],
        "undecided",
    ]


def test_each_tier_has_its_own_text_and_one_can_be_asked_for(tmp_path):
    write(tmp_path, grid({"moco-cxr": 0.05}))
    large = grid({"moco-cxr": 0.05}, tier="resnet50", weights="f" * 64)
    write(tmp_path, [r for r in large if r.spec.encoder.name == "moco-cxr"])
    assert run(tmp_path).stdout.count("The claims of arXiv:2211.12931 at tier") == 2
    only = run(tmp_path, "--tier", "lite").stdout
    assert only.count("The claims of arXiv:2211.12931 at tier lite") == 1
    assert "resnet50" not in only
    run(tmp_path, "--tier", "small", status=1)


def test_the_grid_of_what_is_at_hand_is_run_once_then_read(tmp_path):
    make("nlmtb", tmp_path / "data")
    arguments = ("--data-root", tmp_path / "data", "-o", tmp_path / "runs", "--device", "cpu")
    plan = run(*arguments, "--dry-run").stdout
    rows = [re.split(r"\s{2,}", line) for line in plan.splitlines()]
    assert ["supervised-imagenet", "nlmtb", "100, full"] in [row[:3] for row in rows]
    assert not (tmp_path / "runs").exists()
    first = run(*arguments, "--resamples", 100)
    records = record.read_records(tmp_path / "runs")
    assert {(r.spec.budget.size, r.spec.seed) for r in records} == {
        (b, s) for b in (100, "full") for s in range(5)
    }
    assert first.stdout.count("Verdict  undecided (needs ") == 3
    assert "nlmtb: " in first.stdout
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.json")}
    assert run(*arguments, "--resamples", 100).stdout == first.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before
    plans = json.loads(run(*arguments, "--dry-run", "--json").stdout)["cells"]
    assert {(p["cells to run"], p["already there"]) for p in plans} == {(0, 10)}


def test_without_real_radiographs_nothing_runs_and_nothing_is_decided(tmp_path):
    result = run("-o", tmp_path / "runs")
    assert "no benchmark of real radiographs at hand" in result.stderr
    assert not (tmp_path / "runs").exists()
    assert result.stdout.count("Verdict  undecided (needs ") == 3
    (tmp_path / "empty").mkdir()
    again = run("--data-root", tmp_path / "empty", "--dry-run")
    assert again.stdout == ""
    assert "nothing to run" in again.stderr


def test_a_tier_without_encoders_at_hand_runs_nothing(tmp_path):
    make("nlmtb", tmp_path / "data")
    result = run("--data-root", tmp_path / "data", "--tier", "resnet50", "-o", tmp_path / "runs")
    assert "no encoder of tier resnet50 at hand" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "option", [("--dry-run",), ("-o", "x"), ("--device", "cpu"), ("--exclude-bad",)]
)
def test_options_of_a_run_are_refused_where_nothing_runs(tmp_path, option):
    assert "leave DIR out" in run(tmp_path, *option, status=2).output


def test_what_is_no_folder_of_records_is_refused(tmp_path):
    assert "no records in" in run(tmp_path, status=1).output
    assert "does not exist" in run(tmp_path / "nowhere", status=1).output


def test_cards_named_with_e_tell_how_many_images_were_seen(tmp_path):
    from cxrzoo.zoo import registry
    from cxrzoo.zoo.card import card_text

    records = grid({"moco-imagenet": 0.0, "moco-cxr": 0.0})
    digest = {r.spec.encoder.name: r.spec.encoder.weights_sha256 for r in records}
    card, _ = registry.find("moco-cxr")
    front = card.model_dump(mode="json", by_alias=True)
    front["strategy"][0] |= {"num_images": 1000, "epochs": 2.0}
    front["weights"] = {"file": "model.safetensors", "sha256": digest["moco-cxr"]}
    folder = tmp_path / "encoders" / "moco-cxr"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(card_text(front, "# moco-cxr\n"))
    runs = write(tmp_path / "runs", records)
    text = " ".join(run(runs, "-e", folder).stdout.split())
    assert "moco-cxr: 1,000 images, about 2,000 seen" in text
    assert "moco-imagenet: not known" in text


def test_real_radiographs_would_run_and_the_shortcut_benchmark_would_not(shared_data, tmp_path):
    plan = run("--data-root", shared_data, "--dry-run", "-o", tmp_path).stdout
    assert "nlmtb" in plan
    assert "kermany" in plan
    assert "covid19" not in plan
