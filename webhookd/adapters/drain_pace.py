"""How fast the spool is drained: at full speed while nobody minds, and beside live deliveries never in a rush."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

BESIDE = 2000.0
"""Messages a second beside live deliveries, at least: a backlog must come to an end."""
AHEAD = 2.5
"""How many times as fast as messages come in behind those in the spool."""
BURST = 16
SPAN = 1.0
"""Seconds over which is counted what comes in."""


class Pace:
    """Spaces messages evenly. `live` and `behind` count, for ever, the deliveries that were confirmed or spooled."""

    def __init__(
        self, live: Callable[[], int], behind: Callable[[], int], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = math.inf
        """Messages a second."""
        self._live = live
        self._behind = behind
        self._now = now
        self._seen = (live(), behind())
        self._measured = self._due = now()

    async def take(self) -> None:
        """Wait for the turn of one message."""
        now = self._now()
        if now >= self._measured + SPAN:
            self._measure(now)
        self._due = max(self._due, now) + 1 / self.rate
        ahead = self._due - now - BURST / self.rate
        if ahead > 0:
            await asyncio.sleep(ahead)

    def _measure(self, now: float) -> None:
        seen = (self._live(), self._behind())
        live, behind = (after - before for after, before in zip(seen, self._seen, strict=True))
        seconds = now - self._measured
        self._seen, self._measured = seen, now
        self.rate = max(BESIDE, AHEAD * behind / seconds) if live else math.inf
