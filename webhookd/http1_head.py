"""The head of an HTTP/1.1 request (RFC 9112), read by llhttp and held to more than llhttp asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import httptools

MAX_HEAD = 32 * 1024
"""The longest head, request line included, in bytes; longer is 431."""
MAX_FIELDS = 100
"""How many header fields a request may have; more is 431."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!\"$-~]+) HTTP/1\.([01])\r\n")
"""RFC 9112, section 3, as strict as it is written: one space, visible ASCII without a fragment, 1.0 or 1.1."""
_BARE_LF = re.compile(rb"(?:\A|[^\r])\n")
_HOST = re.compile(rb"[-A-Za-z0-9._~%!$&'()*+,;=:\[\]]*[ \t]*")
_ORDINARY = frozenset({b"POST", b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"})
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_METHODS = {method: method.decode() for method in _ORDINARY}


class Refused(Exception):
    """What the parser itself refuses: answered with `status`, nothing more, and the connection closed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Fields(Mapping[str, str]):
    """Header fields by lower-case name, decoded (latin-1) when asked for; values of one name are joined by `,`."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self.raw = raw

    def __getitem__(self, name: str) -> str:
        return self.raw[name.encode("utf-8", "surrogateescape")].strip(b" \t").decode("latin-1")

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override] # default is text
        """Return the value of a field, or `default`."""
        value = self.raw.get(name.encode("utf-8", "surrogateescape"))
        return default if value is None else value.strip(b" \t").decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __reduce__(self) -> tuple[type, tuple[dict[str, str]]]:
        """Let other processes have a plain dict."""
        return dict, (dict(self),)


class Head:
    """One request up to its body. `length` is the body's in bytes, None for a chunked one."""

    __slots__ = ("block", "expects", "fields", "keep_alive", "length", "method", "minor", "target")

    def __init__(
        self,
        block: bytes,
        method: str,
        target: str,
        minor: int,
        fields: dict[bytes, bytes],
        length: int | None,
        keep_alive: bool,
        expects: bool,
    ) -> None:
        self.block = block
        self.method = method
        self.target = target
        self.minor = minor
        self.fields = Fields(fields)
        self.length = length
        self.keep_alive = keep_alive
        self.expects = expects
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
        count = block.count(b"\r\n") - 2
        if count > MAX_FIELDS:
            raise Refused(431)
        fields = {name.lower(): value for name, value in self._raw.items()}
        if len(fields) != count:
            fields = _joined(block)
        head = self._checked(block, method, target, minor == b"1", fields)
        if upgrade:
            self._begin_again(head)
        return head

    def body(self, data: bytes) -> None:
        """Read bytes of the body; raises `Refused`, with what came before the fault in `parts`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise Refused(400) from None

    def _checked(self, block: bytes, method: bytes, target: bytes, new: bool, fields: dict[bytes, bytes]) -> Head:
        """Return the head as its fields say; `new` is HTTP/1.1."""
        length: int | None
        if b"transfer-encoding" in fields:
            _check_coding(fields[b"transfer-encoding"], new)
            length = None
        else:
            length = int(fields.get(b"content-length", 0))
        # RFC 9110, section 10.1.1: ignored in HTTP/1.0
        expects = b"expect" in fields and new and _expects(fields[b"expect"]) and length != 0
        host = fields.get(b"host")
        if host != self._host or host is None:  # the last one was good
            _check_host(host, new)
            self._host = host
        connection = fields.get(b"connection")
        keep_alive = new if connection is None else _keeps_alive(connection, new)
        name = _METHODS.get(method) or method.decode("ascii")
        return Head(block, name, target.decode("ascii"), int(new), fields, length, keep_alive, expects)

    def _begin_again(self, head: Head) -> None:
        """Go on as if no upgrade had been asked for (RFC 9110, section 7.8): llhttp takes the body for what follows."""
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)
        framing = "Transfer-Encoding: chunked" if head.length is None else f"Content-Length: {head.length}"
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode())


def check_incomplete(data: bytes) -> None:
    """Raise `Refused` for the beginning of a head that can no longer become a good one."""
    if _BARE_LF.search(data, 0, MAX_HEAD):
        raise Refused(400)
    if len(data) > MAX_HEAD:
        raise Refused(431)


def _check_coding(coding: bytes, new: bool) -> None:
    if not new:
        raise Refused(400)  # RFC 9112, section 6.1: framing that a 1.0 sender cannot mean
    if coding.strip(b" \t").lower() != b"chunked":
        raise Refused(501)


def _expects(expectation: bytes) -> bool:
    if expectation.strip(b" \t").lower() != b"100-continue":
        raise Refused(417)
    return True


def _check_host(host: bytes | None, new: bool) -> None:
    """Raise `Refused` where RFC 9112, section 3.2 says so."""
    if (host is None and new) or (host is not None and not _HOST.fullmatch(host)):
        raise Refused(400)


def _keeps_alive(connection: bytes, new: bool) -> bool:
    options = {option.strip(b" \t") for option in connection.lower().split(b",")}
    return b"close" not in options and (new or b"keep-alive" in options)


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields of a head that llhttp has let pass."""
    for line in block.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        yield name, value.strip(b" \t")


def _joined(block: bytes) -> dict[bytes, bytes]:
    """Return the fields of a head in which names are repeated."""
    fields: dict[bytes, bytes] = {}
    for given, value in _pairs(block):
        name = given.lower()
        if name not in fields:
            fields[name] = value
        elif name in _ONCE:
            raise Refused(400)
        else:
            fields[name] += b"," + value
    return fields
