"""The training loop: interrupted or not it ends the same, and what goes wrong stops it."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from cxrzoo.errors import PretrainError, StorageError
from cxrzoo.pretrain import train
from cxrzoo.pretrain.checkpoint import read_last_checkpoint, write_checkpoint
from cxrzoo.pretrain.layers import freeze_stages
from cxrzoo.pretrain.methods import Method, find_method
from cxrzoo.pretrain.recipe import Settings
from cxrzoo.pretrain.train import LOG, Run, Stopped
from cxrzoo.pretrain.watch import Watch
from cxrzoo.zoo.card import InputContract
from cxrzoo.zoo.weights import create_backbone

CONTRACT = InputContract(size_px=32, mean=(0.5,) * 3, std=(0.5,) * 3)
HEADS = {"hidden_dim": 16, "output_dim": 16}
METHODS = {
    "moco": {**HEADS, "queue_size": 16, "momentum": 0.9},
    "simclr": HEADS,
    "byol": HEADS,
    "swav": {**HEADS, "prototypes": 8, "frozen_steps": 2},
    "barlow": HEADS,
    "vicreg": HEADS,
    "dino": {"hidden_dim": 16, "bottleneck_dim": 8, "output_dim": 16, "frozen_steps": 2},
    "supervised": {},
}
LOCAL = {"count": 2, "size_px": 32, "crop_scale": [0.1, 0.5]}


def settings(name: str = "simclr", steps: int = 6, **changes) -> Settings:
    content = {
        "images_seen": steps * 8,
        "batch_size": 8,
        "store_px": 40,
        "optimiser": {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 2},
        "views": {
            "size_px": 32,
            "crop_scale": [0.5, 1.0],
            "rotation_deg": 5,
            "brightness": 0.2,
            "local": LOCAL if name in ("swav", "dino") else None,
        },
        "method": METHODS[name],
    }
    return Settings.model_validate({**content, **changes})


def a_run(chosen: Settings, key: str = "key", watch: Watch | None = None) -> Run:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 40), dtype=np.uint8)
    return Run(key, pixels, chosen, CONTRACT, labels=np.arange(20) % 3, watch=watch)


def a_method(name: str, chosen: Settings) -> Method:
    made = find_method(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = create_backbone("resnet10t", 3)
        freeze_stages(backbone, chosen.frozen_stages)
        own = made.Settings.model_validate(chosen.method)
        return made(backbone, own, steps=chosen.steps, num_classes=3)


OUTCOMES: dict[Path, train.Outcome] = {}


def run_all(name: str, directory: Path, chosen: Settings | None = None) -> tuple[Method, list]:
    chosen = chosen or settings(name)
    method = a_method(name, chosen)
    fabric = Fabric(accelerator="cpu", devices=1)
    OUTCOMES[directory] = train.train(a_run(chosen), method, directory, fabric)
    with (directory / LOG).open() as file:
        return method, list(csv.DictReader(file))


def same(one: Method, other: Method) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, name, monkeypatch):
    whole, log = run_all(name, tmp_path / "whole")
    original = train._Loop.step

    def interrupted(self, step, **stop):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            stop = {"stop": True}
        return original(self, step, **stop)

    monkeypatch.setattr(train._Loop, "step", interrupted)
    with pytest.raises(Stopped, match="stopped at step 4; run the same command to go on"):
        run_all(name, tmp_path / "parts")
    monkeypatch.setattr(train._Loop, "step", original)
    parts, resumed = run_all(name, tmp_path / "parts")
    assert same(whole, parts)
    assert [r["loss"] for r in resumed] == [r["loss"] for r in log]
    assert [int(r["step"]) for r in resumed] == list(range(1, 7))
    one, other = OUTCOMES[tmp_path / "whole"], OUTCOMES[tmp_path / "parts"]
    assert (one.final_loss, one.diagnostics) == (other.final_loss, other.diagnostics)


def test_a_training_that_was_over_says_the_same_again(tmp_path):
    """Killed behind its last checkpoint, before the card was written."""
    first, log = run_all("simclr", tmp_path)
    outcome = OUTCOMES[tmp_path]
    second, again = run_all("simclr", tmp_path)
    assert same(first, second)
    assert again == log
    other = OUTCOMES[tmp_path]
    assert (other.final_loss, other.diagnostics) == (outcome.final_loss, outcome.diagnostics)


def test_a_kill_loses_at_most_what_came_after_the_last_checkpoint(tmp_path, monkeypatch):
    whole, log = run_all("simclr", tmp_path / "whole")
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    original = train._Loop.step

    def killed(self, step, **stop):
        if step == 4:
            raise KeyboardInterrupt  # as abrupt as an exception can be
        return original(self, step, **stop)

    monkeypatch.setattr(train._Loop, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        run_all("simclr", tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("step-*"))) == 2, "the last two are kept"
    monkeypatch.setattr(train._Loop, "step", original)
    parts, resumed = run_all("simclr", tmp_path / "parts")
    assert same(whole, parts)
    assert [r["loss"] for r in resumed] == [r["loss"] for r in log]


def test_a_loss_that_is_no_number_stops_the_training_with_the_good_checkpoint_kept(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    original = train._Loop._view

    def poisoned(self, pixels, views, step, number):
        view = original(self, pixels, views, step, number)
        return view * float("nan") if step == 4 else view

    monkeypatch.setattr(train._Loop, "_view", poisoned)
    with pytest.raises(PretrainError, match="the loss of step 5 is nan: checkpoints are"):
        run_all("simclr", tmp_path)
    state = read_last_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 4
    assert all(torch.isfinite(v).all() for v in state["method"].values() if v.is_floating_point())


def test_collapsed_features_stop_the_training_with_the_evidence(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "DIAGNOSE_EVERY", 1)
    monkeypatch.setattr(train, "_WATCH_FROM", 2)
    original = train._Loop._diagnose
    alike = {"features": torch.ones(8, 16)}
    monkeypatch.setattr(
        train._Loop, "_diagnose", lambda self, result, step: original(self, alike, step)
    )
    with pytest.raises(PretrainError, match=r"collapsed by step 5: features hardly differ .* 3 di"):
        run_all("simclr", tmp_path)


def test_a_full_disk_at_checkpoint_time_leaves_the_checkpoints_there_are(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, {"step": 1, "tensor": torch.ones(3)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_checkpoint(tmp_path, 2, {"step": 2})
    state = read_last_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_a_checkpoint_gives_back_what_it_was_given_and_a_damaged_one_is_passed_over(tmp_path):
    first = {"a": [1, 2.5, "x", None, True], 7: {"t": torch.arange(6).reshape(2, 3)}, "e": []}
    write_checkpoint(tmp_path, 1, first)
    path = write_checkpoint(tmp_path, 2, {"step": 2})
    path.write_bytes(path.read_bytes()[:-1])
    state = read_last_checkpoint(tmp_path)
    assert state is not None
    assert torch.equal(state[7].pop("t"), first[7].pop("t"))
    assert state == first
    assert read_last_checkpoint(tmp_path / "nothing") is None


def test_a_checkpoint_of_another_training_is_not_gone_on_from(tmp_path):
    run_all("simclr", tmp_path)
    chosen = settings()
    method, other = a_method("simclr", chosen), a_run(chosen, key="other")
    with pytest.raises(PretrainError, match="holds a checkpoint of another training"):
        train.train(other, method, tmp_path, Fabric(accelerator="cpu", devices=1))


class ScriptedWatch:
    """Stands in for a benchmark: k-NN scores as they are told."""

    name = "scripted"

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def score(self, backbone: torch.nn.Module) -> float:
        return self.scores.pop(0)


def test_a_watched_score_is_logged_and_its_loss_stops_the_training(tmp_path, monkeypatch):
    chosen, fabric = settings(), Fabric(accelerator="cpu", devices=1)
    watch: Any = ScriptedWatch(0.60, 0.62, 0.61, 0.63, 0.60, 0.59, 0.64)
    run = a_run(chosen, watch=watch)
    outcome = train.train(run, a_method("simclr", chosen), tmp_path / "good", fabric)
    assert outcome.diagnostics["knn"] == 0.64
    with (tmp_path / "good" / LOG).open() as file:
        rows = list(csv.DictReader(file))
    # before every step, as there are fewer than ten; the last row has the score at the end
    assert [row["knn"] for row in rows] == ["0.6", "0.62", "0.61", "0.63", "0.6", "0.64"]
    monkeypatch.setattr(train, "_WATCH_FROM", 2)
    watch = ScriptedWatch(0.70, 0.52, 0.53, 0.65, 0.53, 0.51, 0.52)
    run = a_run(chosen, watch=watch)
    with pytest.raises(PretrainError, match=r"collapsed by step 6: .*\.52.*scripted\), at 3 looks"):
        train.train(run, a_method("simclr", chosen), tmp_path / "bad", fabric)


def test_frozen_stages_stay_as_they_were_with_their_statistics(tmp_path):
    chosen = settings("moco", frozen_stages=2)
    before = a_method("moco", chosen).state_dict()
    after = run_all("moco", tmp_path, chosen)[0].state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    early = {key for key in before if key.startswith(("backbone.conv1", "backbone.layer1"))}
    assert early
    assert early & moved == set()
    assert "backbone.layer2.0.conv1.weight" in moved
    assert "key_backbone.layer2.0.conv1.weight" in moved


def test_frozen_statistics_stay_and_the_weights_move(tmp_path):
    chosen = settings("moco", batchnorm="frozen")
    before = a_method("moco", chosen).state_dict()
    after = run_all("moco", tmp_path, chosen)[0].state_dict()
    statistics = [k for k in before if "backbone" in k and "running" in k]
    assert statistics
    assert all(torch.equal(before[k], after[k]) for k in statistics)
    assert not torch.equal(before["backbone.conv1.0.weight"], after["backbone.conv1.0.weight"])


def test_every_epoch_shows_every_image_once(tmp_path):
    chosen = settings(steps=10)
    method = a_method("simclr", chosen)
    fabric = Fabric(accelerator="cpu", devices=1)
    loop = train._Loop(a_run(chosen), method, method, None, fabric)
    seen = np.concatenate([loop._rows(step) for step in range(5)])
    assert sorted(seen.tolist()) == sorted([*range(20), *range(20)])
