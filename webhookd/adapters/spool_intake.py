"""Decides which queued messages the next commit takes: none beyond the spool's bound or its tenant's share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from webhookd.adapters.spool_db import SpoolDb
from webhookd.adapters.spool_file import SPOOL_FULL
from webhookd.adapters.spool_item import Item, LargeBody
from webhookd.adapters.spool_layout import Sizes
from webhookd.errors import ShareExceeded, Unpublished

Refuse = Callable[[Item, Unpublished], None]


class Intake:
    """The queues of messages, and what of the file's room is promised to those that were taken from them.

    A large body is written in parts, one a commit, beside the small messages: `body` is the one in work.
    """

    def __init__(self, sizes: Sizes, share: Callable[[], float], refuse: Refuse) -> None:
        self.body: LargeBody | None = None
        self._sizes = sizes
        self._share = share
        self._refuse = refuse
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
        return bool(self._small or self._large or self.body)

    def gather(self, db: SpoolDb) -> list[Item]:
        """Take the small messages of the next commit, and begin the next large body if none is in work."""
        self._db = db
        self._measured = False
        share = self._share()
        limit = share * self._sizes.max_bytes if share < 1 else math.inf  # the bound of one alone is the spool's
        items: list[Item] = []
        budget = self._sizes.unit
        while self._small and (self._small[0].cost <= budget or not items):
            item = self._small.popleft()
            if self._admit(db, item, limit):
                items.append(item)
                budget -= item.cost
        if self.body is None and self._large and (self._large[0].cost <= budget or self._large[0].parts > 1):
            item = self._large.popleft()
            if self._admit(db, item, limit):
                if item.parts > 1:
                    self.body = db.large(item)
                else:
                    items.append(item)
        return items

    def committed(self, items: list[Item]) -> list[Item]:
        """Note that these, and the next part of the body in work, are in the file; return all that are whole in it."""
        if self.body is not None and self.body.finished:
            items = [*items, self.body.item]
            self.body = None
        self._promised -= sum(item.cost for item in items)
        return items

    def lost(self, items: list[Item], reason: str) -> int | None:
        """Refuse these and the body in work; return the number of the body whose parts are to be abandoned."""
        blob = None
        if self.body is not None:
            blob = self.body.blob if self.body.started else None
            items = [*items, self.body.item]
            self.body = None
        for item in items:
            self._promised -= item.cost
            if self._db is not None:
                self._db.ledger.release(item.message.tenant, item.cost)
            self._refuse(item, Unpublished(reason))
        return blob

    def measure(self, db: SpoolDb) -> None:
        """Learn how much room there is that is not promised."""
        db.measure()
        db.room -= self._promised
        self._measured = True

    def refuse_all(self, reason: str) -> None:
        """Refuse everything that is queued now."""
        for queue in (self._small, self._large):
            for _ in range(len(queue)):
                self._refuse(queue.popleft(), Unpublished(reason))

    def _admit(self, db: SpoolDb, item: Item, limit: float) -> bool:
        tenant = item.message.tenant
        if db.ledger.held.get(tenant, 0) + item.cost > limit:
            self._refuse(item, ShareExceeded("the tenant holds its whole share of the spool"))
            return False
        if item.cost > db.room and not self._measured:
            self.measure(db)
        if item.cost > db.room:
            self._refuse(item, Unpublished(SPOOL_FULL))
            return False
        db.room -= item.cost
        self._promised += item.cost
        db.ledger.hold(tenant, item.cost)
        return True
