"""The config API as a client sees it: one request, and an error that a person can read."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from webhookd.cli.output import Failure, printable
from webhookd.control_client import UnixConnection
from webhookd.forms import mask_url

TIMEOUT = 10
"""How long, in seconds, an answer may take."""
MAX_ANSWER = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether it was a 2xx."""
        return http.HTTPStatus.OK <= self.status < http.HTTPStatus.MULTIPLE_CHOICES

    @property
    def receipt(self) -> str | None:
        """The receipt of an accepted delivery."""
        return self.headers.get("x-webhookd-receipt")

    def document(self) -> Any:
        """Return the body as JSON, None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def problem(self) -> str:
        """Return why it is not a 2xx, in a line: status, detail, and each field at fault (RFC 9457)."""
        problem = self.document()
        if not isinstance(problem, dict) or "title" not in problem:
            return f"{self.status} {http.client.responses.get(self.status, '')}: the answer is not webhookd's"
        detail = str(problem.get("detail", ""))
        faults = [f"{f.get('field', f.get('pointer', '?'))}: {f.get('message')}" for f in problem.get("errors", [])]
        said = [detail, *(fault for fault in faults if fault not in detail)]
        return f"{self.status} {problem['title']}: {'; '.join(said)}"


class Refused(Failure):
    """The config API has answered, and it was no 2xx."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(printable(answer.problem()))
        self.of_the_document = answer.status in (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        """Whether another document might have been taken."""


def request(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = TIMEOUT,
    unix_socket: Path | None = None,
) -> Answer:
    """Send one request and return the answer, a redirect as it is. Raises Failure where there is no answer.

    With `unix_socket` that is where it is sent, whatever host the URL has.
    """
    place, target, connection = _connection(url, timeout)
    if unix_socket is not None:
        place, connection = str(unix_socket), UnixConnection(unix_socket, timeout)
    try:
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(
            answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read(MAX_ANSWER)
        )
    except TimeoutError:
        raise Failure(f"no answer from {place} within {timeout:g} s") from None
    except (ConnectionRefusedError, FileNotFoundError):
        raise Failure(f"nothing listens at {place}: is the daemon running there?") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Failure(f"no answer from {place}: {reason}") from None
    finally:
        connection.close()


def _connection(url: str, timeout: float) -> tuple[str, str, http.client.HTTPConnection]:
    """Return the server in words, the request target, and a connection that is not open yet."""
    shown = mask_url(url.partition("/wh/")[0])  # what follows may be a secret
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise click.UsageError(f"{shown!r} is no URL") from None
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise click.UsageError(f"{shown!r} is no http:// or https:// URL")
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    place = f"{parts.scheme}://{mask_url(parts.netloc)}"
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return place, target, http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    return place, target, http.client.HTTPConnection(host, port, timeout=timeout)


@dataclass(frozen=True, slots=True)
class ConfigApi:
    """The config API at `url` (or `unix:/path`), for the tenant of `token`."""

    url: str
    token: str = field(repr=False)
    timeout: float | None = None
    """How long, in seconds, an answer may take, if not TIMEOUT."""

    def ask(self, method: str, path: str = "", document: Any = None, origin: str | None = None) -> Any:
        """Return the document answered, None where there is none. Raises Refused with the problem if it is no 2xx."""
        headers = {"Authorization": f"Bearer {self.token}"}
        body = None
        if document is not None:
            body = json.dumps(document).encode()
            headers["Content-Type"] = "application/json"
        if origin is not None:
            headers["X-ORIG-SERVER"] = origin
        unix = Path(self.url.removeprefix("unix:")) if self.url.startswith("unix:") else None
        base = self.url.rstrip("/") if unix is None else "http://localhost"
        answer = request(
            method, f"{base}/wh/config{path}", body, headers, timeout=self.timeout or TIMEOUT, unix_socket=unix
        )
        if not answer.ok:
            raise Refused(answer)
        return answer.document()
