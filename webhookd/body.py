"""What a body may look like: its content type, its encoding, and whether it is JSON; nothing is built from it."""

from __future__ import annotations

import codecs
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Literal

import msgspec

from webhookd.errors import Malformed, UnsupportedContentEncoding, UnsupportedContentType

Encoding = Literal["gzip", "deflate"]

MAX_NESTING = 10_000
"""Nesting that no interpreter lets pass; below it, Python's own recursion limit may refuse earlier (over 512)."""
INFLATE_STEP = 256 * 1024
"""How many inflated bytes one step of `inflate` yields at the most."""

MOST_PASSED = 100
"""How many spellings of a Content-Type that passed are remembered."""

_PASSED: set[str | None] = set()
_JSON_TYPE = re.compile(r"application/(?:s?json|[^\s/;]+\+json)", re.IGNORECASE)
_FORM_TYPE = "application/x-www-form-urlencoded"
_ENCODINGS: dict[str, Encoding | None] = {
    "": None,
    "identity": None,
    "gzip": "gzip",
    "x-gzip": "gzip",  # RFC 9110, section 8.4.1.3
    "deflate": "deflate",
}
ENDS_EARLY = "it ends in the middle"
"""What is said of a body that is the beginning of JSON."""

_CUT = "Input data was truncated"
_HALF_AT_END = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}[^\\]*[\]}]\s*$")
_RAW = msgspec.json.Decoder(msgspec.Raw)
_OPENING = (b"{", b"[")
_CONTAINER = re.compile(rb"[ \t\r\n]*[\[{]")
_BRACKET_OR_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_UTF8_SLICE = 64 * 1024


def check_content_type(value: str | None) -> None:
    """Raise `UnsupportedContentType` unless a `;`-separated part of the header names JSON."""
    if value in _PASSED:
        return
    if value is None:
        raise UnsupportedContentType("the Content-Type header is missing: send application/json")
    parts = [part.strip() for part in value.split(";")]
    if any(_JSON_TYPE.fullmatch(part) for part in parts):
        if len(_PASSED) < MOST_PASSED:
            _PASSED.add(value)
        return
    if any(part.lower() == _FORM_TYPE for part in parts):
        raise UnsupportedContentType(
            f"the Content-Type is {_FORM_TYPE}: switch the sender to JSON"
            " (GitHub: webhook settings, Content type: application/json)"
        )
    raise UnsupportedContentType("the Content-Type names no JSON: send application/json")


def content_encoding(value: str | None) -> Encoding | None:
    """Return how the body is compressed, None if it is not; raises `UnsupportedContentEncoding`."""
    if value is None:
        return None
    try:
        return _ENCODINGS[value.strip().lower()]
    except KeyError:
        raise UnsupportedContentEncoding(
            "the Content-Encoding is not supported: send gzip, deflate or none, and only one"
        ) from None


def inflate(data: bytes, encoding: Encoding) -> Iterator[bytes]:
    """Yield the inflated bytes of a gzip (RFC 1952) or deflate (RFC 9110: zlib, but raw as well) body, in steps.

    Raises `Malformed` where the stream is broken, ends early, or has something behind its end. The caller stops where
    it has enough: nothing is inflated ahead.
    """
    stream = zlib.decompressobj(_window_bits(data, encoding))
    view = memoryview(data)
    for start in range(0, len(view), INFLATE_STEP):
        pending: bytes | memoryview = view[start : start + INFLATE_STEP]
        while True:
            try:
                out = stream.decompress(pending, INFLATE_STEP)
            except zlib.error:
                raise Malformed(f"the body is not a valid {encoding} stream", check="inflate") from None
            if out:
                yield out
            pending = stream.unconsumed_tail
            if stream.eof or (not pending and len(out) < INFLATE_STEP):
                break
        if stream.eof:
            if stream.unused_data or start + INFLATE_STEP < len(view):
                raise Malformed(f"something follows the end of the {encoding} stream", check="inflate")
            return
    raise Malformed(f"the {encoding} stream ends early", check="inflate")


def _window_bits(data: bytes, encoding: Encoding) -> int:
    if encoding == "gzip":
        return 16 + zlib.MAX_WBITS
    # RFC 1950, section 2.2: the header's method is 8 and its 16 bits are a multiple of 31. Some senders leave it out.
    has_header = len(data) > 1 and data[0] & 0x0F == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def check_json(body: bytes) -> None:
    """Raise `Malformed` unless `body` is one JSON object or array (RFC 8259) in UTF-8.

    Duplicate keys and numbers of any size pass: nothing is decoded. NaN, a byte order mark and lone surrogates do not.
    """
    try:
        _RAW.decode(body)
    except msgspec.DecodeError as error:
        raise Malformed(_not_json(body, error)) from None
    except RecursionError:
        raise Malformed("the body is nested too deeply") from None
    if not body.isascii() and not _is_utf8(body):
        raise Malformed("the body is not JSON: it is not UTF-8")
    if body[:1] not in _OPENING and not _CONTAINER.match(body):
        raise Malformed("the body is JSON, but neither an object nor an array")
    if sys.version_info >= (3, 14) and nested(body, MAX_NESTING):  # pragma: no cover - there the stack is the limit
        raise Malformed("the body is nested too deeply")


def _not_json(body: bytes, error: msgspec.DecodeError) -> str:
    if not body:
        return "the body is empty"
    if body.startswith(codecs.BOM_UTF8):
        return "the body is not JSON: it starts with a byte order mark"
    if str(error) != _CUT:
        return f"the body is not JSON: {error}"
    # half a surrogate pair in the last string is said to be cut, too
    return f"the body is not JSON: {'a surrogate stands alone' if _HALF_AT_END.search(body[-16:]) else ENDS_EARLY}"


def _is_utf8(body: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    try:
        for start in range(
            0, len(view), _UTF8_SLICE
        ):  # by slices: the whole as text would take up to four times as much
            decoder.decode(view[start : start + _UTF8_SLICE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def nested(body: bytes, levels: int) -> bool:
    """Whether the JSON text `body` nests `levels` deep or deeper."""
    if body.count(b"[") + body.count(b"{") < levels:
        return False
    depth = 0
    for match in _BRACKET_OR_STRING.finditer(body):
        sign = match[0]
        if sign in (b"[", b"{"):
            depth += 1
            if depth >= levels:
                return True
        elif sign in (b"]", b"}"):
            depth -= 1
    return False
