"""The link to RabbitMQ, against a real one: what it publishes, how it fails, and how it comes back."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from far_side import EXCHANGE, FarSide
from test_publishers import a_message

from webhookd.adapters.amqp import AmqpLink
from webhookd.adapters.amqp_access import Access
from webhookd.errors import Nacked, NotSent, OutcomeUnknown, Unroutable
from webhookd.ports import LinkState


@contextlib.asynccontextmanager
async def linked(*urls: str, up: bool = True, **access: Any) -> AsyncIterator[AmqpLink]:
    link = AmqpLink(Access(urls=",".join(urls), **access), EXCHANGE, purpose="test")
    link.start()
    try:
        if up:
            await becomes(link, "up")
        yield link
    finally:
        await link.close()


async def becomes(link: AmqpLink, state: LinkState, within: float = 30) -> None:
    changed = asyncio.Event()
    link.on_change(changed.set)
    async with asyncio.timeout(within):
        while link.state != state:
            changed.clear()
            await changed.wait()


async def outcomes(futures: Iterable[asyncio.Future]) -> Counter:
    """Count what became of each: `confirmed`, or the class of the error."""
    done = await asyncio.gather(*futures, return_exceptions=True)
    return Counter(type(one) if isinstance(one, BaseException) else one for one in done)


def messages(count: int, **fields: Any) -> list:
    return [a_message(number, **fields) for number in range(count)]


@pytest.mark.gen_test(timeout=60)
async def test_a_message_arrives_with_exactly_the_properties_that_are_promised(vhost):
    async with linked(vhost) as link, FarSide(vhost) as far:
        await far.bind()
        sent = a_message(7, b'{"a": 1}', tenant="t-1", datasource="x_y", event="a.b:c")
        assert await link.publish(sent) == "confirmed"
        (found,) = await far.take()
        assert (found.body, found.routing_key, found.exchange) == (sent.body, "event.t-1.x_y.a.b:c", EXCHANGE)
        assert found.headers == sent.headers
        properties = {name: value for name, value in found.info().items() if value is not None}
        for name in ("headers", "body_size", "consumer_tag", "delivery_tag", "exchange", "redelivered", "routing_key"):
            properties.pop(name, None)
        assert properties.pop("timestamp").timestamp() == sent.received_at // 1000
        assert properties == {
            "app_id": "webhookd",
            "content_type": "application/json",
            "delivery_mode": 2,
            "message_id": sent.receipt,
            "priority": 0,  # aio-pika's word for none
            "type": "a.b:c",
            "cluster_id": "",
        }


@pytest.mark.gen_test(timeout=60)
async def test_what_no_queue_takes_comes_back_each_for_itself(vhost):
    async with linked(vhost) as link, FarSide(vhost) as far:
        await far.bind("event.42.github.push")
        routable = [link.publish(message) for message in messages(50)]
        others = [link.publish(message) for message in messages(50, event="other")]  # of the same receipts
        assert await outcomes(routable) == {"confirmed": 50}
        assert await outcomes(others) == {Unroutable: 50}
        assert link.in_flight == 0
        assert len(await far.take()) == 50


@pytest.mark.gen_test(timeout=60)
async def test_a_full_queue_that_rejects_is_told(vhost):
    async with linked(vhost) as link, FarSide(vhost) as far:
        await far.bind(**{"x-max-length": 3, "x-overflow": "reject-publish"})
        told = await outcomes(link.publish(message) for message in messages(20))
        assert set(told) == {"confirmed", Nacked}
        assert told["confirmed"] == len(await far.take())


@pytest.mark.gen_test(timeout=120)
async def test_a_broker_that_is_killed_is_found_again(own_rabbitmq):
    node = own_rabbitmq()
    async with linked(node.url()) as link, FarSide(node.url()) as far:
        await far.bind()
        node.pause()
        futures = [link.publish(message) for message in messages(300, body=b"x" * 2000)]
        await asyncio.sleep(0)  # they are written by now, and nobody has read them
        node.kill()
        assert await outcomes(futures) == {OutcomeUnknown: 300}
        assert link.state == "down"
        with pytest.raises(NotSent, match=r"127\.0\.0\.1"):
            await link.publish(a_message())
        await asyncio.to_thread(node.start)
        await becomes(link, "up")
        assert await link.publish(a_message()) == "confirmed"
        assert link.fault is None
    async with FarSide(node.url()) as far:
        assert [message.message_id for message in await far.take()] == [a_message().receipt]
