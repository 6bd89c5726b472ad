from __future__ import annotations

import pytest
from pydantic import ValidationError

from cxrzoo.errors import RecordError
from cxrzoo.evaluation.verification import Verification, path_of, read, tiers, write

DIGESTS = tuple(f"{n:064x}" for n in range(5))


def made(rerun: int = 0, records: int = 5) -> Verification:
    content = {
        "encoder": "timm:a/b",
        "weights_sha256": "a" * 64,
        "tier": "rerun" if rerun >= min(3, records) else "recomputed",
        "records": DIGESTS[:records],
        "rerun": DIGESTS[:rerun],
    }
    return Verification.model_validate(content)


def test_what_is_written_is_read_back(tmp_path):
    path = write(tmp_path, made(3))
    assert path == path_of(tmp_path, "timm:a/b") == tmp_path / "verification" / "timm-a-b.yaml"
    assert read(path) == made(3)


@pytest.mark.parametrize(("rerun", "records", "tier"), [
    (0, 5, "recomputed"), (2, 5, "recomputed"), (3, 5, "rerun"), (2, 2, "rerun"),
])  # fmt: skip
def test_enough_repeated_cells_lift_the_whole_bundle(tmp_path, rerun, records, tier):
    write(tmp_path, made(rerun, records))
    assert tiers([tmp_path]) == dict.fromkeys(DIGESTS[:records], tier)


def test_a_record_nobody_has_checked_has_no_entry(tmp_path):
    write(tmp_path, made(records=2))
    assert DIGESTS[4] not in tiers([tmp_path])
    assert tiers([tmp_path / "elsewhere"]) == {}


def test_the_higher_of_two_tiers_counts(tmp_path):
    write(tmp_path / "a", made(3))
    write(tmp_path / "b", made(0))
    assert set(tiers([tmp_path / "a", tmp_path / "b"]).values()) == {"rerun"}
    assert set(tiers([tmp_path / "b", tmp_path / "a"]).values()) == {"rerun"}


def test_a_file_below_a_submission_does_not_count(tmp_path):
    write(tmp_path / "my-encoder", made(3))
    assert tiers([tmp_path]) == {}


@pytest.mark.parametrize(("changes", "message"), [
    ({"tier": "rerun"}, "does not go with 0 cells repeated of 5"),
    ({"rerun": ("f" * 64,)}, "not among records"),
    ({"records": ()}, "records"),
    ({"tier": "gold"}, "tier"),
    ({"schema": "cxrzoo.verification/2"}, "schema"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(changes, message):
    content = made().model_dump(by_alias=True) | changes
    with pytest.raises(ValidationError, match=message):
        Verification.model_validate(content)


@pytest.mark.parametrize("text", ["tier: [", "just words", "tier: rerun\n", "a: &a b\nc: *a\n"])
def test_a_broken_file_is_named(tmp_path, text):
    path = path_of(tmp_path, "x")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(RecordError, match=r"verification.x\.yaml"):
        tiers([tmp_path])
