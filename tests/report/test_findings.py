from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from cxrzoo.evaluation import record
from cxrzoo.evaluation.record import Record, read_records
from cxrzoo.report.cells import Answers, Evidence
from cxrzoo.report.findings import assess
from cxrzoo.report.findings.claims import load_claims
from cxrzoo.report.findings.effects import families
from cxrzoo.report.findings.text import as_objects, as_text
from cxrzoo.zoo import registry
from tests.report import fabricated

STRATEGIES = {
    "random-init": "random initialisation",
    "supervised-imagenet": "supervised on imagenet-1k",
    "moco-imagenet": "moco on imagenet (natural-pool)",
    "byol-imagenet": "byol on imagenet (natural-pool)",
    "moco-cxr": "moco on cxr (cxr-pool)",
    "byol-cxr": "byol on cxr (cxr-pool)",
    "moco-imagenet-then-cxr": "moco on imagenet (natural-pool) -> moco on cxr (cxr-pool)",
    "supervised-cxr": "supervised on cxr (cxr-pool)",
    "continued": "supervised on imagenet-1k -> moco on cxr (cxr-pool)",
}
FAMILIES = ("kermany", "openi", "objectcxr", "padchest")
LABELS = {100: 100, 1000: 1000, "full": 20_000}


def made(encoder: str, benchmark: str, budget: int | str, seed: int, auroc: float, **changes):
    """A sealed record of a made-up score; its rows are at no hand, so it stands by itself."""
    test = {
        "labels": {"Finding": {"status": "ok", "n_pos": 50, "n_neg": 50, "auroc": auroc}},
        "macro": {"auroc": auroc, "auprc": auroc},
        "n_defined": 1,
        "n_images": 100,
    }
    spec = {
        "encoder": {
            "name": encoder,
            "arch": "a",
            "weights_sha256": changes.get("weights", f"{sorted(STRATEGIES).index(encoder):064x}"),
            "input": {"size_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        },
        "benchmark": {
            "name": benchmark,
            "version": 1,
            "labels": ["Finding"],
            "label_policy": "mask",
            "manifest_sha256": f"{len(benchmark):064x}",
            "pixels_sha256": "2" * 64,
            "limit": changes.get("limit"),
        },
        "budget": {"size": budget, "n": LABELS.get(budget, budget), "subset_sha256": "3" * 64},
        "protocol": {"name": changes.get("protocol", "linear-v1")},
        "seed": seed,
        "precision": "float32",
        "control": changes.get("control", "none"),
    }
    state = changes.get("exposure", "clean")
    return record.seal(
        record.Spec.model_validate(spec),
        {
            "tier": changes.get("tier", "lite"),
            "strategy": STRATEGIES[encoder],
            "exposure": {"state": state, "reason": "made up"},
            "split": "made up",
            "notes": [],
        },
        {"status": "ok", "tests": {"test": test}, "predictions_sha256": f"{encoder}{budget}{seed}"},
        {},
        {},
    )


def grid(
    gains: dict[str, float | dict[int | str, float]],
    benchmarks=FAMILIES,
    budgets=(100, 1000, "full"),
    seeds=range(3),
    noise=0.0005,
    **changes,
) -> list[Record]:
    """Records of supervised-imagenet, and of others that score more by their gains."""
    rng = np.random.default_rng(0)
    found = []
    for benchmark in benchmarks:
        for budget in budgets:
            base = 0.8 + rng.normal(0, 0.02, len(seeds))
            for encoder, gain in {"supervised-imagenet": 0.0, **gains}.items():
                more = gain[budget] if isinstance(gain, dict) else gain
                of_benchmark = rng.normal(0, noise)
                found += [
                    made(encoder, benchmark, budget, s, b + more + of_benchmark, **changes)
                    for s, b in zip(seeds, base, strict=True)
                ]
    return found


def assessed(records, **settings):
    (report,) = assess(records, **settings)
    return report


def verdicts(records, **settings) -> list[str]:
    return [f.verdict for f in assessed(records, **settings).findings]


def plain(report) -> str:
    """The text without its line breaks."""
    return " ".join(as_text(report).split())


MOST_AT_A_FEW_THOUSAND = {100: 0.02, 1000: 0.05, "full": 0.01}

# ------------------------------------------------------------------ verdicts


def test_a_world_as_the_paper_says_supports_all_three_claims():
    records = grid(
        {
            "moco-imagenet": -0.02,
            "moco-cxr": -0.02,
            "moco-imagenet-then-cxr": -0.01,
            "continued": MOST_AT_A_FEW_THOUSAND,
        }
    )
    report = assessed(records)
    assert [f.verdict for f in report.findings] == ["supported"] * 3
    assert not any(f.needs for f in report.findings)
    assert [p.verdict for p in report.findings[2].parts] == ["supported"] * 3
    hard, alike, improved = report.findings
    assert [e.name for e in hard.parts[0].effects] == [
        "moco-imagenet", "moco-cxr", "moco-imagenet-then-cxr",
    ]  # fmt: skip
    assert [e.name for e in alike.parts[0].effects] == ["moco-imagenet - moco-cxr"]
    assert improved.parts[0].effects[0].pooled.estimate == pytest.approx(0.08 / 3, abs=0.002)
    assert improved.parts[1].effects[0].pooled.estimate == pytest.approx(0.03, abs=0.002)


def test_the_opposite_world_supports_none():
    records = grid({"moco-imagenet": 0.03, "moco-cxr": 0.06, "continued": -0.02})
    report = assessed(records)
    assert [f.verdict for f in report.findings] == ["not supported"] * 3
    assert "better than the reference: moco-imagenet, moco-cxr" in report.findings[0].remark
    assert as_text(report).count("Verdict  not supported\n") == 3


def test_a_gain_that_is_not_largest_at_a_few_thousand_labels_refutes_the_third_claim():
    still_rising = {100: 0.02, 1000: 0.03, "full": 0.06}
    parts = assessed(grid({"continued": still_rising})).findings[2].parts
    assert [p.verdict for p in parts] == ["supported", "undecided", "not supported"] or [
        p.verdict for p in parts
    ] == ["supported", "supported", "not supported"]


@pytest.fixture
def few_trained(monkeypatch):
    """What claims ask for, whatever the zoo holds."""
    trained = {"supervised-imagenet", "moco-cxr"}
    monkeypatch.setattr(registry, "at_hand", lambda card, directory: card.name in trained)


@pytest.mark.usefixtures("few_trained")
def test_one_kind_of_rival_alone_supports_nothing_and_the_other_is_asked_for():
    finding = assessed(grid({"moco-cxr": -0.02})).findings[0]
    assert finding.verdict == "undecided"
    assert finding.needs.encoders == (
        "cxrzoo pretrain moco-imagenet (or barlow-imagenet, byol-imagenet, dino-imagenet, "
        "simclr-imagenet or 2 others)",
    )


def test_but_one_rival_that_is_better_refutes():
    assert verdicts(grid({"moco-cxr": 0.05}))[0] == "not supported"


def test_pairs_are_of_one_method_and_the_missing_half_is_asked_for():
    finding = assessed(grid({"moco-imagenet": 0.0, "byol-cxr": 0.0})).findings[1]
    assert finding.verdict == "undecided"
    assert not finding.parts[0].effects
    assert finding.needs.encoders == ("cxrzoo pretrain byol-imagenet",)


def test_several_methods_are_averaged_and_shown():
    records = grid(
        {"moco-imagenet": 0.0, "moco-cxr": 0.002, "byol-imagenet": 0.002, "byol-cxr": 0.0}
    )
    part = assessed(records).findings[1].parts[0]
    assert [e.name for e in part.effects] == [
        "mean of 2 methods", "byol-imagenet - byol-cxr", "moco-imagenet - moco-cxr",
    ]  # fmt: skip
    assert part.verdict == "supported"


def test_pairs_that_saw_different_numbers_of_images_are_none():
    records = grid({"moco-imagenet": 0.0, "moco-cxr": 0.0})
    card, _ = registry.find("moco-cxr")
    cards = {}
    for encoder, epochs in (("moco-imagenet", 4.0), ("moco-cxr", 8.0)):
        stage = registry.find(encoder)[0].strategy[0]
        stage = stage.model_copy(update={"num_images": 1000, "epochs": epochs, "pool": "p"})
        digest = f"{sorted(STRATEGIES).index(encoder):064x}"
        cards[digest] = card.model_copy(update={"name": encoder, "strategy": (stage,)})
    finding = assessed(records, cards=cards).findings[1]
    assert finding.verdict == "undecided"
    assert "moco-imagenet saw about 4,000 images, moco-cxr about 8,000" in finding.remark
    halves = {k: v for k, v in cards.items() if v.name == "moco-cxr"}
    text = plain(assessed(records, cards=halves))
    assert "moco-cxr: 1,000 images, about 8,000 seen" in text
    assert "moco-imagenet: not known from its records or a card with these weights at hand" in text


# ------------------------------------------------------------------ what may not count


def test_the_phantom_never_gives_a_verdict(tmp_path):
    for encoder in ("supervised-imagenet", "moco-cxr"):
        for seed in range(3):
            fabricated.write(tmp_path, encoder, 1.0, seed, limit=None)
    report = assessed(read_records(tmp_path))
    assert [f.verdict for f in report.findings] == ["undecided"] * 3
    assert all(not p.effects for f in report.findings for p in f.parts)
    text = as_text(report)
    assert "No records of real radiographs: no claim can be decided." in text
    assert "phantom (no radiographs, so no evidence)" in text
    assert text.count("more benchmarks of real radiographs") >= 3


def test_made_up_effects_on_the_phantom_change_no_verdict():
    real = grid({"moco-cxr": -0.02}, benchmarks=FAMILIES[:2])
    fake = grid({"moco-cxr": 0.2}, benchmarks=("phantom",))
    assert verdicts([*real, *fake]) == ["undecided"] * 3
    assert verdicts(fake) == ["undecided"] * 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limit": 50}, "with --limit"),
        ({"control": "shuffled-labels"}, "control shuffled-labels"),
        ({"protocol": "finetune-v1"}, "another protocol (finetune-v1)"),
    ],
)
def test_controls_limits_and_other_protocols_are_left_out_and_named(changes, said):
    report = assessed(grid({"moco-cxr": 0.05}, **changes))
    assert [f.verdict for f in report.findings] == ["undecided"] * 3
    assert any(said in text for text in report.left_out)


