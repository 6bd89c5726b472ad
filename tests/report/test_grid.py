from __future__ import annotations

import pytest

from cxrzoo.errors import RecordError
from cxrzoo.evaluation import record
from cxrzoo.evaluation.record import read_records
from cxrzoo.report import statistics
from cxrzoo.report.cells import Evidence, score
from cxrzoo.report.grid import measure
from cxrzoo.report.tables import table
from tests.report.fabricated import write
from tests.report.test_tables import make


def of(grid, encoder, budget=20):
    return next(
        c for c in grid.cells.values() if (c.row.label, c.column.budget) == (encoder, budget)
    )


def test_a_cell_is_the_interval_of_its_predictions(tmp_path):
    for encoder, skill in (("a", 2.0), ("b", 0.5)):
        for seed in range(3):
            write(tmp_path, encoder, skill, seed)
    records, evidence = read_records(tmp_path), Evidence([tmp_path])
    grid = measure(records, evidence, resamples=200)
    expected, _ = score([records[:3]], "test", evidence, resamples=200)
    assert of(grid, "a").interval == statistics.interval(expected[0])
    assert of(grid, "a").interval.over == "seeds and patients"
    assert of(grid, "a").best
    assert not of(grid, "b").tied
    assert of(measure(records), "a").interval.over == "seeds"


def test_a_second_look_reads_scores_from_the_cache_and_gives_the_same(tmp_path, monkeypatch):
    for seed in range(2):
        write(tmp_path, seed=seed)
    records, evidence = read_records(tmp_path), Evidence([tmp_path])
    first = of(measure(records, evidence, resamples=150), "a")

    def again(*_):
        raise AssertionError("the scores were computed again")

    monkeypatch.setattr("cxrzoo.report.cells.bootstrap", again)
    second = of(measure(records, evidence, resamples=150), "a")
    assert second.interval == first.interval
    with pytest.raises(AssertionError):
        measure(records, evidence, resamples=151)


