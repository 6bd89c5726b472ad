"""Misbehaviour of the local Hub, on request."""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = ("cut", "status", "slow", "alter", "etag", "wrong_length", "drop")


@dataclass
class Fault:
    """One way to answer badly the next ``times`` requests that match (None: for ever).

    ``match`` is compared with the beginning of ``"METHOD /path?query"``, unquoted; ``...`` stands
    for anything, so ``"...resolve/"`` means any method. The bytes of a large file do not come
    from ``resolve`` but, after a redirect, from ``GET /lfs/SHA256/NAME``; those that a client
    moves by xet do not come from the server at all, so no fault reaches them.

    Kinds:

    - ``cut``: all headers, with the true Content-Length, then only ``after`` bytes of the body;
      the connection closes. Counts only answers that have a body of more than ``after`` bytes.
    - ``status``: ``status`` instead of the answer, with ``Retry-After: retry_after`` and
      ``X-Error-Code: code`` where given. Without a code it is like a proxy's answer.
    - ``slow``: ``seconds`` of silence, before the answer or (``after`` > 0) within its body.
    - ``alter``: one byte of the body is another; length, ETag and all headers stay.
    - ``etag``: ETag and X-Linked-Etag of a content that nobody has.
    - ``wrong_length``: a well-formed answer of ``delta`` bytes more or less, in its headers
      (Content-Length, X-Linked-Size) and, where it has one, in its body.
    - ``drop``: the connection closes without an answer.

    ``status`` and ``drop`` come instead of the work; with ``late`` the work is done first, as
    when only the answer is lost.
    """

    match: str
    kind: str
    times: int | None = 1
    after: int = 0
    status: int = 503
    code: str = ""
    message: str = "refused by a fault of the test"
    retry_after: int | None = None
    seconds: float = 1.0
    delta: int = -1
    late: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault kind {self.kind!r} is none of {', '.join(KINDS)}")

    def concerns(self, request: str) -> bool:
        """Whether it is still due, and this request matches."""
        pattern = re.escape(self.match).replace(re.escape("..."), ".*")
        return self.times != 0 and re.match(pattern, request) is not None

    def spend(self) -> None:
        if self.times is not None:
            self.times -= 1
