"""Files from the Hugging Face Hub: at a commit, from the cache first, checked, and nothing else.

Only three files of a repository are ever opened: the card, config.json and the safetensors file
that the card names. No code of a repository runs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cxrzoo import resources
from cxrzoo.errors import CardError, CxrzooError, HubError, StorageError
from cxrzoo.files import sha256_of_file, write_atomically
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Card, read_card

SCHEME = "hf:"
WEIGHTS_FILE = "model.safetensors"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
TIMEOUT_SECONDS = 20.0


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
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    repo_id, at, revision = reference.removeprefix(SCHEME).partition("@")
    try:
        if not _REPO_ID.fullmatch(repo_id) or (at and not revision):
            raise HFValidationError
        validate_repo_id(repo_id)
    except HFValidationError:
        raise HubError(
            f"{reference!r} is no encoder on the Hub; write hf:org/repo or hf:org/repo@revision"
        ) from None
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

    pinned = bool(revision and _COMMIT.fullmatch(revision))
    if pinned and _is_cached(Pin(repo_id, str(revision))):
        return Pin(repo_id, str(revision))
    try:
        with hub_errors(repo_id, revision):
            info = HfApi().model_info(
                repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
    except HubError as error:
        known = _remembered(repo_id, revision) if error.unreachable else None
        if known is None:
            raise
        return known
    files = list(info.siblings or ())
    _check_names(repo_id, [file.rfilename for file in files])
    pin = Pin(repo_id, str(info.sha))
    if not _COMMIT.fullmatch(pin.revision) or (pinned and pin.revision != revision):
        raise HubError(
            f"{SCHEME}{repo_id}@{revision or 'main'}: the Hub answers with commit {info.sha!r}, "
            "which is not what was asked for, or there is no commit yet"
        )
    _remember(pin, revision, {f.rfilename: _hash_on_the_hub(f) for f in files})
    return pin


def fetch_file(pin: Pin, name: str, sha256: str | None = None) -> Path:
    """A file of a repository from the cache, else from the Hub, with its content checked.

    The content must have the hash that the Hub gave with it, and ``sha256`` where that is given.
    An altered or truncated file is fetched once more, and thrown away if that is no better.

    Raises:
        HubError: there is no such file, the Hub cannot be reached, it arrived altered twice, or
            it is whole and not the file with this ``sha256``.
    """
    path = _cached(pin, name)
    fault = "" if path is None else _fault(pin, path, name)
    # what is damaged in the cache counts as the first time that it arrived
    for again in (False, True) if path is None else (True,) if fault else ():
        path, fault = _download(pin, name, again=again)
        if not fault:
            break
    if fault or path is None:
        _discard(pin, name)
        raise HubError(
            f"{name} of {pin} is altered, and was so when fetched again: {fault}. It was thrown "
            "away; something between here and the Hub changes it"
        )
    if sha256 and (actual := sha256_of_file(path)) != sha256:
        raise HubError(
            f"{name} of {pin} has sha256 {actual}, but the card says {sha256}: the Hub's file is "
            "whole, and another one than the card is about"
        )
    return path


@contextmanager
def hub_errors(repo_id: str, revision: str | None, name: str | None = None) -> Iterator[None]:
    """Turn what the client raises into one plain line; tokens are never in it."""
    try:
        yield
    except CxrzooError:
        raise
    except Exception as error:  # the client raises its own, its transport's and the system's
        raise _explained(error, repo_id, revision, name) from error


def is_offline() -> bool:
    """Whether the Hub may not be asked: ``HF_HUB_OFFLINE``, which ``--offline`` sets."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def go_offline() -> None:
    """Never ask the Hub from here on, in this process and those it starts."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    loaded = sys.modules.get("huggingface_hub.constants")
    if loaded is not None:
        loaded.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def _download(pin: Pin, name: str, *, again: bool) -> tuple[Path | None, str]:
    """The downloaded file and what is wrong with it."""
    from huggingface_hub import hf_hub_download

    try:
        with hub_errors(pin.repo_id, pin.revision, name):
            path = Path(
                hf_hub_download(pin.repo_id, name, revision=pin.revision, force_download=again)
            )
    except HubError as error:
        if "Consistency check failed" not in str(error.__cause__):
            raise
        return None, "it is longer or shorter than the Hub says"
    return path, _fault(pin, path, name)


def _discard(pin: Pin, name: str) -> None:
    """Take a file out of the cache: its entry and its own blob, never what others share."""
    path = _cached(pin, name)
    if path is None:
        return
    with suppress(OSError):
        blob = path.parent / os.readlink(path) if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if blob is not None:
            blob.unlink(missing_ok=True)


def _cached(pin: Pin, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(pin.repo_id, name, revision=pin.revision)
    return Path(found) if isinstance(found, str) else None


def _is_cached(pin: Pin) -> bool:
    return any(_cached(pin, name) for name in (CARD_FILE, WEIGHTS_FILE))


def _note_of(repo_id: str, revision: str | None) -> Path:
    """Where the commit of a revision and the hashes of its files are noted."""
    name = hashlib.sha256(f"{repo_id}@{revision or 'main'}".encode()).hexdigest()[:32]
    return resources.cache_dir() / "hub" / f"{name}.json"


def _remember(pin: Pin, revision: str | None, hashes: dict[str, str | None]) -> None:
    """Note what the Hub said; a convenience, so a cache that cannot be written is no matter."""
    content = json.dumps({"revision": pin.revision, "hashes": hashes}).encode()
    with suppress(StorageError):
        for asked in {revision, pin.revision}:
            write_atomically(_note_of(pin.repo_id, asked), content)


def _read_note(repo_id: str, revision: str | None) -> dict[str, Any]:
    try:
        content = json.loads(_note_of(repo_id, revision).read_text())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _remembered(repo_id: str, revision: str | None) -> Pin | None:
    """The commit of the last time, by our own note or by the client's."""
    noted = Pin(repo_id, str(_read_note(repo_id, revision).get("revision")))
    if _COMMIT.fullmatch(noted.revision) and _is_cached(noted):
        return noted
    branch = Pin(repo_id, revision or "main")
    paths = [_cached(branch, name) for name in (CARD_FILE, WEIGHTS_FILE)]
    return next((Pin(repo_id, path.parent.name) for path in paths if path), None)


