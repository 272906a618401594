"""The head of an HTTP/1.1 request (RFC 9112), read by llhttp and held to more than llhttp asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import httptools
import msgspec

MAX_HEAD = 32 * 1024
"""The longest head, request line included, in bytes; longer is 431."""
MOST_NAMES = 1000
"""How many names of fields are remembered."""
LONGEST_NAME = 64
MAX_FIELDS = 100
"""How many header fields a request may have; more is 431."""
MOST_LINES = 10_000
"""How many request lines are remembered as read: a sender repeats its own with every delivery."""
LONGEST_LINE = 256

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!\"$-~]+) HTTP/1\.([01])\r")
"""RFC 9112, section 3, as strict as it is written: one space, visible ASCII without a fragment, 1.0 or 1.1."""
_HOST = re.compile(rb"[-A-Za-z0-9._~%!$&'()*+,;=:\[\]]*[ \t]*")
_BEYOND = "Content-Length overflow"
"""What llhttp says of a length over 64 bits: well formed (RFC 9110, section 8.6), and more than anybody takes."""
_ORDINARY = frozenset({b"POST", b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"})
_ONCE = frozenset({"host", "content-length", "transfer-encoding", "expect"})


class Refused(Exception):
    """What the parser itself refuses: answered with `status`, nothing more, and the connection closed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Names(dict[bytes, str]):
    """The lower-case text of field names, so that the same few are not made again with every request."""

    def __missing__(self, name: bytes) -> str:
        text = name.lower().decode("ascii")
        if len(self) < MOST_NAMES and len(name) <= LONGEST_NAME:
            self[name] = text
        return text


_name = _Names().__getitem__


class Line(NamedTuple):
    """A request line of HTTP/1.`minor`; `ordinary`: llhttp knows the method, and takes it as it is."""

    ordinary: bool
    method: str
    target: bytes
    minor: int


class _Lines(dict[bytes, Line]):
    """Request lines as they were read, by their bytes up to the CR; asking for a bad one raises `Refused`."""

    def __missing__(self, line: bytes) -> Line:
        found = _REQUEST_LINE.fullmatch(line)
        if found is None:
            raise Refused(400)
        method, target, minor = found.groups()
        read = Line(method in _ORDINARY, method.decode("ascii"), target, 1 if minor == b"1" else 0)
        if len(line) <= LONGEST_LINE:
            if len(self) >= MOST_LINES:
                self.clear()
            self[line] = read
        return read


_lines = _Lines()


class Fields(Mapping[str, str]):
    """Header fields by lower-case name, decoded (latin-1) when asked for; values of one name are joined by `,`.

    `block` is the head that they are of, as it came: to be kept in their place, since it takes much less memory.
    """

    __slots__ = ("block", "raw")

    def __init__(self, raw: dict[str, bytes], block: bytes) -> None:
        self.raw = raw
        self.block = block

    @classmethod
    def of(cls, block: bytes) -> Fields:
        """Return the fields of a head that was read before."""
        return cls(_joined(block), block)

    def __getitem__(self, name: str) -> str:
        return self.raw[name].rstrip(b" \t").decode("latin-1")

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override] # default is text
        """Return the value of a field, or `default`."""
        value = self.raw.get(name)
        return default if value is None else value.rstrip(b" \t").decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __reduce__(self) -> tuple[type, tuple[dict[str, str]]]:
        """Let other processes have a plain dict."""
        return dict, (dict(self),)


