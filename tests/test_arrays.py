"""Arrays on disk: kills, full disks and rival builders cost time, never data."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cxrzoo import arrays
from cxrzoo.errors import StorageError

ROOT = Path(__file__).resolve().parent.parent
ROWS, WIDTH, CHUNK = 10, 4, 3
STARTS = [0, 3, 6, 9]
WHOLE = np.arange(1, ROWS * WIDTH + 1, dtype=np.uint8).reshape(ROWS, WIDTH)  # no zeros in it


class Filler:
    """Serves rows of WHOLE, counts the calls, and notes row 4; raises at ``fail_at``."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.starts: list[int] = []
        self._fail_at = fail_at

    def __call__(self, start: int, stop: int) -> tuple[np.ndarray, dict[str, str]]:
        if start == self._fail_at:
            raise InterruptedByTestError
        self.starts.append(start)
        return WHOLE[start:stop], {"4": "a bad image"} if start <= 4 < stop else {}


class InterruptedByTestError(Exception):
    """Stands for whatever stops a build."""


def build(directory: Path, fill: arrays.Fill) -> arrays.DiskArray:
    return arrays.open_or_build(
        directory, shape=WHOLE.shape, dtype="uint8", chunk=CHUNK, fill=fill, label="numbers"
    )


def interrupted_at(start: int, directory: Path) -> None:
    with pytest.raises(InterruptedByTestError):
        build(directory, Filler(fail_at=start))


def test_every_row_and_note_is_stored_with_a_hash_of_the_bytes(tmp_path):
    fill = Filler()
    array = build(tmp_path / "a", fill)
    assert fill.starts == STARTS
    assert np.array_equal(array.data, WHOLE)
    assert array.sha256 == hashlib.sha256(WHOLE.tobytes()).hexdigest()
    assert array.notes == {4: "a bad image"}


def test_a_finished_array_is_opened_read_only_without_filling(tmp_path):
    build(tmp_path / "a", Filler())
    again = Filler()
    array = build(tmp_path / "a", again)
    assert again.starts == []
    assert np.array_equal(array.data, WHOLE)
    with pytest.raises(ValueError, match="read-only"):
        array.data[0] = 0


def test_rows_of_another_type_are_converted_to_the_declared_one(tmp_path):
    array = build(tmp_path / "a", lambda start, stop: (WHOLE[start:stop].astype(np.int64), {}))
    assert array.data.dtype == np.uint8
    assert np.array_equal(array.data, WHOLE)


def test_an_array_without_rows_is_an_empty_array(tmp_path):
    def fill(start: int, stop: int) -> tuple[np.ndarray, dict[str, str]]:
        raise AssertionError("nothing to fill")

    array = arrays.open_or_build(
        tmp_path / "a", shape=(0, 4), dtype="uint8", chunk=2, fill=fill, label="nothing"
    )
    assert array.data.shape == (0, 4)


def test_after_an_interruption_only_missing_chunks_are_filled(tmp_path):
    interrupted_at(6, tmp_path / "a")
    assert arrays.open_finished(tmp_path / "a") is None
    again = Filler()
    array = build(tmp_path / "a", again)
    assert again.starts == [6, 9]
    assert np.array_equal(array.data, WHOLE)
    assert array.notes == {4: "a bad image"}, "a note of a chunk filled before the interruption"


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.parametrize(
    ("data", "journal"),
    [
        (b"", b'{"stop": 9, "no'),
        (WHOLE[6:9].tobytes(), b'{"stop": 9, "notes": {'),
        (WHOLE[6:8].tobytes(), b""),
        (b"\x00" * 1000, b"\n"),
    ],
    ids=["half a journal line", "rows and half a line", "rows and no line", "garbage"],
)
def test_what_a_kill_leaves_behind_the_last_whole_chunk_is_dropped(tmp_path, data, journal):
    interrupted_at(6, tmp_path / "a")
    append(tmp_path / "a" / "data.bin", data)
    append(tmp_path / "a" / "journal.jsonl", journal)
    again = Filler()
    array = build(tmp_path / "a", again)
    assert again.starts == [6, 9]
    assert np.array_equal(array.data, WHOLE)
    assert array.sha256 == hashlib.sha256(WHOLE.tobytes()).hexdigest()


def test_a_second_kill_after_a_repaired_journal_is_survived_too(tmp_path):
    interrupted_at(3, tmp_path / "a")
    append(tmp_path / "a" / "journal.jsonl", b'{"stop": 6, "not')
    interrupted_at(9, tmp_path / "a")
    again = Filler()
    assert np.array_equal(build(tmp_path / "a", again).data, WHOLE)
    assert again.starts == [9]


