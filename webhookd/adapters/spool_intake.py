"""Decides which queued messages the next commit takes: none beyond the spool's bound or its tenant's share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from webhookd.adapters.spool_db import SpoolDb
from webhookd.adapters.spool_file import SPOOL_FULL
from webhookd.adapters.spool_item import Item, LargeBody
from webhookd.adapters.spool_jobs import Outcome
from webhookd.adapters.spool_layout import Sizes, pages
from webhookd.errors import ShareExceeded, Unpublished


class Intake:
    """The queues of messages, and what of the file's room is promised to those that were taken from them.

    A large body is written in parts, one a commit, beside the small messages: `body` is the one in work.
    """

    def __init__(self, sizes: Sizes, share: Callable[[], float]) -> None:
        self.body: LargeBody | None = None
        self.taken: list[Item] = []
        """Small messages of which nobody knows yet whether they are durable."""
        self.outcome: Outcome = []
        """What was refused, of which nobody has been told yet."""
        self._sizes = sizes
        self._share = share
        self._small: deque[Item] = deque()
        self._large: deque[Item] = deque()
        self._db: SpoolDb | None = None
        self._promised = 0
        self._measured = False

    def put(self, item: Item, *, large: bool) -> None:
        """Queue a message; those that are `large`, and what must stay behind them, do not hold up the others."""
        (self._large if large else self._small).append(item)

    @property
    def waiting(self) -> int:
        """How many small messages are queued."""
        return len(self._small)

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._small or self._large or self.body or self.taken)

    @property
    def part_pages(self) -> int:
        """What the next part of the body in work writes at most, in pages."""
        return 0 if self.body is None else pages(self._sizes.unit + len(self.body.item.head), 1)

    def gather(self, db: SpoolDb, budget: int) -> int | None:
        """Take small messages that write at most `budget` pages, and begin the next large body if none is in work.

        Return how many pages they write at most, None where there are some, but no pages for them.
        """
        self._db = db
        self._measured = False
        batch = _Batch(budget, self._sizes.unit)
        share = self._share()
        limit = share * self._sizes.max_bytes if share < 1 else math.inf  # the bound of one alone is the spool's
        starved = [self._take(db, queue, batch, limit) for queue in (self._small, self._large)]
        self.taken = batch.items
        return None if any(starved) and not batch.items else batch.pages

    def committed(self, *, part: bool) -> list[Item]:
        """Note that what was taken, and a `part` of the body in work, are in the file; return what is whole in it."""
        items, self.taken = self.taken, []
        if part and self.body is not None and self.body.advance():
            items = [*items, self.body.item]
            self.body = None
        self._promised -= sum(item.cost for item in items)
        return items

    def lose(self, reason: str) -> None:
        """Refuse what was taken and the body in work, whose parts are doomed."""
        items, self.taken = self.taken, []
        if self.body is not None:
            if self.body.started and self._db is not None:
                self._db.rows.doomed.append(self.body.blob)
            items = [*items, self.body.item]
            self.body = None
        for item in items:
            self._promised -= item.cost
            if self._db is not None:
                self._db.rows.ledger.release(item.message.tenant, item.cost)
            self._refuse(item, Unpublished(reason))

    def measure(self, db: SpoolDb) -> None:
        """Learn how much room there is that is not promised."""
        db.measure()
        db.room -= self._promised
        self._measured = True

    def refuse_all(self, reason: str) -> None:
        """Refuse everything that is queued now."""
        self.lose(reason)
        for queue in (self._small, self._large):
            for _ in range(len(queue)):
                self._refuse(queue.popleft(), Unpublished(reason))

    def _take(self, db: SpoolDb, queue: deque[Item], batch: _Batch, limit: float) -> bool:
        """Take what fits from one queue; return whether something did not."""
        while queue and (queue is self._small or self.body is None):
            if not batch.fits(queue[0]):
                return True
            if self._will_have_room(db, queue[0]):
                return False
            item = queue.popleft()
            if not self._admit(db, item, limit):
                continue
            if item.parts > 1:
                self.body = db.rows.large(item)
            else:
                batch.add(item)
        return False

    def _will_have_room(self, db: SpoolDb, item: Item) -> bool:
        """Whether there is no room now, but bodies are on their way out."""
        return not self._has_room(db, item) and bool(db.rows.doomed)

    def _refuse(self, item: Item, refusal: Unpublished) -> None:
        self.outcome.append((item.future, refusal))

    def _has_room(self, db: SpoolDb, item: Item) -> bool:
        if item.cost > db.room and not self._measured:
            self.measure(db)
        return item.cost <= db.room

    def _admit(self, db: SpoolDb, item: Item, limit: float) -> bool:
        tenant = item.message.tenant
        ledger = db.rows.ledger
        if ledger.held.get(tenant, 0) + item.cost > limit:
            self._refuse(item, ShareExceeded("the tenant holds its whole share of the spool"))
            return False
        if not self._has_room(db, item):
            self._refuse(item, Unpublished(SPOOL_FULL))
            return False
        db.room -= item.cost
        self._promised += item.cost
        ledger.hold(tenant, item.cost)
        return True


class _Batch:
    """Small messages of one commit, and the pages that they write at most."""

    def __init__(self, budget: int, unit: int) -> None:
        self.items: list[Item] = []
        self._budget = budget
        self._unit = unit
        self._cost = 0
        self._hooks: set[str] = set()

    @property
    def pages(self) -> int:
        return pages(self._cost, len(self._hooks))

    def fits(self, item: Item) -> bool:
        """Whether there is room for one more; of a large body nothing is written yet."""
        if item.parts > 1:
            return True
        cost = self._cost + item.cost
        if self.items and cost > self._unit:
            return False
        return pages(cost, len(self._hooks) + (item.message.hook not in self._hooks)) <= self._budget

    def add(self, item: Item) -> None:
        self.items.append(item)
        self._cost += item.cost
        self._hooks.add(item.message.hook)