def _hash_on_the_hub(file: Any) -> str | None:
    """sha256 of a large file, git's hash of another; None where the server does not say."""
    large = getattr(file, "lfs", None)
    return str(large.sha256) if large else file.blob_id


def _fault(pin: Pin, path: Path, name: str) -> str:
    """What is wrong with a file's content; empty when nothing is, or nothing is known of it.

    The hash is the one noted with the commit; else the client's name for it in its cache, which
    is the one link that the file's entry is: links behind it lead to a store that others share.
    """
    noted = _read_note(pin.repo_id, pin.revision).get("hashes", {}).get(name)
    link = os.readlink(path) if path.is_symlink() else ""
    expected = str(noted or Path(link).name)
    try:
        if _SHA256.fullmatch(expected):
            found = {sha256_of_file(path)}
        elif _COMMIT.fullmatch(expected):
            content = path.read_bytes()
            blob = f"blob {len(content)}\0".encode() + content
            # git's hash, or that of the content alone, as some servers give it
            found = {hashlib.sha1(blob).hexdigest(), hashlib.sha1(content).hexdigest()}
        else:
            return ""
        size = path.stat().st_size
    except FileNotFoundError:
        return "it vanished while it was read"
    if expected in found:
        return ""
    return f"{size:,} bytes with hash {min(found)}, not {expected}"


def _check_names(repo_id: str, names: list[str]) -> None:
    """Refuse a repository whose files would lie outside of it, or which holds no safetensors."""
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
            raise HubError(
                f"{SCHEME}{repo_id} lists a file {name[:80]!r} that leads out of its folder: "
                "refused"
            )
    if names and not any(name.endswith(".safetensors") for name in names):
        pickles = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        held = (
            f"it holds {pickles[0][:80]!r}, which is never opened"
            if pickles
            else "it holds no weights"
        )
        raise HubError(f"{SCHEME}{repo_id} has no safetensors file: {held}")


