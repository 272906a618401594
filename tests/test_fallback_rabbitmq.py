"""The fallback on a real RabbitMQ that is killed, stopped, full, or refuses: what is answered is there, and in order."""

import asyncio
import collections
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from far_side import EXCHANGE, FarSide
from harness import PATIENCE
from servers import RabbitMQ
from test_publishers import MIB, a_message, random_body

from webhookd.adapters.amqp import AmqpLink
from webhookd.adapters.amqp_access import Access
from webhookd.adapters.fallback import Fallback
from webhookd.adapters.spool import Spool, State
from webhookd.model import Message

HOOKS = 20


class Station:
    """A Fallback between a real spool and a real broker, what it was given, and what it answered."""

    def __init__(self, fallback: Fallback, spool: Spool, links: list[AmqpLink]) -> None:
        self.fallback = fallback
        self.spool = spool
        self.links = links
        self.sent: list[Message] = []
        self.where: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self._numbers = itertools.count()

    async def deliver(self, size: int = 500, hook: int | None = None, **fields) -> str:
        number = next(self._numbers)
        which = number % HOOKS if hook is None else hook
        message = a_message(number, random_body(number, size), hook=f"{which:040x}", **fields)
        began = time.monotonic()
        where = await self.fallback.publish(message)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.sent.append(message)
        self.where[where] += 1
        return where

    async def traffic(self, seconds: float, rate: float = 200) -> None:
        """Deliver steadily: each answer is awaited beside the others."""
        async with asyncio.TaskGroup() as group:
            for _ in range(int(seconds * rate)):
                group.create_task(self.deliver())
                await asyncio.sleep(1 / rate)

    async def links_become(self, state: str, seconds: float = PATIENCE) -> None:
        async with asyncio.timeout(seconds):
            while any(link.state != state for link in self.links):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def drained(self, seconds: float = PATIENCE) -> None:
        async with asyncio.timeout(seconds):
            while self.fallback.stats.hooks_behind:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def check(self, far: FarSide, *, ordered: bool = True) -> int:
        """Assert that everything answered is with the broker, whole, and first in order; return how many came twice."""
        found = await far.take()
        bodies = {message.message_id: message.body for message in found}
        assert {message.receipt: message.body for message in self.sent}.items() <= bodies.items()
        firsts: dict[str, int] = {}
        for place, message in enumerate(found):
            firsts.setdefault(message.message_id or "", place)
        if ordered:
            for hook in {message.hook for message in self.sent}:
                places = [firsts[message.receipt] for message in self.sent if message.hook == hook]
                assert places == sorted(places)
        return len(found) - len(firsts)


@contextlib.asynccontextmanager
async def station(folder: Path, url: str, **options) -> AsyncIterator[Station]:
    chosen = {"publish_timeout": 1.5, "publish_window": 1024, **options}
    async with contextlib.AsyncExitStack() as stack:
        spool = await Spool.open(folder / "spool.db", max_bytes=512 * MIB, retention=1e9, keep=False)
        stack.push_async_callback(spool.close)
        links = [AmqpLink(Access(urls=url), EXCHANGE, purpose=name) for name in ("live", "large", "drain")]
        for link in links:
            stack.push_async_callback(link.close)
        fallback = await Fallback.open(spool, *links, **chosen)
        stack.push_async_callback(fallback.close)
        for link in links:
            link.start()
        yield Station(fallback, spool, links)


@contextlib.asynccontextmanager
async def bound(folder: Path, url: str, key: str = "event.#", **arguments) -> AsyncIterator[tuple[Station, FarSide]]:
    """A station whose links are up, and a queue that takes what it publishes."""
    async with station(folder, url) as running:
        await running.links_become("up")
        async with FarSide(url) as far:
            await far.bind(key, **arguments)
            yield running, far


@pytest.mark.gen_test(timeout=100)
async def test_a_broker_that_is_killed_and_comes_back(own_rabbitmq, tmp_path):
    broker: RabbitMQ = own_rabbitmq()
    async with station(tmp_path, broker.url()) as running:
        await running.links_become("up")
        async with FarSide(broker.url()) as far:
            await far.bind()
        traffic = asyncio.ensure_future(running.traffic(3))
        await asyncio.sleep(1)
        await asyncio.to_thread(broker.kill)
        await running.links_become("down")
        await traffic
        assert running.where["confirmed"] > 50 < running.where["spooled"]
        assert running.fallback.state == "down"
        assert running.slowest < 3
        await asyncio.to_thread(broker.start)
        await running.links_become("up")
        await running.drained()
        assert await running.deliver() == "confirmed"
        async with FarSide(broker.url()) as far:
            again = await running.check(far)
        stats = running.fallback.stats
        assert again <= stats.repeated + stats.spooled.get("unknown", 0) + stats.spooled.get("down", 0)


