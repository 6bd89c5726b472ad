from __future__ import annotations

import json

import numpy as np
import pytest

from cxrzoo.errors import RecordError, UnknownNameError
from cxrzoo.evaluation import record
from cxrzoo.evaluation.record import Spec, read_if_valid, read_record, read_records, select, write


def spec(seed: int = 0, name: str = "tiny") -> Spec:
    return Spec.model_validate(
        {
            "encoder": {
                "name": name,
                "arch": "a",
                "weights_sha256": "0" * 64,
                "input": {"size_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
            },
            "benchmark": {
                "name": "b",
                "version": 1,
                "labels": ["x"],
                "label_policy": "mask",
                "manifest_sha256": "1" * 64,
                "pixels_sha256": "2" * 64,
            },
            "budget": {"size": 100, "n": 100, "subset_sha256": "3" * 64},
            "protocol": {"name": "linear-v1", "strengths": [0.1, 1e-05]},
            "seed": seed,
            "precision": "float32",
        }
    )


PREDICTIONS = {"test": np.array([[0.5], [-1.0]], dtype=np.float16)}


def made(auroc: float = 0.8, *, seconds: float = 1.0, **kwargs) -> record.Record:
    result = {
        "status": "ok",
        "tests": {"test": {"macro": {"auroc": auroc}}},
        "predictions_sha256": record.predictions_sha256(PREDICTIONS),
    }
    return record.seal(spec(**kwargs), {"notes": []}, result, {"seconds": seconds}, {"torch": "2"})


def test_what_is_written_is_read_back(tmp_path):
    path = write(made(), PREDICTIONS, tmp_path)
    assert read_record(path) == made()
    assert read_if_valid(tmp_path, spec()) == made()
    with np.load(path.with_suffix(".npz")) as stored:
        assert record.predictions_sha256(dict(stored)) == record.predictions_sha256(PREDICTIONS)
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".npz"]


def test_cost_does_not_change_the_digest_but_the_seal():
    fast, slow = made(seconds=1), made(seconds=9)
    assert fast.digest == slow.digest
    assert fast.seal != slow.seal


@pytest.mark.parametrize(
    "field",
    [("result", "status"), ("cost", "seconds"), ("spec", "seed"), ("declared", "notes")],
    ids=lambda f: f[0],
)
def test_an_altered_field_breaks_the_seal(tmp_path, field):
    path = write(made(), PREDICTIONS, tmp_path)
    content = json.loads(path.read_text())
    content[field[0]][field[1]] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="was altered"):
        read_record(path)
    assert read_if_valid(tmp_path, spec()) is None


def test_a_half_written_record_is_no_record(tmp_path):
    path = write(made(), PREDICTIONS, tmp_path)
    path.write_text(path.read_text()[:200])
    assert read_if_valid(tmp_path, spec()) is None
    with pytest.raises(RecordError, match=path.name):
        read_records(tmp_path)


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_record_whose_predictions_are_not_its_own_is_computed_again(tmp_path, harm):
    path = write(made(), PREDICTIONS, tmp_path).with_suffix(".npz")
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        np.savez(path, test=PREDICTIONS["test"] + np.float16(1))
    assert read_if_valid(tmp_path, spec()) is None


@pytest.mark.parametrize(
    "path", [("seed",), ("benchmark", "version"), ("budget", "n"), ("protocol", "strengths")]
)
def test_everything_in_the_spec_is_in_the_key(path):
    content = spec().model_dump(mode="json")
    *parents, last = path
    place = content
    for key in parents:
        place = place[key]
    place[last] = [0.2] if last == "strengths" else 99
    assert Spec.model_validate(content).run_key != spec().run_key


def test_the_same_record_in_two_folders_counts_once(tmp_path):
    write(made(), PREDICTIONS, tmp_path / "a")
    write(made(seconds=5), PREDICTIONS, tmp_path / "b")
    assert len(read_records([tmp_path / "a", tmp_path / "b"])) == 1


def test_two_results_for_one_key_are_an_error(tmp_path):
    write(made(0.8), PREDICTIONS, tmp_path / "a")
    write(made(0.9), PREDICTIONS, tmp_path / "b")
    with pytest.raises(RecordError, match="another result"):
        read_records(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="no records"):
        read_records(tmp_path)


def test_names_become_safe_file_names():
    odd = spec(name="timm:a/b.c@d")
    assert record.file_name(odd).startswith("timm-a-b.c-d/b/linear-v1-b100-s0-")


def test_a_hundred_thousand_excluded_images_are_one_line_of_a_record():
    ids = tuple(f"{n:08d}.png" for n in range(100_000))
    made = record.ExcludedSpec.of(ids)
    assert made is not None
    assert (made.n, made.first) == (100_000, ids[:10])
    assert len(made.model_dump_json()) < 400
    assert made.sha256 != record.ExcludedSpec.of(ids[1:]).sha256
    assert record.ExcludedSpec.of(()) is None


def test_records_are_selected_by_benchmark_budget_and_protocol():
    def of(benchmark: str, size: int | str, protocol: str) -> record.Record:
        content = spec().model_dump(mode="json")
        content["benchmark"]["name"] = benchmark
        content["budget"]["size"] = size
        content["protocol"]["name"] = protocol
        return record.seal(Spec.model_validate(content), {}, {"status": "ok"}, {}, {})

    a, b, c = of("a", 100, "linear-v1"), of("a", "full", "linear-v1"), of("b", 100, "finetune-v1")
    assert select([a, b, c]) == [a, b, c]
    assert select([a, b, c], benchmarks=["a"]) == [a, b]
    assert select([a, b, c], budgets=["full", 100], protocols=["linear-v1"]) == [a, b]
    with pytest.raises(RecordError, match="no record is of all of these: benchmark b; budget full"):
        select([a, b, c], benchmarks=["b"], budgets=["full"])
    with pytest.raises(UnknownNameError, match=r"budget of these records '50'; did you mean 100"):
        select([a, b, c], budgets=[50])
    with pytest.raises(UnknownNameError, match=r"benchmark of these records 'd'; known: a, b"):
        select([a, b, c], benchmarks=["a", "d"])
