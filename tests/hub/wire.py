"""A request to the local Hub as its routes see it, and what they answer with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.repo import Commit, Repo

if TYPE_CHECKING:
    from tests.hub.server import Hub


@dataclass
class Reply:
    """An answer: status, body and headers; Content-Length is left to the sender."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error answer: ``code`` goes to X-Error-Code, where the client looks first."""

    def __init__(self, status: int, code: str, message: str, **extra: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        headers |= {name.replace("_", "-"): value for name, value in extra.items()}
        self.reply = json_reply({"error": message}, status, headers)


@dataclass
class Call:
    """A request, and the user its token belongs to (None: no token)."""

    hub: Hub
    method: str
    target: str
    body: bytes
    user: str | None

    @property
    def parts(self) -> list[str]:
        """The path's parts, split before they are unquoted: a revision may hold slashes."""
        return [unquote(part) for part in urlsplit(self.target).path.strip("/").split("/")]

    @property
    def query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")

    def signed_in(self) -> str:
        if self.user is None:
            raise Refusal(401, "Unauthorized", "Invalid username or password.")
        return self.user

    def repo(self, name: str, *, write: bool = False, content: bool = False) -> Repo:
        """The repository, if the user may do this to it; ``content`` is behind the gate."""
        repo = self.hub.repos.get(name)
        writer = self.user is not None and self.hub.may_write(self.user, name)
        if repo is None or (repo.private and not writer):
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if content and repo.gated and not writer and self.user not in repo.allowed:
            message = f"Access to {repo.id} is restricted and you are not in the authorized list."
            raise Refusal(403, "GatedRepo", message)
        if write and not (self.signed_in() and writer):
            raise Refusal(403, "Forbidden", f"{self.user} may not write to {repo.id}")
        return repo


def found_commit(repo: Repo, revision: str) -> Commit:
    commit = repo.find(revision)
    if commit is None:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


def json_reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    kind = {"Content-Type": "application/json"}
    return Reply(status, json.dumps(content).encode(), {**kind, **(headers or {})})
