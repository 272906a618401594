"""The one thread that writes the spool: it groups messages into commits, and answers each after its fsync."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from webhookd.adapters.spool_db import RESERVED_PAGES, SpoolDb
from webhookd.adapters.spool_disk import free_bytes
from webhookd.adapters.spool_file import SPOOL_FULL, SpoolFile
from webhookd.adapters.spool_intake import Intake
from webhookd.adapters.spool_item import Item
from webhookd.adapters.spool_jobs import Expiry, Job
from webhookd.adapters.spool_layout import CLOSED, PAGE, STATES, SpoolError, SpoolStats
from webhookd.errors import Unpublished

TICK = 1.0
"""Seconds between two looks at what only time changes: the disk, the oldest message, what expires."""
FEW_PAGES = 4
"""With less room than so many pages the spool is full."""
LINGER = 0.001
"""Seconds that a commit waits for company when the last one had more."""
BEING_READ = f"{SPOOL_FULL}: another process is reading its file"

Outcome = list[tuple[asyncio.Future[Any], Any]]
"""Futures, each with its result or exception."""
Settle = Callable[[Outcome], None]
"""Told, in the writer's thread, what came of items and jobs: once per commit."""
log = structlog.get_logger(__name__)


class Writer:
    """Takes items and jobs from the loop's thread, and works in its own."""

    def __init__(
        self,
        file: SpoolFile,
        *,
        retention: float,
        share: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self.oldest: int | None = None
        """When the oldest message that is not kept was received, in ms since the epoch, as of the last look."""
        self.expiry = Expiry(retention)
        self._file = file
        self._intake = Intake(file.sizes, share, self._refuse)
        self._jobs: deque[Job] = deque()
        self.now = now
        self._settle: Settle
        self._outcome: Outcome = []
        self._taken: list[Item] = []
        """Of which nobody has been told yet what came."""
        self._abandoned: list[int] = []
        self._last_batch = 0
        self._retried = False
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
        self._attempt(self._expire)
        self._thread.start()

    def stats(self) -> SpoolStats:
        """Return the spool as the last commit left it."""
        db, file = self._file.db, self._file
        return SpoolStats(
            messages=dict(db.ledger.messages) if db else dict.fromkeys(STATES, 0),
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
        self._jobs.append(job)
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
                self._file.abandon(f"internal error: {error}")
                self._lose(self._taken, "internal error")
                self._fail_jobs("internal error")
            self._flush()
        self._write_back("TRUNCATE")
        self._file.close()

    def _wait(self) -> None:
        """Sleep until there is work or time to look around, or a little while where company is likely."""
        if not (self._intake or self._jobs or self.expiry.due):
            self._sleeping = True
            if not (self._intake or self._jobs or self._closing):
                self._wake.wait(max(0.0, self._next_tick - time.monotonic()))
            self._sleeping = False
            self._wake.clear()
        if 0 < self._intake.waiting < self._last_batch and self._intake.body is None:
            time.sleep(LINGER)

    def _cycle(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + TICK
            self._tend()
            self._attempt(self._look_around)
        if self.expiry.due:
            self._attempt(self._expire)
        if self._file.db is None or self._file.failing is not None:
            self._lose([], self._file.failing or CLOSED)
            self._intake.refuse_all(self._file.failing or CLOSED)
        else:
            self._append(self._file.db)
        self._flush()
        self._work()
        self._flush()
        self._write_back("RESTART")

    def _flush(self) -> None:
        if self._outcome:
            outcome, self._outcome = self._outcome, []
            self._settle(outcome)

    def _refuse(self, item: Item, refusal: Unpublished) -> None:
        self._outcome.append((item.future, refusal))

    def _suffer(self, error: BaseException, items: list[Item]) -> str:
        """React to what went wrong in a transaction; the messages that it would have written are refused."""
        reason = self._file.suffer(error)
        self._lose(items, reason)
        return reason

    def _lose(self, items: list[Item], reason: str) -> None:
        self._taken = []
        blob = self._intake.lost(items, reason)
        if self._file.db is None:
            self._abandoned.clear()  # opening the file again deletes what is unfinished
        elif blob is not None:
            self._abandoned.append(blob)

    def _attempt(self, work: Callable[[SpoolDb], None]) -> None:
        db = self._file.db
        if db is not None:
            try:
                work(db)
            except (sqlite3.Error, OSError) as error:
                self._suffer(error, [])

    def _write_back(self, mode: str) -> None:
        """Empty the WAL when it is due: after everybody who waits was answered."""
        db = self._file.db
        if db is not None and (mode == "TRUNCATE" or db.wal_used > self._file.sizes.checkpoint_at):
            try:
                db.checkpoint(mode)
            except sqlite3.Error as error:
                self._suffer(error, [])

    # --- messages ---------------------------------------------------------------------------------------------------

    def _append(self, db: SpoolDb) -> None:
        items = self._taken = self._intake.gather(db)
        body = self._intake.body
        if not items and body is None:
            return
        rows = sum(item.cost for item in items) + (self._file.sizes.unit if body else 0)
        estimate = 2 * rows + RESERVED_PAGES * PAGE
        try:
            if free_bytes(self._file.path.parent) < db.wal_used + 2 * estimate:
                self._lose(items, self._file.lack_room())
                return
            if not db.fits_wal(estimate):
                self._lose(items, BEING_READ)
                return
            with db.transaction(estimate):
                db.append(items)
                if body is not None:
                    db.append_part(body)
        except (sqlite3.Error, OSError) as error:
            self._suffer(error, items)
            return
        self._last_batch = len(items)
        self._taken = []
        self._outcome += [(item.future, "spooled") for item in self._intake.committed(items)]

    def _work(self) -> None:
        """Take one transaction's worth of steps of the jobs: messages need not wait for all of them."""
        db = self._file.db
        if db is None:
            self._fail_jobs(self._file.failing or CLOSED)
        if db is None or not self._jobs:
            return
        steps: list[tuple[Job, int, int | None]] = []
        try:
            if not db.fits_wal(self._estimate):
                self._fail_jobs(BEING_READ)
                return
            with db.transaction(self._estimate):
                self._step(db, steps)
        except (sqlite3.Error, OSError) as error:
            # A full disk has just given its reserve free: what failed for it is tried once more.
            reason = self._suffer(error, [])
            if self._retried or self._file.db is not db:
                self._fail_jobs(reason)
            self._retried = not self._retried
            return
        self._retried = False
        for job, changed, cursor in steps:
            job.changed += changed
            if cursor is None:
                self._outcome.append((job.future, job.changed))
                self._jobs.popleft()
            else:
                job.cursor = cursor
        db.measure()

    def _step(self, db: SpoolDb, steps: list[tuple[Job, int, int | None]]) -> None:
        limit = self._file.sizes.step
        for job in tuple(self._jobs):
            looked, changed, cursor = job.step(db, job.cursor, limit)
            steps.append((job, changed, cursor))
            limit -= looked
            if cursor is not None or limit <= 0:
                return

    def _fail_jobs(self, reason: str) -> None:
        while self._jobs:
            self._outcome.append((self._jobs.popleft().future, SpoolError(reason)))

    # --- what only time changes -------------------------------------------------------------------------------------

    @property
    def _estimate(self) -> int:
        return (2 * self._file.sizes.step + RESERVED_PAGES) * PAGE

    def _tend(self) -> None:
        try:
            self._file.tend()
        except OSError as error:  # too many open files, say: what is open goes on
            log.warning("spool cannot be looked after", reason=str(error))

    def _look_around(self, db: SpoolDb) -> None:
        if self._generation != self._file.generation:
            self._generation = self._file.generation
            self.expiry.rewind()
            self._settle([])
        self.expiry.due = True
        if self._abandoned and db.fits_wal(self._estimate):
            with db.transaction(self._estimate):
                db.abandon(self._abandoned[-1])
            self._abandoned.pop()
        if db.mostly_empty and not self._intake:
            db.shrink()
        self.oldest = db.oldest_unkept()
        self._intake.measure(db)

    def _expire(self, db: SpoolDb) -> None:
        self.expiry.due = False
        if db.fits_wal(self._estimate):
            with db.transaction(self._estimate):
                self.expiry.step(db, self._file.sizes.step, self.now() * 1000)
