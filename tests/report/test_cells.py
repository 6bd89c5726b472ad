from __future__ import annotations

import numpy as np
import pytest

from cxrzoo.errors import RecordError
from cxrzoo.report.cells import Evidence, score
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
