"""Writing files so that a reader never sees half of one, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxrzoo.errors import storage_errors


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` under a temporary name beside ``path``, then rename it into place."""
    with storage_errors(path, "the file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path, what: str) -> Iterator[Path]:
    """A new folder beside ``path`` that takes its place when the block ends without an error.

    What was there is there until then, and comes back where the new one cannot take its place.
    """
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    old = fresh.with_suffix(".old")
    with storage_errors(path, what):
        try:
            fresh.mkdir(parents=True)
            yield fresh
            if path.exists():
                path.rename(old)
            try:
                fresh.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)


def safe_name(name: str) -> str:
    """A name as one part of a path: only letters, digits and ``._-`` are kept."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def sha256_of_file(path: Path) -> str:
    """The hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_of_json(value: Any) -> str:
    """The hexadecimal sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
