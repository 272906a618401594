"""What a consumer finds in RabbitMQ, by aio-pika: the far side of what is published there."""

from types import TracebackType
from typing import Any, Self

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

EXCHANGE = "events-to-enrich"


class FarSide:
    """A queue bound to the exchange, and what was taken from it so far, in order."""

    def __init__(self, url: str, *, queue: str = "events", exchange: str = EXCHANGE) -> None:
        self.url = url
        self.name = queue
        self.exchange = exchange
        self.taken: list[AbstractIncomingMessage] = []

    async def __aenter__(self) -> Self:
        self._connection = await aio_pika.connect(self.url)
        self.channel = await self._connection.channel()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def bind(self, key: str = "event.#", **arguments: Any) -> None:
        """Make the queue, durable, and have it take what is published with this key."""
        queue = await self.channel.declare_queue(self.name, durable=True, arguments=arguments)
        await queue.bind(self.exchange, key)

    async def unbind(self, key: str = "event.#") -> None:
        queue = await self.channel.get_queue(self.name)
        await queue.unbind(self.exchange, key)

    async def delete_exchange(self) -> None:
        await self.channel.exchange_delete(self.exchange)

    async def take(self) -> list[AbstractIncomingMessage]:
        """Take what there is, and return all that was taken so far."""
        queue = await self.channel.get_queue(self.name)
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            self.taken.append(message)
        return self.taken
