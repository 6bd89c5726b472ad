from __future__ import annotations

from pathlib import Path

import pytest

from cxrzoo.submit import grid as grids
from cxrzoo.submit.build import Plan, build
from cxrzoo.submit.bundle import Bundle
from cxrzoo.submit.rerun import Rerun, choose
from cxrzoo.submit.validate import Report, validate
from tests.submit import forge
from tests.submit.forge import Forge


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _one_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRZOO_CACHE", str(cache))


@pytest.fixture(scope="module")
def evaluated(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of cells that were really evaluated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRZOO_CACHE", str(cache))
        folder = tmp_path_factory.mktemp("evaluated")
        directory = forge.card_directory(folder)
        return build(Plan(str(directory), grids.find("tiny"), folder / "runs", device="cpu"))


def checked(bundle: Forge, path: Path, **settings) -> Report:
    return validate(bundle.save(path / "b.zip"), rerun=Rerun(**{"device": "cpu", **settings}))


def test_honest_cells_come_out_again(evaluated, tmp_path):
    report = checked(Forge(evaluated), tmp_path)
    assert report.problems == []
    assert (len(report.rerun), report.tier) == (3, "rerun")


def test_one_cell_is_not_enough_for_the_tier(evaluated, tmp_path):
    report = checked(Forge(evaluated), tmp_path, cells=1)
    assert (len(report.rerun), report.tier) == (1, "recomputed")


def test_made_up_predictions_agree_with_their_scores_and_do_not_come_out_again(sound, tmp_path):
    """A cheat that invents logits passes every check but this one."""
    bundle = Forge(sound)
    table = forge.phantom()
    pixels = _pixels(table)
    for which in range(4):
        bundle.alter(lambda c: c["spec"]["benchmark"].update(pixels_sha256=pixels), which=which)
    assert validate(bundle.save(tmp_path / "b.zip")).ok
    report = checked(bundle, tmp_path)
    assert report.rerun == []
    assert len(report.problems) == 3
    assert "does not come out again: AUROC on test of Cardiomegaly 0." in report.problems[0]
    assert "and 2 more (allowed 0.005)" in report.problems[0]


def test_other_pixels_cannot_be_repeated(sound, tmp_path):
    (problem, *_) = checked(Forge(sound), tmp_path).problems
    assert "cannot be repeated here, since benchmark.pixels_sha256 differs" in problem


def test_weights_must_be_somewhere_and_the_right_ones(tmp_path):
    sha256 = "fdbb11b9f8e90759883e9ff6a37ad06c42ec5328d9f1578863d48ccdaf648fca"
    file = {"file": "model.safetensors", "sha256": sha256}
    bundle = Forge(forge.make(tmp_path / "made", weights=file))
    assert (
        "card/model.safetensors; say where the weights are with --encoder-dir"
        in (checked(bundle, tmp_path).problems[0])
    )
    other = forge.card_directory(tmp_path / "other")
    assert (
        "has weights 03fa91f722e8, and the bundle is of fdbb11b9f8e9"
        in (checked(bundle, tmp_path, encoder=str(other)).problems[0])
    )


def test_the_draw_is_of_the_bundle_and_takes_every_benchmark_in_turn(sound):
    from cxrzoo.submit.checks import read_record

    records = {name: read_record(sound, name) for name in sound.record_names}
    first = choose(sound, records, 2)
    assert choose(sound, dict(reversed(records.items())), 2) == first
    assert len({tuple(choose(sound, records, 2, draw)) for draw in "abcdefgh"}) > 1
    mixed = {
        name: record.model_copy(update={"spec": record.spec.model_copy(update={
            "benchmark": record.spec.benchmark.model_copy(update={"name": f"b{number % 2}"})})})
        for number, (name, record) in enumerate(records.items())
    }  # fmt: skip
    for draw in "abcdefgh":
        drawn = {mixed[name].spec.benchmark.name for name in choose(sound, mixed, 2, draw)}
        assert drawn == {"b0", "b1"}


def test_a_failure_to_load_is_a_problem_not_a_traceback(evaluated, tmp_path):
    report = checked(Forge(evaluated), tmp_path, encoder=str(tmp_path / "nowhere"))
    assert len(report.problems) == 1


def _pixels(table) -> str:
    from cxrzoo.data.store import prepare

    return prepare(table, 128, "bilinear").pixels_sha256
