"""One GET is put to a neighbour, and it ends: within so many seconds, with so many bytes, or with a reason."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError, UnsatisfiableReadError

from webhookd.adapters.names import Names
from webhookd.errors import ConfigurationError

PATIENCE = 3.0
"""How long an exchange may take, in seconds: waiting for its turn, looking up the name, connecting and TLS included."""
AT_A_TIME = 20
"""How many exchanges with one neighbour may be in work; what comes beyond waits for its turn."""
MAX_HEADER = 16 * 1024
PORTS = {"http": 80, "https": 443}


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for what Tornado logs of a failed TLS handshake: whoever asked is told, and tells the operator."""
    return not record.getMessage().startswith("SSL Error on")


logging.getLogger("tornado.general").addFilter(_is_news)


class Unanswered(Exception):
    """There was no whole answer; the text says why, in words for a log line: no part of the question is in it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a neighbour is: its URL without user and password, which are sent as Basic authentication (RFC 7617)."""

    url: str
    headers: dict[str, str] = field(repr=False)

    @classmethod
    def of(cls, url: str) -> Place:
        """Take a URL of the settings apart."""
        parts = urlsplit(url)
        userinfo, _, where = parts.netloc.rpartition("@")
        headers = {"Host": where, "Accept": "application/json", "User-Agent": "webhookd", "Connection": "close"}
        if userinfo:
            user, _, password = userinfo.partition(":")
            pair = f"{unquote(user)}:{unquote(password)}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return cls(urlunsplit(parts._replace(netloc=where)).rstrip("/"), headers)


def trust(cafile: Path | None, key: str) -> ssl.SSLContext:
    """Return TLS that trusts the CA certificates in `cafile`, or those of the system where there is none.

    Raises `ConfigurationError`, which names the setting `key`, for a file that holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=cafile)
    except ssl.SSLError:
        raise ConfigurationError(f"{key}: {cafile} holds no CA certificates (PEM)") from None
    except OSError as error:
        raise ConfigurationError(f"{key}: {cafile} cannot be read: {error.strerror}") from None


class Answer(HTTPMessageDelegate):
    """What comes back, whatever its status; a redirect is an answer, and nobody goes there."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.whole = False

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:  # noqa: ARG002 - Tornado's
        """Keep the status."""
        if isinstance(start_line, ResponseStartLine):
            self.status = start_line.code

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body; Tornado bounds the whole."""
        self.body += chunk

    def finish(self) -> None:
        """Know that all of it is there."""
        self.whole = True


class Fetcher:
    """GETs from one neighbour, over a connection for each.

    This is what Tornado's own client is made of, and not that client: it keeps no deadline over its queue, cannot be
    cancelled, logs a traceback for a connection that is reset, and keeps one for ever that is made in the moment in
    which its caller leaves.
    """

    def __init__(self, place: Place, tls: ssl.SSLContext, *, most: int) -> None:
        self.place = place
        self._most = most
        url = urlsplit(place.url)
        self._host = url.hostname or ""
        self._port = url.port or PORTS[url.scheme]
        self._path = url.path
        self._tls = tls if url.scheme == "https" else None
        self._turns = asyncio.Semaphore(AT_A_TIME)
        self._names = Names()

    async def get(self, path: str = "") -> Answer:
        """Return the answer to a GET of `path`, appended to the neighbour's URL; raises `Unanswered`."""
        try:
            async with asyncio.timeout(PATIENCE), self._turns:
                answer = await self._exchange((self._path + path) or "/")
        except TimeoutError:
            raise Unanswered(f"no answer within {PATIENCE:g} s") from None
        except (OSError, UnicodeError, UnsatisfiableReadError) as error:
            raise Unanswered(self._words(error)) from None
        if not answer.whole:
            raise Unanswered(self._words(None))
        return answer

    async def _exchange(self, target: str) -> Answer:
        stream = await self._names.connected(self._host, self._port, self._connect)
        try:
            stream.set_nodelay(True)
            limits = HTTP1ConnectionParameters(no_keep_alive=True, max_header_size=MAX_HEADER, max_body_size=self._most)
            connection = HTTP1Connection(stream, is_client=True, params=limits)
            await connection.write_headers(RequestStartLine("GET", target, ""), HTTPHeaders(self.place.headers))
            connection.finish()
            answer = Answer()
            await connection.read_response(answer)
        finally:
            stream.close()
        return answer

    async def _connect(self, family: int, address: Any) -> IOStream:
        stream = self._stream(socket.socket(family))
        try:
            await stream.connect(address, server_hostname=self._host)
        except BaseException:
            stream.close()
            raise
        return stream

    def _stream(self, sock: socket.socket) -> IOStream:
        room = self._most + MAX_HEADER
        if self._tls is None:
            return IOStream(sock, max_buffer_size=room)
        return SSLIOStream(sock, ssl_options=self._tls, max_buffer_size=room)

    def _words(self, error: BaseException | None) -> str:
        if isinstance(error, StreamClosedError):
            error = error.real_error
        match error:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted: {error.verify_message}"
            case ssl.SSLError():
                return f"TLS failed: {error.reason}"
            case socket.gaierror() | UnicodeError():
                return "its name was not found"
            case OSError(strerror=str(reason)):
                return f"no connection: {reason}"
            case _:
                return f"the answer broke off, is no HTTP, or is over {self._most} bytes"
