"""The head of an HTTP/1.1 request (RFC 9112), read by llhttp and held to more than llhttp asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import httptools

MAX_HEAD = 32 * 1024
"""The longest head, request line included, in bytes; longer is 431."""
MOST_NAMES = 1000
"""How many names of fields are remembered."""
LONGEST_NAME = 64
MAX_FIELDS = 100
"""How many header fields a request may have; more is 431."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!\"$-~]+) HTTP/1\.([01])\r\n")
"""RFC 9112, section 3, as strict as it is written: one space, visible ASCII without a fragment, 1.0 or 1.1."""
_HOST = re.compile(rb"[-A-Za-z0-9._~%!$&'()*+,;=:\[\]]*[ \t]*")
_ORDINARY = frozenset({b"POST", b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"})
_ONCE = frozenset({"host", "content-length", "transfer-encoding", "expect"})
_METHODS = {method: method.decode() for method in _ORDINARY}


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


_names = _Names()


class Fields(Mapping[str, str]):
    """Header fields by lower-case name, decoded (latin-1) when asked for; values of one name are joined by `,`."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict[str, bytes]) -> None:
        self.raw = raw

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


class Head:
    """One request up to its body. `length` is the body's in bytes, None for a chunked one; HTTP/1.`minor`."""

    __slots__ = ("block", "expects", "fields", "keep_alive", "length", "method", "minor", "target")

    def __init__(
        self, block: bytes, method: str, target: bytes, minor: int, fields: dict[str, bytes], length: int | None
    ) -> None:
        self.block = block
        self.method = method
        self.target = target
        self.minor = minor
        self.fields = Fields(fields)
        self.length = length
        self.keep_alive = minor == 1 if "connection" not in fields else _keeps_alive(fields["connection"], minor)
        # RFC 9110, section 10.1.1: ignored in HTTP/1.0
        self.expects = "expect" in fields and minor == 1 and _expects(fields["expect"]) and length != 0
        """Whether the sender waits to be told to go on before it sends the body."""

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
        line = _REQUEST_LINE.match(block)
        if line is None:
            raise Refused(400)
        method, target, minor = line.groups()
        self._raw.clear()
        self.complete = False
        try:
            # a method that llhttp has not heard of is answered by whoever takes the request; CONNECT tunnels nowhere
            self._parser.feed_data(block if method in _ORDINARY else b"POST" + block[len(method) :])
            upgrade = False
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserError:
            raise Refused(400) from None
        count = block.count(b"\n") - 2
        if count > MAX_FIELDS:
            raise Refused(431)
        fields = {_names[name]: value for name, value in self._raw.items()}
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
        name = _METHODS.get(method) or method.decode("ascii")
        head = Head(block, name, target, 1 if minor == b"1" else 0, fields, length)
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


def _check_coding(coding: bytes, minor: bytes) -> None:
    if minor == b"0":
        raise Refused(400)  # RFC 9112, section 6.1: framing that a 1.0 sender cannot mean
    if coding.strip(b" \t").lower() != b"chunked":
        raise Refused(501)


def _expects(expectation: bytes) -> bool:
    if expectation.strip(b" \t").lower() != b"100-continue":
        raise Refused(417)
    return True


def _check_host(host: bytes | None, minor: bytes) -> None:
    """Raise `Refused` where RFC 9112, section 3.2 says so."""
    if (host is None and minor == b"1") or (host is not None and not _HOST.fullmatch(host)):
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
        name = _names[given]
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            raise Refused(400)
        else:
            fields[name] += b"," + value
    return fields
