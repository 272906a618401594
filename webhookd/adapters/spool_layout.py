"""What a message costs on disk, and how the spool divides the bytes that it may use: no I/O, only arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import msgspec

from webhookd.model import HeaderValue

KIB = 1024
MIB = 1024 * KIB
PAGE = 8 * KIB
"""Bytes of a database page: of 4, 8, 16 and 32 KiB the one that wastes least on bodies of 2 and 10 KB."""
LEAF_MAX = PAGE - 35
"""The longest record that SQLite keeps whole in a table's leaf (file format, section 1.6)."""
LEAF_MIN = (PAGE - 12) * 32 // 255 - 23
"""What stays in the leaf of a longer one at least; the rest goes to overflow pages."""
UNIT_MIN = 32 * KIB
"""The smallest part that a large body is written in."""
PART_BITS = 16
"""A body is stored in parts: part N of body B is the row `B << PART_BITS | N`."""


class State(StrEnum):
    """Where a message in the spool stands."""

    WAITING = "waiting"
    UNROUTABLE = "unroutable"
    SET_ASIDE = "set aside"
    KEPT = "kept"


STATES = (State.WAITING, State.UNROUTABLE, State.SET_ASIDE, State.KEPT)
"""By the number that stands for each on disk; below 2 a message is still to be published, below 3 it never expires."""
PUBLISHED = frozenset({State.WAITING, State.UNROUTABLE})
"""What is still to be published: a hook's line."""
Body = bytes
CLOSED = "the spool is closed"
MANY = 500
"""Entries of one answer, where nobody says how many."""
NUMBER = {state: number for number, state in enumerate(STATES)}


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One message in the spool. `seq` is its place: it grows with every message and is never given again.

    `received_at` is in ms since the epoch, `bytes` the length of the body, `reason` what stands against publishing it.
    `headers` and `body` are there when bodies were asked for; a message that is damaged on disk has none, and is shown
    as set aside.
    """

    seq: int
    receipt: str
    hook: str
    tenant: str
    datasource: str
    event: str
    state: State
    attempts: int
    received_at: int
    bytes: int
    reason: str | None = None
    headers: dict[str, HeaderValue] = {}
    body: Body | None = None

    def __repr__(self) -> str:
        """Keep the hook's token and the body out of logs and tracebacks."""
        return f"Entry(seq={self.seq}, receipt={self.receipt!r}, state={self.state.value!r}, {self.bytes} bytes)"


class SpoolStats(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The spool at one moment.

    `bytes` is the size of database and WAL on disk, which never passes `max_bytes`; `used` is what of it holds
    something (space of messages that are gone is used again). `oldest_received_at` and `oldest_kept_received_at` (ms
    since the epoch, None if there is none) are of all but kept, and of kept messages, as of the last second. `full`:
    there is room for no message. `failing`: why none can be written now. `damaged`: files that could not be read and
    were put aside.
    """

    messages: dict[State, int]
    bytes: int
    used: int
    max_bytes: int
    oldest_received_at: int | None = None
    oldest_kept_received_at: int | None = None
    full: bool = False
    failing: str | None = None
    damaged: tuple[str, ...] = ()


class SpoolError(Exception):
    """The spool cannot be read or changed now; the text says why, in words for a log line."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How `max_bytes` are divided between database and WAL.

    `unit` bounds what one transaction takes of small messages, and the part of a large body that it takes beside them.
    `step` is how many messages one transaction changes or deletes.
    """

    max_bytes: int
    unit: int

    @classmethod
    def of(cls, max_bytes: int) -> Self:
        """Divide `max_bytes`, at least 1 MiB."""
        return cls(max_bytes, min(MIB, max(UNIT_MIN, max_bytes // 32)))

    @property
    def wal_max(self) -> int:
        """The largest WAL: a whole transaction (each page may be half empty) fits with an empty one."""
        return 8 * self.unit

    @property
    def checkpoint_at(self) -> int:
        """The size of the WAL from which it is written back."""
        return 4 * self.unit

    @property
    def pages_max(self) -> int:
        """The largest database, in pages."""
        return (self.max_bytes - self.wal_max) // PAGE

    @property
    def slack(self) -> int:
        """Pages that no message takes: marks and deletions need some when the spool is full."""
        return max(8, self.pages_max // 64)

    @property
    def step(self) -> int:
        """Messages that one transaction changes or deletes: each may touch two pages."""
        return self.checkpoint_at // (2 * PAGE)

    @property
    def reserve(self) -> int:
        """What is kept for a full disk: a whole WAL, and its write-back."""
        return self.wal_max


def footprint(length: int) -> int:
    """Return the bytes of disk that a record of `length` bytes takes, and its metadata."""
    if length <= LEAF_MAX:
        local, overflow = length, 0
    else:
        local = LEAF_MIN + (length - LEAF_MIN) % (PAGE - 4)
        if local > LEAF_MAX:
            local = LEAF_MIN
        overflow = -(-(length - local) // (PAGE - 4))
    return METADATA + overflow * PAGE + PAGE // max(1, (PAGE - 8) // (local + 16))


METADATA = 128
"""The row without its body, and its share of indices."""