def test_budgets_that_were_not_fixed_in_advance_are_left_out_and_named():
    fixed = grid({"moco-cxr": 0.0})
    report = assessed([*fixed, *grid({"moco-cxr": 0.5}, budgets=(50,))])
    assert "24 records of budget 50 (not among those fixed for the claims)" in report.left_out
    assert as_objects([report])[0]["claims"] == as_objects([assessed(fixed)])[0]["claims"]


def test_a_protocol_can_be_asked_for():
    assert verdicts(grid({"moco-cxr": 0.05}, protocol="finetune-v1"), protocol="finetune-v1")[
        0
    ] == ("not supported")


@pytest.mark.parametrize("name", ["covid19", "not-a-benchmark"])
def test_shortcut_and_unknown_benchmarks_do_not_count(name):
    report = assessed(grid({"moco-cxr": 0.05}, benchmarks=(*FAMILIES[:2], name)))
    assert report.findings[0].verdict == "undecided"
    assert name not in {one.name for one in report.tested}
    assert any(name in text for text in report.left_out)


def test_exposed_cells_do_not_count_and_unknown_ones_count_with_a_caution():
    exposed = [*grid({}), *(r for r in grid({"moco-cxr": 0.05}, exposure="exposed"))]
    exposed = [r for r in exposed if r.spec.encoder.name != "supervised-imagenet"] + grid({})
    report = assessed(exposed)
    assert report.findings[0].verdict == "undecided"
    assert "moco-cxr on kermany (seen in pretraining)" in report.left_out
    unknown = assessed(grid({"moco-cxr": 0.05}, exposure="unknown"))
    assert unknown.findings[0].verdict == "not supported"
    assert unknown.findings[0].unknown["moco-cxr"] == tuple(sorted(FAMILIES))
    assert "Caution" in as_text(unknown)


