"""One transaction after the other, each of messages and of steps of jobs, none larger than the WAL has room for."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import structlog

from webhookd.adapters.spool_db import SpoolDb
from webhookd.adapters.spool_disk import free_bytes
from webhookd.adapters.spool_file import SPOOL_FULL, SpoolFile, is_busy
from webhookd.adapters.spool_intake import Intake
from webhookd.adapters.spool_item import Item
from webhookd.adapters.spool_jobs import Jobs, Outcome
from webhookd.adapters.spool_layout import CHANGE_PAGES, PAGE, RESERVED_PAGES, SpoolError
from webhookd.adapters.spool_rows import REASON_MAX, Allowance, Rows
from webhookd.adapters.spool_turns import Turns
from webhookd.errors import Unpublished

MARK_MAX = 2 * 4 * REASON_MAX
"""Bytes that a message with a reason may take more than one without, in UTF-8 and pages that are half full."""
PATIENCE = 2.0
"""Seconds that messages and jobs wait for another process that has locked the file."""
PAUSE = 0.01
"""Seconds between two looks whether it has let go."""
MOVED = "the spool's files were removed or replaced"
IN_USE = "spool locked: another process is reading or writing its file"
log = structlog.get_logger(__name__)


class Committer:
    """Plans and makes transactions in the writer's thread, and notes in `outcome` what came of them."""

    def __init__(self, file: SpoolFile, intake: Intake, jobs: Jobs, flush: Callable[[], None]) -> None:
        self.outcome: Outcome = []
        self.last_batch = 0
        """How many small messages the last commit took."""
        self._file = file
        self._intake = intake
        self._jobs = jobs
        self._flush = flush
        self._durable: list[Item] = []
        """What the last commit made whole, of which nobody has been told yet."""
        self._turns = Turns(self._claim_items, self._claim_part, self._claim_changes)
        self._db: SpoolDb
        self._planned = False
        """Whether there is a plan that was not carried out yet: the file was locked, or had no room."""
        self._append_pages = 0
        self._part = False
        """Whether a part of the body in work is written."""
        self._allowance: Allowance | None = None
        """What jobs may change, None for nothing."""
        self._phase = "plan"
        self._retried = False
        self._locked_since: float | None = None

    def run(self, db: SpoolDb) -> None:
        """Make one transaction if there is anything to do."""
        self._db = db
        try:
            if not self._planned and not self._plan(db):
                return
            with db.transaction() as rows:
                self._write(db, rows)
            db.wal.measure()
            in_place = self._file.in_place
        except (sqlite3.Error, OSError) as error:
            self._failed(db, error)
        else:
            self._succeeded(db, in_place=in_place)

    def restore(self) -> None:
        """Have brought back what was committed, when the file lost its name; what comes meanwhile may be refused."""
        self._planned = False
        self._intake.lose(MOVED)
        self._file.restore(self._refuse_meanwhile)
        if self._file.failing is not None:
            self._refuse_meanwhile()

    def refuse(self, reason: str) -> None:
        """Refuse all messages that are queued."""
        self._planned = False
        self._intake.refuse_all(reason)

    def give_up(self, reason: str) -> None:
        """Refuse all messages and fail all jobs that are queued."""
        self.refuse(reason)
        self.outcome += self._jobs.fail(SpoolError(reason))

    def suffer(self, error: BaseException) -> str:
        """React to what went wrong; messages that are queued are tried where that makes sense."""
        reason = self._file.suffer(error)
        self._planned = False
        self._intake.lose(reason)
        return reason

    # --- the plan ---------------------------------------------------------------------------------------------------

    def _plan(self, db: SpoolDb) -> bool:
        """Decide what the next transaction does; return whether it does anything."""
        self._phase = "plan"
        if not (self._intake or self._jobs.due(db.rows)):
            return False
        if not db.makes_room(self._file.sizes.append_pages):
            self._be_patient()
            return False
        self._append_pages = 0
        self._turns.share(db.wal.room - RESERVED_PAGES)
        writes = bool(self._intake.taken or self._part)
        if writes and free_bytes(self._file.path.parent) < db.wal.used + 2 * PAGE * self._append_pages:
            self._part = writes = False
            self._intake.lose(self._file.lack_room())
        self._planned = writes or self._allowance is not None
        return self._planned

    def _claim_items(self, pages: int) -> int | None:
        taken = self._intake.gather(self._db, pages) if self._file.failing is None else 0
        self._append_pages += taken or 0
        return taken

    def _claim_part(self, pages: int) -> int | None:
        needed = self._intake.part_pages
        self._part = 0 < needed <= pages
        if not self._part:
            return None if needed else 0
        self._append_pages += needed
        return needed

    def _claim_changes(self, pages: int) -> int | None:
        self._allowance = None
        if not self._jobs.due(self._db.rows):
            return 0
        if pages < CHANGE_PAGES:
            return None
        sizes = self._file.sizes
        allowance = Allowance(pages, sizes.bytes_deleted, frugal=False)
        allowance.frugal = self._db.room + sizes.slack // 2 * PAGE < allowance.changes * MARK_MAX
        self._allowance = allowance
        return pages

    # --- the transaction --------------------------------------------------------------------------------------------

    def _write(self, db: SpoolDb, rows: Rows) -> None:
        self._phase = "append"
        db.bound(self._file.sizes.slack)
        rows.append(self._intake.taken)
        if self._part and self._intake.body is not None:
            rows.append_part(self._intake.body)
        if self._allowance is not None:
            self._phase = "change"
            db.bound(0 if self._allowance.frugal else self._file.sizes.slack // 2)
            self._jobs.step(rows, self._allowance)

    def _succeeded(self, db: SpoolDb, *, in_place: bool) -> None:
        if self._locked_since is not None:
            self._locked_since = None
            log.info("spool goes on")
        self._planned = self._retried = False
        self.last_batch = len(self._intake.taken)
        self._durable = self._intake.committed(part=self._part)
        self._part = False
        if self._allowance is not None:
            self.outcome += self._jobs.committed()
            self._intake.measure(db)
        if not in_place:
            self.restore()
        self.outcome += [(item.future, "spooled") for item in self._durable]

    def _refuse_meanwhile(self) -> None:
        """Refuse what is queued, and what was committed where nobody will find it if this fails."""
        self.outcome += [(item.future, Unpublished(MOVED)) for item in self._durable]
        self._durable = []
        self._intake.refuse_all(MOVED)
        self._flush()

    def _failed(self, db: SpoolDb, error: sqlite3.Error | OSError) -> None:
        if is_busy(error):
            self._be_patient()
            return
        reason = self._file.suffer(error)
        allowed = self._allowance if self._phase == "change" else None
        if reason == SPOOL_FULL and allowed is not None and not allowed.frugal:
            self._allowance = Allowance(allowed.granted, self._file.sizes.bytes_deleted, frugal=True)
            return
        self._planned = False
        self._jobs.resting = True
        self._intake.lose(reason)
        if self._file.db is not db:
            self.give_up(self._file.failing or reason)
        elif self._phase != "append":
            # A full disk has just given its reserve free: what failed for it is tried once more.
            if self._retried:
                self.outcome += self._jobs.fail(SpoolError(reason))
            self._retried = not self._retried

    def _be_patient(self) -> None:
        """Wait a little for another process, but not for ever."""
        now = time.monotonic()
        if self._locked_since is None:
            self._locked_since = now
            log.warning("spool waits", reason=IN_USE)
        if now - self._locked_since > PATIENCE:
            self._jobs.resting = True
            self.give_up(IN_USE)
        else:
            time.sleep(PAUSE)
