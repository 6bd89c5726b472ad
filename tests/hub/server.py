"""A small Hugging Face Hub for the tests: repositories in memory, read by the real clients."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repo:
    """A repository: files by commit, and commits by the names of its references."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """A new commit with exactly these files; ``ref`` points to it afterwards."""
        sha = hashlib.sha1(repr((ref, len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha


@dataclass
class Hub:
    """Repositories by ``datasets/org/name`` or ``models/org/name``, and every request made."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def repo(self, name: str) -> Repo:
        """The repository called so, made if there is none."""
        return self.repos.setdefault(name, Repo())


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free local port, until the end of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # unbuffered writes cost 40 ms a request
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr; ``Hub.requests`` has them."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {unquote(self.path)}")
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api":
            self._api(parts[1:], body)
        elif "resolve" in parts:
            kind = parts[0] if parts[0] == "datasets" else "models"
            rest = parts[1:] if parts[0] == "datasets" else parts
            self._resolve(f"{kind}/{rest[0]}/{rest[1]}", rest[3], "/".join(rest[4:]))
        else:
            self._fail(404, "EntryNotFound")

    def _api(self, parts: list[str], body: bytes) -> None:
        name, rest = "/".join(parts[:3]), parts[3:]
        found = self._find(name, rest[1] if len(rest) > 1 else "main")
        if found is None:
            return
        sha, files = found
        match rest[:1]:
            case [] | ["revision"]:
                siblings = [{"rfilename": path} for path in sorted(files)]
                self._json({"id": "/".join(parts[1:3]), "sha": sha, "private": False,
                            "gated": False, "siblings": siblings})  # fmt: skip
            case ["tree"]:
                query = parse_qs(urlsplit(self.path).query)
                recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                entries = _tree(files, "/".join(rest[2:]), recursive)
                if entries:
                    self._json(entries)
                else:
                    self._fail(404, "EntryNotFound")
            case ["paths-info"]:
                wanted = _paths(body)
                self._json([_entry(path, files[path]) for path in wanted if path in files])
            case _:
                self._fail(404, "EntryNotFound")

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        sha, files = found
        if path not in files:
            return self._fail(404, "EntryNotFound", {"X-Repo-Commit": sha})
        content = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        self._send(200, content, "application/octet-stream", headers)

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files; answers with an error where there are none."""
        repo = self.hub.repos.get(name)
        if repo is None:
            self._fail(404, "RepoNotFound")
            return None
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            self._fail(404, "RevisionNotFound")
            return None
        return sha, repo.commits[sha]

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), "application/json", {})

    def _fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", "text/plain", {"X-Error-Code": code, **(headers or {})})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        first, last = 0, len(content) - 1
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and status == 200:
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop or last), last)
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(max(0, last - first + 1)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[first : last + 1])


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The files below ``folder``, or its own files and folders."""
    prefix = f"{folder}/" if folder else ""
    inside = sorted(path for path in files if path.startswith(prefix))
    if recursive:
        return [_entry(path, files[path]) for path in inside]
    here = [path for path in inside if "/" not in path[len(prefix) :]]
    folders = {prefix + path[len(prefix) :].split("/")[0] for path in inside} - set(here)
    return [_entry(path, files[path]) for path in here] + [
        {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)
    ]


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "oid": oid, "size": len(content)}


def _paths(body: bytes) -> list[str]:
    """The paths of a paths-info request, sent as a form or as JSON."""
    if body.startswith(b"{"):
        paths: list[str] = json.loads(body)["paths"]
        return paths
    return parse_qs(body.decode()).get("paths", [])