def test_benchmarks_of_one_hospital_count_as_one():
    nih = ("nih14", "rsna", "siim", "nih-google")
    report = assessed(grid({"moco-cxr": 0.05}, benchmarks=nih))
    assert {one.family for one in report.tested} == {"nih-google"}
    effect = report.findings[0].parts[0].effects[0]
    assert (len(effect.on), effect.pooled.n) == (4, 1)
    assert report.findings[0].verdict == "undecided"
    assert families({"a": "a", "nlmtb": "nlmtb", "tbx11k": "tbx11k"}) == {
        "a": "a",
        "nlmtb": "nlmtb",
        "tbx11k": "nlmtb",
    }


def test_two_benchmarks_and_two_seeds_are_too_few_and_what_lacks_is_named():
    few = assessed(grid({"moco-cxr": 0.05}, benchmarks=FAMILIES[:2])).findings[0]
    assert few.verdict == "undecided"
    assert few.needs.more_benchmarks == 1
    assert "nlmtb" in few.needs.benchmarks
    assert not set(few.needs.benchmarks) & {"kermany", "openi", "covid19", "phantom"}
    seeds = assessed(grid({"moco-cxr": 0.05}, seeds=range(2))).findings[0]
    assert seeds.verdict == "undecided"
    assert "kermany @100: 2 seeds shared by moco-cxr and supervised-imagenet, 3 needed" in (
        seeds.needs.seeds
    )


