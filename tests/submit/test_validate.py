from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cxrzoo.evaluation import verification
from cxrzoo.report.cells import Evidence
from cxrzoo.submit import bundle as bundles
from cxrzoo.submit import grid as grids
from cxrzoo.submit.bundle import Bundle
from cxrzoo.submit.checks import check_grid, read_record
from cxrzoo.submit.container import BundleError
from cxrzoo.submit.validate import accept, validate
from tests.submit import forge
from tests.submit.forge import Forge

OTHER = {"weights": {"seed": 0, "sha256": "b" * 64}}


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence([])


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A sound bundle of another encoder."""
    return forge.make(tmp_path_factory.mktemp("other"), "other", **OTHER)


@pytest.fixture
def results(tmp_path: Path, other: Bundle, evidence: Evidence) -> Path:
    """A results folder that holds the other encoder, accepted by a maintainer."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "README.md").write_text("# Results\n")
    bundles.write(other, tmp_path / "other.zip")
    accept(validate(tmp_path / "other.zip", base=folder, evidence=evidence), folder)
    return folder


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def checked(bundle: Bundle | Forge, folder: Path, evidence: Evidence, **settings) -> list[str]:
    path = folder / "submitted.zip"
    if isinstance(bundle, Forge):
        bundle.save(path)
    else:
        bundles.write(bundle, path)
    return validate(path, evidence=evidence, **settings).problems


def test_what_is_accepted_lies_among_the_results_with_its_tier(sound, results, tmp_path, evidence):
    bundles.write(sound, tmp_path / "b.zip")
    report = validate(tmp_path / "b.zip", base=results, evidence=evidence)
    assert accept(report, results) == [
        results / "my-encoder",
        results / "verification" / "my-encoder.yaml",
    ]
    assert bundles.read(results / "my-encoder") == sound
    tiers = verification.tiers([results])
    assert {r.digest for r in report.records.values()} <= set(tiers)
    assert set(tiers.values()) == {"recomputed"}
    assert len(tiers) == 8


def test_nothing_is_written_when_anything_is_refused(sound, results, tmp_path, evidence):
    bad = Forge(sound)
    bad.files["card/more.md"] = b"x"
    report = validate(bad.save(tmp_path / "b.zip"), base=results, evidence=evidence)
    with pytest.raises(BundleError, match="refused, so nothing was written"):
        accept(report, results)
    assert sorted(p.name for p in results.iterdir()) == ["README.md", "other", "verification"]


def test_the_same_bundle_again_is_fine(results, other, tmp_path, evidence):
    assert checked(other, tmp_path, evidence, base=results) == []


def test_a_record_among_the_results_may_not_be_dropped(results, other, tmp_path, evidence):
    fewer = Forge(other)
    name = fewer.names[0]
    del fewer.files[name], fewer.files[name.replace(".json", ".npz")]
    problems = checked(fewer, tmp_path, evidence, base=results)
    assert any("this bundle drops it; put it back" in problem for problem in problems)


def test_a_finished_record_stays_as_it_is(results, other, tmp_path, evidence):
    changed = Forge(other)
    changed.alter(lambda c: c["result"]["validation"].update(log_loss=0.4))
    (problem,) = checked(changed, tmp_path, evidence, base=results)
    assert "with another result; finished records stay" in problem


@pytest.mark.parametrize(("name", "card", "message"), [
    ("other", {}, "the name other is taken, by weights bbbb"),
    ("Other", {}, "the name Other is too close to other"),
    ("mine", OTHER, "these weights are among the results already, as other"),
    ("verification", {}, "cannot be called 'verification'"),
])  # fmt: skip
def test_names_and_weights_are_taken_once(results, tmp_path, evidence, name, card, message):
    bundle = forge.make(tmp_path / "made", name, **card)
    problems = checked(bundle, tmp_path, evidence, base=results)
    assert any(message in problem for problem in problems), problems


def test_other_pixels_are_a_note(results, sound, tmp_path, evidence):
    other = Forge(sound)
    for which in range(4):
        other.alter(lambda c: c["spec"]["benchmark"].update(pixels_sha256="3" * 64), which=which)
    for bundle, notes in ((Forge(sound), 0), (other, 1)):
        path = bundle.save(tmp_path / "b.zip")
        report = validate(path, base=results, evidence=evidence)
        assert report.ok
        assert len([n for n in report.notes if "other pixels than in the results" in n]) == notes


def test_the_zoos_own_names_belong_to_its_weights(tmp_path, evidence):
    bundle = forge.make(tmp_path / "made", "random-init", **OTHER)
    (problem,) = checked(bundle, tmp_path, evidence)
    assert "random-init is an encoder of the zoo with other weights" in problem