def test_rows_that_the_journal_promises_but_the_file_lacks_are_not_invented(tmp_path):
    interrupted_at(6, tmp_path / "a")
    os.truncate(tmp_path / "a" / "data.bin", 2 * WIDTH)
    assert np.array_equal(build(tmp_path / "a", Filler()).data, WHOLE)


def test_a_chunk_whose_bytes_are_not_what_was_written_is_filled_again(tmp_path):
    interrupted_at(9, tmp_path / "a")
    with (tmp_path / "a" / "data.bin").open("r+b") as data:
        data.seek(4 * WIDTH)
        data.write(bytes(b ^ 255 for b in WHOLE[4].tobytes()))
    again = Filler()
    assert np.array_equal(build(tmp_path / "a", again).data, WHOLE)
    assert again.starts == [3, 6, 9]


@pytest.mark.parametrize("damage", ["truncated", "longer", "no data", "no meta", "half a meta"])
def test_a_damaged_finished_array_is_not_accepted_but_built_again(tmp_path, damage):
    build(tmp_path / "a", Filler())
    data, meta = tmp_path / "a" / "data.bin", tmp_path / "a" / "meta.json"
    if damage == "truncated":
        os.truncate(data, WHOLE.nbytes - 1)
    elif damage == "longer":
        append(data, b"\x00")
    elif damage == "half a meta":
        meta.write_text(meta.read_text()[:-5])
    else:
        (data if damage == "no data" else meta).unlink()
    assert arrays.open_finished(tmp_path / "a") is None
    again = Filler()
    assert np.array_equal(build(tmp_path / "a", again).data, WHOLE)
    assert again.starts == STARTS


BUILDER = """
import os, sys, time
from pathlib import Path
import numpy as np
from cxrzoo import arrays

directory, log, pause_seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def fill(start, stop):
    with log.open("a") as file:
        file.write(f"{start}\\n")
    time.sleep(pause_seconds)
    rows = np.arange(start * 1000, stop * 1000, dtype=np.float32).reshape(-1, 1000)
    return rows, {str(start): "first of its chunk"}

array = arrays.open_or_build(
    directory, shape=(75, 1000), dtype="<f4", chunk=10, fill=fill, label="rival"
)
print(array.sha256, float(array.data[74, 999]))
"""
EXPECTED = np.arange(75_000, dtype="<f4").tobytes()
CHUNKS = [str(start) for start in range(0, 75, 10)]


