"""From records to what statistics needs: logits by seed, labels and patients of the test rows.

Predictions hold logits only. Labels and patients come from the benchmark at hand, and only when
it has exactly the rows that the records were measured on. No torch; reading a benchmark's rows
for the first time may load torchxrayvision. Letters as in `statistics`: S, N, L, R.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxrzoo.errors import CxrzooError, RecordError, StorageError, storage_errors
from cxrzoo.evaluation.record import (
    BenchmarkSpec,
    Record,
    predictions_sha256,
    read_predictions,
)
from cxrzoo.files import sha256_of_json, write_atomically
from cxrzoo.report.statistics import RESAMPLES, Resamples, Scores, bootstrap
from cxrzoo.resources import cache_dir

if TYPE_CHECKING:
    from cxrzoo.data.table import Table

# Records are scored on the stored float16 logits, so that scoring them again differs by the
# rounding of sums only: 1e-15. An altered score shows, however small the change.
_TOLERANCE = 1e-6
_CACHE_VERSION = 1  # of `statistics.bootstrap`: raise it when its scores change


class NotAtHandError(Exception):
    """Why test patients cannot be resampled; not an error to the user, who gets a note."""


class Answers(NamedTuple):
    """``labels`` (N, L) of 0, 1 and NaN, and ``patients`` (N,) of a test set's images."""

    labels: np.ndarray
    patients: np.ndarray


class Evidence:
    """What lies behind scores: prediction files beside records, and benchmarks at hand.

    Args:
        directories: folders that hold records.
        data_root: folder that holds one folder per benchmark; defaults to ``CXRZOO_DATA``.
    """

    def __init__(
        self, directories: Iterable[Path | str], data_root: Path | str | None = None
    ) -> None:
        self._data_root = data_root
        self._files: dict[str, Path] = {}  # names end in the beginning of the run key
        for directory in map(Path, directories):
            for path in sorted(directory.rglob("*.npz")):
                self._files.setdefault(path.name, path)
        self._opened: dict[str, Table | NotAtHandError] = {}

    def answers(self, spec: BenchmarkSpec, test_set: str) -> Answers:
        """The labels and patients of ``test_set``, in the order of the predictions.

        Raises:
            NotAtHandError: the benchmark cannot be opened here, or has other rows.
        """
        if spec.manifest_sha256 not in self._opened:
            self._opened[spec.manifest_sha256] = _try_to_open(spec, self._data_root)
        table = self._opened[spec.manifest_sha256]
        if isinstance(table, NotAtHandError):
            raise table
        rows = table.rows(test_set)
        return Answers(table.labels[rows].astype(float), table.patients[rows])

    def logits(self, record: Record, test_set: str) -> np.ndarray:
        """(N, L) predictions of one record.

        Raises:
            NotAtHandError: there is no file of predictions.
            RecordError: it is broken, or not the one that the record was made with.
        """
        path = self.path(record)
        if path is None:
            raise NotAtHandError(f"no predictions beside the record: {record.file_name} has no npz")
        predictions = read_predictions(path)
        if predictions_sha256(predictions) != record.result.get("predictions_sha256"):
            raise RecordError(
                f"{path}: not the predictions that its record was made with; restore the file, "
                "or delete the record and evaluate again"
            )
        shape = (
            record.result["tests"][test_set]["n_images"],
            len(record.spec.benchmark.labels),
        )
        values = predictions.get(test_set, np.empty(0)).astype(float)
        if values.shape != shape or not np.isfinite(values).all():
            raise RecordError(f"{path}: {test_set} must hold {shape} finite numbers; it is altered")
        return values

    def path(self, record: Record) -> Path | None:
        """The file of predictions of ``record``, if there is one."""
        return self.file(Path(record.file_name).with_suffix(".npz").name)

    def file(self, name: str) -> Path | None:
        """The file called ``name`` below the folders of records, if there is one."""
        return self._files.get(name)


