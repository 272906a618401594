"""Messages on their way over one link: each is answered, or falls, by its deadline at the latest."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

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
    """The Answer of one message in a lane; `message` is None once it was told.

    `answers` is how many the link had given when it was sent.
    """

    lane: Lane[Ticket]
    message: Message | None
    ticket: Ticket
    deadline: float
    answers: int

    def done(self) -> bool:
        """As an Answer."""
        return self.message is None

    def set_result(self, durable: Durable, /) -> None:  # noqa: ARG002 - a link knows one place only
        """As an Answer."""
        self.lane.told(self, None)

    def set_exception(self, error: BaseException, /) -> None:
        """As an Answer."""
        self.lane.told(self, error if isinstance(error, Unpublished) else OutcomeUnknown(str(error)))


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
        deadline = self._now() + self._timeout
        waiting = Waiting(self, message, ticket, deadline, self.breaker.answers)
        self._queue.append(waiting)
        self.waiting += 1
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._sweep)
        self.link.send(message, waiting)

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
            self._fall(waiting, why)

    def told(self, waiting: Waiting[Ticket], error: Unpublished | None) -> None:
        """Take the link's answer, unless the message has fallen before."""
        message = waiting.message
        if message is None:
            return
        waiting.message = None
        self.waiting -= 1
        queue = self._queue
        while queue and queue[0].message is None:
            queue.popleft()
        if error is None or isinstance(error, ANSWERS):
            breaker = self.breaker
            breaker.answers += 1
            if breaker.open:
                breaker.close()
        self._heard(waiting.ticket, message, error)

    def _fall(self, waiting: Waiting[Ticket], why: Unpublished) -> None:
        message = waiting.message
        if message is not None:
            waiting.message = None
            self.waiting -= 1
            self.link.give_up(waiting)
            self._heard(waiting.ticket, message, why)

    def _sweep(self) -> None:
        """Let fall what has passed its deadline, and all the others if the link turns out to be silent."""
        self._timer = None
        now = self._now()
        queue = self._queue
        while queue and (queue[0].deadline <= now or queue[0].message is None):
            waiting = queue.popleft()
            if waiting.message is None:
                continue
            why = DeadlineMissed(f"no answer within {self._timeout:g} s")
            silent = self.breaker.missed(waiting.answers)
            self._fall(waiting, why)
            if silent:
                self.fall(why)
                queue = self._queue
        if queue:
            self._timer = self._loop.call_at(queue[0].deadline, self._sweep)
