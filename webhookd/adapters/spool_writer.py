"""The one thread that writes the spool: it groups messages into commits, and answers each after its fsync."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable

import structlog

from webhookd.adapters.spool_commit import Committer
from webhookd.adapters.spool_db import SpoolDb
from webhookd.adapters.spool_file import SpoolFile, is_busy
from webhookd.adapters.spool_intake import Intake
from webhookd.adapters.spool_item import Item
from webhookd.adapters.spool_jobs import Expiry, Job, Jobs, Outcome
from webhookd.adapters.spool_layout import CLOSED, PAGE, STATES, SpoolStats

TICK = 1.0
"""Seconds between two looks at what only time changes: the disk, the oldest message, what expires."""
FEW_PAGES = 4
"""With less room than so many pages the spool is full."""
LINGER = 0.001
"""Seconds that a commit waits for company when the last one had more."""

Settle = Callable[[Outcome], None]
"""Told, in the writer's thread, what came of items and jobs: once per commit."""
log = structlog.get_logger(__name__)


class Writer:
    """Takes items and jobs from the loop's thread, and works in its own."""

    def __init__(
        self, file: SpoolFile, *, retention: float, share: Callable[[], float], now: Callable[[], float]
    ) -> None:
        self.oldest: int | None = None
        """When the oldest message that is not kept was received, in ms since the epoch, as of the last look."""
        self.expiry = Expiry(retention, now)
        self._file = file
        self._intake = Intake(file.sizes, share)
        self._jobs = Jobs(self.expiry)
        self._committer = Committer(file, self._intake, self._jobs, self._flush)
        self._settle: Settle
        self._generation = 0
        self._next_tick = 0.0
        self._wake = threading.Event()
        self._sleeping = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="spool.db", daemon=True)

    # --- from the loop's thread -------------------------------------------------------------------------------------

    def start(self, settle: Settle) -> None:
        """Look around in the calling thread, then begin to write; the file is open."""
        self._settle = settle
        self._attempt(self._look_around)
        self._thread.start()

    def stats(self) -> SpoolStats:
        """Return the spool as the last commit left it."""
        db, file = self._file.db, self._file
        return SpoolStats(
            messages=dict(db.rows.ledger.messages) if db else dict.fromkeys(STATES, 0),
            bytes=db.size() if db else 0,
            # `used` is measured now and then; what was promised since is no room any more
            used=max(db.used, (file.sizes.pages_max - file.sizes.slack) * PAGE - db.room) if db else 0,
            max_bytes=file.sizes.max_bytes,
            oldest_received_at=self.oldest,
            oldest_kept_received_at=self.expiry.oldest,
            full=db is not None and db.room < FEW_PAGES * PAGE,
            failing=file.failing,
            damaged=file.damaged,
        )

    def put(self, item: Item, *, large: bool) -> None:
        """Queue a message."""
        self._intake.put(item, large=large)
        if self._sleeping:
            self._wake.set()

    def put_job(self, job: Job) -> None:
        """Queue a change of messages that are there."""
        self._jobs.put(job)
        if self._sleeping:
            self._wake.set()

    def close(self) -> None:
        """Finish what is queued, then let go of the file; blocks until then."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._intake or self._jobs or not self._closing:
            self._wait()
            try:
                self._cycle()
            except Exception as error:
                log.exception("spool writer")
                self._committer.give_up(self._file.abandon(f"internal error: {error}"))
            self._flush()
        self._write_back("TRUNCATE")
        self._file.finish()

    def _wait(self) -> None:
        """Sleep until there is work or time to look around, or a little while where company is likely."""
        if not self._has_work():
            self._sleeping = True
            if not (self._has_work() or self._closing):
                self._wake.wait(max(0.0, self._next_tick - time.monotonic()))
            self._sleeping = False
            self._wake.clear()
        if 0 < self._intake.waiting < self._committer.last_batch and self._intake.body is None:
            time.sleep(LINGER)

    def _has_work(self) -> bool:
        db = self._file.db
        return bool(self._intake or self._jobs or (db is not None and self._jobs.due(db.rows)))

    def _cycle(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + TICK
            self._tend()
            self._attempt(self._look_around)
        db, failing = self._file.db, self._file.failing
        if db is None:
            self._committer.give_up(failing or CLOSED)
            return
        if failing is not None:
            self._committer.refuse(failing)
        self._committer.run(db)
        self._flush()
        self._write_back("RESTART")

    def _flush(self) -> None:
        outcome = self._intake.outcome + self._committer.outcome
        if outcome:
            self._intake.outcome.clear()
            self._committer.outcome.clear()
            self._settle(outcome)

    def _attempt(self, work: Callable[[SpoolDb], object]) -> None:
        db = self._file.db
        if db is not None:
            try:
                work(db)
            except (sqlite3.Error, OSError) as error:
                if not is_busy(error):  # by another process: tried again when it is needed
                    self._committer.suffer(error)

    def _write_back(self, mode: str) -> None:
        """Empty the WAL when it is due: after everybody who waits was answered."""
        db = self._file.db
        if db is not None and (mode == "TRUNCATE" or db.wal.used > self._file.sizes.checkpoint_at):
            self._attempt(lambda db: db.checkpoint(mode))

    # --- what only time changes -------------------------------------------------------------------------------------

    def _tend(self) -> None:
        try:
            if not self._file.in_place:
                self._committer.restore()
            self._file.tend()
        except OSError as error:  # too many open files, say: what is open goes on
            log.warning("spool cannot be looked after", reason=str(error))

    def _look_around(self, db: SpoolDb) -> None:
        if self._generation != self._file.generation:
            self._generation = self._file.generation
            self.expiry.rewind()
            self._settle([])
        self.expiry.due = True
        self._jobs.resting = False
        if db.mostly_empty and not self._intake:
            db.shrink()
        self.oldest = db.rows.oldest_unkept()
        self._intake.measure(db)
