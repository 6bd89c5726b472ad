"""Files from the Hugging Face Hub: at a commit, from the cache first, checked, and nothing else.

Only three files of a repository are ever opened: the card, config.json and the safetensors file
that the card names. No code of a repository runs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cxrzoo import resources
from cxrzoo.errors import HubError, StorageError
from cxrzoo.files import safe_name, sha256_of_file, write_atomically
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Card, read_card

SCHEME = "hf:"
WEIGHTS_FILE = "model.safetensors"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """A repository at a commit."""

    repo_id: str
    revision: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class Fetched:
    """An encoder's files in the local cache."""

    card: Card
    directory: Path
    pin: Pin


def parse(reference: str) -> tuple[str, str | None]:
    """Repository and revision of ``hf:org/repo[@revision]``; the scheme may be left out.

    Raises:
        HubError: it is not such a reference.
    """
    repo_id, at, revision = reference.removeprefix(SCHEME).partition("@")
    if not _REPO_ID.fullmatch(repo_id) or (at and not revision):
        raise HubError(
            f"'{reference}' is no encoder on the Hub; write hf:org/repo or hf:org/repo@revision"
        )
    return repo_id, revision or None


def fetch(reference: str) -> Fetched:
    """Card, config and weights of ``hf:org/repo[@revision]``.

    What is pinned to a commit and cached is read without a single request.

    Raises:
        HubError: neither the cache nor the Hub gives it, its file list is not to be trusted, or a
            file arrived altered twice.
        CardError: the repository's card is malformed.
    """
    pin = resolve(*parse(reference))
    directory = fetch_file(pin, CARD_FILE).parent
    card = read_card(directory)
    fetch_file(pin, CONFIG_FILE)
    if card.weights is not None and card.weights.file is not None:
        fetch_file(pin, card.weights.file, card.weights.sha256)
    return Fetched(card, directory, pin)


def resolve(repo_id: str, revision: str | None) -> Pin:
    """The commit of a branch or tag; where the Hub cannot be asked, the one it was last time.

    Raises:
        HubError: there is no such repository or revision, or nobody can be asked.
    """
    from huggingface_hub import HfApi

    if revision and _COMMIT.fullmatch(revision) and _is_cached(Pin(repo_id, revision)):
        return Pin(repo_id, revision)
    memory = _memory_of(repo_id, revision)
    try:
        with hub_errors(repo_id, revision):
            info = HfApi().model_info(repo_id, revision=revision)
    except HubError as error:
        known = _remembered(repo_id, revision, memory) if error.unreachable else None
        if known is None:
            raise
        return known
    _check_names(repo_id, [sibling.rfilename for sibling in info.siblings or ()])
    pin = Pin(repo_id, str(info.sha))
    write_atomically(memory, pin.revision.encode())
    return pin


def fetch_file(pin: Pin, name: str, sha256: str | None = None) -> Path:
    """A file of a repository from the cache, else from the Hub, with its content checked.

    The content must have ``sha256``, or, without one, the hash that the Hub gave with it. An
    altered or truncated file is thrown away and fetched once more.

    Raises:
        HubError: there is no such file, the Hub cannot be reached, or it arrived altered twice.
    """
    from huggingface_hub import hf_hub_download

    fault = ""
    for attempt in range(3):
        path = _cached(pin, name)
        if path is None or attempt:
            try:
                with hub_errors(pin.repo_id, pin.revision, name):
                    path = Path(
                        hf_hub_download(
                            pin.repo_id, name, revision=pin.revision, force_download=attempt > 0
                        )
                    )
            except HubError as error:
                if "Consistency check failed" not in str(error.__cause__):
                    raise
                fault = "it is longer or shorter than the Hub says"
                continue
        fault = _fault(path, sha256)
        if not fault:
            return path
        path.resolve().unlink(missing_ok=True)
    raise HubError(
        f"{name} of {pin} is altered, and was so when fetched again: {fault}. It was thrown away; "
        "either the Hub's file is not the one that was pinned, or something in between changes it"
    )


@contextmanager
def hub_errors(repo_id: str, revision: str | None, name: str | None = None) -> Iterator[None]:
    """Turn what the client raises into one plain line; tokens are never in it."""
    try:
        yield
    except (HubError, StorageError):
        raise
    except Exception as error:  # the client raises its own, its transport's and the system's
        raise _explained(error, repo_id, revision, name) from error