def start_builder(directory: Path, log: Path, pause_seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(directory), str(log), str(pause_seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_chunks(directory: Path, count: int) -> None:
    journal = directory / "journal.jsonl"
    for _ in range(2000):
        if journal.exists() and journal.read_text().count("\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{journal} did not reach {count} chunks in 20 seconds")


def finish(builder: subprocess.Popen[str]) -> str:
    out, err = builder.communicate(timeout=60)
    assert builder.returncode == 0, err
    return out


def test_a_build_killed_with_sigkill_goes_on_to_the_same_bytes(tmp_path):
    killed = start_builder(tmp_path / "a", tmp_path / "first", 0.1)
    wait_for_chunks(tmp_path / "a", 3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert arrays.open_finished(tmp_path / "a") is None

    finish(start_builder(tmp_path / "a", tmp_path / "second", 0))
    assert (tmp_path / "a" / "data.bin").read_bytes() == EXPECTED
    finished = arrays.open_finished(tmp_path / "a")
    assert finished is not None
    assert finished.sha256 == hashlib.sha256(EXPECTED).hexdigest()
    assert finished.notes == {int(start): "first of its chunk" for start in CHUNKS}
    first, second = ((tmp_path / log).read_text().split() for log in ("first", "second"))
    assert second == CHUNKS[-len(second) :], "it went on, in order"
    assert len(second) <= len(CHUNKS) - 3, "the three finished chunks were not filled again"
    assert first[: len(CHUNKS) - len(second)] == CHUNKS[: -len(second)]


def test_two_processes_may_build_one_array_and_each_chunk_is_filled_once(tmp_path):
    rivals = [start_builder(tmp_path / "a", tmp_path / "log", 0.1) for _ in range(2)]
    outputs = [finish(rival) for rival in rivals]
    assert outputs[0] == outputs[1] == f"{hashlib.sha256(EXPECTED).hexdigest()} 74999.0\n"
    assert (tmp_path / "log").read_text().split() == CHUNKS


def test_a_waiting_builder_goes_on_where_a_killed_one_stopped(tmp_path):
    killed = start_builder(tmp_path / "a", tmp_path / "log", 0.2)
    wait_for_chunks(tmp_path / "a", 1)
    waiting = start_builder(tmp_path / "a", tmp_path / "log", 0)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    finish(waiting)
    assert (tmp_path / "a" / "data.bin").read_bytes() == EXPECTED
    log = (tmp_path / "log").read_text().split()
    assert log.count("0") == 1, "a chunk finished before the kill was filled again"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


KB = 1024
LARGE = (512, KB)  # rows of 1 kB, 512 kB in all


def fill_large(starts: list[int]) -> arrays.Fill:
    def fill(start: int, stop: int) -> tuple[np.ndarray, dict[str, str]]:
        starts.append(start)
        rows = np.full((stop - start, KB), start // 32 + 1, dtype=np.uint8)
        return rows, {}

    return fill


def build_large(directory: Path, starts: list[int]) -> arrays.DiskArray:
    return arrays.open_or_build(
        directory, shape=LARGE, dtype="uint8", chunk=32, fill=fill_large(starts), label="pixels"
    )


def test_a_disk_that_is_too_small_is_refused_before_any_work(small_disk):
    starts: list[int] = []
    with pytest.raises(StorageError) as caught:
        build_large(small_disk / "store", starts)
    assert starts == []
    for part in ("pixels needs 1 MB", str(small_disk / "store"), "0 MB are free", "CXRZOO_CACHE"):
        assert part in str(caught.value)


def test_a_disk_that_fills_up_is_a_clear_error_and_finished_chunks_are_kept(
    small_disk, monkeypatch
):
    roomy = shutil.disk_usage("/")._replace(free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: roomy)
    first: list[int] = []
    with pytest.raises(StorageError) as caught:
        build_large(small_disk / "store", first)
    for part in (str(small_disk / "store"), "the disk is full", "CXRZOO_CACHE", "to go on"):
        assert part in str(caught.value)

    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    second: list[int] = []
    array = build_large(small_disk / "store", second)
    assert len(first) > 2
    assert second[0] == first[-1], "only the chunk that did not fit is filled again"
    assert second[-1] == 512 - 32
    assert np.array_equal(array.data[:, 0], np.repeat(np.arange(1, 17), 32))


LIMITED = """
import resource, sys
from pathlib import Path
from cxrzoo.errors import StorageError
from tests.test_arrays import build_large

directory, limit_bytes = Path(sys.argv[1]), int(sys.argv[2])
starts = []
resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
try:
    build_large(directory, starts)
except StorageError as error:
    print(error, file=sys.stderr)
print(*starts)
"""


def test_a_refused_write_is_a_clear_error_and_finished_chunks_are_kept(tmp_path):
    def run(limit_bytes: int) -> tuple[list[int], str]:
        command = [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path / "store")]
        done = subprocess.run(
            [*command, str(limit_bytes)], capture_output=True, text=True, check=True, cwd=ROOT
        )
        return [int(start) for start in done.stdout.split()], done.stderr

    first, message = run(100 * KB)
    assert first == [0, 32, 64, 96], "three chunks of 32 kB fit"
    assert f"cannot write pixels at {tmp_path / 'store'}: the file would exceed" in message
    assert "Traceback" not in message
    second, _ = run(1000 * KB)
    assert second == list(range(96, 512, 32))


def test_a_folder_that_may_not_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=f"cannot write numbers at {tmp_path / 'file' / 'a'}"):
        build(tmp_path / "file" / "a", Filler())


def test_a_file_that_fill_cannot_read_is_not_blamed_on_writing(tmp_path):
    def fill(start: int, stop: int) -> tuple[np.ndarray, dict[str, str]]:
        raise FileNotFoundError(2, "No such file or directory", "/gone.png")

    with pytest.raises(Exception, match=r"gone\.png") as caught:
        build(tmp_path / "a", fill)
    assert "cannot write" not in str(caught.value)


def test_the_folder_of_a_finished_array_describes_it(tmp_path):
    build(tmp_path / "a", Filler())
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    assert (meta["shape"], meta["dtype"]) == ([ROWS, WIDTH], "uint8")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names - {"build.lock"} == {"data.bin", "meta.json"}, "no journal, no temporary file"