@pytest.mark.gen_test(timeout=100)
async def test_a_broker_that_is_stopped_costs_the_first_their_deadline(own_rabbitmq, tmp_path):
    broker: RabbitMQ = own_rabbitmq()
    async with bound(tmp_path, broker.url()) as (running, far):
        await running.traffic(0.5)
        broker.pause()
        try:
            began = time.monotonic()
            assert await running.deliver(hook=1) == "spooled"
            assert 1 < time.monotonic() - began < 3
            running.slowest = 0.0
            await running.traffic(3)
            assert running.slowest < 1
            assert running.fallback.fault == "it does not answer"
        finally:
            broker.resume()
        await running.drained()
        assert running.fallback.fault is None
        assert await running.deliver() == "confirmed"
        await running.check(far)


@pytest.mark.gen_test(timeout=100)
async def test_an_alarm_blocks_and_its_end_drains(own_rabbitmq, tmp_path):
    broker: RabbitMQ = own_rabbitmq()
    async with bound(tmp_path, broker.url()) as (running, far):
        await running.deliver()
        traffic = asyncio.ensure_future(running.traffic(4))
        await asyncio.to_thread(broker.alarm, "memory", on=True)
        await traffic
        assert running.where["spooled"] > 100
        assert running.fallback.state == "blocked"
        assert running.slowest < 3
        await asyncio.to_thread(broker.alarm, "memory", on=False)
        await running.links_become("up")
        await running.drained()
        await running.check(far)


@pytest.mark.gen_test(timeout=60)
async def test_what_no_queue_takes_waits_until_one_does(vhost, tmp_path):
    async with bound(tmp_path, vhost, "event.*.github.push") as (running, far):
        assert await running.deliver(event="issues", hook=1) == "spooled"
        assert await running.deliver(event="issues", hook=1) == "spooled"
        assert await running.deliver(hook=2) == "confirmed"
        await asyncio.sleep(1)
        assert running.fallback.stats.hooks_unroutable == 1
        states = [entry.state for entry in await running.spool.entries()]
        assert states == [State.UNROUTABLE, State.WAITING]
        await far.bind("event.#")
        await running.drained(10)
        assert await running.check(far) == 0


@pytest.mark.gen_test(timeout=60)
async def test_a_full_queue_is_tried_again(vhost, tmp_path):
    limits = {"x-max-length": 5, "x-overflow": "reject-publish"}
    async with bound(tmp_path, vhost, **limits) as (running, far):
        for _ in range(12):
            await running.deliver(hook=1)
        assert running.fallback.stats.spooled["nacked"]
        async with asyncio.timeout(40):
            while len(far.taken) < 12 or running.fallback.stats.hooks_behind:
                await far.take()
                await asyncio.sleep(0.05)
        assert await running.check(far) == 0


@pytest.mark.gen_test(timeout=60)
async def test_what_is_too_large_is_set_aside_and_stops_nothing(own_rabbitmq, tmp_path):
    broker: RabbitMQ = own_rabbitmq()
    broker.eval(f"application:set_env(rabbit, max_message_size, {2 * MIB})")
    async with bound(tmp_path, broker.url()) as (running, far):
        assert await running.deliver(3 * MIB, hook=1) == "spooled"
        running.sent.pop()
        behind = [asyncio.ensure_future(running.deliver(hook=hook)) for hook in (1, 1, 2)]
        await asyncio.gather(*behind)
        await running.drained(30)
        stats = running.fallback.stats
        assert (stats.set_aside, stats.spooled["refused"]) == (1, 1)
        assert await running.deliver(4 * MIB, hook=1) == "spooled"
        running.sent.pop()
        await running.drained(10)
        stats = running.fallback.stats
        assert (stats.set_aside, stats.spooled["size"]) == (2, 1)
        await running.check(far)
        async with asyncio.timeout(10):
            while len(left := await running.spool.entries(states=[State.SET_ASIDE])) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert [entry.reason for entry in left] == [
            f"refused twice: the broker takes no message over {2 * MIB} bytes",
            f"{4 * MIB} bytes: the broker takes none of {2 * MIB + 1} or more",
        ]


@pytest.mark.gen_test(timeout=60)
async def test_an_exchange_that_is_deleted_comes_back_and_nothing_is_lost(vhost, tmp_path):
    async with bound(tmp_path, vhost) as (running, far):
        traffic = asyncio.ensure_future(running.traffic(2))
        await asyncio.sleep(0.5)
        await far.delete_exchange()
        await traffic
        await running.links_become("up")
        await far.bind()
        await running.drained()
        await running.check(far, ordered=False)  # what no queue took meanwhile