def is_offline() -> bool:
    """Whether the Hub may not be asked: ``HF_HUB_OFFLINE``, which ``--offline`` sets."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _cached(pin: Pin, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(pin.repo_id, name, revision=pin.revision)
    return Path(found) if isinstance(found, str) else None


def _is_cached(pin: Pin) -> bool:
    return any(_cached(pin, name) for name in (CARD_FILE, WEIGHTS_FILE))


def _memory_of(repo_id: str, revision: str | None) -> Path:
    """Where the commit of a branch or tag is remembered."""
    name = f"{safe_name(repo_id)}@{safe_name(revision or 'main')}"
    return resources.cache_dir() / "hub" / name


def _remembered(repo_id: str, revision: str | None, memory: Path) -> Pin | None:
    """The commit of the last time, by our own note or by the client's."""
    try:
        pin = Pin(repo_id, memory.read_text())
        if _COMMIT.fullmatch(pin.revision) and _is_cached(pin):
            return pin
    except OSError:
        pass
    branch = Pin(repo_id, revision or "main")
    paths = [_cached(branch, name) for name in (CARD_FILE, WEIGHTS_FILE)]
    return next((Pin(repo_id, path.parent.name) for path in paths if path), None)


def _fault(path: Path, sha256: str | None) -> str:
    """What is wrong with a file's content; empty when nothing is.

    The client names a file in its cache by the hash that came with it: sha256 of large files,
    git's hash of the others.
    """
    expected = sha256 or path.resolve().name
    if _SHA256.fullmatch(expected):
        actual = sha256_of_file(path)
    elif _COMMIT.fullmatch(expected):
        content = path.read_bytes()
        actual = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    else:
        return ""
    size = path.stat().st_size
    return "" if actual == expected else f"{size:,} bytes with hash {actual}, not {expected}"


def _check_names(repo_id: str, names: list[str]) -> None:
    """Refuse a repository whose files would lie outside of it, or which holds no safetensors."""
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
            raise HubError(
                f"{SCHEME}{repo_id} lists a file '{name}' that leads out of its folder: refused"
            )
    if names and not any(name.endswith(".safetensors") for name in names):
        pickles = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        held = f"it holds {pickles[0]}, which is never opened" if pickles else "it holds no weights"
        raise HubError(f"{SCHEME}{repo_id} has no safetensors file: {held}")


def _explained(
    error: Exception, repo_id: str, revision: str | None, name: str | None
) -> HubError | StorageError:
    from huggingface_hub import constants, errors

    what = f"{SCHEME}{repo_id}" + (f"@{revision}" if revision else "")
    status = getattr(getattr(error, "response", None), "status_code", None)
    host = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{what} is gated: ask for access on {host}/{repo_id}, then `hf auth login`, or set "
            "HF_TOKEN to a token that has it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(
            f"{SCHEME}{repo_id} has no revision '{revision or 'main'}'; see its tags and commits"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return HubError(f"{what} has no file {name}; it is not an encoder in the card shape")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"{what} does not exist on {host}, or is private and your token may not see it "
            "(`hf auth whoami` says who you are there)"
        )
    if is_offline() or isinstance(error, errors.OfflineModeIsEnabled):
        missing = f"{name} of {what}" if name else what
        return HubError(
            f"{missing} is not in the cache, and the Hub may not be asked (offline): run "
            "`cxrzoo fetch` for it once, while online",
            unreachable=True,
        )
    if status in (401, 403):
        return HubError(f"{host} refuses {what} with {status}: your token is not good for it")
    if status in (409, 412):
        return HubError(
            f"{what} was changed by somebody else in the meantime ({status}): look, and run again"
        )
    if status == 429:
        return HubError(f"{host} answers 429, too many requests: wait a few minutes and try again")
    if status is not None:
        return HubError(
            f"{host} answers {status} for {what}: its fault, not yours; try again later",
            unreachable=status >= 500,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return StorageError(
            f"cannot keep {name} of {what}: {os.strerror(error.errno)}; free some space or point "
            "HF_HOME elsewhere"
        )
    return HubError(
        f"{host} could not be reached for {what} ({_kind(error)}): see whether you are online, or "
        "HF_ENDPOINT is right; what is cached works with --offline",
        unreachable=True,
    )


def _kind(error: BaseException) -> str:
    """The name of the innermost error: the others only say that something failed."""
    cause: Any = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return type(cause).__name__
