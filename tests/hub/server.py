"""A small Hugging Face Hub for the tests: the real clients read from it and write to it.

Standard library only, in memory, started in milliseconds. What it answers is in ``api``, its
repositories are in ``repo``, and ``faults`` makes it misbehave. The protocol is modelled on what
huggingface_hub 2.4 sends and reads; nothing here was compared with the live Hub.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.hub.api import answer
from tests.hub.faults import Fault
from tests.hub.repo import File, Repo
from tests.hub.wire import Call, Refusal, Reply
from tests.hub.xet import XetStore

__all__ = ["Fault", "Hub", "Repo", "Request", "running_hub"]


class Request(str):
    """``"METHOD /path?query"``, unquoted; with some of its headers."""

    host: str
    authorization: str | None
    range: str | None


@dataclass
class Hub:
    """Everything a hub knows, and everything it was asked.

    - ``endpoint``: what ``HF_ENDPOINT`` should be; ``storage``: the other origin, of large files.
    - ``repos``: by ``datasets/org/name`` or ``models/org/name``; ``repo(name)`` makes one.
    - ``tokens``: the user of each; ``user(name)`` makes one. Anything else is refused with 401.
    - ``members``: who may write in a namespace. A user may in the one of that name; in one that
      is neither listed nor a user's, everybody with a token.
    - ``requests``: every request, in order; ``leaked``: those that took a token to the storage.
    - ``objects``: large files by sha256; ``uploads``: the sha256 of each that was PUT, in order.
    - ``faults``: misbehaviour still due (see ``Fault``); ``faulted``: ``"KIND METHOD /path"``.
    - ``card_errors``: what the check of a model card complains of.
    """

    folder: Path
    endpoint: str = ""
    storage: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    faulted: list[str] = field(default_factory=list)
    card_errors: list[str] = field(default_factory=list)
    page_size: int = 1000
    expected: set[str] = field(default_factory=set)
    served: dict[str, File] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def xet(self) -> XetStore:
        return XetStore(self.folder)

    def repo(self, name: str) -> Repo:
        """The repository called so, made if there is none; empty, without a first commit."""
        return self.repos.setdefault(name, Repo(name))

    def user(self, name: str) -> str:
        """A token of this user."""
        token = f"hf_{name}"
        self.tokens[token] = name
        return token

    def may_write(self, user: str, name: str) -> bool:
        namespace = name.split("/")[1]
        if namespace in self.members:
            return user in self.members[namespace]
        return user == namespace or namespace not in self.tokens.values()

    def page(self, repo: Repo) -> str:
        return f"{self.endpoint}/{repo.web}"

    @property
    def leaked(self) -> list[Request]:
        """Requests to the storage, or to its origin, that carried a token."""
        host = urlsplit(self.storage).netloc
        return [r for r in self.requests if r.authorization and (r.host == host or " /lfs/" in r)]

    def take_fault(self, request: Request, reply: Reply | None) -> Fault | None:
        """The first fault due for this request; without a reply, only those instead of the work."""
        with self.lock:
            for fault in self.faults:
                if fault.concerns(request) and _applies(fault, request, reply):
                    fault.spend()
                    self.faulted.append(f"{fault.kind} {request}")
                    return fault
        return None


def _applies(fault: Fault, request: Request, reply: Reply | None) -> bool:
    if fault.kind in ("status", "drop"):
        return fault.late == (reply is not None)
    if reply is None:
        return False
    has_body = not request.startswith("HEAD ") and len(reply.body) > fault.after
    match fault.kind:
        case "cut" | "alter":
            return has_body and reply.status in (200, 206)
        case "slow":
            return has_body or fault.after == 0
        case "etag":
            return "ETag" in reply.headers
        case _:
            return reply.status in (200, 206, 302)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free local port, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="hub-xet-") as folder:
        hub = Hub(Path(folder))
        server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        hub.storage = f"http://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the test; any other is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # unbuffered writes cost 40 ms a request
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr; ``Hub.requests`` has them."""

    def _answer(self) -> None:
        request = Request(f"{self.command} {unquote(self.path)}")
        request.host = self.headers.get("Host", "")
        request.authorization = self.headers.get("Authorization")
        request.range = self.headers.get("Range")
        self.hub.requests.append(request)
        body = self._body()
        fault = self.hub.take_fault(request, None)
        if fault is not None:
            return self._misbehave(fault)
        try:
            with self.hub.lock:
                reply = answer(Call(self.hub, self.command, self.path, body, self._user()))
        except Refusal as refusal:
            reply = refusal.reply
        self._send(request, reply)

    do_HEAD = do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refusal(401, "Unauthorized", "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def _misbehave(self, fault: Fault) -> None:
        """Another answer, or none: the two faults that need no reply."""
        if fault.kind == "drop":
            return self._hang_up()
        headers = {"X-Error-Code": fault.code, "X-Error-Message": fault.message}
        if fault.retry_after is not None:
            headers["Retry-After"] = str(fault.retry_after)
        shown = {name: value for name, value in headers.items() if value}
        self._write(Reply(fault.status, fault.message.encode(), shown))

    def _send(self, request: Request, reply: Reply) -> None:
        fault = self.hub.take_fault(request, reply)
        if fault is None:
            return self._write(self._in_range(reply))
        if fault.kind in ("status", "drop"):
            return self._misbehave(fault)
        if fault.kind == "slow" and not fault.after:
            time.sleep(fault.seconds)
        if fault.kind == "alter":
            middle = max(len(reply.body) // 2, fault.after)
            changed = bytes([reply.body[middle] ^ 0xFF])
            reply = Reply(reply.status, reply.body[:middle] + changed + reply.body[middle + 1 :],
                          reply.headers)  # fmt: skip
        if fault.kind == "etag":
            for name in {"ETag", "X-Linked-Etag"} & reply.headers.keys():
                reply.headers[name] = '"' + "0" * (len(reply.headers[name]) - 2) + '"'
        if fault.kind == "wrong_length":
            reply = _resized(reply, fault.delta)
        self._write(self._in_range(reply), fault)

    def _in_range(self, reply: Reply) -> Reply:
        """The part of the body that the client asked for."""
        wanted = self.headers.get("Range", "")
        if reply.status != 200 or not wanted.startswith("bytes="):
            return reply
        size = len(reply.body)
        start, _, stop = wanted.removeprefix("bytes=").partition("-")
        first = int(start) if start else max(0, size - int(stop))
        last = min(int(stop), size - 1) if start and stop else size - 1
        if first > last:
            return Reply(416, b"", {"X-Error-Code": "BadRange", "Content-Range": f"bytes */{size}"})
        headers = {**reply.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
        return Reply(206, reply.body[first : last + 1], headers)

    def _write(self, reply: Reply, fault: Fault | None = None) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("X-Request-Id", f"test-{len(self.hub.requests)}")
        for key, value in reply.headers.items():
            self.send_header(key, value.encode("ascii", "replace").decode())
        self.end_headers()
        body = b"" if self.command == "HEAD" else reply.body
        if fault is not None and fault.kind in ("cut", "slow") and body:
            self.wfile.write(body[: fault.after])
            self.wfile.flush()
            if fault.kind == "cut":
                return self._hang_up()
            if fault.after:
                time.sleep(fault.seconds)
            body = body[fault.after :]
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)


def _resized(reply: Reply, delta: int) -> Reply:
    """The same answer, shorter or with zeros at its end, and consistent in itself."""
    headers = dict(reply.headers)
    if "X-Linked-Size" in headers:
        headers["X-Linked-Size"] = str(int(headers["X-Linked-Size"]) + delta)
    body = reply.body[:delta] if delta < 0 else reply.body + bytes(delta)
    return Reply(reply.status, body, headers)