def _explained(
    error: Exception, repo_id: str, revision: str | None, name: str | None
) -> CxrzooError:
    from huggingface_hub import constants, errors

    cause = _telling(error)
    what = f"{SCHEME}{repo_id}" + (f"@{revision}" if revision else "")
    host = constants.ENDPOINT
    status = getattr(getattr(cause, "response", None), "status_code", None)
    said = _one_line(getattr(cause, "server_message", None))
    if "Invalid metadata" in str(error):
        return CardError(f"the Hub refuses the card's metadata: {_one_line(str(error))}")
    if isinstance(cause, errors.GatedRepoError):
        return HubError(
            f"{what} is gated: ask for access on {host}/{repo_id}, then `hf auth login`, or set "
            "HF_TOKEN to a token that has it"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        asked = revision or "main"
        return HubError(f"{SCHEME}{repo_id} has no revision '{asked}'; see its tags and commits")
    if name and (isinstance(cause, errors.RemoteEntryNotFoundError) or status == 404):
        return HubError(f"{what} has no file {name}; it is not an encoder in the card shape")
    if isinstance(cause, errors.RepositoryNotFoundError) or status == 404:
        return HubError(
            f"{what} does not exist on {host}, or is private and your token may not see it "
            "(`hf auth whoami` says who you are there)"
        )
    if is_offline() or isinstance(cause, errors.OfflineModeIsEnabled):
        missing = f"{name} of {what}" if name else what
        return HubError(
            f"{missing} is not in the cache, or damaged there, and the Hub may not be asked "
            "(offline): run `cxrzoo fetch` for it once, while online",
            unreachable=True,
        )
    if status is not None:
        return _by_status(int(status), what, host, said)
    return _by_kind(cause, what, host, name)


def _by_status(status: int, what: str, host: str, said: str) -> HubError:
    """What an HTTP status means for the user; ``said`` is the Hub's own word."""
    from huggingface_hub import get_token

    said = f" ({said})" if said else ""
    if status in (401, 403):
        advice = (
            "your token is not good for it; see `hf auth whoami` and the token's rights"
            if get_token()
            else "it needs a token: `hf auth login`, or set HF_TOKEN"
        )
        return HubError(f"{host} refuses {what} with {status}: {advice}{said}")
    if status in (409, 412):
        return HubError(
            f"{what} was changed by somebody else in the meantime ({status}): look, and run again"
        )
    if status == 429:
        return HubError(
            f"{host} answers 429, too many requests: wait a few minutes and try again",
            unreachable=True,
        )
    if status < 500:
        return HubError(f"{host} refuses {what} with {status}{said or ': it gives no reason'}")
    return HubError(
        f"{host} answers {status} for {what}: its fault, not yours; try again later{said}",
        unreachable=True,
    )


def _by_kind(cause: BaseException, what: str, host: str, name: str | None) -> CxrzooError:
    """What an error without an answer means for the user."""
    from huggingface_hub import errors

    kind = type(cause).__name__
    if isinstance(cause, OSError) and cause.errno in _DISK:
        reason = os.strerror(cause.errno)
        return StorageError(
            f"cannot keep {name or 'files'} of {what}: {reason}; free some space, or point HF_HOME "
            "at a folder you may write to"
        )
    if isinstance(cause, errors.FileMetadataError) or kind == "JSONDecodeError":
        return HubError(
            f"{host} answers for {what}, but not as a Hub does ({kind}): a proxy or a login page "
            "in between, or HF_ENDPOINT is not right",
            unreachable=True,
        )
    return HubError(
        f"{host} could not be reached for {what} ({kind}): see whether you are online, or "
        "HF_ENDPOINT is right; what is cached works with --offline",
        unreachable=True,
    )


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def _telling(error: BaseException) -> BaseException:
    """The error that says most: the client wraps what the Hub answered in errors of its own."""
    while True:
        inner = error.__cause__
        if inner is None or (hasattr(error, "response") and error.response is not None):
            return error
        error = inner


def _one_line(text: str | None) -> str:
    """Text from elsewhere, on one line and without what a terminal would obey."""
    words = "".join(c if c.isprintable() else " " for c in text or "").split()
    return " ".join(words)[:300]
