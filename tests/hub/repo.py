"""The repositories of the local Hub: files, commits, references and pull requests, in memory."""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

LARGE_SUFFIXES = (".safetensors", ".npz", ".parquet")
_counter = itertools.count()


@dataclass(eq=False)
class File:
    """A file of a commit: kept in git itself, or (``large``) as an LFS object by its sha256."""

    sha256: str
    size: int
    large: bool
    read: Callable[[], bytes]
    xet_hash: str = ""

    @cached_property
    def content(self) -> bytes:
        return self.read()

    @cached_property
    def pointer(self) -> bytes:
        """What git keeps of a large file."""
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The git id of the blob: of the pointer for a large file."""
        return git_id(self.pointer if self.large else self.content)

    @property
    def identity(self) -> tuple[str, bool]:
        return self.sha256, self.large


@dataclass(frozen=True)
class Commit:
    """What a commit holds; ``author`` is a user name, never a token."""

    sha: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


@dataclass
class Discussion:
    """A discussion, or a pull request whose commits ``refs/pr/NUM`` points to."""

    num: int
    title: str
    author: str
    date: str
    pull: bool
    status: str = "open"
    base: str = "refs/heads/main"
    start: str | None = None
    merged: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"

    def event(self, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
        """A new event, in the form the client reads."""
        new = {"id": f"{next(_counter):024x}", "type": kind, "createdAt": now()}
        self.events.append({**new, "author": {"name": author}, "data": data})
        return self.events[-1]

    def comment(self, author: str, text: str) -> dict[str, Any]:
        data = {"edited": False, "hidden": False, "latest": {"raw": text}}
        return self.event("comment", author, data)

    def set_status(self, author: str, status: str) -> dict[str, Any]:
        self.status = status
        return self.event("status-change", author, {"status": status})


@dataclass
class Repo:
    """A repository: commits by sha, and the shas that its references point to.

    ``allowed`` are the users let through the gate of a gated repository.
    """

    name: str = ""
    private: bool = False
    gated: str | bool = False
    allowed: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    created: str = field(default_factory=lambda: now())

    @property
    def kind(self) -> str:
        return self.name.split("/")[0]

    @property
    def id(self) -> str:
        return self.name.split("/", 1)[1]

    @property
    def web(self) -> str:
        """The path of its page: ``org/name``, or ``datasets/org/name``."""
        return self.id if self.kind == "models" else self.name

    def commit(
        self,
        files: dict[str, bytes],
        ref: str = "main",
        *,
        message: str = "from the test",
        author: str = "tests",
    ) -> str:
        """A new commit with exactly these files; ``ref`` points to it afterwards."""
        return self.add_commit(
            {path: file_of(path, content) for path, content in files.items()},
            ref if ref.startswith("refs/") else f"refs/heads/{ref}",
            title=message,
            author=author,
        ).sha

    def add_commit(
        self,
        files: dict[str, File],
        ref: str,
        *,
        title: str,
        author: str,
        message: str = "",
        parent: str | None = None,
    ) -> Commit:
        """A commit with these files on ``ref``, a full name; its head is the parent by default."""
        parent = parent or self.refs.get(ref)
        told = [self.name, next(_counter), parent, title, sorted(files)]
        sha = hashlib.sha1(repr(told).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, message, author, now(), dict(files))
        self.refs[ref] = sha
        return self.commits[sha]

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag, a full reference or a sha names."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        sha = next((self.refs[name] for name in names if name in self.refs), revision)
        return self.commits.get(sha)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The contents at a revision, by path."""
        commit = self.find(revision)
        if commit is None:
            raise KeyError(f"{self.name} has no revision {revision}")
        return {path: file.content for path, file in commit.files.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits from this one back to the first."""
        commit, found = self.find(revision), []
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent or "")
        return found

    def discussion(self, num: int) -> Discussion | None:
        return next((one for one in self.discussions if one.num == num), None)

    def open_pull(
        self, title: str, author: str, *, status: str, base: str, start: str | None, text: str
    ) -> Discussion:
        """A pull request without commits yet, which starts where ``start`` is."""
        pull = Discussion(
            len(self.discussions) + 1, title, author, now(), True, status, base, start
        )
        pull.comment(author, text)
        self.discussions.append(pull)
        if start is not None:
            self.refs[pull.ref] = start
        return pull

    def changes(self, start: str | None, end: str | None) -> dict[str, File | None]:
        """The files that differ at ``end``; None for those that are not there any more."""
        before = self.commits[start].files if start else {}
        after = self.commits[end].files if end else {}
        ids = [{path: file.identity for path, file in side.items()} for side in (before, after)]
        changed = (path for path in {**before, **after} if ids[0].get(path) != ids[1].get(path))
        return {path: after.get(path) for path in sorted(changed)}

    def conflicts(self, pull: Discussion) -> list[str]:
        """The files that the pull request and its base have both changed, and differently."""
        if pull.merged:
            return []
        theirs = self.changes(pull.start, self.refs.get(pull.ref))
        ours = self.changes(pull.start, self.refs.get(pull.base))
        return [
            path
            for path in theirs.keys() & ours.keys()
            if getattr(theirs[path], "identity", None) != getattr(ours[path], "identity", None)
        ]

    def merge(self, pull: Discussion, author: str) -> Commit:
        """The base branch with the changes of the pull request, in one new commit."""
        head = self.find(pull.base)
        files = dict(head.files) if head else {}
        for path, file in self.changes(pull.start, self.refs.get(pull.ref)).items():
            files.pop(path, None)
            if file is not None:
                files[path] = file
        title = f"{pull.title} (#{pull.num})"
        commit = self.add_commit(files, pull.base, title=title, author=author)
        pull.merged = commit.sha
        pull.set_status(author, "merged")
        return commit

    def diff(self, pull: Discussion) -> str:
        """As git would print it: of large files the pointers."""
        before = self.commits[pull.start].files if pull.start else {}
        parts = []
        for path, file in self.changes(pull.start, self.refs.get(pull.ref)).items():
            lines = [_lines(before.get(path)), _lines(file)]
            names = [f"a/{path}" if lines[0] else "/dev/null", f"b/{path}" if file else "/dev/null"]
            parts.append(f"diff --git a/{path} b/{path}\n")
            parts.extend(difflib.unified_diff(*lines, *names))
        return "".join(parts)


def file_of(path: str, content: bytes, *, large: bool | None = None) -> File:
    """A file from its bytes."""
    if large is None:
        large = is_large(path, len(content), content[:512])
    return File(hashlib.sha256(content).hexdigest(), len(content), large, lambda: content)


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub keeps such a file as an LFS object."""
    if path.endswith(LARGE_SUFFIXES) or size > 10_000_000:
        return size > 0
    return size > 10_000 and not _is_text(sample)


def _is_text(sample: bytes) -> bool:
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(sample) - 3 and b"\0" not in sample  # a character cut in two
    return b"\0" not in sample


def _lines(file: File | None) -> list[str]:
    if file is None:
        return []
    content = file.pointer if file.large else file.content
    return content.decode(errors="replace").splitlines(keepends=True)


def git_id(content: bytes) -> str:
    """The name git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entries(files: dict[str, File], paths: Iterable[str]) -> list[dict[str, Any]]:
    """Files and folders as the Hub lists them; paths that do not exist are left out."""
    found: list[dict[str, Any]] = []
    for path in paths:
        if path in files:
            found.append(_entry(path, files[path]))
        elif any(name.startswith(f"{path}/") for name in files):
            oid = git_id(repr([path, sorted(files)]).encode())
            found.append({"type": "directory", "path": path, "oid": oid, "size": 0})
    return found


def tree(files: dict[str, File], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Everything below ``folder``, or its own files and folders."""
    names: set[str] = set()
    for path in files:
        names |= {path, *(str(parent) for parent in PurePosixPath(path).parents)} - {"."}
    prefix = f"{folder}/" if folder else ""
    inside = sorted(name for name in names if name.startswith(prefix))
    return entries(files, [n for n in inside if recursive or "/" not in n[len(prefix) :]])


def _entry(path: str, file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
    if file.large:
        size = len(file.pointer)
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": size}
    if file.xet_hash:
        entry["xetHash"] = file.xet_hash
    return entry


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