@pytest.mark.parametrize(("name", "message"), [
    ("Random-Init", "the name Random-Init is too close to random-init, of the zoo"),
    ("rand0m-1n1t", "the name rand0m-1n1t is too close to random-init, of the zoo"),
    ("random_init", "the name random_init is too close to random-init, of the zoo"),
    ("rad-dino", "an encoder of the zoo, whose card does not state its weights' sha256"),
    ("timm:resnet18.a1_in1k", "says where an encoder is, and is no name of one"),
    ("hf:lab/encoder", "says where an encoder is, and is no name of one"),
])  # fmt: skip
def test_names_that_look_like_the_zoos_are_not_taken(tmp_path, evidence, name, message):
    (problem,) = checked(forge.make(tmp_path / "made", name, **OTHER), tmp_path, evidence)
    assert message in problem


def test_predictions_of_another_encoder_are_recognised(results, other, sound, tmp_path, evidence):
    """The other encoder's record, with the spec and declarations of one's own, sealed anew."""
    stolen = Forge(sound)
    theirs = Forge(other)
    stolen.predict({"test": theirs.logits})
    stolen.alter(lambda c: c["result"].update(theirs.content(theirs.names[0])["result"]))
    (problem,) = checked(stolen, tmp_path, evidence, base=results)
    assert "its predictions are those of other, number for number" in problem


@pytest.mark.parametrize("trial", [False, True])
def test_a_trial_grid_is_no_result_unless_asked(results, tmp_path, evidence, trial):
    bundle = forge.make(tmp_path / "made", grid="practice")
    assert checked(bundle, tmp_path, evidence) == []
    problems = checked(bundle, tmp_path, evidence, base=results, trial=trial)
    assert problems == [] if trial else "scores are no results; --trial" in problems[0]


def test_without_labels_scores_are_checked_against_each_other_only(sound, tmp_path, monkeypatch):
    from cxrzoo.report import cells

    def nowhere(*_: object) -> cells.NotAtHandError:
        return cells.NotAtHandError("data not at hand")

    monkeypatch.setattr(cells, "_try_to_open", nowhere)
    report = validate(Forge(sound).save(tmp_path / "b.zip"))
    assert (report.ok, report.tier, report.recomputed) == (True, "self-reported", [])
    assert report.notes == ["phantom: metrics were not recomputed: data not at hand"]
    results = tmp_path / "results"
    results.mkdir()
    assert accept(report, results) == [results / "my-encoder"]
    assert verification.tiers([results]) == {}


def test_rows_that_no_grid_pins_are_taken_as_the_results_have_them(
    sound, other, tmp_path, evidence, monkeypatch
):
    results = tmp_path / "results"
    results.mkdir()
    bundles.write(other, results / "other")
    grid = forge.tiny_grid()
    entry = grid.benchmarks["phantom"].model_copy(update={"rows": ()})
    unpinned = grid.model_copy(update={"benchmarks": {"phantom": entry}})
    monkeypatch.setattr(grids, "find", lambda name: unpinned)
    (problem, *_) = checked(sound, tmp_path, evidence)
    assert "are no version that is known (none yet)" in problem
    assert checked(sound, tmp_path, evidence, base=results) == []
    easier = Forge(sound)
    easier.alter(lambda c: c["spec"]["budget"].update(subset_sha256="5" * 64))
    (problem,) = checked(easier, tmp_path, evidence, base=results)
    assert "was trained on another subset" in problem


