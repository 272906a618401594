"""Lets a busy hook be live again: what comes while its last spooled messages are confirmed waits for just that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from webhookd.adapters.lines import Line, Place
from webhookd.model import Message

FEW = 128
"""Spooled messages of a hook that are as good as confirmed: the drain has them in flight, or soon will."""
HOLD = 0.2
"""Seconds that a delivery waits for them at most; then it goes behind them, into the spool."""
PAUSE = 2.0
"""Seconds after that in which none of the hook waits."""
Ticket = TypeVar("Ticket")


class Handover(Generic[Ticket]):
    """Holds deliveries by hook, in order, until `emptied` or `stalled`; then gives them to `go_on` or to `spool`.

    Without it a hook with a delivery every few milliseconds would stay behind the spool for ever: there is always one
    on its way through it.
    """

    def __init__(self, go_on: Callable[[Message, Ticket], None], spool: Callable[[Message, Ticket], None]) -> None:
        self.waiting = 0
        """How many deliveries are held."""
        self._go_on = go_on
        self._spool = spool
        self._held: dict[str, list[tuple[Message, Ticket]]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()

    def takes(self, line: Line) -> bool:
        """Return whether a delivery of the hook should wait here."""
        if line.hook in self._held:
            return True
        if line.place is not Place.DRAINING or line.fault or line.large or not line.counted or line.left > FEW:
            return False
        return time.monotonic() >= line.hold_after

    def hold(self, line: Line, message: Message, ticket: Ticket) -> None:
        """Hold a delivery."""
        held = self._held.get(line.hook)
        if held is None:
            held = self._held[line.hook] = []
            self._timers[line.hook] = self._loop.call_later(HOLD, self.stalled, line)
        held.append((message, ticket))
        self.waiting += 1

    def emptied(self, line: Line) -> None:
        """Let the hook's deliveries go on: nothing of it is in the spool any more."""
        for message, ticket in self._release(line):
            self._go_on(message, ticket)

    def stalled(self, line: Line) -> None:
        """Have the hook's deliveries spooled: what is before them takes longer."""
        held = self._release(line)
        if held:
            line.hold_after = time.monotonic() + PAUSE
        for message, ticket in held:
            self._spool(message, ticket)

    def close(self) -> None:
        """Have everything spooled."""
        for hook in tuple(self._held):
            self.stalled(Line(hook))

    def _release(self, line: Line) -> list[tuple[Message, Ticket]]:
        held = self._held.pop(line.hook, [])
        if held:
            self._timers.pop(line.hook).cancel()
            self.waiting -= len(held)
        return held
