"""The spool's SQLite file as its one writer sees it: a transaction is durable or undone, and its room is known."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from webhookd.adapters.spool_disk import file_size
from webhookd.adapters.spool_layout import LINE_ENTRY, PAGE, Sizes, State
from webhookd.adapters.spool_rows import Rows
from webhookd.adapters.spool_schema import Unusable, connect
from webhookd.adapters.spool_wal import Wal

COPIED = 1024
"""Pages that are copied at a time."""


class SpoolDb:
    """The write connection, the rows of messages, and how much room there is."""

    def __init__(self, path: Path, sizes: Sizes, gate: threading.Lock, connection: sqlite3.Connection) -> None:
        self.path = path
        self.sizes = sizes
        self.rows = Rows(connection, sizes)
        self.wal = Wal(path, sizes)
        self.room = 0
        """Bytes of messages that certainly still fit; more may: `measure` looks."""
        self.mostly_empty = False
        self.used = 0
        """Bytes of the database that hold something, as of the last `measure`."""
        self._gate = gate
        self._db = connection
        self._bound = -1

    @classmethod
    def open(cls, path: Path, sizes: Sizes, gate: threading.Lock) -> Self:
        """Open or create the file and learn what it holds; raises sqlite3.Error, Damaged, OSError.

        The WAL of an earlier run is written back, synced and emptied first: no page that an earlier fsync may have
        failed to write is built upon.
        """
        spool = cls(path, sizes, gate, connect(path))
        try:
            spool.wal.open()
            if not spool.checkpoint("TRUNCATE"):
                raise Unusable("another process is reading the spool's file")  # noqa: TRY301 (closed like any other)
            spool.rows.load()
            spool.measure()
        except BaseException:
            spool.close()
            raise
        return spool

    def close(self) -> None:
        """Let go of the file; what was committed is in it."""
        self.wal.close()
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[Rows]:
        """Commit, durably, what is done inside, or nothing of it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self.rows
            self._db.execute("COMMIT")
        except BaseException:
            self.rows.forget()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.rows.settle()

    # --- room -------------------------------------------------------------------------------------------------------

    def bound(self, left: int) -> None:
        """Let the file grow until only so many pages are left to its largest size."""
        if self._bound != left:
            self._db.execute(f"PRAGMA max_page_count = {self.sizes.pages_max - left}")
            self._bound = left

    def measure(self) -> None:
        """Learn how much room there is: what the file may still grow by, and its free pages."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        back_in_line = self.rows.ledger.messages[State.SET_ASIDE] * LINE_ENTRY
        self.room = (self.sizes.pages_max - pages + free - self.sizes.slack) * PAGE - back_in_line
        self.used = (pages - free) * PAGE
        self.mostly_empty = pages * PAGE > 16 * self.sizes.unit and self.used < 2 * self.sizes.unit

    def makes_room(self, pages: int) -> bool:
        """Make the WAL fit so many pages more; False while another process keeps it from being written back."""
        return pages <= self.wal.room or self.checkpoint("RESTART")

    def checkpoint(self, mode: str) -> bool:
        """Write the WAL back so that it starts anew; False if another process is in the way."""
        with self._gate:
            busy, _, _ = self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if not busy:
            self.wal.begin_anew()
        return not busy

    def shrink(self) -> None:
        """Give the file system back what a large outage took; cheap while little is left in the file."""
        if self.makes_room(self.sizes.wal_frames):
            self._db.execute("VACUUM")
            self.checkpoint("RESTART")

    def copy(self, meanwhile: Callable[[], None]) -> Path:
        """Write all that the database holds to another file, durably, and return its name.

        `meanwhile` is called after every few MiB but the last. Raises sqlite3.Error, OSError.
        """
        path = self.path.with_name(f"{self.path.name}.new")
        path.unlink(missing_ok=True)
        path.touch(0o600)

        def progress(_status: int, remaining: int, _total: int) -> None:
            if remaining:
                meanwhile()

        with closing(sqlite3.connect(path)) as target:
            self._db.backup(target, pages=COPIED, progress=progress)
        return path

    def size(self) -> int:
        """Return the bytes on disk."""
        return file_size(self.path) + self.wal.size()
