"""The spool's SQLite file as its one writer sees it: every method is one step of a transaction, none decides policy."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from webhookd.adapters.spool_disk import file_size
from webhookd.adapters.spool_layout import NUMBER, PAGE, PART_BITS, STATES, Sizes, State
from webhookd.errors import ConfigurationError
from webhookd.model import Message
from webhookd.statedir import sync_directory

VERSION = 1
"""`PRAGMA user_version` of the files written here."""
OVERHEAD = 16 * PAGE
"""What a transaction may write beside its rows, in bytes."""

SCHEMA = """
CREATE TABLE message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, receipt TEXT NOT NULL, hook TEXT NOT NULL, tenant TEXT NOT NULL,
    datasource TEXT NOT NULL, event TEXT NOT NULL, state INTEGER NOT NULL, received_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL, cost INTEGER NOT NULL, crc INTEGER NOT NULL, headers BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, reason TEXT
);
CREATE TABLE body (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE unfinished (seq INTEGER PRIMARY KEY);
CREATE INDEX line ON message (hook, seq) WHERE state < 2;
CREATE INDEX unkept ON message (seq) WHERE state < 3;
"""
COLUMNS = "seq, receipt, hook, tenant, datasource, event, state, received_at, bytes, cost, crc, headers"
ROWS = 64
"""Rows of one INSERT: each statement gives the interpreter lock away, so fewer are cheaper."""
CHOSEN = "IN (SELECT value FROM json_each(?))"


class Place(NamedTuple):
    """Enough of a message to choose it."""

    seq: int
    state: State
    received_at: int
    receipt: str


class Row(NamedTuple):
    """A message on its way into the file."""

    message: Message
    state: State
    cost: int


class SpoolDb:
    """The write connection, what the file holds by state and tenant, and how much room there is."""

    def __init__(self, path: Path, sizes: Sizes, gate: threading.Lock) -> None:
        self.sizes = sizes
        self.messages: dict[State, int] = dict.fromkeys(STATES, 0)
        self.held: dict[str, int] = {}
        """Bytes of disk by tenant."""
        self.room = 0
        """Bytes of messages that still fit."""
        self.used = 0
        """Bytes of the database that hold something."""
        self.free = 0
        """Bytes of the database that hold nothing."""
        self.wal_used = 0
        """Bytes of the WAL that hold what is not written back, at most."""
        self._gate = gate
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._db = connect(path, sizes)
        self._next = 1
        self._held_since: list[tuple[str, int]] = []
        """What the transaction has changed of `held`, to take it back if it fails."""

    @classmethod
    def open(cls, path: Path, sizes: Sizes, gate: threading.Lock) -> Self:
        """Open or create the file and learn what it holds; raises sqlite3.Error, OSError, ConfigurationError.

        The WAL of an earlier run is written back, synced and emptied first: no page that an earlier fsync may have
        failed to write is built upon.
        """
        spool = cls(path, sizes, gate)
        try:
            if not spool.checkpoint("TRUNCATE"):
                spool.refuse("another process is reading the spool's file")
            spool.load()
        except BaseException:
            spool.close()
            raise
        return spool

    @staticmethod
    def refuse(reason: str) -> None:
        """Raise what SQLite raises."""
        raise sqlite3.OperationalError(reason)

    def close(self) -> None:
        """Let go of the file; what was committed is in it."""
        self._db.close()

    def load(self) -> None:
        """Learn numbers and sums from the file, and delete what a crash left half written."""
        last = self._db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
        unfinished = [seq for (seq,) in self._db.execute("SELECT seq FROM unfinished")]
        self._next = max(last, *unfinished, 0) + 1
        for tenant, state, count, cost in self._db.execute(
            "SELECT tenant, state, count(*), sum(cost) FROM message GROUP BY tenant, state"
        ):
            self.messages[STATES[state]] += count
            self.held[tenant] = self.held.get(tenant, 0) + cost
        for seq in unfinished:
            with self.transaction(OVERHEAD):
                self.abandon(seq)
        self.measure()

    # --- transactions -----------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, estimate: int) -> Iterator[None]:
        """Commit, durably, what is done inside, or nothing of it; `estimate` is what it adds to the WAL at most."""
        messages = dict(self.messages)
        self._held_since.clear()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self.messages = messages
            for tenant, cost in self._held_since.copy():
                self.hold(tenant, -cost)
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.wal_used += estimate
        self.measure()

    def append(self, rows: Sequence[Row]) -> int:
        """Write messages whose bodies take one part; return the place of the last."""
        for start in range(0, len(rows), ROWS):
            messages: list[object] = []
            bodies: list[object] = []
            for row in rows[start : start + ROWS]:
                seq = self.take_number()
                messages += self._columns(seq, row)
                bodies += (seq << PART_BITS, row.message.body)
            self._db.execute(_insert(f"message ({COLUMNS})", 12, len(bodies) // 2), messages)
            self._db.execute(_insert("body", 2, len(bodies) // 2), bodies)
        return self._next - 1

    def append_part(self, seq: int, row: Row, start: int) -> bool:
        """Write the part of a large body that begins at `start`; with the last one the message is there."""
        if not start:
            self._db.execute("INSERT INTO unfinished VALUES (?)", (seq,))
        end = start + self.sizes.unit
        number = seq << PART_BITS | start // self.sizes.unit
        self._db.execute("INSERT INTO body VALUES (?, ?)", (number, memoryview(row.message.body)[start:end]))
        if end < len(row.message.body):
            return False
        self._db.execute("DELETE FROM unfinished WHERE seq = ?", (seq,))
        self._db.execute(_insert(f"message ({COLUMNS})", 12, 1), self._columns(seq, row))
        return True

    def abandon(self, seq: int) -> None:
        """Delete the parts of a body that will not be finished."""
        self._delete_bodies(seq)
        self._db.execute("DELETE FROM unfinished WHERE seq = ?", (seq,))

    def delete(self, seqs: Collection[int]) -> int:
        """Delete messages, their bodies too, and return how many there were."""
        gone = self._db.execute(
            f"DELETE FROM message WHERE seq {CHOSEN} RETURNING seq, tenant, state, cost",  # noqa: S608 - a constant
            (json.dumps(sorted(seqs)),),
        ).fetchall()
        for seq, tenant, state, cost in gone:
            self.messages[STATES[state]] -= 1
            self.hold(tenant, -cost)
            self._delete_bodies(seq)
        return len(gone)

    def mark(self, seqs: Collection[int], state: State, reason: str | None, attempts: int) -> int:
        """Give messages another state and reason, and count `attempts` more; return how many there were."""
        chosen = json.dumps(sorted(seqs))
        held = self._db.execute(f"SELECT state FROM message WHERE seq {CHOSEN}", (chosen,)).fetchall()  # noqa: S608
        for (old,) in held:
            self.messages[STATES[old]] -= 1
            self.messages[state] += 1
        self._db.execute(
            f"UPDATE message SET state = ?, reason = ?, attempts = attempts + ? WHERE seq {CHOSEN}",  # noqa: S608
            (NUMBER[state], reason, attempts, chosen),
        )
        return len(held)

    def window(self, after: int, limit: int) -> list[Place]:
        """Return the next `limit` messages behind the place `after`."""
        rows = self._db.execute(
            "SELECT seq, state, received_at, receipt FROM message WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        )
        return [Place(seq, STATES[state], received_at, receipt) for seq, state, received_at, receipt in rows]

    def oldest(self, *, kept: bool) -> int | None:
        """Return when the oldest kept message, or the oldest of the others, was received, in ms since the epoch."""
        which = "state = 3" if kept else "state < 3"
        row = self._db.execute(f"SELECT received_at FROM message WHERE {which} ORDER BY seq LIMIT 1").fetchone()  # noqa: S608
        return row[0] if row else None

    # --- room -------------------------------------------------------------------------------------------------------

    def hold(self, tenant: str, cost: int) -> None:
        """Count `cost` more bytes of the tenant's."""
        self._held_since.append((tenant, cost))
        left = self.held.get(tenant, 0) + cost
        if left > 0:
            self.held[tenant] = left
        else:
            self.held.pop(tenant, None)

    def measure(self) -> None:
        """Learn how much room there is: what the file may still grow by, and its free pages."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        self.room = (self.sizes.pages_max - pages + free) * PAGE - OVERHEAD // 2
        self.used = (pages - free) * PAGE
        self.free = free * PAGE

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
        """Give the file system some of what is free in the file."""
        self._db.execute(f"PRAGMA incremental_vacuum({self.sizes.unit // PAGE})").fetchall()
        self.wal_used += 2 * self.sizes.unit + OVERHEAD
        self.measure()

    def size(self) -> int:
        """Return the bytes on disk."""
        return file_size(self._path) + file_size(self._wal)

    def take_number(self) -> int:
        """Return the next place."""
        number = self._next
        self._next = number + 1
        return number

    # --- inside -----------------------------------------------------------------------------------------------------

    def _columns(self, seq: int, row: Row) -> tuple[object, ...]:
        m, cost = row.message, row.cost
        self.messages[row.state] += 1
        self.hold(m.tenant, cost)
        headers = msgspec.json.encode(m.headers)
        names = (m.receipt, m.hook, m.tenant, m.datasource, m.event)
        return (seq, *names, NUMBER[row.state], m.received_at, len(m.body), cost, crc_of(headers, m.body), headers)

    def _delete_bodies(self, seq: int) -> None:
        self._db.execute("DELETE FROM body WHERE id >= ? AND id < ?", (seq << PART_BITS, (seq + 1) << PART_BITS))


def crc_of(headers: bytes, body: bytes) -> int:
    """Return the checksum over what SQLite itself does not check."""
    return zlib.crc32(body, zlib.crc32(headers))


def connect(path: Path, sizes: Sizes) -> sqlite3.Connection:
    """Open or create the file for writing, 0600; raises sqlite3.Error, OSError, ConfigurationError."""
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False, cached_statements=256)
    try:
        _prepare(db, path, sizes)
    except BaseException:
        db.close()
        raise
    sync_directory(path.parent)
    return db


def _prepare(db: sqlite3.Connection, path: Path, sizes: Sizes) -> None:
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        SpoolDb.refuse("the file system of the state directory cannot hold a write-ahead log")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # the writer decides when
    db.execute("PRAGMA secure_delete = OFF")  # Debian's default would write 25 MiB of zeros to delete 25 MiB
    db.execute("PRAGMA cell_size_check = ON")
    db.execute("PRAGMA cache_size = -4096")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
    elif version != VERSION:
        raise ConfigurationError(
            f"{path} was written by another version of webhookd (its format is {version}): use that one to empty it"
        )
    db.execute(f"PRAGMA max_page_count = {sizes.pages_max}")


@cache
def _insert(table: str, columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {','.join([row] * rows)}"  # noqa: S608 - names of this module, question marks
