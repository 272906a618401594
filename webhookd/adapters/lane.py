"""Messages on their way over one link: each is answered, or falls, by its deadline at the latest."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from webhookd.adapters.breaker import Breaker
from webhookd.errors import Nacked, OutcomeUnknown, Unacceptable, Unpublished, Unroutable
from webhookd.model import Message
from webhookd.ports import Durable, Link

Ticket = TypeVar("Ticket")
ANSWERS = (Nacked, Unroutable, Unacceptable)
"""What only a broker that answers can say."""


class DeadlineMissed(OutcomeUnknown):
    """The broker had not answered when the deadline passed."""


class Waiting(msgspec.Struct, Generic[Ticket], eq=False):
    """One message that waits for its answer; `message` is None from then on.

    `answers` is how many the link had given when it was sent.
    """

    message: Message | None
    ticket: Ticket
    sent: asyncio.Future[Durable]
    deadline: float
    answers: int


class Lane(Generic[Ticket]):
    """Publishes over `link` with one deadline for all, `timeout` seconds, and one timer.

    `heard` is called once for each message, never from within `publish`: with the ticket that it was published with,
    and with why it was not confirmed (None where it was).
    """

    def __init__(
        self,
        link: Link,
        breaker: Breaker,
        timeout: float,
        heard: Callable[[Ticket, Message, Unpublished | None], None],
    ) -> None:
        self.link = link
        self.breaker = breaker
        self.waiting = 0
        """How many messages wait for their answer."""
        self.down = link.state != "up"
        self._timeout = timeout
        self._heard = heard
        self._queue: deque[Waiting[Ticket]] = deque()
        self._loop = asyncio.get_running_loop()
        self._now = time.monotonic  # what the loop's own clock is
        self._timer: asyncio.TimerHandle | None = None

    def publish(self, message: Message, ticket: Ticket) -> None:
        """Send a message; its answer comes through `heard`."""
        sent = self.link.publish(message)
        deadline = self._now() + self._timeout
        waiting = Waiting(message, ticket, sent, deadline, self.breaker.answers)
        self._queue.append(waiting)
        self.waiting += 1
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._sweep)
        sent.add_done_callback(partial(self._done, waiting))

    @property
    def shut(self) -> str | None:
        """Why nothing but a probe should be published here, in a word; None where it should."""
        if self.link.state != "up":
            return self.link.state
        return "silent" if self.breaker.open else None

    def fall(self, why: Unpublished) -> None:
        """Wait no longer: what was not answered has failed so, in the order in which it was published."""
        queue, self._queue = self._queue, deque()
        for waiting in queue:
            if waiting.sent.done():
                self._queue.append(waiting)  # its answer is on its way to `heard`
            else:
                self._fall(waiting, why)

    def _done(self, waiting: Waiting[Ticket], sent: asyncio.Future[Any]) -> None:
        message = waiting.message
        if message is None:
            return  # it has fallen, and its future was cancelled
        waiting.message = None
        self.waiting -= 1
        queue = self._queue
        while queue and queue[0].message is None:
            queue.popleft()
        try:
            error = sent.exception()
        except asyncio.CancelledError:
            error = OutcomeUnknown("the link gave it up")
        if error is None or isinstance(error, ANSWERS):
            self.breaker.answered()
        elif not isinstance(error, Unpublished):
            error = OutcomeUnknown(str(error))
        self._heard(waiting.ticket, message, error)

    def _fall(self, waiting: Waiting[Ticket], why: Unpublished) -> None:
        message = waiting.message
        if message is not None:
            waiting.message = None
            self.waiting -= 1
            waiting.sent.cancel()
            self._heard(waiting.ticket, message, why)

    def _sweep(self) -> None:
        """Let fall what has passed its deadline, and all the others if the link turns out to be silent."""
        self._timer = None
        now = self._now()
        queue = self._queue
        while queue and (queue[0].deadline <= now or queue[0].message is None):
            waiting = queue.popleft()
            if waiting.message is None or waiting.sent.done():
                continue
            why = DeadlineMissed(f"no answer within {self._timeout:g} s")
            silent = self.breaker.missed(waiting.answers)
            self._fall(waiting, why)
            if silent:
                self.fall(why)
                queue = self._queue
        if queue:
            self._timer = self._loop.call_at(queue[0].deadline, self._sweep)
