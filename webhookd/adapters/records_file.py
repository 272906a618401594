"""Records of deliveries in a SQLite file that may be lost: one that is damaged is thrown away and begun anew."""

from __future__ import annotations

import contextlib
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
AT_A_TIME = 100
"""How many of the oldest records go at a time where the file is full."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY, hook TEXT NOT NULL, id TEXT NOT NULL UNIQUE, record BLOB NOT NULL, body BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS of_hook ON record (hook, seq);
"""

Rows = Sequence[tuple[str, Collection[tuple[Record, bytes | None]]]]
"""Hooks, and their new records with the bodies that were kept, oldest first."""


class RecordsFile:
    """The last `per_hook` records of each hook, in a file of at most `max_bytes` and a log of a few MiB.

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

    def load(self) -> list[tuple[str, list[Record]]]:
        """Return every record, by hook, oldest first; the hook that had one last comes last."""
        hooks: dict[str, list[Record]] = {}
        with self._open() as db:
            for hook, record in db.execute("SELECT hook, record FROM record ORDER BY seq"):
                with contextlib.suppress(msgspec.MsgspecError):  # of another version
                    mine = hooks.pop(hook, [])
                    hooks[hook] = mine
                    mine.append(self._decoder.decode(record))
        return list(hooks.items())

    def write(self, gone: Collection[str], rows: Rows) -> None:
        """Let go of the records of some hooks, then add new ones, all or nothing; what is gone is overwritten."""
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < FREE:
            raise OSError(f"less than {FREE // 1024**2} MiB of the disk are free")
        with self._open() as db:
            deleted = db.executemany("DELETE FROM record WHERE hook = ?", [(hook,) for hook in gone]).rowcount
            room = self._pages * PAGE // ROOM
            for hook, records in rows:
                for record, given in records:
                    room -= 0 if given is None else len(given)
                    body = given if room > 0 else None  # not reached but where the file is small
                    row = (hook, record.id, msgspec.msgpack.encode(record), body)
                    db.execute("INSERT OR REPLACE INTO record (hook, id, record, body) VALUES (?, ?, ?, ?)", row)
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
        try:
            if self._db is None:
                self._db = self._connect()
            with self._db:
                yield self._db
        except sqlite3.Error as error:
            if code_of(error) in DAMAGE_AT_OPEN:
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
        """Let the oldest go until there is room for what comes next."""
        while True:
            (pages,) = db.execute("PRAGMA page_count").fetchone()
            (free,) = db.execute("PRAGMA freelist_count").fetchone()
            if pages - free <= self._pages - 2 * self._pages // ROOM:
                return
            oldest = "DELETE FROM record WHERE seq IN (SELECT seq FROM record ORDER BY seq LIMIT ?)"
            if not db.execute(oldest, (AT_A_TIME,)).rowcount:
                return
