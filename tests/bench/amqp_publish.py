"""Measures what publishing a message costs: CPU of this process, by the link and by aio-pika, to one RabbitMQ.

    python tests/bench/amqp_publish.py [--seconds 3] [--bytes 2000]

Each run keeps a number of messages in flight, all of them confirmed. The broker is one of its own, with one bound
classic queue, which is emptied between the runs.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import aio_pika

sys.path.insert(0, str(Path(__file__).parents[1]))

from far_side import EXCHANGE, FarSide
from servers import RabbitMQ

from webhookd.adapters.amqp import AmqpLink
from webhookd.adapters.amqp_access import Access
from webhookd.model import Message

Publish = Callable[[Message], Awaitable[object]]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def a_message(body: bytes) -> Message:
    return Message(
        receipt=str(uuid.uuid4()),
        hook="a" * 40,
        tenant="42",
        datasource="github",
        event="push",
        received_at=1_700_000_000_000,
        headers={"receivedAt": 1_700_000_000_000, "tsField": "commits[0].timestamp", "deliveryId": str(uuid.uuid4())},
        body=body,
    )


async def measured(name: str, publish: Publish, messages: list[Message], in_flight: int, seconds: float) -> None:
    """Keep `in_flight` messages in flight for `seconds`, and print what one of them cost."""
    count = 0
    end = time.monotonic() + seconds

    async def one_after_the_other(number: int) -> None:
        nonlocal count
        while time.monotonic() < end:
            await publish(messages[(count + number) % len(messages)])
            count += 1

    before, begun = cpu(), time.monotonic()
    await asyncio.gather(*(one_after_the_other(number) for number in range(in_flight)))
    used, took = cpu() - before, time.monotonic() - begun
    print(f"{name:9} {in_flight:4} in flight: {used / count * 1e6:6.1f} us CPU a message, {count / took:6.0f} a second")


async def baseline(messages: list[Message], in_flight: int, seconds: float) -> None:
    """Measure the loop that measures: futures that are done in the next turn."""
    loop = asyncio.get_running_loop()

    def publish(_: Message) -> asyncio.Future[None]:
        future: asyncio.Future[None] = loop.create_future()
        loop.call_soon(future.set_result, None)
        return future

    await measured("(nothing)", publish, messages, in_flight, seconds)


async def by_link(url: str, messages: list[Message], in_flight: int, seconds: float) -> None:
    link = AmqpLink(Access(urls=url), EXCHANGE, purpose="bench")
    up = asyncio.Event()
    link.on_change(up.set)
    link.start()
    await up.wait()
    await measured("link", link.publish, messages, in_flight, seconds)
    await link.close()


async def by_aio_pika(url: str, messages: list[Message], in_flight: int, seconds: float) -> None:
    connection = await aio_pika.connect(url)
    channel = await connection.channel(publisher_confirms=True)
    exchange = await channel.get_exchange(EXCHANGE)

    async def publish(message: Message) -> None:
        properties = aio_pika.Message(
            message.body,
            headers=dict(message.headers),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            content_type="application/json",
            message_id=str(uuid.uuid4()),  # aiormq mixes up what becomes of two with one id
            timestamp=message.received_at // 1000,
            app_id="webhookd",
            type=message.event,
        )
        await exchange.publish(properties, message.routing_key, mandatory=True)

    await measured("aio-pika", publish, messages, in_flight, seconds)
    await connection.close()


async def main(node: RabbitMQ, seconds: float, size: int) -> None:
    url = node.url()
    messages = [a_message(b"x" * size) for _ in range(5000)]
    async with FarSide(url) as far:
        await far.channel.declare_exchange(EXCHANGE, "topic", durable=True)
        await far.bind()
    for in_flight in (64, 256):
        await baseline(messages, in_flight, 1)
        for publisher in (by_link, by_aio_pika):
            await publisher(url, messages, in_flight, seconds)
            async with FarSide(url) as far:
                await (await far.channel.get_queue(far.name)).purge()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="how long each run takes (default: 3)")
    parser.add_argument("--bytes", type=int, default=2000, help="the size of a body (default: 2000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, RabbitMQ(Path(folder)) as node:
        asyncio.run(main(node, options.seconds, options.bytes))
