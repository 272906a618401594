"""A Link that leaves the broker time for others: for large bodies, which the small ones would wait behind."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from webhookd.adapters.answers import pass_on
from webhookd.model import Message
from webhookd.ports import Answer, Durable, Link, LinkState

TURN = 4 * 1024 * 1024
"""The bytes of bodies that are given to the broker at a time, if that is more than one body."""
REST = 2.0
"""How long the broker is left alone after a turn, in times of what the turn took."""
LONGEST_REST = 0.25
"""Seconds: a part of `publish_timeout` that is small enough for what waits. A rest that used it up would leave a slow
broker no time for its answer, and have it taken for one that is silent."""


class PacedLink(Link):
    """`link`, given its messages in turns: up to TURN bytes, and after their answers a rest.

    RabbitMQ reads, copies and syncs a large body as a whole; what the rests leave free is for everybody else. Whoever
    gives up a message that waits for its turn has it never sent.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Message, Answer]] = deque()
        self._sent: dict[Answer, asyncio.Future[Durable]] = {}
        """What the link has now."""
        self._began = 0.0
        self._rest: asyncio.TimerHandle | None = None
        link.on_change(self._changed)

    @property
    def state(self) -> LinkState:
        """As the port promises."""
        return self._link.state

    @property
    def fault(self) -> str | None:
        """As the port promises."""
        return self._link.fault

    def on_change(self, changed: Callable[[], None]) -> None:
        """As the port promises."""
        self._link.on_change(changed)

    def send(self, message: Message, answer: Answer) -> None:
        """As the port promises."""
        if self.state != "up":
            self._link.send(message, answer)
            return
        self._waiting.append((message, answer))
        if not self._sent and self._rest is None:
            self._turn()

    def give_up(self, answer: Answer) -> None:
        """As the port promises."""
        sent = self._sent.get(answer)
        if sent is not None:
            sent.cancel()

    async def close(self) -> None:
        """As the port promises."""
        await self._link.close()
        self._turn()

    def _changed(self) -> None:
        """Let go of what waits once the link takes nothing: it fails there, at once."""
        if self.state != "up":
            self._turn()

    def _turn(self) -> None:
        """Give the link what comes next; all, where it takes nothing anyway."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._began = self._loop.time()
        size = 0
        while self._waiting and (self.state != "up" or not size or size + len(self._waiting[0][0].body) <= TURN):
            message, answer = self._waiting.popleft()
            if answer.done():
                continue
            size += len(message.body)
            sent = self._sent[answer] = self._link.publish(message)
            sent.add_done_callback(partial(self._answered, answer))

    def _answered(self, answer: Answer, sent: asyncio.Future[Durable]) -> None:
        del self._sent[answer]
        pass_on(sent, answer)
        if not self._sent and self._rest is None:
            rest = min((self._loop.time() - self._began) * REST, LONGEST_REST)
            self._rest = self._loop.call_later(rest, self._turn)
