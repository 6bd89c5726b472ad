from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import cxrzoo
from cxrzoo.errors import BudgetError, CardError, CxrzooError, StorageError, WeightsError
from cxrzoo.evaluation import cell, metrics, record
from cxrzoo.evaluation.sweep import Sweep
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import Stage

QUICK = {"benchmarks": ["phantom"], "seeds": 2, "limit": 60}


def evaluate(tmp_path, **changes):
    settings = {"encoders": ["random-init"], "budgets": [20], "output": tmp_path / "runs", **QUICK}
    return cxrzoo.evaluate(**{**settings, **changes})


def test_a_grid_makes_one_valid_record_a_cell(tmp_path):
    records = evaluate(tmp_path, encoders=None, budgets=[20, 40])
    at_hand = set(registry.encoders_at_hand())
    assert len(records) == len(at_hand) * 2 * 2
    assert {r.run_key for r in cxrzoo.read_records(tmp_path / "runs")} == {
        r.run_key for r in records
    }
    assert {r.spec.encoder.name for r in records} == at_hand >= {"random-init", "moco-cxr"}
    assert {r.spec.budget.n for r in records} == {20, 40}


def test_encoders_share_draws_and_budgets_are_nested(tmp_path):
    records = evaluate(tmp_path, encoders=["random-init", "supervised-imagenet"])
    by_seed = {(r.spec.encoder.name, r.spec.seed): r.spec.budget.subset_sha256 for r in records}
    assert by_seed["random-init", 0] == by_seed["supervised-imagenet", 0]
    assert by_seed["random-init", 0] != by_seed["random-init", 1]


def test_the_same_run_twice_gives_the_same_digests(tmp_path):
    first = evaluate(tmp_path / "a")
    second = evaluate(tmp_path / "b")
    assert [r.digest for r in first] == [r.digest for r in second]


def test_finished_cells_are_not_computed_again(tmp_path, monkeypatch):
    evaluate(tmp_path, seeds=1)
    ran = []
    original = cell.run_cell
    monkeypatch.setattr(
        "cxrzoo.evaluation.sweep.run_cell", lambda c, d: ran.append(c.name) or original(c, d)
    )
    evaluate(tmp_path)
    assert len(ran) == 1
    assert ran[0].endswith("seed 1")
    evaluate(tmp_path, overwrite=True)
    assert len(ran) == 3


def test_an_altered_record_is_computed_again(tmp_path):
    (made, *_) = evaluate(tmp_path)
    path = tmp_path / "runs" / made.file_name
    content = json.loads(path.read_text())
    content["result"]["tests"]["test"]["macro"]["auroc"] = 1.0
    path.write_text(json.dumps(content))
    (again, *_) = evaluate(tmp_path)
    assert again.digest == made.digest
    assert record.read_record(path).digest == made.digest


def test_metrics_can_be_recomputed_exactly_from_the_stored_predictions(tmp_path):
    (made, *_) = evaluate(tmp_path)
    table = cxrzoo.open_benchmark("phantom").limited(60)
    path = (tmp_path / "runs" / made.file_name).with_suffix(".npz")
    with np.load(path) as stored:
        logits = stored["test"]
    assert logits.dtype == np.float16
    labels = table.labels[table.rows("test")]
    assert (
        metrics.score(logits.astype(float), labels, table.benchmark.labels)
        == (made.result["tests"]["test"])
    )


def test_the_record_says_what_it_rests_on(tmp_path):
    (made, *_) = evaluate(tmp_path)
    assert made.spec.encoder.weights_sha256 == cxrzoo.load("random-init").weights_sha256
    assert made.spec.protocol["name"] == "linear-v1"
    assert made.spec.benchmark.limit == 60
    assert sum(made.result["budget_labels"]["Effusion"].values()) <= 20
    assert made.declared["notes"] == [
        "a digital phantom, not radiographs; no evidence for any claim"
    ]
    text = made.model_dump_json()
    assert str(tmp_path) not in text
    assert "/root" not in text


def test_a_failing_cell_does_not_cost_the_others(tmp_path, monkeypatch):
    original = cell.run_cell

    def fails_at_seed_0(one, device):
        if one.budget.seed == 0:
            raise RuntimeError("no luck")
        return original(one, device)

    monkeypatch.setattr("cxrzoo.evaluation.sweep.run_cell", fails_at_seed_0)
    with pytest.raises(CxrzooError, match=r"1 cells failed:\n.*seed 0: RuntimeError: no luck"):
        evaluate(tmp_path)
    (kept,) = cxrzoo.read_records(tmp_path / "runs")
    assert kept.spec.seed == 1


def test_a_full_disk_stops_the_sweep(tmp_path, monkeypatch):
    def full(*_):
        raise StorageError("full")

    monkeypatch.setattr("cxrzoo.evaluation.record.write", full)
    with pytest.raises(StorageError):
        evaluate(tmp_path)


def test_a_budget_that_fits_no_benchmark_is_an_error_with_both_numbers(tmp_path):
    with pytest.raises(BudgetError, match="budget 5000 exceeds the 60 training images of phantom"):
        evaluate(tmp_path, budgets=[20, 5000])


