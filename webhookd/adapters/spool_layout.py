"""What a message costs on disk, and how the spool divides the bytes that it may use: no I/O, only arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import msgspec

from webhookd.model import HeaderValue, Message

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
WAL_HEADER = 32
FRAME = PAGE + 24
"""Bytes that a page takes in the write-ahead log."""
RESERVED_PAGES = 16
"""What a transaction writes beside its rows, at most: roots, right edges, the list of free pages."""
LINE_PAGES = 3
"""What it writes of the index of lines for each hook that it adds messages to: a leaf that may be split, its parent."""
CHANGE_PAGES = 6
"""What it writes for each message that it changes or deletes: a leaf of two tables and an index, and neighbours."""
LINE_ENTRY = 24
"""Bytes of a message's entry in the index of lines, which one that is set aside does without."""


class State(StrEnum):
    """Where a message in the spool stands."""

    WAITING = "waiting"
    UNROUTABLE = "unroutable"
    SET_ASIDE = "set aside"
    KEPT = "kept"


STATES = (State.WAITING, State.UNROUTABLE, State.SET_ASIDE, State.KEPT)
PUBLISHED = frozenset({State.WAITING, State.UNROUTABLE})
"""What is still to be published: a hook's line."""
Body = bytes
CLOSED = "the spool is closed"
MANY = 500
"""Entries of one answer, where nobody says how many."""
NUMBER = {state: number for number, state in enumerate(STATES, 2)}
"""What stands for each on disk; below 4 a message is still to be published, below 5 it never expires.

SQLite stores 0 and 1 in no byte: any other number keeps a message as long as it was when its state is another.
"""
STATE = {number: state for state, number in NUMBER.items()}


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

    @property
    def message(self) -> Message:
        """The message as it was when it was accepted; without headers and body where they are not here."""
        return Message(
            receipt=self.receipt,
            hook=self.hook,
            tenant=self.tenant,
            datasource=self.datasource,
            event=self.event,
            received_at=self.received_at,
            headers=self.headers,
            body=self.body or b"",
        )


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
    """

    max_bytes: int
    unit: int

    @classmethod
    def of(cls, max_bytes: int) -> Self:
        """Divide `max_bytes`, at least 1 MiB."""
        return cls(max_bytes, min(MIB, max(UNIT_MIN, max_bytes // 32)))

    @property
    def wal_max(self) -> int:
        """The largest WAL: the largest transaction fits with an empty one."""
        return min(16 * MIB, self.max_bytes // 4)

    @property
    def wal_frames(self) -> int:
        """The pages that the largest WAL holds."""
        return (self.wal_max - WAL_HEADER) // FRAME

    @property
    def append_pages(self) -> int:
        """What must be left of the WAL so that any one message, or part of one, can be written."""
        return max(RESERVED_PAGES + pages(self.unit + 2 * PAGE, 1), self.wal_frames // 4)

    @property
    def checkpoint_at(self) -> int:
        """The size of the WAL from which it is written back."""
        return self.wal_max // 2

    @property
    def pages_max(self) -> int:
        """The largest database, in pages."""
        return (self.max_bytes - self.wal_max) // PAGE

    @property
    def slack(self) -> int:
        """Pages that no message takes: what is said about messages needs some when the spool is full."""
        return max(8, self.pages_max // 64)

    @property
    def bytes_deleted(self) -> int:
        """Bytes of bodies that one transaction deletes: SQLite reads each of their pages."""
        return 4 * self.unit

    @property
    def reserve(self) -> int:
        """What is kept for a full disk: a whole WAL, and its write-back."""
        return self.wal_max


def pages(cost: int, hooks: int) -> int:
    """Return what messages of so many hooks write to the WAL at most: each of their pages may be half empty."""
    return -(-2 * cost // PAGE) + LINE_PAGES * hooks


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
