from __future__ import annotations

import pytest

from cxrzoo.errors import RecordError
from cxrzoo.evaluation.record import read_records
from cxrzoo.report import statistics
from cxrzoo.report.cells import Evidence, score
from cxrzoo.report.grid import measure
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
