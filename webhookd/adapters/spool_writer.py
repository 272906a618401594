"""The one thread that writes to the spool: groups what waits into commits, and outlasts full and failing disks."""

from __future__ import annotations

import asyncio
import math
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import structlog

from webhookd.adapters.spool_care import DISK_FULL, SPOOL_FULL, SpoolFile
from webhookd.adapters.spool_db import OVERHEAD, Row, SpoolDb
from webhookd.adapters.spool_jobs import Job
from webhookd.adapters.spool_layout import Sizes, SpoolError, SpoolStats
from webhookd.errors import ShareExceeded, Unpublished

LINGER = 0.001
"""How long a commit waits for company, in seconds, when the last one had some."""
TICK = 1.0
"""Seconds between two looks at what is old, what is free, and whether a disk that failed is well again."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Append:
    """A message to write."""

    row: Row
    future: asyncio.Future[None]


@dataclass(slots=True)
class Change:
    """A job to do."""

    job: Job
    future: asyncio.Future[int]
    changed: int = 0
    steps: Iterator[int] | None = None


@dataclass(slots=True)
class LargeBody:
    """A body that is written in parts, each in a transaction of its own: others need not wait for all of it."""

    append: Append
    seq: int
    offset: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of one round, told to the event loop in one call."""

    done: list[asyncio.Future[None]] = field(default_factory=list)
    failed: list[tuple[asyncio.Future[None] | asyncio.Future[int], Exception]] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)


