"""Every refusal as HTTP: status, headers and a problem+json body (RFC 9457), written in one place."""

from __future__ import annotations

import http
import time
from collections.abc import Mapping
from email.utils import formatdate

import msgspec

from webhookd.errors import MethodNotAllowed, Rejected
from webhookd.shapes import Problem

PROBLEM_TYPE = "application/problem+json"


class _Clock:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def date(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


_clock = _Clock()


def http_date() -> str:
    """Return the current time as the Date header has it (RFC 9110, section 5.6.7)."""
    return _clock.date()


def reason_phrase(status: int) -> str:
    """Return the standard words for `status`."""
    return http.HTTPStatus(status).phrase


def problem_body(status: int, title: str, detail: str, errors: list[Mapping[str, str]] | None = None) -> bytes:
    """Return the problem+json body; `errors` only where there are some."""
    return msgspec.json.encode(Problem(title, status, detail, errors or msgspec.UNSET))


def problem(error: Rejected) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers (without Date and Content-Length) and body for a refusal."""
    headers = {"Content-Type": PROBLEM_TYPE, **error.headers}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    return error.status, headers, problem_body(error.status, error.title, error.detail, error.errors)


def bug() -> tuple[int, dict[str, str], bytes]:
    """Return the answer to what is a fault of ours: no word of it reaches the client, the log has the traceback."""
    status = http.HTTPStatus.INTERNAL_SERVER_ERROR
    return status, {"Content-Type": PROBLEM_TYPE}, problem_body(status, "Internal error", "see the daemon's log")
