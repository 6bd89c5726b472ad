from __future__ import annotations

import numpy as np
import pytest

from cxrzoo.errors import RecordError
from cxrzoo.report.cells import Evidence, NotAtHandError, keep, score
from cxrzoo.report.statistics import interval
from tests.report.fabricated import phantom, write


def scored(directory, *cells, **settings):
    return score(cells, "test", Evidence([directory]), resamples=20, **settings)


def test_seeds_are_scored_on_the_same_patients_as_their_records_say(tmp_path):
    cells = [[write(tmp_path, e, seed=s) for s in range(3)] for e in "ab"]
    (a, b), reason = scored(tmp_path, *cells)
    assert reason == ""
    assert a.key == b.key != ""
    assert a.seeds == (0, 1, 2)
    assert a.resampled.shape == (20, 3)
    assert a.n_patients == len(np.unique(phantom().patients[phantom().rows("test")]))
    np.testing.assert_allclose(a.observed, [r.macro_auroc for r in cells[0]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [None, 40])
def test_a_limit_is_applied_again(tmp_path, limit):
    (_,), reason = scored(tmp_path, [write(tmp_path, table=phantom(limit))])
    assert reason == ""


def test_images_that_were_left_out_are_left_out_again(tmp_path):
    test = phantom().ids[phantom().rows("test")]
    (a,), reason = scored(tmp_path, [write(tmp_path, without=test[:3].tolist())])
    assert reason == ""
    assert len(a.observed) == 1
    many, reason = scored(tmp_path, [write(tmp_path, without=test[:20].tolist())])
    assert "another version" in reason
    assert many[0].n_patients == 0


def test_another_version_of_the_data_gives_scores_of_records_alone(tmp_path):
    record = write(tmp_path, manifest="9" * 64)
    (a,), reason = scored(tmp_path, [record])
    assert "another version (manifest" in reason
    assert "the records have 99999999)" in reason
    assert a.observed.tolist() == [record.macro_auroc]
    assert a.resampled.size == 0


def test_without_prediction_files_too(tmp_path):
    records = [[write(tmp_path, e, seed=s) for s in range(2)] for e in "ab"]
    next(tmp_path.rglob("*.npz")).unlink()
    scores, reason = scored(tmp_path, *records)
    assert "no predictions beside the record" in reason
    assert [s.key for s in scores] == ["", ""]


def test_altered_predictions_are_refused_by_name(tmp_path):
    record = write(tmp_path)
    path = Evidence([tmp_path]).path(record)
    with np.load(path) as stored:
        values = stored["test"]
    values[0, 0] += 1
    np.savez(path, test=values)
    with pytest.raises(RecordError, match=f"{path.name}: not the predictions that its record"):
        scored(tmp_path, [record])
    path.write_bytes(b"no archive")
    with pytest.raises(RecordError, match=f"{path.name}: not readable"):
        scored(tmp_path, [record])


@pytest.mark.parametrize("raised", [0.001, -0.0001])
def test_a_resealed_score_that_predictions_do_not_give_is_refused(tmp_path, raised):
    record = write(tmp_path, raised=raised)
    with pytest.raises(RecordError, match=r"a/phantom/linear-v1-b20-s0-\w+\.json.* was altered"):
        scored(tmp_path, [record])


def test_predictions_of_another_length_are_refused(tmp_path):
    record = write(tmp_path, table=phantom(40), limit=60, manifest=phantom().manifest_sha256)
    with pytest.raises(RecordError, match=r"its predictions give \(40, \d+\) for \(60, \d+\)"):
        scored(tmp_path, [record])


# --- scores kept for those who have no labels -----------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Two encoders whose scores are kept, as they were scored; labels are no longer at hand."""
    cells = [[write(tmp_path, e, seed=s) for s in range(3)] for e in "ab"]
    found, _ = scored(tmp_path, *cells)
    for cell, scores in zip(cells, found, strict=True):
        path = keep(cell, "test", scores, tmp_path / "scores", resamples=20)
        assert path is not None

    def absent(self, spec, test_set):
        raise NotAtHandError("data not at hand")

    monkeypatch.setattr(Evidence, "answers", absent)
    return cells, found


def test_kept_scores_give_the_same_intervals_without_labels(tmp_path, kept):
    cells, found = kept
    again, reason = scored(tmp_path, *cells)
    assert reason == ""
    for one, other in zip(found, again, strict=True):
        assert (one.seeds, one.key, one.n_patients) == (other.seeds, other.key, other.n_patients)
        np.testing.assert_array_equal(one.observed, other.observed)
        np.testing.assert_allclose(one.resampled, other.resampled, rtol=0, atol=1e-7)
        mine, theirs = interval(one), interval(other)
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_kept_scores_serve_all_encoders_of_a_column_or_none(tmp_path, kept):
    cells, _ = kept
    next((tmp_path / "scores").glob("*.npz")).unlink()
    scores, reason = scored(tmp_path, *cells)
    assert reason == "data not at hand"
    assert [s.key for s in scores] == ["", ""]


def test_kept_scores_are_of_those_seeds_and_resamples_only(tmp_path, kept):
    cells, _ = kept
    assert scored(tmp_path, cells[0][:2])[1] == "data not at hand"
    assert scored(tmp_path, cells[0], seed=1)[1] == "data not at hand"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observed": np.full(3, 0.99)}, "its predictions give macro AUROC 0.990000"),
        ({"observed": np.full(2, 0.5)}, "not the scores of 3 records"),
        ({"resampled": np.zeros((20, 2))}, "not the scores of 3 records"),
        ({"key": None}, "no scores on resamples"),
    ],
)
def test_altered_kept_scores_are_refused(tmp_path, kept, change, message):
    cells, _ = kept
    for path in (tmp_path / "scores").glob("*.npz"):
        with np.load(path) as stored:
            arrays = {**stored, **change}
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(RecordError, match=message):
        scored(tmp_path, *cells)


def test_scores_over_seeds_only_are_not_kept(tmp_path):
    record = write(tmp_path, manifest="9" * 64)
    (found,), _ = scored(tmp_path, [record])
    assert keep([record], "test", found, tmp_path / "scores") is None
    assert not (tmp_path / "scores").exists()