class Head(msgspec.Struct, gc=False):
    """One request up to its body. `length` is the body's in bytes, None for a chunked one; HTTP/1.`minor`.

    `expects`: the sender waits to be told to go on before it sends the body.
    """

    block: bytes
    method: str
    target: bytes
    minor: int
    fields: Fields
    length: int | None
    keep_alive: bool
    expects: bool

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield every field as it was sent, in order."""
        for name, value in _pairs(self.block):
            yield name.decode("latin-1"), value.decode("latin-1")


class Reader:
    """llhttp for one connection, fed one message at a time, never a byte beyond it.

    `parts` are the pieces of the body read since its taker last cleared it; `complete` says that the message is whole.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.complete = True
        self._raw: dict[bytes, bytes] = {}
        self._host: bytes | None = None
        self.on_header = self._raw.__setitem__
        self.on_body = self.parts.append
        self._parser = httptools.HttpRequestParser(self)

    def on_message_complete(self) -> None:
        """Take note of what llhttp tells."""
        self.complete = True

    def head(self, block: bytes) -> Head:
        """Read one head, its final CRLF included; raises `Refused`."""
        ordinary, method, target, minor = _lines[block[: block.find(b"\n")]]
        raw = self._raw
        raw.clear()
        self.complete = False
        upgrade = False
        try:
            # a method that llhttp has not heard of is answered by whoever takes the request; CONNECT tunnels nowhere
            self._parser.feed_data(block if ordinary else b"POST" + block[len(method) :])
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserError as error:
            raise Refused(413 if str(error) == _BEYOND else 400) from None
        count = block.count(b"\n") - 2
        if count > MAX_FIELDS:
            raise Refused(431)
        fields = dict(zip(map(_name, raw), raw.values(), strict=True))
        if len(fields) != count:
            fields = _joined(block)
        length: int | None = None
        if "transfer-encoding" in fields:
            _check_coding(fields["transfer-encoding"], minor)
        else:
            length = int(fields.get("content-length", 0))
        host = fields.get("host")
        if host != self._host or host is None:  # the last one was good
            _check_host(host, minor)
            self._host = host
        keep_alive = minor == 1 if "connection" not in fields else _keeps_alive(fields["connection"], minor)
        # RFC 9110, section 10.1.1: ignored in HTTP/1.0
        expects = "expect" in fields and minor == 1 and _expects(fields["expect"]) and length != 0
        head = Head(block, method, target, minor, Fields(fields, block), length, keep_alive, expects)
        if upgrade:
            self._begin_again(head)
        return head

    def body(self, data: bytes) -> None:
        """Read bytes of the body; raises `Refused`, with what came before the fault in `parts`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise Refused(400) from None

    def let_go(self) -> None:
        """Break the circle that it makes with llhttp: nothing is read any more."""
        del self._parser

    def _begin_again(self, head: Head) -> None:
        """Go on as if no upgrade had been asked for (RFC 9110, section 7.8): llhttp takes the body for what follows."""
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)
        framing = "Transfer-Encoding: chunked" if head.length is None else f"Content-Length: {head.length}"
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode())


def check_incomplete(data: bytes) -> None:
    """Raise `Refused` for the beginning of a head that can no longer become a good one."""
    if data.count(b"\n", 0, MAX_HEAD) != data.count(b"\r\n", 0, MAX_HEAD):
        raise Refused(400)  # a bare LF
    if len(data) > MAX_HEAD:
        raise Refused(431)


def _check_coding(coding: bytes, minor: int) -> None:
    if minor == 0:
        raise Refused(400)  # RFC 9112, section 6.1: framing that a 1.0 sender cannot mean
    if coding.strip(b" \t").lower() != b"chunked":
        raise Refused(501)


def _expects(expectation: bytes) -> bool:
    if expectation.strip(b" \t").lower() != b"100-continue":
        raise Refused(417)
    return True


def _check_host(host: bytes | None, minor: int) -> None:
    """Raise `Refused` where RFC 9112, section 3.2 says so."""
    if (host is None and minor == 1) or (host is not None and not _HOST.fullmatch(host)):
        raise Refused(400)


def _keeps_alive(connection: bytes, minor: int) -> bool:
    if connection == b"keep-alive":
        return True
    options = {option.strip(b" \t") for option in connection.lower().split(b",")}
    return b"close" not in options and (minor == 1 or b"keep-alive" in options)


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields of a head that llhttp has let pass."""
    for line in block.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        yield name, value.strip(b" \t")


def _joined(block: bytes) -> dict[str, bytes]:
    """Return the fields of a head in which names are repeated."""
    fields: dict[str, bytes] = {}
    for given, value in _pairs(block):
        name = _name(given)
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            raise Refused(400)
        else:
            fields[name] += b"," + value
    return fields