class Writer:
    """Owns the write connection. `put` hands it work; it answers by futures of the event loop `loop`."""

    def __init__(
        self, file: SpoolFile, share: Callable[[], float], expire: Job | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.stats: SpoolStats
        self.last = 0
        """The place of the newest message."""
        self._file = file
        self._sizes: Sizes = file.sizes
        self._share = share
        self._expire = expire
        self._loop = loop
        self._queue: queue.SimpleQueue[Append | Change | None] = queue.SimpleQueue()
        self._small: deque[Append] = deque()
        self._large: deque[Append] = deque()
        self._changes: deque[Change] = deque()
        self._body: LargeBody | None = None
        self._outcome = Outcome()
        self._company = False
        self._closing = False
        self._full = False
        self._next_tick = 0.0
        self._expiring: Iterator[int] | None = None
        self._tick()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def put(self, work: Append | Change) -> None:
        """Queue work; never blocks."""
        self._queue.put(work)

    def finish(self) -> None:
        """Do what is queued, then end; blocks until then."""
        self._queue.put(None)
        self._thread.join()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing or self._small or self._large or self._body or self._changes:
            self._gather()
            self._write()
            self._settle()
            self._after()
        self._file.close()

    def _gather(self) -> None:
        """Take what is queued; wait for the first where there is nothing to do, and for company where it is likely."""
        busy = bool(self._small or self._large or self._body or self._changes or self._expiring)
        try:
            self._sort(self._queue.get(timeout=0 if busy else max(0.0, self._next_tick - time.monotonic())))
        except queue.Empty:
            return
        until = time.monotonic() + LINGER
        size = 0
        while size < self._sizes.unit:
            wait = until - time.monotonic() if self._company else 0
            try:
                work = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            except queue.Empty:
                return
            self._sort(work)
            size += work.row.cost if isinstance(work, Append) else 0

    def _sort(self, work: Append | Change | None) -> None:
        if work is None:
            self._closing = True
        elif isinstance(work, Change):
            self._changes.append(work)
        elif len(work.row.message.body) > self._sizes.unit:
            self._large.append(work)
        else:
            self._small.append(work)

    def _write(self) -> None:
        """Commit a batch of small messages with the next part of a large one, and one step of a change."""
        db = self._file.db
        if db is None or self._file.failing is not None:
            self._refuse_appends(self._file.failing or "the spool is closed")
        if db is None:
            self._refuse_changes(self._file.failing or "the spool is closed")
            return
        if self._small or self._large or self._body:
            self._append(db)
        if self._changes:
            self._change(db)

    def _append(self, db: SpoolDb) -> None:
        batch = self._batch(db)
        body = self._body
        if not batch and body is None:
            return
        size = sum(append.row.cost for append in batch) + (self._sizes.unit if body else 0)
        estimate = 2 * size + OVERHEAD
        try:
            if not self._file.has_room(estimate):
                self._lose(batch, self._file.lack_room())
                return
            if not db.fits_wal(estimate):
                self._lose(batch, f"{SPOOL_FULL}: another process reads its file")
                return
            with db.transaction(estimate):
                last = db.append([append.row for append in batch])
                whole = body is not None and db.append_part(body.seq, body.append.row, body.offset)
        except (sqlite3.Error, OSError) as error:
            self._lose(batch, self._file.suffer(error))
            return
        self._company = len(batch) > 1
        self._outcome.done += [append.future for append in batch]
        if body is not None:
            body.offset += self._sizes.unit
            if whole:
                self._outcome.done.append(body.append.future)
                self._body = None
        self.last = max(self.last, last)

    def _batch(self, db: SpoolDb) -> list[Append]:
        """Take the small messages of the next commit, and begin the next large body if none is in work."""
        share = self._share()
        limit = share * self._sizes.max_bytes if share < 1 else math.inf  # the bound of one alone is the spool's
        room = db.room - self._promised()
        coming: dict[str, int] = {}
        batch: list[Append] = []
        budget = self._sizes.unit
        while self._small and (not batch or self._small[0].row.cost <= budget):
            append = self._small.popleft()
            if self._admit(db, append, limit, room, coming):
                batch.append(append)
                budget -= append.row.cost
                room -= append.row.cost
        while self._body is None and self._large:
            append = self._large.popleft()
            if self._admit(db, append, limit, room, coming):
                self._body = LargeBody(append, db.take_number())
        return batch

    def _promised(self) -> int:
        """Return what the parts of the body in work will still take."""
        return max(0, self._body.append.row.cost - self._body.offset) if self._body is not None else 0

    def _admit(self, db: SpoolDb, append: Append, limit: float, room: int, coming: dict[str, int]) -> bool:
        tenant, cost = append.row.message.tenant, append.row.cost
        held = db.held.get(tenant, 0) + coming.get(tenant, 0)
        if self._body is not None and self._body.append.row.message.tenant == tenant:
            held += self._body.append.row.cost
        if held + cost > limit:
            self._outcome.failed.append((append.future, ShareExceeded("the tenant holds its share of the spool")))
            return False
        if cost > room:
            self._full = True
            self._outcome.failed.append((append.future, Unpublished(SPOOL_FULL)))
            return False
        self._full = False
        coming[tenant] = coming.get(tenant, 0) + cost
        return True

    def _change(self, db: SpoolDb) -> None:
        change = self._changes[0]
        estimate = self._sizes.checkpoint_at
        try:
            if not db.fits_wal(estimate):
                db.refuse("another process reads the spool's file")
            with db.transaction(estimate):
                if change.steps is None:
                    change.steps = change.job(db)
                change.changed += next(change.steps)
        except StopIteration:
            self._changes.popleft()
            self._outcome.changed.append(change)
        except (sqlite3.Error, OSError) as error:
            self._changes.popleft()
            self._outcome.failed.append((change.future, SpoolError(self._file.suffer(error))))

    # --- what comes of it -------------------------------------------------------------------------------------------

    def _lose(self, batch: list[Append], reason: str) -> None:
        """Refuse these and the body in work, whose parts are deleted now or when the file is opened again."""
        if self._body is not None:
            body, self._body = self._body, None
            batch = [*batch, body.append]
            db = self._file.db
            if body.offset and db is not None:
                self._attempt(db, lambda: db.abandon(body.seq))
        self._outcome.failed += [(append.future, Unpublished(reason)) for append in batch]
        if reason.startswith(SPOOL_FULL):
            self._full = True

    def _refuse_appends(self, reason: str) -> None:
        self._lose([*self._small, *self._large], reason)
        self._small.clear()
        self._large.clear()

    def _refuse_changes(self, reason: str) -> None:
        self._outcome.failed += [(change.future, SpoolError(reason)) for change in self._changes]
        self._changes.clear()

    def _settle(self) -> None:
        outcome, self._outcome = self._outcome, Outcome()
        if outcome.done or outcome.failed or outcome.changed:
            self.stats = self._look()
            self._loop.call_soon_threadsafe(_tell, outcome)

    def _after(self) -> None:
        """Do what can wait until everybody was answered: empty the WAL, expire, look around."""
        db = self._file.db
        if db is not None and db.wal_used > self._sizes.checkpoint_at:
            self._attempt_outside(partial(db.checkpoint, "RESTART"))
        if time.monotonic() >= self._next_tick:
            self._tick()
        db = self._file.db
        if db is not None and self._expiring is not None:
            steps = self._expiring
            self._expiring = self._expiring if self._attempt(db, lambda: next(steps)) else None

    def _tick(self) -> None:
        self._next_tick = time.monotonic() + TICK
        self._file.tend()
        db = self._file.db
        if db is not None:
            if self._expire is not None and self._expiring is None:
                self._expiring = self._expire(db)
            if db.free > self._sizes.max_bytes // 4 or (db.free and self._file.failing == DISK_FULL):
                self._attempt_outside(db.shrink)
            if self._file.failing == DISK_FULL:
                self._attempt_outside(partial(db.checkpoint, "TRUNCATE"))
            self._full = self._full and db.room < self._sizes.unit
        self.stats = self._look()

    def _look(self) -> SpoolStats:
        db, file = self._file.db, self._file
        if db is None:
            return SpoolStats(
                messages={},
                bytes=0,
                used=0,
                max_bytes=self._sizes.max_bytes,
                failing=file.failing,
                damaged=file.damaged,
            )
        return SpoolStats(
            messages=dict(db.messages),
            bytes=db.size(),
            used=db.used,
            max_bytes=self._sizes.max_bytes,
            oldest_received_at=db.oldest(kept=False),
            oldest_kept_received_at=db.oldest(kept=True),
            full=self._full,
            failing=file.failing,
            damaged=file.damaged,
        )

    def _attempt(self, db: SpoolDb, work: Callable[[], object]) -> bool:
        """Do `work` in a transaction; False where it failed or has ended."""
        estimate = self._sizes.checkpoint_at
        try:
            if not db.fits_wal(estimate):
                return False
            with db.transaction(estimate):
                work()
        except StopIteration:
            return False
        except (sqlite3.Error, OSError) as error:
            self._file.suffer(error)
            return False
        return True

    def _attempt_outside(self, work: Callable[[], object]) -> None:
        """Do `work`, which is no transaction."""
        try:
            work()
        except (sqlite3.Error, OSError) as error:
            self._file.suffer(error)


def _tell(outcome: Outcome) -> None:
    """Settle the futures, on the event loop."""
    for future in outcome.done:
        if not future.done():
            future.set_result(None)
    for change in outcome.changed:
        if not change.future.done():
            change.future.set_result(change.changed)
    for failed, error in outcome.failed:
        if not failed.done():
            failed.set_exception(error)
