"""The spool's SQLite file as its one writer sees it: every method is one step of a transaction, none decides policy."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from webhookd.adapters.spool_disk import allocate, file_size
from webhookd.adapters.spool_item import Item, LargeBody
from webhookd.adapters.spool_layout import NUMBER, PAGE, PART_BITS, STATES, UNIT_MIN, Sizes, State
from webhookd.adapters.spool_ledger import Ledger
from webhookd.adapters.spool_lines import Line, Lines
from webhookd.adapters.spool_schema import NEXT, SEQ_MAX, Damaged, Unusable, connect

COLUMNS = "seq, receipt, hook, state, received_at, bytes, cost, blob, seal"
WINDOW = "SELECT seq, state, received_at, receipt FROM message WHERE seq > ? ORDER BY seq LIMIT ?"
WINDOW_UNKEPT = WINDOW.replace("WHERE", "WHERE state < 3 AND")
CHOSEN = "seq IN (SELECT value FROM json_each(?))"
SUMS = """
SELECT hook, state, count(*), sum(cost), sum(typeof(cost) = 'integer') FROM message GROUP BY hook, state"""
DELETE_PARTS = "DELETE FROM body WHERE id >= ? AND id < ?"
ROWS = 64
"""Rows of one INSERT: each statement gives the interpreter lock away, so fewer are cheaper."""
RESERVED_PAGES = 16
"""What a transaction writes beside its rows, at most."""
REASON_MAX = 200
"""Characters that are kept of a reason."""


class Place(NamedTuple):
    """Enough of a message to choose it."""

    seq: int
    state: State
    received_at: int
    receipt: str


class SpoolDb:
    """The write connection, what the file holds by state and tenant, and how much room there is."""

    def __init__(self, path: Path, sizes: Sizes, gate: threading.Lock, connection: sqlite3.Connection) -> None:
        self.path = path
        self.sizes = sizes
        self.lines = Lines(connection)
        self.ledger = Ledger(self.lines)
        self.room = 0
        """Bytes of messages that certainly still fit; more may: `measure` looks."""
        self.wal_used = 0
        """Bytes of the WAL that hold what is not written back, at most."""
        self.mostly_empty = False
        self.used = 0
        """Bytes of the database that hold something, as of the last `measure`."""
        self.next = 1
        self._gate = gate
        self._db = connection
        self._wal = path.with_name(f"{path.name}-wal")

    @classmethod
    def open(cls, path: Path, sizes: Sizes, gate: threading.Lock) -> Self:
        """Open or create the file and learn what it holds; raises sqlite3.Error, Damaged, OSError.

        The WAL of an earlier run is written back, synced and emptied first: no page that an earlier fsync may have
        failed to write is built upon.
        """
        spool = cls(path, sizes, gate, connect(path, sizes))
        try:
            if not spool.checkpoint("TRUNCATE"):
                raise Unusable("another process is reading the spool's file")  # noqa: TRY301 (closed like any other)
            spool._load()
        except BaseException:
            spool.close()
            raise
        return spool

    def close(self) -> None:
        """Let go of the file; what was committed is in it."""
        self._db.close()

    # --- transactions -----------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, estimate: int) -> Iterator[None]:
        """Commit, durably, what is done inside, or nothing of it; `estimate` is what it adds to the WAL at most."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self.ledger.forget()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.wal_used += estimate
        self.ledger.settle()

    def append(self, items: Sequence[Item]) -> None:
        """Write messages whose bodies take one part, and give them their places."""
        for start in range(0, len(items), ROWS):
            rows: list[object] = []
            bodies: list[object] = []
            for item in items[start : start + ROWS]:
                seq = self._take_number()
                rows += self._row(seq, item, seq)
                bodies += (seq << PART_BITS, item.message.body, item.head)
            count = len(bodies) // 3
            self._db.execute(_insert(f"message ({COLUMNS})", 9, count), rows)
            self._db.execute(_insert("body", 3, count), bodies)

    def large(self, item: Item) -> LargeBody:
        """Begin a body of many parts."""
        return LargeBody(item, self._take_number(), self.sizes.unit)

    def append_part(self, large: LargeBody) -> None:
        """Write the next part; with the last one the message is there."""
        if not large.started:
            self._db.execute("INSERT INTO unfinished VALUES (?)", (large.blob,))
        self._db.execute("INSERT INTO body VALUES (?, ?, ?)", large.take())
        if large.finished:
            self._db.execute("DELETE FROM unfinished WHERE blob = ?", (large.blob,))
            row = self._row(self._take_number(), large.item, large.blob)
            self._db.execute(_insert(f"message ({COLUMNS})", 9, 1), row)

    def abandon(self, blob: int) -> None:
        """Delete the parts of a body that will not be finished."""
        self._db.execute(DELETE_PARTS, (blob << PART_BITS, (blob + 1) << PART_BITS))
        self._db.execute("DELETE FROM unfinished WHERE blob = ?", (blob,))

    def delete(self, seqs: Collection[int]) -> int:
        """Delete messages, their bodies too, and return how many there were."""
        gone = self._db.execute(
            f"DELETE FROM message WHERE {CHOSEN} RETURNING hook, state, bytes, cost, blob",  # noqa: S608
            (json.dumps(sorted(seqs)),),
        ).fetchall()
        small = []
        lines = set()
        for hook, state, length, cost, blob in gone:
            line = self._line(hook)
            self.ledger.remove(line, STATES[state], cost)
            lines.add(line)
            if length <= UNIT_MIN:  # shorter than any part
                small.append(blob << PART_BITS)
            else:
                self._db.execute(DELETE_PARTS, (blob << PART_BITS, (blob + 1) << PART_BITS))
        self._db.execute("DELETE FROM body WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(sorted(small)),))
        self.lines.prune(lines)
        self._db.execute("UPDATE floor SET next = ?", (self.next,))
        return len(gone)

    def mark(self, seqs: Collection[int], state: State, reason: str | None, *, tried: bool) -> int:
        """Give messages another state and reason; return how many there were.

        Counts an attempt where the message was `tried`, and forgets all of them where it was not.
        """
        chosen = json.dumps(sorted(seqs))
        held = self._db.execute(f"SELECT hook, state FROM message WHERE {CHOSEN}", (chosen,)).fetchall()  # noqa: S608
        for hook, old in held:
            self.ledger.move(self._line(hook), STATES[old], state)
        self._db.execute(
            f"UPDATE message SET state = ?, reason = ?, attempts = iif(?, attempts + 1, 0) WHERE {CHOSEN}",  # noqa: S608
            (NUMBER[state], reason and reason[:REASON_MAX], tried, chosen),
        )
        return len(held)

    def window(self, after: int, limit: int, *, kept: bool) -> list[Place]:
        """Return the next `limit` messages behind the place `after`, the kept ones among them or not."""
        rows = self._db.execute(WINDOW if kept else WINDOW_UNKEPT, (after, limit))
        return [Place(seq, STATES[state], received_at, receipt) for seq, state, received_at, receipt in rows]

    def oldest_unkept(self) -> int | None:
        """Return when the oldest message that is not kept was received, in ms since the epoch."""
        row = self._db.execute("SELECT received_at FROM message WHERE state < 3 ORDER BY seq LIMIT 1").fetchone()
        return row[0] if row else None

    # --- room -------------------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Learn how much room there is: what the file may still grow by, and its free pages."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        self.room = (self.sizes.pages_max - pages + free - self.sizes.slack) * PAGE
        self.used = (pages - free) * PAGE
        self.mostly_empty = pages * PAGE > 16 * self.sizes.unit and self.used < 2 * self.sizes.unit

    def fits_wal(self, estimate: int) -> bool:
        """Make the WAL fit `estimate` bytes more; False while another process keeps it from being written back."""
        return self.wal_used + estimate <= self.sizes.wal_max or self.checkpoint("RESTART")

    def checkpoint(self, mode: str) -> bool:
        """Write the WAL back so that it starts anew; False if a reader of another process is in the way."""
        with self._gate:
            busy, _, _ = self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if not busy:
            self.wal_used = 0
        return not busy

    def shrink(self) -> None:
        """Give the file system back what a large outage took; cheap while little is left in the file."""
        self._db.execute("VACUUM")
        self.checkpoint("RESTART")

    def allocate(self) -> bool:
        """Take the room of the largest WAL, so that no commit needs any; False where the disk has none."""
        return self._wal.stat().st_size >= self.sizes.wal_max or allocate(self._wal, self.sizes.wal_max)

    def size(self) -> int:
        """Return the bytes on disk."""
        return file_size(self.path) + file_size(self._wal)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _take_number(self) -> int:
        number = self.next
        self.next = number + 1
        return number

    def _row(self, seq: int, item: Item, blob: int) -> tuple[object, ...]:
        m = item.message
        line = self.lines.of((m.hook, m.tenant, m.datasource, m.event))
        self.ledger.add(line, item.state)
        item.seq = seq
        return (seq, m.receipt, line.number, NUMBER[item.state], m.received_at, len(m.body), item.cost, blob, item.seal)

    def _line(self, hook: object) -> Line:
        line = self.lines.get(hook) if isinstance(hook, int) else None
        if line is None:
            raise Damaged("a message of the spool is of no hook")
        return line

    def _load(self) -> None:
        """Learn numbers, hooks and sums from the file, and delete what a crash left half written."""
        self.lines.load()
        (following,) = self._db.execute(NEXT).fetchone()
        if not isinstance(following, int) or not 0 < following < SEQ_MAX:
            raise Damaged("the spool's numbers are out of range")
        self.next = following
        self._sum()
        with self.transaction(RESERVED_PAGES * PAGE):
            for (blob,) in self._db.execute("SELECT blob FROM unfinished").fetchall():
                self.abandon(blob)
        self.measure()

    def _sum(self) -> None:
        for hook, state, count, cost, numbers in self._db.execute(SUMS):
            if state not in range(len(STATES)) or numbers != count:
                raise Damaged("a message of the spool is not what was written")
            self.ledger.load(self._line(hook), STATES[state], count, cost)


@cache
def _insert(table: str, columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {','.join([row] * rows)}"  # noqa: S608 (names of this module, and question marks)
