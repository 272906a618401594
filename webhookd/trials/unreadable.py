"""Why a body that was refused cannot be read, and what to do for that very body: found in its bytes, none shown."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from webhookd.body import ENDS_EARLY, check_json, content_encoding, inflate, nested
from webhookd.datasource import Datasource
from webhookd.errors import Malformed, Rejected
from webhookd.model import Delivery
from webhookd.trials.diagnoses import Diagnosis, Known, capital, sender_of

MAX_LOOKED_AT = 1024 * 1024
"""The largest body, in bytes and inflated, that is looked at."""
MAX_NESTED = 513
"""How many levels a body has at least that is refused for its nesting."""

_WRITE = "Have {sender} write its body with a JSON library (RFC 8259)"

UNREADABLE: Mapping[str, Known] = {
    "empty": Known(
        "The body is empty.",
        "Have {sender} send the event as the body. Where it does, a redirect or a proxy between has dropped the body:"
        " give {sender} the URL exactly as it is here, `https` and path included.",
    ),
    "not-compressed": Known(
        "The Content-Encoding says that the body is compressed, and it is not.",
        "Have {sender} compress the body (one whole gzip or deflate stream), or leave the header Content-Encoding out;"
        " a proxy that inflates the body has to remove the header.",
    ),
    "compressed-cut": Known(
        "The compressed body ends before its end.",
        "Have {sender} send the whole gzip or deflate stream: close the compressor before the body is sent, and see"
        " that nothing between cuts the body off.",
    ),
    "compressed-followed": Known(
        "Something follows the end of the compressed body.",
        "Have {sender} send one gzip or deflate stream, and nothing behind it.",
    ),
    "compressed-broken": Known(
        "The compressed body is damaged, or compressed in another way than the Content-Encoding says.",
        "Have {sender} send what its Content-Encoding says: one whole gzip or deflate stream, or no such header.",
    ),
    "compression-unnamed": Known(
        "The body is compressed with gzip, and no Content-Encoding says so.",
        "Have {sender} send the header `Content-Encoding: gzip` as well, or not compress; let no proxy remove it.",
    ),
    "byte-order-mark-first": Known(
        "The body starts with a byte order mark, which JSON must not.",
        "Have {sender} write UTF-8 without a byte order mark (in Python `utf-8`, not `utf-8-sig`).",
    ),
    "utf-16": Known("The body is in UTF-16 or UTF-32; JSON is in UTF-8.", "Have {sender} encode its body as UTF-8."),
    "form": Known(
        "The body is a form (`name=value`), though the Content-Type says JSON.",
        "Have {sender} send the JSON itself as the body: where it offers a content type, `application/json`; with curl"
        " `--data-binary @file.json`.",
    ),
    "markup": Known(
        "The body is XML or HTML.",
        "Switch {sender} to JSON; where it has no such setting, something between has to turn its events into JSON.",
    ),
    "json-in-json": Known(
        "The body is one JSON string with JSON inside: it was serialised twice.",
        "Have {sender} serialise the event once: hand the object, not its text, to what sends it.",
    ),
    "single-value": Known(
        "The body is one JSON value alone: a string, a number, true, false or null.",
        'Have {sender} put it into an object, as in `{{"value": 42}}`, or into an array.',
    ),
    "several-values": Known(
        "The body is several JSON values one behind the other, as in JSON lines.",
        "Have {sender} send one delivery for each, or all of them in one array.",
    ),
    "not-utf-8": Known(
        "The body is in another character set than UTF-8, Latin-1 or Windows-1252 as it seems.",
        "Have {sender} encode its body as UTF-8: a `charset` in the Content-Type changes nothing.",
    ),
    "nested": Known(
        "The body is nested deeper than is taken: 512 levels always are.",
        "Have {sender} send flatter JSON; so many levels are mostly a loop in what writes it.",
    ),
    "lone-surrogate": Known(
        "A string in the body has one half of a UTF-16 surrogate pair, as `\\ud83d` is.",
        "Have {sender} cut texts between characters, not inside of one: half an emoji is no text.",
    ),
    "not-a-number": Known(
        "The body has NaN or Infinity in it, which JSON does not know.",
        "Have {sender} write null for them (in Python, `json.dumps` with `allow_nan=False` shows where they are).",
    ),
    "raw-line-break": Known(
        "A string in the body has a line break or a tab in it as such.",
        _WRITE + ", which writes them as `\\n` and `\\t`; a template that puts values in between quotes does not.",
    ),
    "trailing-comma": Known(
        "The body has a comma behind the last member of an object or array.",
        _WRITE + ", which writes none.",
    ),
    "single-quotes": Known(
        "The body has single quotes where JSON has double ones, as what Python prints of a dict.",
        _WRITE + ": in Python `json.dumps`, not `str`.",
    ),
    "quotes-missing": Known(
        "A name in the body stands without its double quotes: mostly a shell has taken them away.",
        "Have {sender} put names into double quotes. In a shell, put the body into single quotes, or into a file and"
        " send that (curl `--data-binary @file.json`).",
    ),
    "cut-off": Known(
        "The body ends in the middle of the JSON.",
        "Have {sender} send all of it: mostly its Content-Length is too small, counted in characters and not in bytes,"
        " or there is a limit to how much it sends.",
    ),
}
"""By name, in the order in which they are looked for."""


class _Sent(NamedTuple):
    """What was sent: `body` is inflated where it can be; `stream` and `json` say why each cannot be read."""

    body: bytes
    compressed: bool = False
    stream: str = ""
    json: str = ""

    @property
    def text(self) -> str:
        """The body as text, as well as can be."""
        return self.body.decode("utf-8", "replace").strip()


def unreadable(source: Datasource, delivery: Delivery) -> tuple[Diagnosis, ...]:
    """Return why the body of `delivery`, as it was sent, cannot be read; nothing where no known mistake shows.

    Takes up to some 0.2 s for 1 MiB: it is to be called in a thread. What it returns holds no value of the body.
    """
    sent = _sent(delivery)
    if len(sent.body) > MAX_LOOKED_AT:
        return ()
    sender = sender_of(source)
    for name, known in UNREADABLE.items():
        if _SIGNS[name](sent):
            text, remedy = (capital(words.format(sender=sender)) for words in (known.text, known.remedy))
            return (Diagnosis(name, text, remedy, known.by_setting),)
    return ()


def _sent(delivery: Delivery) -> _Sent:
    body, compressed = delivery.body, False
    try:
        encoding = content_encoding(delivery.headers.get("content-encoding"))
        if encoding is not None:
            compressed, whole = True, bytearray()
            for step in inflate(body, encoding):
                whole += step
                if len(whole) > MAX_LOOKED_AT:
                    break
            body = bytes(whole)
    except Rejected as error:
        return _Sent(body, compressed, stream=error.detail)
    try:
        check_json(body)
    except Malformed as error:
        return _Sent(body, compressed, json=error.detail)
    return _Sent(body, compressed)


# --- the signs of each -----------------------------------------------------------------------------------------------


def _read(text: str, *, strict: bool = True) -> Any:
    """Return what Python's laxer reader makes of `text`: NaN, lone surrogates pass; None where it makes nothing.

    With `strict` False line breaks and tabs in strings pass, too.
    """
    try:
        return json.loads(text, strict=strict)
    except (ValueError, RecursionError):
        return None


def _serialised_twice(sent: _Sent) -> bool:
    inner = _read(sent.text)
    return isinstance(inner, str) and isinstance(_read(inner), (dict, list))


def _single(sent: _Sent) -> bool:
    return "neither an object nor an array" in sent.json


def _several(sent: _Sent) -> bool:
    text, reader, count = sent.text, json.JSONDecoder(), 0
    place = 0
    try:
        while place < len(text):
            _, place = reader.raw_decode(text, place)
            place = _BLANKS.match(text, place).end()  # type: ignore[union-attr]  # it matches the empty string too
            count += 1
    except (ValueError, RecursionError):
        return False
    return count > 1


def _other_charset(sent: _Sent) -> bool:
    try:
        sent.body.decode()
    except UnicodeDecodeError:
        return True
    return False


def _not_a_number(sent: _Sent) -> bool:
    found: list[str] = []
    try:
        json.loads(sent.text, parse_constant=found.append)
    except (ValueError, RecursionError):
        return False
    return bool(found)


def _single_quoted(sent: _Sent) -> bool:
    return _SINGLE_QUOTE.match(sent.text) is not None or _read(sent.text.replace("'", '"')) is not None


def _half_a_pair(sent: _Sent) -> bool:
    value = _read(sent.text)
    if value is None:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


_BLANKS = re.compile(r"[ \t\r\n,]*")
_FORM = re.compile(r"[\w.\[\]%+-]{1,100}=")
_SINGLE_QUOTE = re.compile(r"[\[{][\[{\s]*'")
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")
_BARE_NAME = re.compile(r"[\[{][\[{\s]*[A-Za-z_$][\w$-]*\s*:")
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_GZIP = b"\x1f\x8b"

_SIGNS: Mapping[str, Callable[[_Sent], bool]] = {
    "empty": lambda sent: not sent.body.strip(),
    "not-compressed": lambda sent: bool(sent.stream) and sent.body.lstrip()[:1] in (b"{", b"["),
    "compressed-cut": lambda sent: "ends early" in sent.stream,
    "compressed-followed": lambda sent: "follows" in sent.stream,
    "compressed-broken": lambda sent: bool(sent.stream),
    "compression-unnamed": lambda sent: sent.body.startswith(_GZIP) and not sent.compressed,
    "byte-order-mark-first": lambda sent: sent.body.startswith(codecs.BOM_UTF8),
    "utf-16": lambda sent: sent.body.startswith(_WIDE) or b"\0" in sent.body[:4],
    "form": lambda sent: _FORM.match(sent.text) is not None,
    "markup": lambda sent: sent.text.startswith("<"),
    "json-in-json": _serialised_twice,
    "single-value": _single,
    "several-values": _several,
    "not-utf-8": _other_charset,
    "nested": lambda sent: nested(sent.body, MAX_NESTED),
    "lone-surrogate": _half_a_pair,
    "not-a-number": _not_a_number,
    "raw-line-break": lambda sent: _read(sent.text) is None and _read(sent.text, strict=False) is not None,
    "trailing-comma": lambda sent: _read(_TRAILING_COMMA.sub(r"\1", sent.text)) is not None,
    "single-quotes": _single_quoted,
    "quotes-missing": lambda sent: _BARE_NAME.match(sent.text) is not None,
    "cut-off": lambda sent: ENDS_EARLY in sent.json,
}