def test_a_strategy_without_weights_says_how_it_is_trained(tmp_path):
    with pytest.raises(WeightsError, match="cxrzoo pretrain swav-cxr"):
        evaluate(tmp_path, encoders=["swav-cxr"])


def test_a_bare_module_is_refused_because_its_input_is_unknown(tmp_path):
    with pytest.raises(CardError, match="from_module"):
        evaluate(tmp_path, encoders=[torch.nn.Identity()])


def test_an_encoder_object_takes_part_under_its_own_name(tmp_path):
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    contract = cxrzoo.InputContract(size_px=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    mine = cxrzoo.Encoder.from_module(module, name="mine", num_features=48, contract=contract)
    records = evaluate(tmp_path, encoders=[mine, "random-init"])
    assert {r.spec.encoder.name for r in records} == {"mine", "random-init"}
    text = cxrzoo.table(records)
    assert "| mine" in text
    assert "not comparable" not in text


def test_a_plan_without_decoding_decodes_nothing(tmp_path):
    grid = Sweep(encoders=["random-init"], budgets=[20], output=tmp_path, **QUICK)
    assert [p.state for p in grid.plan(decode=False)] == ["missing", "missing"]
    grid.run(grid.plan())
    assert [p.state for p in grid.plan(decode=False)] == ["cached", "cached"]


def test_seeds_of_draws_depend_on_benchmark_budget_and_seed_only():
    table = cxrzoo.open_benchmark("phantom").limited(60)
    from cxrzoo.data.budget import Ranking

    seeds = {
        cell.cell_seed(name, Ranking(table, seed).budget(size))
        for name in ("a", "b")
        for seed in (0, 1)
        for size in (20, 40)
    }
    assert len(seeds) == 8


def test_killed_at_any_moment_the_sweep_ends_with_the_same_table(tmp_path, monkeypatch):
    program = (
        "import cxrzoo, sys; cxrzoo.evaluate(['random-init'], ['phantom'], budgets=[20, 40], "
        "seeds=3, limit=60, output=sys.argv[1])"
    )
    runs = tmp_path / "runs"
    for seconds in (4.5, 6.0, 7.5):
        process = subprocess.Popen([sys.executable, "-c", program, str(runs)])
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run([sys.executable, "-c", program, str(runs)], check=True)
    resumed = cxrzoo.read_records(runs)
    monkeypatch.setenv("CXRZOO_CACHE", str(tmp_path / "fresh"))
    whole = evaluate(tmp_path, budgets=[20, 40], seeds=3, output=tmp_path / "whole")
    assert sorted(r.digest for r in resumed) == sorted(r.digest for r in whole)
    assert not list(runs.rglob("*.tmp"))


def test_a_record_declares_what_the_encoder_has_seen(tmp_path):
    (made, *_) = evaluate(tmp_path, encoders=["supervised-imagenet"])
    assert made.declared["exposure"] == {
        "state": "clean",
        "reason": "pretrained on imagenet-1k (train) with labels: imagenet-1k holds photographs, "
        "no radiographs of patients",
        "images": 0,
        "labels_seen": False,
    }
    (stage,) = made.declared["stages"]
    assert (stage["method"], stage["data"], stage["init"], stage["num_images"]) == (
        "supervised",
        "imagenet-1k",
        "random",
        1_281_167,
    )
    assert stage == json.loads(json.dumps(stage))
    assert Stage.model_validate(stage) == registry.find("supervised-imagenet")[0].strategy[0]


def mine() -> cxrzoo.Encoder:
    """An encoder that does not say what it has seen."""
    contract = cxrzoo.InputContract(size_px=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    return cxrzoo.Encoder.from_module(module, name="mine", num_features=48, contract=contract)


def test_require_clean_blocks_what_is_not_known_and_runs_the_rest(tmp_path):
    records = evaluate(tmp_path, encoders=["random-init", mine()], require_clean=True)
    assert {r.spec.encoder.name for r in records} == {"random-init"}
    sweep = Sweep(encoders=[mine(), "random-init"], budgets=[20], require_clean=True, **QUICK)
    blocked = [p for p in sweep.plan(decode=False) if p.state == "blocked"]
    assert {p.encoder for p in blocked} == {"mine"}
    assert blocked[0].reason == (
        "exposure of mine on phantom is unknown: the card of mine does not say what it was "
        "pretrained on"
    )


def test_require_clean_that_leaves_nothing_is_an_error(tmp_path):
    with pytest.raises(
        CxrzooError, match=r"--require-clean leaves nothing to do:\nexposure of mine"
    ):
        evaluate(tmp_path, encoders=[mine()], require_clean=True)


def test_the_exposure_of_a_partial_copy_is_that_of_its_own_split(shared_data, tmp_path):
    from cxrzoo.data.benchmark import find
    from cxrzoo.evaluation.exposure import exposure
    from cxrzoo.zoo.registry import find as find_card

    card, _ = find_card("random-init")
    seen = {"dataset": "nih14", "split": "official-train", "labels_seen": False}
    trained = card.model_validate({**card.model_dump(), "pretraining_data": [seen]})
    table = cxrzoo.open_benchmark("nih14", shared_data)
    assert exposure(trained, find("nih14")).state == "clean"
    assert exposure(trained, table.benchmark, table.split_id).state == "exposed"
