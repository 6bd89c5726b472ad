"""Errors this package raises; every message says what is wrong, where, and what to do.

Imports nothing local, so that any module may import it.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class CxrzooError(Exception):
    """Base of all errors raised on purpose; the command line prints its message alone."""


class UnknownNameError(CxrzooError):
    """A name that is not in the zoo, the benchmarks or the protocols."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        choices = sorted(choices)
        shown = ", ".join(choices[:25]) + (f", and {len(choices) - 25} more" * (len(choices) > 25))
        near = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {shown}"
        super().__init__(f"unknown {kind} '{name}'; {hint}")


class CardError(CxrzooError):
    """A model card or its config.json is malformed."""


class WeightsError(CxrzooError):
    """Weights are absent, altered, of a refused format, or do not behave as published."""


class HubError(CxrzooError):
    """The Hub does not give what was asked for, or gives what must be refused.

    ``unreachable``: nobody answered, so that what is cached may still do.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class DataError(CxrzooError):
    """A benchmark's files, labels or splits are not what its description says."""


class ImageError(DataError):
    """One image cannot be read; the message begins with its name."""


class RecipeError(CxrzooError):
    """A pretraining recipe is malformed, or does not fit the strategy or the data."""


class PretrainError(CxrzooError):
    """A training had to stop: its loss is no number, its features collapsed, or it was told to."""


class BudgetError(CxrzooError):
    """A label budget that this training split cannot serve."""


class RecordError(CxrzooError):
    """A record is broken, altered, or not comparable with its neighbours."""


class StorageError(CxrzooError):
    """The disk refused what had to be written."""


@contextmanager
def storage_errors(path: Path, what: str) -> Iterator[None]:
    """Turn the operating system's refusals to write ``what`` at ``path`` into StorageError."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full; free some or point CXRZOO_CACHE (or -o) elsewhere",
            errno.EDQUOT: "the disk quota is used up; point CXRZOO_CACHE (or -o) elsewhere",
            errno.EFBIG: "the file would exceed the size the system allows",
            errno.EACCES: "no permission to write there",
            errno.EROFS: "the file system is read-only",
        }.get(error.errno or 0, str(error))
        raise StorageError(
            f"cannot write {what} at {path}: {advice}. What was finished is kept; "
            "run the same command again to go on."
        ) from error
