"""A record's result: its shape, whether its numbers agree with each other, and with predictions.

What is yielded are problems: where, what is wrong, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from cxrzoo.evaluation.metrics import METRICS, score
from cxrzoo.evaluation.protocol import LinearV1, Protocol
from cxrzoo.evaluation.record import Record, predictions_sha256
from cxrzoo.schema import Strict, plain_lines
from cxrzoo.submit.container import BundleError
from cxrzoo.submit.grid import Rows

TOLERANCE = 1e-6
"""Records are scored on the stored float16 logits: again, they differ by rounding of sums only."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, strict=True)]


class LabelCount(Strict):
    """Positives and negatives of a label."""

    n_pos: Count
    n_neg: Count


class LabelScore(LabelCount):
    """One label's metrics on one test set; none where a class is missing."""

    status: Literal["ok", "undefined"]
    auroc: Share | None = None
    auprc: Share | None = None


class Macro(Strict):
    """Means over the labels that are defined."""

    auroc: Share | None
    auprc: Share | None


class SetScore(Strict):
    """All labels on one test set."""

    labels: dict[str, LabelScore]
    macro: Macro
    n_defined: Count
    n_images: Count


class Validation(Strict):
    """How good the chosen setting was on held-out folds."""

    log_loss: Finite


class Search(Strict):
    """What was tried; ``curve`` is the validation loss of each setting, None where one broke."""

    trials: Count
    folds: Count | None = None
    steps_per_trial: Count | None = None
    images_trained: Count | None = None
    curve: list[Finite | None]


class Result(Strict):
    """``Record.result``, as ``run_cell`` writes it."""

    status: Literal["ok", "undefined"]
    tests: dict[str, SetScore]
    budget_labels: dict[str, LabelCount]
    predictions_sha256: str
    chosen: dict[str, float]
    validation: Validation
    search: Search


def parse_result(record: Record, where: str) -> Result:
    """The result of a record in its one shape; raises BundleError."""
    try:
        return Result.model_validate(record.result, strict=True)
    except ValidationError as error:
        raise BundleError(plain_lines(error, f"{where}: result")) from None


def check_result(
    record: Record, result: Result, rows: Rows, protocol: Protocol, where: str
) -> Iterator[str]:
    """Whether a result agrees with itself and with what is known of the rows."""
    if sorted(result.tests) != sorted(rows.tests):
        yield (
            f"{where}: has scores on {_names(result.tests)}, and the test sets are "
            f"{_names(rows.tests)}"
        )
        return
    for name, test in result.tests.items():
        yield from _check_test(test, rows, name, f"{where}: {name}")
    yield from _check_budget(record, result, where)
    yield from _check_search(result, protocol, where)
    status = "ok" if result.tests["test"].n_defined else "undefined"
    if result.status != status:
        yield f"{where}: has status {result.status}, and its scores make it {status}"


def check_predictions(
    predictions: Mapping[str, np.ndarray], result: Result, labels: int, where: str
) -> Iterator[str]:
    """Whether predictions are those of the record, in number and by hash, and finite."""
    if sorted(predictions) != sorted(result.tests):
        yield (
            f"{where}: holds predictions of {_names(predictions)}, and its "
            f"record has scores on {_names(result.tests)}"
        )
        return
    for name, values in predictions.items():
        shape = (result.tests[name].n_images, labels)
        if values.shape != shape:
            yield f"{where}: {name} has shape {values.shape}, not {shape} (images, labels)"
        elif not np.isfinite(values).all():
            yield f"{where}: {name} holds values that are not finite; evaluate the cell again"
    if predictions_sha256(dict(predictions)) != result.predictions_sha256:
        yield f"{where}: not the predictions that its record was made with; restore the file"


def check_metrics(
    predictions: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    result: Result,
    names: tuple[str, ...],
    where: str,
) -> Iterator[str]:
    """Whether the metrics come out again, from logits (N, L) and labels (N, L) by test set."""
    for test_set, stated in result.tests.items():
        found = score(predictions[test_set].astype(float), labels[test_set], names)
        for label, mine in found["labels"].items():
            theirs = stated.labels[label]
            for metric in METRICS:
                yield from _compare(
                    mine.get(metric),
                    getattr(theirs, metric),
                    f"{where}: {metric.upper()} of {label} on {test_set}",
                )


def _check_test(test: SetScore, rows: Rows, name: str, where: str) -> Iterator[str]:
    if tuple(sorted(test.labels)) != tuple(sorted(rows.labels)):
        yield f"{where}: has other labels than {', '.join(rows.labels)}"
        return
    if test.n_images != rows.images[name]:
        yield f"{where}: n_images is {test.n_images}, and the test set has {rows.images[name]}"
    for label, entry in test.labels.items():
        yield from _check_label(entry, rows.tests[name][label], f"{where}: {label}")
    defined = [entry for entry in test.labels.values() if entry.status == "ok"]
    if test.n_defined != len(defined):
        yield f"{where}: n_defined is {test.n_defined}, and {len(defined)} labels are"
    for metric in METRICS:
        values = [v for e in defined if (v := getattr(e, metric)) is not None]
        mean = float(np.mean(values)) if values else None
        stated = getattr(test.macro, metric)
        if not _close(mean, stated):
            yield (
                f"{where}: macro {metric} is {_text(stated)}, and the mean of its labels "
                f"{_text(mean)}; the record was altered"
            )


def _check_label(entry: LabelScore, counts: tuple[int, int], where: str) -> Iterator[str]:
    if (entry.n_pos, entry.n_neg) != counts:
        yield (
            f"{where} has {entry.n_pos} positives and {entry.n_neg} negatives, and the test set "
            f"{counts[0]} and {counts[1]}"
        )
    status = "ok" if entry.n_pos and entry.n_neg else "undefined"
    if entry.status != status:
        yield f"{where} is {entry.status}, and its positives and negatives make it {status}"
    if any((getattr(entry, m) is None) == (status == "ok") for m in METRICS):
        yield f"{where} has a score where none is defined, or none where one is"


def _check_budget(record: Record, result: Result, where: str) -> Iterator[str]:
    budget, labels = record.spec.budget, record.spec.benchmark.labels
    if sorted(result.budget_labels) != sorted(labels):
        yield f"{where}: budget_labels names other labels than {', '.join(labels)}"
    for label, entry in result.budget_labels.items():
        if entry.n_pos + entry.n_neg > budget.n:
            yield f"{where}: {label} has more labelled images than the budget, which is {budget.n}"


def _check_search(result: Result, protocol: Protocol, where: str) -> Iterator[str]:
    """Whether as many settings were tried as the protocol has, and one of them chosen."""
    if result.search.trials != protocol.trials or len(result.search.curve) != protocol.trials:
        yield (
            f"{where}: tried {result.search.trials} settings; {protocol.name} has "
            f"{protocol.trials} for everybody"
        )
    if isinstance(protocol, LinearV1):
        key, choices = "strength", protocol.strengths
    else:
        key, choices = "learning_rate", protocol.learning_rates
    if set(result.chosen) != {key} or result.chosen[key] not in choices:
        yield f"{where}: chose {result.chosen}, which is no setting of {protocol.name}"


def _compare(mine: float | None, theirs: float | None, where: str) -> Iterator[str]:
    if not _close(mine, theirs):
        yield (
            f"{where} is {_text(theirs)}, but its predictions give {_text(mine)}; "
            "the record was altered: evaluate the cell again"
        )


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TOLERANCE


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))[:200] or "nothing"


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6f}"