class TestCheckout:
    """A whole results folder, as the head of a pull request, against the one before."""

    @pytest.fixture
    def head(self, results: Path, sound: Bundle, tmp_path: Path) -> Path:
        head = Path(shutil.copytree(results, tmp_path / "head"))
        bundles.write(sound, head / "my-encoder")
        return head

    def test_one_folder_more_is_validated(self, results, head, evidence):
        report = validate(head, base=results, evidence=evidence)
        assert report.problems == []
        assert report.bundle is not None
        assert report.bundle.manifest.encoder == "my-encoder"

    @pytest.mark.parametrize(("change", "message"), [
        (lambda h: (h / "other" / "card" / "README.md").write_text("x"), "changed at once"),
        (lambda h: (h / "other" / "bundle.json").unlink(), "is deleted; what was accepted stays"),
        (lambda h: (h / "verification" / "my-encoder.yaml").write_text("x"),
         "is added; what lies in verification/ is the maintainers'"),
        (lambda h: (h / "verification" / "other.yaml").write_text("x"),
         "verification/other.yaml: is changed"),
        (lambda h: (h / "README.md").write_text("x"), "README.md: is changed; a submission is one"),
        (lambda h: (h / "run.py").write_text("x"), "run.py: is added; a submission is one folder"),
        (lambda h: (h / "my-encoder").rename(h / "best"), "which belongs in my-encoder"),
        (lambda h: shutil.rmtree(h / "my-encoder"), "nothing differs from"),
        (lambda h: (h / "my-encoder" / "x.py").write_text("x"), "x.py: not listed in bundle.json"),
        (lambda h: write(h / "my-encoder" / ".cache" / "x.py"), "x.py: is added, and has a name"),
        (lambda h: write(h / ".cache" / "huggingface" / "x.py"), "x.py: is added, and has a name"),
        (lambda h: shutil.rmtree(h / "other"), "other: if it came to the results after the pull"),
        (lambda h: shutil.rmtree(h / "my-encoder"), "`cxrzoo validate"),
    ], ids=["other changed", "other deleted", "own verification", "verification changed", "page",
            "file beside", "other folder", "nothing", "code", "hidden", "hidden beside",
            "folder lacking", "nothing, advice"])  # fmt: skip
    def test_nothing_else_may_change(self, results, head, evidence, change, message):
        change(head)
        problems = validate(head, base=results, evidence=evidence).problems
        assert any(message in problem for problem in problems), problems

    @pytest.mark.parametrize("mark", [".git", ".cache/huggingface"])
    def test_a_bundle_in_place_of_all_results_is_no_bundle_by_itself(
        self, results, sound, tmp_path, evidence, mark
    ):
        """A pull request that deletes everything, and has a bundle's files at the top."""
        head = tmp_path / "everything"
        bundles.write(sound, head)
        assert validate(head, base=results, evidence=evidence).ok
        (head / mark).mkdir(parents=True)
        problems = validate(head, base=results, evidence=evidence).problems
        assert "other/bundle.json: is deleted; what was accepted stays" in problems

    def test_a_change_of_what_is_there_is_noted(self, results, other, evidence, tmp_path):
        """Whose pull request it is, the files do not tell."""
        head = Path(shutil.copytree(results, tmp_path / "head"))
        forger = Forge(other)
        forger.files["card/README.md"] += b"Use mine instead.\n"
        bundles.write(bundles.read(forger.save(tmp_path / "b.zip")), head / "other")
        report = validate(head, base=results, evidence=evidence)
        assert report.ok
        assert any("changes card/README.md: see that it comes" in n for n in report.notes)


def test_cells_repeated_before_do_not_speak_for_later_records(results, other, tmp_path, evidence):
    path = verification.path_of(results, "other")
    known = verification.read(path)
    fewer = known.records[:3]
    verification.write(
        results, known.model_copy(update={"tier": "rerun", "records": fewer, "rerun": fewer})
    )
    bundles.write(other, tmp_path / "b.zip")
    accept(validate(tmp_path / "b.zip", base=results, evidence=evidence), results)
    assert verification.read(path) == known


def test_all_labels_and_features_that_say_nothing_may_give_the_same_predictions(sound):
    records = {name: read_record(sound, name) for name in sound.record_names}
    grid = forge.tiny_grid()
    (first, second), both = list(records)[:2], {}
    for name in (first, second):
        result = records[first].result
        both[name] = records[name].model_copy(update={"result": result})

    def repeats() -> list[str]:
        return [p for p in check_grid(both, grid) if "predictions of another cell" in p]

    assert len(repeats()) == 1
    for name, record in both.items():
        budget = record.spec.budget.model_copy(update={"size": "full"})
        spec = record.spec.model_copy(update={"budget": budget})
        both[name] = record.model_copy(update={"spec": spec})
    assert repeats() == []
    chance = {"predictions_sha256": "0" * 64, "tests": {"test": {"macro": {"auroc": 0.5}}}}
    for name in both:
        both[name] = records[name].model_copy(update={"result": chance})
    assert repeats() == []


def test_an_update_keeps_what_was_verified_before(results, other, tmp_path, evidence):
    path = verification.path_of(results, "other")
    known = verification.read(path)
    lifted = known.model_copy(update={"tier": "rerun", "rerun": known.records[:3]})
    verification.write(results, lifted)
    bundles.write(other, tmp_path / "b.zip")
    accept(validate(tmp_path / "b.zip", base=results, evidence=evidence), results)
    assert verification.read(path) == lifted


def test_a_base_that_is_not_there_is_said(sound, tmp_path, evidence):
    (problem,) = checked(sound, tmp_path, evidence, base=tmp_path / "nowhere")
    assert "no such folder; --base is a checkout of the results" in problem


def test_a_broken_base_is_not_the_submitters_fault(sound, results, tmp_path, evidence):
    (name,) = (results / "other").rglob("*b20-s0*.json")
    name.write_text("{}")
    problems = checked(sound, tmp_path, evidence, base=results)
    assert any("the results themselves are broken" in problem for problem in problems)


def test_validation_loads_no_torch(sound, tiny_grids, tmp_path):
    path = Forge(sound).save(tmp_path / "b.zip")
    program = (
        "import sys\nfrom pathlib import Path\nfrom cxrzoo.submit import grid\n"
        f"grid.FOLDER = Path({str(tiny_grids)!r})\n"
        "from cxrzoo.submit.validate import validate\n"
        f"report = validate(Path({str(path)!r}))\n"
        "assert report.tier == 'recomputed', report.problems\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
