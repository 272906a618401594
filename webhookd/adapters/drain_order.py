"""Whose turn it is to be drained: hooks in the order in which they came to wait, failing ones after a back-off."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

from webhookd.adapters.lines import Line, Place

TURNS = 16
"""Hooks that are drained at a time."""
RETRIES = 8
"""Hooks that have failed and are tried again at a time, beside those."""
RETRY_SPACING = 0.004
"""Seconds between two such tries: a thousand hooks are tried within the longest back-off, and no storm."""
BACKOFF_MIN = 0.2
BACKOFF_MAX = 5.0


class Order:
    """Starts turns: `start` is called with a line, and whether it is tried again after a failure.

    It begins nothing while `may` says 0, and no more than so many turns at a time; nor two turns that need the link
    for large messages.
    """

    def __init__(self, start: Callable[[Line, bool], None], may: Callable[[], int]) -> None:
        self.active = 0
        self._start = start
        self._may = may
        self._retrying = 0
        self._large_active = False
        self._ready: deque[Line] = deque()
        self._large: deque[Line] = deque()
        self._stalled: list[tuple[float, int, Line]] = []
        self._numbers = itertools.count()
        self._loop = asyncio.get_running_loop()
        self._next_retry = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def ready(self, line: Line) -> None:
        """Give a line a turn, after those that wait already."""
        line.place = Place.READY
        (self._large if line.large else self._ready).append(line)

    def stall(self, line: Line) -> None:
        """Give a line a turn after its back-off, which is longer after each failure in a row."""
        line.place = Place.STALLED
        line.delay = min(BACKOFF_MAX, max(BACKOFF_MIN, 2 * line.delay))
        due = self._loop.time() + line.delay * random.uniform(0.8, 1.0)  # noqa: S311 - spreads the tries
        heapq.heappush(self._stalled, (due, next(self._numbers), line))

    def rouse(self, which: Callable[[Line], bool]) -> None:
        """Give stalled lines a turn now: what they stalled for is over."""
        roused = sorted(item for item in self._stalled if which(item[2]))
        self._stalled = [item for item in self._stalled if not which(item[2])]
        heapq.heapify(self._stalled)
        for _, _, line in roused:
            self.ready(line)

    def ended(self, *, retry: bool, large: bool) -> None:
        """Note the end of a turn."""
        self.active -= 1
        self._retrying -= retry
        if large:
            self._large_active = False

    def pump(self) -> None:
        """Begin the turns that may begin now."""
        may = self._may()
        while self._ready and self.active - self._retrying < TURNS and self.active < may:
            self._begin(self._ready.popleft(), retry=False)
        if self._large and not self._large_active and self.active < may:
            self._begin(self._large.popleft(), retry=False)
        self._retry(may)

    def close(self) -> None:
        """Begin nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _retry(self, may: int) -> None:
        while self._stalled and self._retrying < RETRIES and self.active < may:
            due = max(self._stalled[0][0], self._next_retry)
            now = self._loop.time()
            if due > now:
                self._wake_at(due)
                return
            line = self._stalled[0][2]
            if line.large and self._large_active:
                heapq.heappop(self._stalled)
                self.ready(line)
                continue
            heapq.heappop(self._stalled)
            self._next_retry = now + RETRY_SPACING
            self._begin(line, retry=True)

    def _begin(self, line: Line, *, retry: bool) -> None:
        line.place = Place.DRAINING
        self.active += 1
        self._retrying += retry
        if line.large:
            self._large_active = True
        self._start(line, retry)

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._woken)

    def _woken(self) -> None:
        self._timer = None  # uvloop's comes up to a millisecond early: there may be another one to wait for
        self.pump()
