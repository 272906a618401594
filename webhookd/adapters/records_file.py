"""Records of deliveries in a SQLite file that may be lost: one that is damaged is thrown away and begun anew."""

from __future__ import annotations

import contextlib
import heapq
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from webhookd.adapters.spool_file import DAMAGE_AT_OPEN, code_of
from webhookd.model import Record

PAGE = 4096
FREE = 64 * 1024 * 1024
"""How many bytes of the disk are left alone: the spool needs them more."""
ROOM = 4
"""Which part of the file the bodies of one writing may take; two such parts are free before it."""
AT_A_TIME = 64 * 1024
"""About how many bytes of one tenant's records go at a time where the file is full."""
LARGEST = 1000
"""How many of the tenants that have most are looked up at a time."""
NOT_OURS = DAMAGE_AT_OPEN | {sqlite3.SQLITE_CONSTRAINT}
"""What SQLite says of a file that is damaged, or that another version has begun: no row of ours is against SCHEMA."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY, tenant TEXT NOT NULL, hook TEXT NOT NULL, id TEXT NOT NULL UNIQUE,
    record BLOB NOT NULL, body BLOB, bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS of_hook ON record (hook, seq);
CREATE INDEX IF NOT EXISTS of_tenant ON record (tenant, seq, bytes);
"""
INSERT = "INSERT OR REPLACE INTO record (tenant, hook, id, record, body, bytes) VALUES (?, ?, ?, ?, ?, ?)"
ROW = 200
"""About how many bytes a row takes beside the record and the body."""
HELD = "SELECT tenant, sum(bytes) AS held FROM record GROUP BY tenant ORDER BY held DESC LIMIT ?"
OLDEST = "SELECT seq, bytes FROM record WHERE tenant = ? ORDER BY seq"

Rows = Sequence[tuple[str, str, Collection[tuple[Record, bytes | None]]]]
"""Tenants and hooks of theirs, and their new records with the bodies that were kept, oldest first."""


class RecordsFile:
    """The last `per_hook` records of each hook, in a file of at most `max_bytes` and a log of a few MiB.

    Where that is too small for all, the oldest go of the tenant whose records take most.
    `load` and `write` are called in one thread at a time, `body` on the event loop. The first two raise OSError,
    whatever went wrong.
    """

    def __init__(self, path: Path, *, per_hook: int, max_bytes: int) -> None:
        self._path = path
        self._per_hook = per_hook
        self._pages = max_bytes // PAGE
        self._db: sqlite3.Connection | None = None
        self._in_log = False
        """Whether the log may hold what is gone from the file."""
        self._decoder = msgspec.msgpack.Decoder(Record)

    def load(self) -> list[tuple[str, str, list[Record]]]:
        """Return every record, by tenant and hook, oldest first; the hook that had one last comes last."""
        hooks: dict[tuple[str, str], list[Record]] = {}
        with self._open() as db:
            for tenant, hook, record in db.execute("SELECT tenant, hook, record FROM record ORDER BY seq"):
                with contextlib.suppress(msgspec.MsgspecError):  # of another version
                    mine = hooks.pop((tenant, hook), [])
                    hooks[tenant, hook] = mine
                    mine.append(self._decoder.decode(record))
        return [(*of, records) for of, records in hooks.items()]

    def write(self, gone: Collection[str], rows: Rows) -> None:
        """Let go of the records of some hooks, then add new ones, all or nothing; what is gone is overwritten."""
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < FREE:
            raise OSError(f"less than {FREE // 1024**2} MiB of the disk are free")
        with self._open() as db:
            deleted = db.executemany("DELETE FROM record WHERE hook = ?", [(hook,) for hook in gone]).rowcount
            room = self._pages * PAGE // ROOM
            for tenant, hook, records in rows:
                for record, given in records:
                    room -= 0 if given is None else len(given)
                    body = given if room > 0 else None  # not reached but where the file is small
                    packed = msgspec.msgpack.encode(record)
                    size = ROW + len(packed) + len(body or b"")
                    db.execute(INSERT, (tenant, hook, record.id, packed, body, size))
                    time.sleep(0)  # the event loop has its turn: this is a thread with all of its time to itself
                self._trim(db, hook)
            self._make_room(db)
        self._in_log |= deleted > 0
        if self._in_log:
            self._in_log = self._log_in_use()

    def body(self, id_: str) -> bytes | None:
        """Return the body of a record, None where there is none or it cannot be read."""
        try:
            # a connection for each: it is asked for seldom, and the file may have been begun anew
            with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=0)) as db:
                row = db.execute("SELECT body FROM record WHERE id = ?", (id_,)).fetchone()
        except sqlite3.Error:
            return None
        body: bytes | None = None if row is None else row[0]
        return body

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def remove(self) -> None:
        """Delete the file, and what belongs to it."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file if it is not, and do what is done with it as one transaction."""
        if self._db is not None and not self._path.exists():
            self.remove()  # somebody else did, and nothing written would be found again
        try:
            if self._db is None:
                self._db = self._connect()
            with self._db:
                yield self._db
        except sqlite3.Error as error:
            if code_of(error) in NOT_OURS:
                self.remove()
            raise OSError(str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False, timeout=1)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 1048576")
            db.execute("PRAGMA secure_delete = ON")
            db.execute(f"PRAGMA max_page_count = {self._pages}")
            db.executescript(SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    def _log_in_use(self) -> bool:
        """Empty the log; return whether somebody who reads keeps that from being done."""
        with self._open() as db:
            (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return bool(busy)

    def _trim(self, db: sqlite3.Connection, hook: str) -> None:
        db.execute(
            "DELETE FROM record WHERE hook = ?1 AND seq <= "
            "(SELECT seq FROM record WHERE hook = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            (hook, self._per_hook),
        )

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Let records go until there is room for what comes next: the oldest of the tenant that has most."""
        held: list[tuple[int, str]] = []
        least = 0
        while not self._has_room(db):
            if not held or -held[0][0] < least:
                # in their order, which is one of a heap
                held = [(-size, tenant) for tenant, size in db.execute(HELD, (LARGEST,))]
                if not held:
                    return
                least = -held[-1][0]
            size, tenant = held[0]
            heapq.heapreplace(held, (size + _let_go(db, tenant), tenant))

    def _has_room(self, db: sqlite3.Connection) -> bool:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        return bool(pages - free <= self._pages - 2 * self._pages // ROOM)


def _let_go(db: sqlite3.Connection, tenant: str) -> int:
    """Delete some of a tenant's records, the oldest first, one at least; return about how many bytes they took."""
    freed = last = 0
    with contextlib.closing(db.execute(OLDEST, (tenant,))) as oldest:
        for seq, size in oldest:
            last = seq
            freed += size
            if freed >= AT_A_TIME:
                break
    db.execute("DELETE FROM record WHERE tenant = ? AND seq <= ?", (tenant, last))
    return freed
