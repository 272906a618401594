"""A consumer that takes every message from a queue, acknowledges it by hand, and keeps account of it."""

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from traffic import Kept

EXCHANGE = "events-to-enrich"
QUEUE = "enricher"
PREFETCH = 500
RETRY = 0.2
CONNECT_TIMEOUT = 5
logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # that the broker goes away is no news here
GONE = (OSError, RuntimeError, aio_pika.exceptions.AMQPError, asyncio.CancelledError, asyncio.InvalidStateError)
"""What aio-pika raises, from one call or another, when the broker goes away."""


def declare(
    url: str,
    *,
    exchange: bool = True,
    queue: bool = True,
    bind: bool = True,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Declare what consumers declare: the exchange, their queue (with `arguments`), and that all events go to it."""

    async def run() -> None:
        async with await aio_pika.connect(url, timeout=CONNECT_TIMEOUT) as connection:
            channel = await connection.channel()
            if exchange:
                await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
            if queue:
                made = await channel.declare_queue(QUEUE, durable=True, arguments=dict(arguments or {}))
                if bind:
                    await made.bind(EXCHANGE, "event.#")

    asyncio.run(run())


def unbind(url: str) -> None:
    """Have no event go to the queue."""

    async def run() -> None:
        async with await aio_pika.connect(url, timeout=CONNECT_TIMEOUT) as connection:
            queue = await (await connection.channel()).get_queue(QUEUE)
            await queue.unbind(EXCHANGE, "event.#")

    asyncio.run(run())


def delete_exchange(url: str) -> None:
    """Delete the exchange, and with it what was bound."""

    async def run() -> None:
        async with await aio_pika.connect(url, timeout=CONNECT_TIMEOUT) as connection:
            await (await connection.channel()).exchange_delete(EXCHANGE)

    asyncio.run(run())


class Collector(threading.Thread):
    """Consumes from entering to leaving; begins anew whenever the broker goes away."""

    def __init__(self, url: str, queue: str = QUEUE) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.queue = queue
        self.messages: list[Kept] = []
        """All that came, in order."""
        self.receipts: set[str] = set()
        self.faults: list[str] = []
        """What was wrong with messages, beside their bodies."""
        self.last = time.monotonic()
        """When the last message came."""
        self.begun = 0
        """How often it has begun to consume."""
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._acknowledging = asyncio.Event()
        self._acknowledging.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self.join(30)
        assert not self.is_alive()

    def hold(self) -> None:
        """Acknowledge nothing from now on: the queue fills."""
        self._loop.call_soon_threadsafe(self._acknowledging.clear)

    def release(self) -> None:
        """Acknowledge what waits for it, and all that comes."""
        self._loop.call_soon_threadsafe(self._acknowledging.set)

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._consume_until_stopped())
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._loop.close()

    async def _consume_until_stopped(self) -> None:
        stopped = self._loop.create_task(self._stopping.wait())
        while not stopped.done():
            consuming = self._loop.create_task(self._consume())
            await asyncio.wait({stopped, consuming}, return_when=asyncio.FIRST_COMPLETED)
            consuming.cancel()
            with contextlib.suppress(*GONE):
                await consuming
            await asyncio.wait({stopped}, timeout=RETRY)

    async def _consume(self) -> None:
        connection = await aio_pika.connect(self.url, timeout=CONNECT_TIMEOUT, heartbeat=5)
        try:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.get_queue(self.queue)
            await queue.consume(self._take)
            self.begun += 1
            await asyncio.wait(
                {asyncio.ensure_future(connection.closed()), asyncio.ensure_future(channel.closed())},
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            with contextlib.suppress(*GONE, TimeoutError):
                await asyncio.wait_for(connection.close(), CONNECT_TIMEOUT)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        _, tenant, datasource, event = (message.routing_key or "").split(".", 3)
        receipt = message.message_id or ""
        self.messages.append(
            Kept(
                receipt=receipt,
                tenant=tenant,
                datasource=datasource,
                event=event,
                digest=hashlib.sha256(message.body).hexdigest(),
                size=len(message.body),
                number=json.loads(message.body)["number"],
                redelivered=bool(message.redelivered),
            )
        )
        self.receipts.add(receipt)
        self.last = time.monotonic()
        self._look_at(message, event)
        await self._acknowledging.wait()
        with contextlib.suppress(*GONE):
            await message.ack()

    def _look_at(self, message: AbstractIncomingMessage, event: str) -> None:
        """Note what the message has that it should not have, or has not."""
        saw = (message.delivery_mode, message.content_type, message.app_id, message.type, message.exchange)
        if saw != (aio_pika.DeliveryMode.PERSISTENT, "application/json", "webhookd", event, EXCHANGE):
            self.faults.append(f"{message.message_id}: {saw}")
        if message.priority or message.headers.keys() - {"receivedAt"} or message.timestamp is None:
            self.faults.append(f"{message.message_id}: {message.headers} {message.priority}")
