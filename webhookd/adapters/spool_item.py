"""One message on its way into the spool's file, whole or in parts."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import msgspec

from webhookd.adapters.spool_layout import PART_BITS, State, footprint
from webhookd.model import Message


class Item:
    """A queued message: `future` is done when it is durable, `seq` is its place from then on."""

    __slots__ = ("cost", "future", "head", "message", "parts", "seq", "state")

    def __init__(self, message: Message, state: State, unit: int, future: asyncio.Future[Any]) -> None:
        self.message = message
        self.state = state
        self.future = future
        self.head = msgspec.json.encode(message.headers)
        length = len(message.body)
        self.cost = footprint(length + len(self.head))
        self.parts = -(-length // unit)
        self.seq = 0

    @property
    def seal(self) -> int:
        """The checksum over everything in the message that never changes."""
        m = self.message
        return seal((m.receipt, m.hook, m.tenant, m.datasource, m.event), m.received_at, self.head, m.body)


class LargeBody:
    """A body that is written in parts, each in a transaction of its own, so that others need not wait for all of it."""

    def __init__(self, item: Item, blob: int, unit: int) -> None:
        self.item = item
        self.blob = blob
        self._unit = unit
        self._offset = 0

    @property
    def started(self) -> bool:
        """Whether a part was written."""
        return self._offset > 0

    @property
    def ends(self) -> bool:
        """Whether the next part is the last."""
        return self._offset + self._unit >= len(self.item.message.body)

    def part(self) -> tuple[int, memoryview, bytes | None]:
        """Return the next part's row."""
        start = self._offset
        part = memoryview(self.item.message.body)[start : start + self._unit]
        return self.blob << PART_BITS | start // self._unit, part, None if start else self.item.head

    def advance(self) -> bool:
        """Go on to the part behind the one that was written, and return whether there is none."""
        self._offset += self._unit
        return self._offset >= len(self.item.message.body)


def seal(names: tuple[str, ...], received_at: int, head: bytes, body: bytes) -> int:
    """Return the CRC-32 over what identifies a message, its head and its body."""
    identity = "\n".join((*names, str(received_at))).encode()
    return zlib.crc32(body, zlib.crc32(head, zlib.crc32(identity)))