def test_predictions_altered_after_they_were_cached_are_refused(tmp_path):
    write(tmp_path)
    measure(read_records(tmp_path), Evidence([tmp_path]), resamples=150)
    (path,) = tmp_path.rglob("*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordError, match=path.name):
        measure(read_records(tmp_path), Evidence([tmp_path]), resamples=150)


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("CXRZOO_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "runs")
    records, evidence = read_records(tmp_path / "runs"), Evidence([tmp_path / "runs"])
    first = of(measure(records, evidence, resamples=150), "a").interval
    (cached,) = (tmp_path / "cache" / "scores").rglob("*.npz")
    cached.write_bytes(b"broken")
    assert of(measure(records, evidence, resamples=150), "a").interval == first


def test_an_incomplete_cell_names_its_seeds_and_takes_no_part_in_the_best():
    records = [make("a", seed=s, auroc=0.6 + s / 99) for s in range(3)]
    records += [make("b", seed=s, auroc=0.5 + s / 99) for s in range(3)]
    records += [make("c", seed=1, auroc=0.9)]
    grid = measure(records)
    assert of(grid, "c", 100).missing == (0, 2)
    assert [of(grid, e, 100).best for e in "abc"] == [True, False, False]
    assert [row.label for row in grid.ranks[0].rows] == ["a", "b"]


def test_two_records_of_one_cell_are_refused():
    with pytest.raises(RecordError, match="of the same cell"):
        measure([make(), make(pixels="9" * 64)])


def test_nothing_is_best_where_different_images_were_measured():
    records = [make("a", seed=s, auroc=0.6 + s / 99) for s in range(2)]
    records += [make("b", seed=s, auroc=0.5, pixels="9" * 64) for s in range(2)]
    assert not any(c.best or c.tied for c in measure(records).cells.values())


def test_a_column_of_different_draws_has_no_best_and_no_rank_and_says_why():
    records = []
    for s in range(3):
        made = make("b", seed=s, auroc=0.5)
        spec = made.spec.model_copy(
            update={"budget": made.spec.budget.model_copy(update={"subset_sha256": "8" * 64})}
        )
        sealed = record.seal(spec, made.declared, made.result, {}, {})
        records += [make("a", seed=s, auroc=0.6 + s / 99), sealed]
    grid = measure(records)
    assert not any(c.best or c.tied for c in grid.cells.values())
    assert grid.ranks == ()
    assert "b @100: no best and no rank: different training images (subset)" in table(records)


def test_different_draws_are_seen_between_any_two_encoders():
    records = [make("a", seed=0, auroc=0.6), make("b", seed=1, auroc=0.5)]
    made = make("c", seed=1, auroc=0.7)
    budget = made.spec.budget.model_copy(update={"subset_sha256": "8" * 64})
    spec = made.spec.model_copy(update={"budget": budget})
    records.append(record.seal(spec, made.declared, made.result, {}, {}))
    assert list(measure(records).apart.values()) == [
        "different training images (subset) for one seed"
    ]


def test_rows_are_references_first_then_by_number_of_stages():
    names = ["moco-cxr", "random-init", "supervised-imagenet", "z"]
    chains = ["moco on a -> moco on b", "random", "supervised on a", "moco on a"]
    records = []
    for name, chain in zip(names, chains, strict=True):
        made = make(name)
        records.append(made.model_copy(update={"declared": made.declared | {"strategy": chain}}))
    assert [row.label for row in measure(records).rows] == [
        "random-init",
        "supervised-imagenet",
        "z",
        "moco-cxr",
    ]


def test_columns_done_are_told():
    said = []
    measure(
        [make(budget=b) for b in (100, 200)], on_column=lambda done, of: said.append((done, of))
    )
    assert said == [(0, 2), (1, 2), (2, 2)]


def three(encoder, auroc, **changes):
    return [make(encoder, seed=s, auroc=auroc + s / 99, **changes) for s in range(3)]


def test_settings_of_a_protocol_never_share_a_column():
    other = [r.spec.model_copy(update={"protocol": {"name": "linear-v1", "grid": 2}}) for r in
             three("b", 0.5)]  # fmt: skip
    records = three("a", 0.6)
    records += [
        record.seal(spec, r.declared, r.result, {}, {})
        for spec, r in zip(other, three("b", 0.5), strict=True)
    ]
    grid = measure(records)
    assert len({c.protocol for c in grid.columns}) == 2
    assert all(c.protocol.startswith("linear-v1 #") for c in grid.columns)
    assert not any(c.best for c in grid.cells.values())
    assert not grid.ranks


def test_a_cell_is_exposed_if_any_of_its_records_is():
    records = three("a", 0.6) + three("b", 0.5)
    records += [make("c", seed=s, auroc=0.9) for s in range(2)]
    records += [make("c", seed=2, auroc=0.9, exposure="exposed", reason="seen")]
    grid = measure(records)
    exposed = of(grid, "c", 100)
    assert (exposed.exposure, exposed.exposure_reason) == ("exposed", "seen")
    assert [of(grid, e, 100).best for e in "abc"] == [True, False, False]


def test_a_control_has_no_best():
    grid = measure([r for e in "ab" for r in three(e, 0.6, control="shuffled-labels")])
    assert not any(c.best or c.tied for c in grid.cells.values())


def test_the_phantom_and_quick_looks_are_ranked_only_where_there_is_nothing_else():
    results = [r for b in ("one", "two") for e in "ab" for r in three(e, 0.6, benchmark=b)]
    others = [r for e in "ab" for r in three(e, 0.6, benchmark="phantom")]
    others += [r for e in "ab" for r in three(e, 0.6, benchmark="three", limit=60)]
    (ranks,) = measure(results + others).ranks
    assert [c.benchmark for c in ranks.columns] == ["one", "two"]
    assert [c.benchmark for c in ranks.no_results] == ["phantom", "three"]
    (ranks,) = measure(others).ranks
    assert [c.benchmark for c in ranks.columns] == ["phantom", "three"]