def score(
    cells: Sequence[Sequence[Record]],
    test_set: str,
    evidence: Evidence,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[list[Scores], str]:
    """Encoders scored on the same resamples of one test set, or all from their records alone.

    Args:
        cells: by encoder, the records of its seeds, all of the same benchmark and test rows.
        test_set: ``test`` or an external set; each record has a score on it.
        evidence: where predictions, labels and patients are.
        resamples: how many draws of the test patients.
        seed: of the draws.

    Returns:
        One ``Scores`` per encoder, and why patients could not be resampled, else empty.

    Raises:
        RecordError: predictions are broken or altered, or do not give the record's score.
    """
    try:
        answers = evidence.answers(cells[0][0].spec.benchmark, test_set)
        draws = Resamples(answers.patients, resamples, seed)
        scores = [_scores(cell, test_set, evidence, answers, draws) for cell in cells]
    except NotAtHandError as reason:
        kept = [_kept(cell, test_set, evidence, (resamples, seed)) for cell in cells]
        scores = [found for found in kept if found is not None]
        if len(scores) < len(cells) or len({found.key for found in scores}) > 1:
            return [from_records(cell, test_set) for cell in cells], str(reason)
    return scores, ""


def keep(
    cell: Sequence[Record],
    test_set: str,
    scores: Scores,
    folder: Path,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Path | None:
    """Keep an encoder's scores on resamples beside its records, for those who have no labels.

    None where patients were not resampled. Float32: nothing that is shown is so fine.
    """
    if not len(scores.resampled):
        return None
    path = folder / _kept_name(cell, test_set, (resamples, seed))
    with storage_errors(path, "the scores"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _packed(scores, "f4", np.savez_compressed))
    return path


def _scores(
    cell: Sequence[Record], test_set: str, evidence: Evidence, answers: Answers, draws: Resamples
) -> Scores:
    """Of one encoder, from the cache where the same predictions were scored before."""
    logits = np.stack([evidence.logits(record, test_set) for record in cell])
    if logits.shape[1:] != answers.labels.shape:
        _refuse(cell[0], evidence, f"{logits.shape[1:]} for {answers.labels.shape} labels")
    path = _cache_file(cell, test_set, answers, draws)
    found = _read(path, cell, draws)
    if found is None:
        found = bootstrap(logits, answers.labels, draws, _seeds(cell))
        _write(path, found)
    _check_scores(found, cell, test_set, evidence)
    return found


def _kept(
    cell: Sequence[Record], test_set: str, evidence: Evidence, draws: tuple[int, int]
) -> Scores | None:
    """What ``keep`` kept of the same predictions and resamples, if it is there, whole."""
    path = evidence.file(_kept_name(cell, test_set, draws))
    if path is None:
        return None
    stored = read_predictions(path)
    try:
        found = Scores(
            tuple(_seeds(cell)),
            stored["observed"].astype(float),
            stored["resampled"].astype(float),
            stored["undefined"].astype(int),
            int(stored["n_patients"]),
            stored["key"].tobytes().hex(),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RecordError(f"{path}: no scores on resamples ({error}); delete it") from None
    if found.observed.shape != (len(cell),) or found.resampled.shape != (draws[0], len(cell)):
        raise RecordError(f"{path}: not the scores of {len(cell)} records; delete it")
    _check_scores(found, cell, test_set, evidence)
    return found


def _kept_name(cell: Sequence[Record], test_set: str, draws: tuple[int, int]) -> str:
    return f"scores-{sha256_of_json([_CACHE_VERSION, test_set, *draws, _of_records(cell)])}.npz"


def from_records(cell: Sequence[Record], test_set: str) -> Scores:
    """Scores as the records state them; NaN where no label is defined."""
    stated = [stated_auroc(record, test_set) for record in cell]
    return Scores.without_predictions(_seeds(cell), [np.nan if s is None else s for s in stated])


def stated_auroc(record: Record, test_set: str) -> float | None:
    """The macro AUROC that a record states; None when no label is defined."""
    value: float | None = record.result["tests"][test_set]["macro"]["auroc"]
    return value


def _try_to_open(spec: BenchmarkSpec, data_root: Path | str | None) -> Table | NotAtHandError:
    try:
        table = _open_as(spec, data_root)
    except CxrzooError as error:
        return NotAtHandError(f"data not at hand ({error})")
    if table.manifest_sha256 != spec.manifest_sha256:
        return NotAtHandError(
            f"the data at hand are another version (manifest {table.manifest_sha256[:8]}, the "
            f"records have {spec.manifest_sha256[:8]})"
        )
    return table


def _open_as(spec: BenchmarkSpec, data_root: Path | str | None) -> Table:
    """The benchmark with what the records say was left out of it, left out again.

    Records name the first ten images left out. Where more than ten were unreadable, the rows
    differ from the record's, which their hash shows.
    """
    from cxrzoo.data.table import open_benchmark

    leaves_out = spec.excluded is not None
    table = open_benchmark(spec.name, data_root, exclude_bad=leaves_out, require_images=leaves_out)
    if spec.limit is not None:
        table = table.limited(spec.limit)
    return table.without(list(spec.excluded.first)) if spec.excluded else table


def _check_scores(
    scores: Scores, cell: Sequence[Record], test_set: str, evidence: Evidence
) -> None:
    """Predictions that do not give the record's score mean that one of the two was altered."""
    for found, record in zip(scores.observed, cell, strict=True):
        stated = stated_auroc(record, test_set)
        if not np.isclose(found, np.nan if stated is None else stated, 0, _TOLERANCE, True):
            _refuse(record, evidence, f"macro AUROC {found:.6f} on {test_set}, not {stated}")


def _refuse(record: Record, evidence: Evidence, found: str) -> None:
    path = evidence.path(record) or Path(record.file_name)
    raise RecordError(
        f"{path.with_suffix('.json')}: its predictions give {found}; the record was altered: "
        "delete it and evaluate again"
    )


# A leaderboard asks for the same scores again and again: on 25,000 images each takes seconds.


def _cache_file(cell: Sequence[Record], test_set: str, answers: Answers, draws: Resamples) -> Path:
    """Named by everything that the scores follow from."""
    labels = hashlib.sha256(np.ascontiguousarray(answers.labels).tobytes()).hexdigest()
    key = sha256_of_json([_CACHE_VERSION, test_set, labels, draws.key, _of_records(cell)])
    return cache_dir() / "scores" / key[:2] / f"{key}.npz"


def _read(path: Path, cell: Sequence[Record], draws: Resamples) -> Scores | None:
    """None where there is no whole file; it is then made again."""
    try:
        stored = read_predictions(path)
        arrays = stored["observed"], stored["resampled"], stored["undefined"]
    except (RecordError, KeyError):
        return None
    return Scores(tuple(_seeds(cell)), *arrays, draws.n_patients, draws.key)


def _write(path: Path, scores: Scores) -> None:
    """A cache that cannot be written costs time, not the result."""
    with contextlib.suppress(StorageError):
        write_atomically(path, _packed(scores, "f8", np.savez))


def _packed(scores: Scores, dtype: str, save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(
        buffer,
        observed=scores.observed,
        resampled=scores.resampled.astype(dtype),
        undefined=scores.undefined,
        n_patients=np.array(scores.n_patients),
        key=np.frombuffer(bytes.fromhex(scores.key), "u1"),
    )
    return buffer.getvalue()


def _of_records(cell: Sequence[Record]) -> list[list[object]]:
    """What tells one encoder's predictions in a cell from all others."""
    return [[r.spec.seed, r.result.get("predictions_sha256")] for r in cell]


def _seeds(cell: Sequence[Record]) -> list[int]:
    return [record.spec.seed for record in cell]
