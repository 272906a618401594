"""What may have been signed in place of the bytes that came: the same event written another way."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote_plus

from webhookd.body import content_encoding, inflate, nested
from webhookd.errors import Rejected
from webhookd.model import Delivery

MAX_BODY = 64 * 1024
"""The largest body, in bytes, that is tried."""
MAX_GROWTH = 4
"""How many times as large as the body something may be that is tried in its place."""
MAX_INDENTED = 32
"""Levels of nesting from which on no indented JSON is tried: it would grow with their square."""

MOST_FIELDS = 100
"""How many fields a form may have."""


class Body(NamedTuple):
    """Bytes that may have been signed, and what that would be called; None is the body as it came."""

    name: str | None
    value: bytes


def bodies(delivery: Delivery) -> list[Body]:
    """Return the body as it came and then every other that may have been signed, none twice, the likeliest first."""
    found: dict[bytes, Body] = {delivery.body: Body(None, delivery.body)}
    most = MAX_GROWTH * len(delivery.body) + 1024
    for name, ways in _WAYS.items():
        for value in ways(delivery):
            if len(value) <= most:
                found.setdefault(value, Body(name, value))
    return list(found.values())


def _stripped(delivery: Delivery) -> Iterator[bytes]:
    body = delivery.body
    for end in (b"\r\n", b"\n", b"\r"):
        yield body.removesuffix(end)
    yield body.rstrip(b"\r\n")
    yield body.strip(b" \t\r\n")


def _added(delivery: Delivery) -> Iterator[bytes]:
    for end in (b"\n", b"\r\n"):
        yield delivery.body + end


def _line_endings(delivery: Delivery) -> Iterator[bytes]:
    unix = delivery.body.replace(b"\r\n", b"\n")
    for body in (unix, unix.replace(b"\n", b"\r\n")):
        yield body
        yield body.rstrip(b"\r\n")


def _marked(delivery: Delivery) -> Iterator[bytes]:
    yield codecs.BOM_UTF8 + delivery.body
    yield delivery.body.removeprefix(codecs.BOM_UTF8)


def _empty(delivery: Delivery) -> Iterator[bytes]:
    del delivery
    yield b""


def _inflated(delivery: Delivery) -> Iterator[bytes]:
    try:
        encoding = content_encoding(delivery.headers.get("content-encoding"))
        if encoding is None:
            return
        whole = bytearray()
        for step in inflate(delivery.body, encoding):
            whole += step
            if len(whole) > MAX_GROWTH * MAX_BODY:
                return
    except Rejected:
        return
    yield bytes(whole)


def _other_charset(delivery: Delivery) -> Iterator[bytes]:
    for reading, writing in (("utf-8", "latin-1"), ("utf-8", "cp1252"), ("latin-1", "utf-8"), ("utf-8", "utf-16-le")):
        try:
            yield delivery.body.decode(reading).encode(writing)
        except UnicodeError:
            continue


def _form_decoded(delivery: Delivery) -> Iterator[bytes]:
    body = delivery.body
    if b"payload=" in body and body.count(b"&") < MOST_FIELDS:
        for value in parse_qs(body.decode("latin-1"), encoding="latin-1").get("payload", []):
            yield value.encode("latin-1")


def _form_encoded(delivery: Delivery) -> Iterator[bytes]:
    yield b"payload=" + quote_plus(delivery.body).encode()
    yield b"payload=" + quote_plus(delivery.body, safe="*-._").encode()


def _json(delivery: Delivery, writers: tuple[Callable[[Any], str], ...]) -> Iterator[bytes]:
    try:
        document = json.loads(delivery.body)
        for write in writers:
            text = write(document)
            yield text.encode("utf-8")
            yield f"{text}\n".encode()
    except (ValueError, RecursionError):
        return  # no JSON, or a number with more digits than Python reads: nothing to write another way


def _indented(delivery: Delivery) -> Iterator[bytes]:
    if not nested(delivery.body, MAX_INDENTED):
        yield from _json(delivery, _writers({"indent": 2}, {"indent": 4}, {"indent": "\t"}))


def _writers(*styles: dict[str, Any]) -> tuple[Callable[[Any], str], ...]:
    """Return a writer of JSON for each style, with all but ASCII as it is, and one with it escaped."""
    return tuple(
        partial(json.dumps, ensure_ascii=ascii_only, **style) for style in styles for ascii_only in (False, True)
    )


def _with_slashes_escaped(document: Any, **style: Any) -> str:
    return json.dumps(document, **style).replace("/", "\\/")


_COMPACT: dict[str, Any] = {"separators": (",", ":")}
_SORTED: dict[str, Any] = {"sort_keys": True}
_PHP = tuple(partial(_with_slashes_escaped, ensure_ascii=ascii_only, **_COMPACT) for ascii_only in (True, False))

_WAYS: dict[str, Callable[[Delivery], Iterator[bytes]]] = {
    "newline-stripped": _stripped,
    "newline-added": _added,
    "line-endings": _line_endings,
    "json-compact": partial(_json, writers=_writers(_COMPACT)),
    "json-spaced": partial(_json, writers=_writers({})),
    "json-sorted": partial(_json, writers=_writers(_SORTED | _COMPACT, _SORTED)),
    "json-slashes": partial(_json, writers=_PHP),
    "json-indented": _indented,
    "form-decoded": _form_decoded,
    "form-encoded": _form_encoded,
    "inflated": _inflated,
    "byte-order-mark": _marked,
    "charset": _other_charset,
    "body-empty": _empty,
}
