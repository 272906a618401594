"""Keeps the spool's file usable: opened again after an I/O error, put aside when damaged, with room on a full disk."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from webhookd.adapters.spool_db import SpoolDb
from webhookd.adapters.spool_disk import Reserve, damaged_files, free_bytes, has_room, inode, put_aside
from webhookd.adapters.spool_layout import Sizes
from webhookd.adapters.spool_schema import Unusable

DISK_FULL = "disk full"
SPOOL_FULL = "spool full"
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
DAMAGE_AT_OPEN = DAMAGE | {sqlite3.SQLITE_ERROR}
"""A missing table or a name that is no text is damage too, where nothing but fixed statements was run."""
log = structlog.get_logger(__name__)


class SpoolFile:
    """The open database `db`, or None and why not in `failing`. While `failing` is set no message is taken.

    On a full disk `db` stays open: with the reserve given free, messages can still be marked and deleted.
    """

    def __init__(self, path: Path, sizes: Sizes) -> None:
        self.path = path
        self.sizes = sizes
        self.db: SpoolDb | None = None
        self.failing: str | None = None
        self.damaged: tuple[str, ...] = ()
        self.generation = 0
        """Grows when the file is opened: whoever reads it must open it again."""
        self.gate = threading.Lock()
        """Held by the reader while it reads, and by the writer while nobody may."""
        self.reading: sqlite3.Connection | None = None
        """The reader's connection to the same file, under the same gate."""
        self._reserve = Reserve(path.with_name("spool.reserve"), sizes.reserve)
        self._inode = 0
        self._next = 1
        """From which place on messages go: a change of one that was in another file must not meet a new one."""

    def open(self) -> None:
        """Open the file for the first time; raises sqlite3.Error, OSError, ConfigurationError.

        A full disk is no reason not to start: `tend` opens the file when there is room.
        """
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            if not self._is_full(error):
                raise
            self._reserve.release()  # even opening needs some room
            self._reopen()
            self._fail(DISK_FULL)
        if self.db is not None:
            self._take_room(self.db)

    def close(self) -> None:
        """Let go of the file."""
        if self.db is not None:
            self._next = max(self._next, self.db.rows.next)
            try:
                self.db.close()
            except sqlite3.Error as error:
                log.warning("spool not closed well", reason=str(error))
            self.db = None

    def finish(self) -> None:
        """Let go of the file for good; the room that its WAL gives back is kept, as others would take it."""
        self.close()
        try:
            self._reserve.build()
        except OSError as error:
            log.warning("no room was kept for the spool's next start", reason=str(error))

    def tend(self) -> None:
        """Try again what failed."""
        if self.db is None:
            self._reopen()
        if self.db is not None and self.failing in {None, DISK_FULL}:
            self._take_room(self.db)
        self.damaged = damaged_files(self.path)

    @property
    def in_place(self) -> bool:
        """Whether database and WAL can still be found by their names: what is not will be gone when they are closed."""
        db = self.db
        return db is None or (inode(self.path) == self._inode and inode(db.wal.path) == db.wal.inode)

    def restore(self, meanwhile: Callable[[], None]) -> None:
        """Bring what was committed to where it will be looked for; call `meanwhile` now and then if it takes long.

        What has the names now is put aside. Where it cannot be done the files stay open, and no message is taken.
        """
        db = self.db
        if db is None:
            return
        log.error("the spool's files were removed or replaced by somebody: they are brought back")
        try:
            if not db.checkpoint("TRUNCATE"):
                raise Unusable("another process is reading the spool's file")
            copy = None if inode(self.path) == self._inode else db.copy(meanwhile)
            put_aside(self.path, "replaced", _stamp(), ("", "-wal", "-shm") if copy else ("-wal",))
            with self.gate:
                self._close_reading()
                self.close()
            if copy is not None:
                copy.rename(self.path)
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._fail(f"its files were removed or replaced, and cannot be brought back yet: {error}")
        else:
            self.failing = None
            log.info("spool opened again")

    def suffer(self, error: BaseException) -> str:
        """Do what the error of a transaction asks for, and return the reason in words for a log line; never raises."""
        try:
            return self._suffer(error)
        except (sqlite3.Error, OSError) as another:  # the disk fails in what was to be done about it
            return self.abandon(f"I/O error: {another}")

    def abandon(self, reason: str) -> str:
        """Let go of the file until `tend` opens it again."""
        self.close()
        self._fail(reason)
        return reason

    def _suffer(self, error: BaseException) -> str:
        if isinstance(error, sqlite3.DatabaseError) and code_of(error) in DAMAGE:
            self.close()
            self._fail("spool damaged")
            self._reopen(damaged_by=error)
            return "spool damaged"
        if self._is_full(error):
            return self.lack_room()
        if isinstance(error, sqlite3.Error) and code_of(error) == sqlite3.SQLITE_FULL:
            return SPOOL_FULL
        return self.abandon(f"I/O error: {error}")

    def lack_room(self) -> str:
        """Take no message for now; write back, with the reserve given free, what has no room of its own yet."""
        self._reserve.release()
        self._fail(DISK_FULL)
        with contextlib.suppress(sqlite3.Error):  # tried again when the WAL is needed
            if self.db is not None:
                self.db.checkpoint("RESTART")
        return DISK_FULL

    def _open(self) -> None:
        try:
            self.db = SpoolDb.open(self.path, self.sizes, self.gate)
        except (
            sqlite3.DatabaseError,
            UnicodeDecodeError,
        ) as error:  # the latter: a damaged name in SQLite's own message
            if isinstance(error, sqlite3.DatabaseError) and code_of(error) not in DAMAGE_AT_OPEN:
                raise
            self._put_aside(error)
            self.db = SpoolDb.open(self.path, self.sizes, self.gate)
        self.db.rows.next = max(self.db.rows.next, self._next)
        self._inode = inode(self.path)
        self.damaged = damaged_files(self.path)
        self.generation += 1

    def _put_aside(self, error: BaseException) -> None:
        aside = put_aside(self.path, "corrupt", _stamp())
        self.path.with_name(f"{self.path.name}-shm").unlink(missing_ok=True)
        log.error("spool damaged: put aside, and a new one begun", file=aside.name, reason=str(error))

    def _reopen(self, damaged_by: BaseException | None = None) -> None:
        try:
            if damaged_by is not None:
                self._put_aside(damaged_by)
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._fail(DISK_FULL if self._is_full(error) else f"I/O error: {error}")
        else:
            self.failing = None
            log.info("spool opened again")

    def _take_room(self, db: SpoolDb) -> None:
        """Take messages only with room for the WAL, for its write-back, and for the day when the disk is full."""
        if db.wal.allocate() and self._reserve.build() and free_bytes(self.path.parent) >= self.sizes.wal_max:
            if self.failing is not None:
                log.info("spool takes messages again")
            self.failing = None
        else:
            self._fail(DISK_FULL)

    def _close_reading(self) -> None:
        if self.reading is not None:
            self.reading.close()
            self.reading = None

    def _is_full(self, error: BaseException) -> bool:
        """Whether it was the disk that had no room (SQLite says the same when the file has reached its bound)."""
        code = code_of(error) if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_IOERR
        if code not in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
            return False
        return not has_room(self.path.parent, self.sizes.unit)

    def _fail(self, reason: str) -> None:
        if reason != self.failing:
            log.error("spool takes no message", reason=reason)
        self.failing = reason


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%S")


def code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 1 where it is sqlite3 itself that complains."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Whether it is only that another process has locked the file."""
    return isinstance(error, sqlite3.Error) and code_of(error) in BUSY
