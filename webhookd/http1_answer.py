"""Answers as bytes: what is always the same is made once, or once a second."""

from __future__ import annotations

from collections.abc import Mapping

from webhookd.http_problem import http_date, reason_phrase

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_KEEP = (b"Connection: keep-alive\r\n\r\n", b"\r\n")
_CLOSE = b"Connection: close\r\n\r\n"


class Accepted:
    """The answer to an accepted delivery; `refresh` is called every second or oftener."""

    def __init__(self) -> None:
        self.plain = self.with_receipt = b""
        self.refresh()

    def refresh(self) -> None:
        """Have the Date of now."""
        self.plain = f"HTTP/1.1 204 No Content\r\nDate: {http_date()}\r\n".encode()
        self.with_receipt = self.plain + b"X-Webhookd-Receipt: "

    def whole(self, receipt: str | None) -> bytes:
        """Return the answer where the connection is kept, as HTTP/1.1 does without saying."""
        return self.plain + b"\r\n" if receipt is None else b"%b%b\r\n\r\n" % (self.with_receipt, receipt.encode())


def end(minor: int, *, keep_alive: bool) -> bytes:
    """Return the end of a head that says what becomes of the connection, to a client of HTTP/1.`minor`."""
    return _KEEP[minor] if keep_alive else _CLOSE


def head(status: int, headers: Mapping[str, str], length: int | None) -> bytes:
    """Return status line and fields, but for what `end` returns; `length` None is for what never has a body."""
    lines = [f"HTTP/1.1 {status} {reason_phrase(status)}", f"Date: {http_date()}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def bare(status: int, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the answer of the parser itself: a status and nothing else, and the connection closed."""
    return head(status, headers or {}, 0) + _CLOSE