def test_budgets_that_lack_are_named():
    finding = assessed(grid({"continued": 0.02}, budgets=(100, 250))).findings[2]
    assert [p.verdict for p in finding.parts] == ["supported", "undecided", "undecided"]
    assert "1000 on kermany" in finding.parts[1].needs.budgets
    assert "full on kermany" in finding.parts[2].needs.budgets
    small = assessed(grid({"continued": 0.02}, budgets=(100, "full"))).findings[2]
    assert "1000 on kermany" in small.parts[1].needs.budgets


def test_incomplete_grids_are_used_and_the_rest_is_listed():
    records = grid({"moco-cxr": 0.05, "moco-imagenet": -0.02})
    lost = [r for r in records if not (r.spec.encoder.name == "moco-cxr" and r.spec.seed == 0)]
    lost = [
        r
        for r in lost
        if not (r.spec.encoder.name == "moco-imagenet" and r.spec.budget.size == "full")
    ]
    report = assessed(lost)
    missing = "\n".join(report.missing)
    assert "moco-imagenet: kermany @full" in missing
    assert "moco-cxr: kermany @100 seed 0" in missing


def test_wide_intervals_ask_for_as_many_benchmarks_as_would_do():
    finding = assessed(grid({"continued": 0.02}, noise=0.02, benchmarks=FAMILIES)).findings[2]
    assert finding.parts[0].verdict == "undecided"
    assert finding.parts[0].needs.more_benchmarks >= 1
    assert "may be 0" in finding.parts[0].remark


def test_without_the_reference_it_is_asked_for_and_no_benchmark_is():
    records = [
        r
        for r in grid({"moco-cxr": 0.05, "continued": 0.1})
        if r.spec.encoder.name != "supervised-imagenet"
    ]
    finding = assessed(records).findings[0]
    assert finding.verdict == "undecided"
    assert finding.needs.encoders[0] == "cxrzoo eval -e supervised-imagenet"
    assert finding.needs.more_benchmarks == 0
    assert finding.remark == "no two encoders to compare"


def test_tiers_are_never_mixed_and_each_has_its_own_verdicts():
    lite = grid({"moco-cxr": 0.05})
    large = grid({"moco-cxr": -0.05}, tier="resnet50", weights="f" * 64)
    large = [r for r in large if r.spec.encoder.name == "moco-cxr"]
    reports = assess([*lite, *large])
    assert [r.tier for r in reports] == ["lite", "resnet50"]
    assert [r.findings[0].verdict for r in reports] == ["not supported", "undecided"]
    assert "cxrzoo eval -e timm-resnet50.tv_in1k" in reports[1].findings[0].needs.encoders
    (only,) = assess([*lite, *large], tier="resnet50")
    assert only.tier == "resnet50"


def test_without_a_tier_an_encoder_plays_no_part():
    report = assessed(grid({"moco-cxr": 0.05}, tier=None))
    assert report.tier == "lite"
    assert "encoders of no tier: moco-cxr, supervised-imagenet" in report.left_out


