"""AMQP 0-9-1 frames as bytes: those of a publish are made here, those of the broker are cut out of its stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import TypeVar

import pamqp.frame
from pamqp.commands import Channel, Connection
from pamqp.exceptions import PAMQPException

from webhookd.model import HeaderValue, Message

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
"""The types of frames (AMQP 0-9-1, 4.2.3)."""
END = b"\xce"
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
OVERHEAD = 8
"""The bytes of a frame beside its payload: type, channel and size before it, the end mark behind it."""

CONNECTION_CLOSE, CONNECTION_BLOCKED, CONNECTION_UNBLOCKED = (
    b"\x00\x0a\x00\x32",
    b"\x00\x0a\x00\x3c",
    b"\x00\x0a\x00\x3d",
)
CHANNEL_CLOSE = b"\x00\x14\x00\x28"
BASIC_RETURN, BASIC_ACK, BASIC_NACK = b"\x00\x3c\x00\x32", b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
"""Class and method, as they begin the payload of a method frame."""

_BASIC_PUBLISH = b"\x00\x3c\x00\x28"
_MANDATORY = b"\x01"
_PROPERTIES = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 6 | 1 << 5 | 1 << 3
"""Which properties there are: content_type, headers, delivery_mode, message_id, timestamp, type, app_id."""
_CONTENT_TYPE = b"\x10application/json"
_PERSISTENT = b"\x02"
_APP_ID = b"\x08webhookd"
_FIXED = 14 + len(_CONTENT_TYPE) + 4 + len(_PERSISTENT) + 1 + 8
"""The bytes of a content header's payload whose number no message changes."""

_NAMES = 256
"""How many names of fields are remembered as bytes."""
_ROUTES = 4096
"""How many routes are remembered as bytes."""
_PIECE = 256 * 1024
"""The bytes of body frames that are handed to the transport at a time."""
FRAME_MAX = 128 * 1024
"""The largest frame that comes before a limit is agreed on, and that is made where the broker wants none."""
UNLIMITED = 1 << 32
"""More than a frame can have."""

_size = struct.Struct(">I").pack
_int64 = struct.Struct(">q").pack
_time_and_after = struct.Struct(">Q").pack
_content = struct.Struct(f">IHHQH{len(_CONTENT_TYPE)}sI").pack
_body = struct.Struct(">BHI").pack
_frame_start = struct.Struct(">BHI").unpack_from

Parsed = TypeVar("Parsed")


class FrameError(Exception):
    """The broker's bytes are no AMQP 0-9-1, or not what may come here."""


def _short(text: str) -> bytes:
    """Return a short string (4.2.5.3); raises ValueError where it has over 255 bytes."""
    data = text.encode()
    return bytes((len(data),)) + data


class _Starts(dict[str, bytes]):
    """What a field of a table begins with: its name, and what kind its value is of."""

    def __init__(self, kind: bytes) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, name: str) -> bytes:
        start = _short(name) + self._kind
        if len(self) < _NAMES:
            self[name] = start
        return start


_text = _Starts(b"S")
_number = _Starts(b"l")


def table(headers: Mapping[str, HeaderValue]) -> bytes:
    """Return a field table (4.2.5.5) without its length: texts as long strings, numbers as signed 64 bits.

    Raises ValueError or struct.error for what a table cannot hold.
    """
    parts: list[bytes] = []
    for name, value in headers.items():
        if isinstance(value, str):
            data = value.encode()
            parts += (_text[name], _size(len(data)), data)
        else:
            parts += (_number[name], _int64(value))
    return b"".join(parts)


