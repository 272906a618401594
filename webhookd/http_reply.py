"""One request and its answer over Tornado's connection interface; an early answer is really seen by the sender."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping

from tornado import httputil

from webhookd.errors import Rejected
from webhookd.http_problem import http_date, problem, reason_phrase

DRAIN_SECONDS = 30.0
"""How long the rest of a refused body is thrown away, so that a sender that writes on still reads its answer."""


class Exchange(httputil.HTTPMessageDelegate, ABC):
    """Takes a request in parts and answers it once, at any time; what comes of the body after the answer is dropped.

    Subclasses say what happens in `begin`, `part`, `end` and `closed`. It asks nothing of the connection but
    `tornado.httputil.HTTPConnection`.
    """

    def __init__(self, connection: httputil.HTTPConnection, drain_limit: int) -> None:
        self._connection = connection
        self._drain_limit = drain_limit
        self._drained = 0
        self._drain_end: asyncio.TimerHandle | None = None
        self._replied = False
        self._complete = False
        self._finished = False
        self._expects = False
        self._length: int | None = None
        self._is_head = False

    # --- for subclasses --------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, start_line: httputil.RequestStartLine, headers: httputil.HTTPHeaders, length: int | None) -> None:
        """Take the head of the request; `length` is the body's, None where it is not told."""

    @abstractmethod
    def part(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""

    @abstractmethod
    def end(self) -> None:
        """Take note that the body is complete."""

    @abstractmethod
    def closed(self) -> None:
        """Take note that the connection was closed before the request was complete."""

    def reply_problem(self, error: Rejected) -> None:
        """Answer with a refusal."""
        self.reply(*problem(error))

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Answer; only the first answer counts."""
        if self._replied:
            return
        self._replied = True
        head = httputil.HTTPHeaders({"Date": http_date(), **headers})
        if status != 204:  # noqa: PLR2004 - RFC 9110, section 8.6: no Content-Length in a 204
            head["Content-Length"] = str(len(body))
        # nobody waits for the rest of a body that was asked about first, or that is too long to be worth reading
        hang_up = not self._complete and (self._expects or (self._length or 0) > self._drain_limit)
        if hang_up:
            head["Connection"] = "close"
        start_line = httputil.ResponseStartLine("HTTP/1.1", status, reason_phrase(status))
        self._connection.write_headers(start_line, head, b"" if self._is_head else body)
        if self._complete or self._expects:
            self._finish()
        else:
            self._drain_end = asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._finish)

    # --- for the connection ------------------------------------------------------------------------------------------

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> None:
        """Take the head of the request."""
        assert isinstance(start_line, httputil.RequestStartLine)  # noqa: S101 - for the type checker: a server's
        self._is_head = start_line.method == "HEAD"
        self._expects = headers.get("Expect", "").lower() == "100-continue"
        length = headers.get("Content-Length", "" if "Transfer-Encoding" in headers else "0")
        self._length = int(length) if length.isascii() and length.isdigit() else None
        self.begin(start_line, headers, self._length)
        self._expects = False  # answered by now, or told to go on

    def data_received(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        if not self._replied:
            self.part(chunk)
            return
        self._drained += len(chunk)
        if self._drained > self._drain_limit:
            self._finish()

    def finish(self) -> None:
        """Take note that the body is complete."""
        self._complete = True
        if self._replied:
            self._finish()
        else:
            self.end()

    def on_connection_close(self) -> None:
        """Take note that the connection was closed before the request was complete."""
        self._cancel_drain()
        self.closed()

    def _finish(self) -> None:
        self._cancel_drain()
        if not self._finished:
            self._finished = True
            self._connection.finish()  # closes the connection where the body is not complete

    def _cancel_drain(self) -> None:
        if self._drain_end is not None:
            self._drain_end.cancel()
            self._drain_end = None