@pytest.mark.usefixtures("few_trained")
def test_without_records_everything_is_undecided_and_says_what_to_do():
    report = assessed([])
    assert [f.verdict for f in report.findings] == ["undecided"] * 3
    text = plain(report)
    assert "cxrzoo pretrain moco-imagenet" in text
    assert "cxrzoo pretrain supervised-imagenet-then-moco-cxr" in text
    assert "cxrzoo eval -e moco-cxr" in text
    assert "at least 3 more benchmarks of real radiographs, such as" in text


# ------------------------------------------------------------------ effects


def test_the_interval_of_a_benchmark_is_over_seeds_and_patients_where_predictions_are(tmp_path):
    rng = np.random.default_rng(0)
    labels = (np.arange(80) % 2).astype(float)[:, None]
    patients = np.repeat(np.arange(40), 2)

    class Made(Evidence):
        def answers(self, spec, test_set):
            return Answers(labels, patients)

        def logits(self, record, test_set):
            return logits[record.run_key]

    logits, records = {}, []
    from cxrzoo.report.auroc import auroc

    for encoder, skill in (("supervised-imagenet", 0.5), ("moco-cxr", 1.5)):
        for budget in (100, 1000):
            for seed in range(3):
                values = labels * skill + rng.normal(size=labels.shape)
                score = float(auroc(values, labels, np.ones((1, 80), int))[0, 0])
                one = made(encoder, "openi", budget, seed, score)
                logits[one.run_key] = values
                records.append(one)
    report = assessed(records, evidence=Made([]), resamples=200)
    (on,) = report.findings[0].parts[0].effects[0].on
    assert on.difference.over == "seeds and patients"
    assert (on.n_patients, on.n_seeds, on.labels) == (40, 3, (100, 1000))
    aurocs = {}
    for r in records:
        aurocs.setdefault(r.spec.encoder.name, []).append(r.macro_auroc)
    expected = np.mean(aurocs["moco-cxr"]) - np.mean(aurocs["supervised-imagenet"])
    assert on.difference.estimate == pytest.approx(expected)
    assert 0 < on.difference.low < expected < on.difference.high


def test_the_margin_moves_verdicts():
    records = grid({"moco-imagenet": 0.015, "moco-cxr": 0.0})
    assert verdicts(records)[1] == "not supported"
    assert verdicts(records, claims=load_claims().model_copy(update={"margin": 0.05}))[1] == (
        "supported"
    )


# ------------------------------------------------------------------ what is said


def test_every_claim_says_sentence_test_effect_verdict_and_other_studies():
    report = assessed(grid({"moco-imagenet": -0.02, "moco-cxr": -0.02, "continued": 0.02}))
    text, flat = as_text(report), plain(report)
    for claim in load_claims().claims:
        assert claim.sentence in flat
        for study in claim.studies:
            assert study.source in flat
    for word in ("Test", "Effect", "Verdict", "Because"):
        assert text.count(f"\n  {word}  ") >= 3
    assert "natural-pool" in text
    assert "95 % interval over 4 benchmarks" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "inf" not in text.replace("information", "")


def test_objects_hold_the_same_and_are_json():
    report = assessed(grid({"moco-cxr": 0.05}))
    (one,) = json.loads(json.dumps(as_objects([report]), allow_nan=False))
    assert [c["verdict"] for c in one["claims"]] == [f.verdict for f in report.findings]
    (effect,) = one["claims"][0]["parts"][0]["effects"]
    assert effect["interval_95"][0] > 0.04
    assert len(effect["by_benchmark"]) == 4
    json.dumps(as_objects([assessed([])]), allow_nan=False)


def test_the_claims_file_says_where_every_number_comes_from():
    claims = load_claims()
    assert len(claims.claims) == 3
    for claim in claims.claims:
        for study in claim.studies:
            assert study.source.startswith(("github.com/", "arXiv:"))
    assert 1000 in claims.few_thousand_labels
    assert 250 in claims.few_labels
    assert 5001 in claims.many_labels
    assert not any(n in claims.few_labels for n in (251, 1000))


def test_findings_load_no_torch():
    code = (
        "import sys; from cxrzoo.report.findings import assess; "
        "from cxrzoo.report.findings.text import as_text; as_text(assess([])[0]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