class PublishFrames:
    """Makes the frames of `basic.publish` (mandatory, persistent) on one channel, to one exchange."""

    def __init__(self, channel: int, exchange: str, frame_max: int) -> None:
        self.channel = channel
        self.payload_max = (frame_max or FRAME_MAX) - OVERHEAD
        """The bytes of a body that go into one frame."""
        self._exchange = exchange
        self._routes: dict[tuple[str, str, str], tuple[bytes, bytes, str]] = {}

    def head(self, message: Message) -> tuple[bytes, str]:
        """Return the method frame and the content header of a message, and its routing key.

        Raises ValueError or struct.error for a message that AMQP cannot hold.
        """
        key = (message.tenant, message.datasource, message.event)
        before, after, routing_key = self._routes.get(key) or self._route(key, message)
        headers = table(message.headers)
        receipt = message.receipt.encode()
        size = _FIXED + len(headers) + len(receipt) + len(after)
        head = b"".join(
            (
                before,
                _content(size, 60, 0, len(message.body), _PROPERTIES, _CONTENT_TYPE, len(headers)),
                headers,
                _PERSISTENT,
                bytes((len(receipt),)),
                receipt,
                _time_and_after(message.received_at // 1000),
                after,
                END,
            )
        )
        return head, routing_key

    def body_start(self, size: int) -> bytes:
        """Return what comes before `size` bytes of a body in its frame; END comes behind them."""
        return _body(BODY, self.channel, size)

    def body(self, data: bytes) -> Iterator[bytes]:
        """Yield all frames of a body, in pieces of whole frames."""
        view = memoryview(data)
        step = self.payload_max
        parts: list[bytes | memoryview] = []
        waiting = 0
        for at in range(0, len(view), step):
            part = view[at : at + step]
            parts += (_body(BODY, self.channel, len(part)), part, END)
            waiting += len(part)
            if waiting >= _PIECE:
                yield b"".join(parts)
                parts.clear()
                waiting = 0
        if parts:
            yield b"".join(parts)

    def _route(self, key: tuple[str, str, str], message: Message) -> tuple[bytes, bytes, str]:
        """Return what comes before and behind that which is the message's own, and its routing key; remember them."""
        routing_key = message.routing_key
        payload = b"".join((_BASIC_PUBLISH, b"\x00\x00", _short(self._exchange), _short(routing_key), _MANDATORY))
        method = _body(METHOD, self.channel, len(payload)) + payload + END
        route = (method + _body(HEADER, self.channel, 0)[:3], _short(message.event) + _APP_ID, routing_key)
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        self._routes[key] = route
        return route


class Incoming:
    """Cuts what the broker sends into whole frames, however the network cut it."""

    def __init__(self, frame_max: int = FRAME_MAX) -> None:
        self.frame_max = frame_max
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that are whole with `data`; raises FrameError for what is none."""
        if self._rest:
            data = self._rest + data
        frames = []
        at, end = 0, len(data)
        while end - at >= OVERHEAD - 1:
            kind, _, size = _frame_start(data, at)
            if kind not in (METHOD, HEADER, BODY, HEARTBEAT) or size + OVERHEAD > self.frame_max:
                raise FrameError(f"a frame of type {kind} and {size} bytes")
            after = at + size + OVERHEAD
            if after > end:
                break
            if data[after - 1] != END[0]:
                raise FrameError("a frame without its end mark")
            frames.append(data[at:after])
            at = after
        self._rest = data[at:]
        return frames


def parse(frame: bytes, kind: type[Parsed]) -> Parsed:
    """Return a whole frame as pamqp reads it; raises FrameError where it is none of this kind."""
    try:
        parsed = pamqp.frame.unmarshal(frame)[2]
    except (PAMQPException, ValueError, LookupError, TypeError, struct.error) as error:
        raise FrameError(f"a frame that cannot be read: {error}") from error
    if not isinstance(parsed, kind):
        raise FrameError(f"a frame of another kind than {kind.__name__}")
    return parsed


def close_reason(frame: bytes, kind: type[Connection.Close | Channel.Close]) -> tuple[int, str]:
    """Return why the broker closes a connection or a channel: reply code and text. Raises FrameError."""
    close = parse(frame, kind)
    return close.reply_code or 0, close.reply_text
