"""JSON and predictions from elsewhere, read so that nothing ambiguous or dangerous gets through."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from typing import Any

import numpy as np

from cxrzoo.submit.container import BundleError, unzip

MAX_JSON_BYTES = 2_000_000
MAX_JSON_DEPTH = 20
MAX_INTEGER = 2**53
MAX_PREDICTION_BYTES = 64_000_000
MAX_TEST_SETS = 20
_NPY_HEADER_BYTES = 2_000
_MAX_DIMENSIONS = 4


def parse_json(content: bytes, where: str) -> Any:
    """A JSON value without NaN, infinities or keys that occur twice; raises BundleError."""
    if len(content) > MAX_JSON_BYTES:
        raise BundleError(f"{where}: larger than {MAX_JSON_BYTES:,} bytes")

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise BundleError(f"{where}: holds {text[:20]}, which is no finite number")
        return value

    def whole(text: str) -> int:
        value = int(text)
        if abs(value) > MAX_INTEGER:
            raise BundleError(f"{where}: holds {text[:20]}, too large for many readers")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise BundleError(f"{where}: names {twice[:80]!r} twice; readers would differ")
        return found

    try:
        value = json.loads(
            content.decode(),
            parse_constant=number,
            parse_float=number,
            parse_int=whole,
            object_pairs_hook=unique,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not valid JSON ({error})") from None
    if _is_deep(value):
        raise BundleError(f"{where}: nested more than {MAX_JSON_DEPTH} deep")
    return value


def parse_npz(content: bytes, where: str) -> dict[str, np.ndarray]:
    """The float16 arrays of a prediction file, by test set; never unpickles. Raises BundleError."""
    if not content.startswith(b"PK"):
        raise BundleError(f"{where}: is no npz file, whatever its name says; it is not opened")
    found = {}
    for name, data in unzip(content, where, MAX_TEST_SETS, MAX_PREDICTION_BYTES):
        array = _parse_npy(data, f"{where}: {name}")
        if not name.endswith(".npy"):  # numpy takes it for the one of that name with the ending
            raise BundleError(f"{where}: {name} has not the ending .npy")
        found[name.removesuffix(".npy")] = array
    return found


def _is_deep(value: Any) -> bool:
    """Whether a value is nested so deep that those who walk through it might fail."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        nested = [one for one in level if isinstance(one, dict | list)]
        level = [v for one in nested for v in (one.values() if isinstance(one, dict) else one)]
    return bool(level)


def _parse_npy(content: bytes, where: str) -> np.ndarray:
    """One array, by its header; what the header promises is compared before it is believed."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"npy version {version}, not (1, 0)")
        shape, column_major, dtype = np.lib.format.read_array_header_1_0(
            stream, max_header_size=_NPY_HEADER_BYTES
        )
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise BundleError(f"{where} is no array of an npz file ({str(error)[:100]})") from None
    if dtype.hasobject:
        raise BundleError(
            f"{where} is an array of Python objects, which is a pickle and runs code; not opened"
        )
    if len(shape) > _MAX_DIMENSIONS or any(length < 0 for length in shape):
        raise BundleError(f"{where} declares shape {str(shape)[:80]}, which no predictions have")
    if dtype != np.dtype("<f2"):
        raise BundleError(f"{where} has type {dtype.str}; predictions are float16 ('<f2')")
    data = content[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise BundleError(
            f"{where} declares shape {shape}, {math.prod(shape) * dtype.itemsize:,} bytes, and "
            f"holds {len(data):,}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if column_major else "C")
