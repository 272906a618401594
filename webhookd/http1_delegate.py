"""Tornado's own seam on this connection: requests for any `HTTPServerConnectionDelegate`, an `Application` too."""

from __future__ import annotations

import asyncio
import socket
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Any

from tornado import httputil

from webhookd.http1 import Connection
from webhookd.http1_head import Head, Refused

NO_BODY = frozenset({204, 304})
_Callback = Callable[[], None]


class Context:
    """What Tornado's requests know of the connection that they came on."""

    protocol = "http"

    def __init__(self, connection: Connection) -> None:
        self.address = connection.transport.get_extra_info("peername")
        family = getattr(connection.transport.get_extra_info("socket"), "family", socket.AF_UNSPEC)
        self.address_family = family
        named = family in (socket.AF_INET, socket.AF_INET6) and self.address
        self.remote_ip: str = self.address[0] if named else "0.0.0.0"  # noqa: S104 - what Tornado says of a UNIX socket

    def __str__(self) -> str:
        return self.remote_ip


class Delegated(httputil.HTTPConnection):
    """One request and its answer, for a delegate."""

    def __init__(self, connection: Connection, head: Head, delegate: httputil.HTTPServerConnectionDelegate) -> None:
        self.context = Context(connection)
        self.no_keep_alive = False
        self._connection = connection
        self._head = head
        self._close_callback: _Callback | None = None
        self._closed = False
        self._ended = False
        self._busy = False
        self._chunked = False
        self._bodiless = head.method == "HEAD"
        self._missing: int | None = None
        """How many bytes of the answer's body are still to be written, None where that is not told."""
        self._message = delegate.start_request(self, self)
        start_line = httputil.RequestStartLine(head.method, head.target.decode("ascii"), f"HTTP/1.{head.minor}")
        headers = httputil.HTTPHeaders()
        for name, value in head.pairs():
            headers.add(name, value)
        try:
            self._await(self._message.headers_received(start_line, headers))
        except httputil.HTTPInputError:
            raise Refused(400) from None

    # --- the request, from the connection -----------------------------------------------------------------------------

    def part(self, chunk: bytes) -> None:
        """Hand on the next bytes of the body."""
        self._await(self._message.data_received(chunk))

    def end(self) -> None:
        """Say that the body is complete, once everything of it is taken."""
        self._ended = True
        if not self._busy:
            self._message.finish()

    def closed(self) -> None:
        """Say that there is nobody any more to answer to."""
        if self._closed:
            return
        self._closed = True
        callback, self._close_callback = self._close_callback, None
        if callback is not None:
            callback()
        if not self._ended:
            self._message.on_connection_close()

    def _await(self, taken: Awaitable[None] | None) -> None:
        """Hand nothing on before the delegate is done with what it has."""
        if taken is None:
            return
        future = asyncio.ensure_future(taken)
        if future.done() and not future.cancelled() and not future.exception():
            return
        self._busy = True
        self._connection.hold()
        future.add_done_callback(self._taken)

    def _taken(self, future: Future[Any]) -> None:
        self._busy = False
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._connection.fail(error)
        elif self._ended and not self._closed:
            self._message.finish()
        self._connection.release()

    # --- the answer, from the delegate -----------------------------------------------------------------------------

    def set_close_callback(self, callback: _Callback | None) -> None:
        """Have `callback` called when the connection is closed before the answer is finished."""
        self._close_callback = callback

    def write_headers(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        """Write the head of the answer, and the first bytes of its body."""
        assert isinstance(start_line, httputil.ResponseStartLine)  # noqa: S101 - for the type checker: an answer's
        if self._closed:
            return _closed()
        code = start_line.code
        informational = code < 200  # noqa: PLR2004 - RFC 9110, section 15.2
        lines = [f"HTTP/1.1 {code} {start_line.reason}"]
        lines += [f"{name}: {value}" for name, value in headers.get_all() if name != "Connection"]
        if informational:
            self._connection.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            return self._written()
        self._bodiless = self._bodiless or code in NO_BODY
        length = headers.get("Content-Length")
        self._missing = None if length is None or self._bodiless else int(length)
        untold = length is None and not self._bodiless and "Transfer-Encoding" not in headers
        self._chunked = untold and self._head.minor == 1
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        close = headers.get("Connection", "").lower() == "close" or (untold and not self._chunked) or self.no_keep_alive
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a line end in a header of an answer")
        data = "\r\n".join([*lines, ""]).encode("latin-1") + self._connection.head_end(close=close)
        self._connection.start(data + self._framed(chunk or b""))
        return self._written()

    def write(self, chunk: bytes) -> Future[None]:
        """Write more of the body; done once more may come."""
        if self._closed:
            return _closed()
        self._connection.transport.write(self._framed(chunk))
        return self._written()

    def finish(self) -> None:
        """Say that the answer is whole."""
        if self._closed:
            return
        self._closed = True
        self._close_callback = None
        if self._missing:
            self._connection.linger()
            raise httputil.HTTPOutputError(f"{self._missing} bytes less than Content-Length were written")
        if self._chunked and not self._bodiless:
            self._connection.transport.write(b"0\r\n\r\n")
        self._connection.done()

    def _framed(self, chunk: bytes) -> bytes:
        if self._bodiless or not chunk:
            return b""
        if self._missing is not None:
            self._missing -= len(chunk)
            if self._missing < 0:
                self._connection.transport.abort()
                raise httputil.HTTPOutputError("more than Content-Length was written")
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk

    def _written(self) -> Future[None]:
        writable = self._connection.writable
        if writable is None:
            writable = asyncio.get_running_loop().create_future()
            writable.set_result(None)
        return writable


def _closed() -> Future[None]:
    future: Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(httputil.HTTPOutputError("the connection is closed"))
    future.exception()  # nobody has to look at it
    return future
