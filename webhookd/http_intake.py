"""What deliveries share, and where each one's answer goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from webhookd.examiner import Examiner
from webhookd.ingest import Ingest
from webhookd.limits import Budget
from webhookd.logs import RefusalLog
from webhookd.metrics import DeliveryMetrics
from webhookd.model import Message
from webhookd.ports import Publisher
from webhookd.records import Records


class Answers(Protocol):
    """Where the answer goes; only the first one counts."""

    def accepted(self, receipt: str | None) -> None:
        """Answer 204, with the receipt where there is one."""

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Answer anything else."""

    def keep_rest(self, most: int, taken: Callable[[bytes | None], None]) -> None:
        """Have `taken` told, once and maybe at once, what is still to come of the body of a request that is answered.

        It is told None where that is more than `most` bytes, or does not come, or cannot be kept.
        """


@dataclass(slots=True)
class Intake:
    """Everything that deliveries share."""

    ingest: Ingest
    publisher: Publisher
    examiner: Examiner
    budget: Budget
    metrics: DeliveryMetrics
    refusals: RefusalLog
    log_accepted: bool
    log_refused: bool
    on_accepted: Callable[[Message], None] | None = None
    records: Records | None = None
    """Where answered deliveries are noted, if they are."""
    stopping: bool = False
    open: set[object] = field(default_factory=set)
    """Deliveries admitted and not yet answered."""
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def drain_limit(self) -> int:
        """How many bytes of a refused delivery are thrown away, so that its sender reads the answer."""
        return 2 * self.ingest.max_body

    async def finish(self) -> None:
        """Refuse new deliveries from now on, and return once those in work are answered."""
        self.stopping = True
        while self.open:
            self._answered.clear()
            await self._answered.wait()

    def leave(self, work: object) -> None:
        """Take note that a delivery is answered, or its sender gone."""
        self.open.discard(work)
        if self.stopping and not self.open:
            self._answered.set()
