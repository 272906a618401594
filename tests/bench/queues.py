"""The queue that takes what the servers publish: made, counted and emptied through AMQP."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiormq
import aiormq.abc

EXCHANGE = "events-to-enrich"
QUEUE = "bench"
SETTLED = 0.2
"""A queue that has not changed for so long, in seconds, gets nothing more."""

Result = TypeVar("Result")


class Queue:
    """One durable queue bound to the exchange, of a kind: `classic` or `quorum`. It is made anew.

    With `most`, it lets go of the oldest messages beyond so many.
    """

    def __init__(self, url: str, kind: str, *, most: int | None = None) -> None:
        self.url = url
        self.arguments: dict[str, Any] = {"x-queue-type": kind} | ({"x-max-length": most} if most else {})
        self._do(self._make)

    def __len__(self) -> int:
        return self._do(self._count)

    def settle(self, least: int = 0, patience: float = 20.0) -> int:
        """Wait until nothing more comes, or until `patience` seconds have passed, and return how many there are.

        While there are fewer than `least`, more are expected.
        """
        deadline = time.monotonic() + patience
        count = -1
        while (now := len(self)) != count or (now < least and time.monotonic() < deadline):
            count = now
            time.sleep(SETTLED)
        return count

    def empty(self) -> None:
        self._do(self._purge)

    def _do(self, work: Callable[[aiormq.abc.AbstractChannel], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            async with aiormq.Connection(self.url) as connection:
                return await work(await connection.channel())

        return asyncio.run(run())

    async def _make(self, channel: aiormq.abc.AbstractChannel) -> None:
        await channel.queue_delete(QUEUE)
        await channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
        await channel.queue_declare(QUEUE, durable=True, arguments=self.arguments)
        await channel.queue_bind(QUEUE, EXCHANGE, "event.#")

    async def _count(self, channel: aiormq.abc.AbstractChannel) -> int:
        declared = await channel.queue_declare(QUEUE, passive=True)
        assert declared.message_count is not None
        return declared.message_count

    async def _purge(self, channel: aiormq.abc.AbstractChannel) -> None:
        await channel.queue_purge(QUEUE)
