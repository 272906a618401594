"""The contract of Publisher over every adapter, always read from the far side: what a consumer finds there."""

import asyncio
import hashlib
import random
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from aio_pika.abc import AbstractIncomingMessage
from far_side import EXCHANGE, FarSide

from webhookd.adapters.amqp import AmqpLink
from webhookd.adapters.amqp_access import Access
from webhookd.adapters.fallback import Fallback
from webhookd.adapters.memory import MemoryPublisher
from webhookd.adapters.paced import PacedLink
from webhookd.adapters.spool import Spool
from webhookd.errors import ShareExceeded, Unpublished
from webhookd.model import Message
from webhookd.ports import Answer, Publisher

MIB = 1 << 20
SIZES = [0, 1, 17, 2333, 8100, 8157, 8158, 8192, 10_240, 65_536, 300_000, MIB - 1, MIB, MIB + 1, 3 * MIB + 17]


def a_message(
    number: int = 0, body: bytes = b"{}", *, hook: str = "a" * 40, tenant: str = "42", **fields: Any
) -> Message:
    given = {
        "receipt": str(uuid.UUID(int=(0x7 << 76) + (0x2 << 62) + number)),
        "hook": hook,
        "tenant": tenant,
        "datasource": "github",
        "event": "push",
        "received_at": 1_700_000_000_000 + number,
        "headers": {
            "receivedAt": 1_700_000_000_000 + number,
            "tsField": "commits[0].timestamp",
            "deliveryId": f"d-{number}",
        },
        "body": body,
    }
    return Message(**{**given, **fields})


def random_body(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Place(Protocol):
    """One adapter under test, and the far side of it."""

    largest_in_order: int

    async def open(self) -> Publisher: ...

    async def consume(self) -> list[Message]:
        """Everything that a consumer finds, in order."""


class InMemory:
    largest_in_order = 2 * MIB

    def __init__(self, folder: Path) -> None:
        self.publisher = MemoryPublisher()

    async def open(self) -> Publisher:
        return self.publisher

    async def consume(self) -> list[Message]:
        return list(self.publisher.messages)


class InSpool:
    """Read by another connection to the file, with no code of the spool's."""

    largest_in_order = 2 * MIB
    keep = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spool.db"

    async def open(self) -> Publisher:
        return await Spool.open(self.path, max_bytes=256 * MIB, retention=1e9, keep=self.keep)

    async def consume(self) -> list[Message]:
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute(
                "SELECT m.receipt, h.token, h.tenant, h.datasource, h.event, m.received_at, m.blob, m.bytes, m.state "
                "FROM message AS m JOIN hook AS h ON h.id = m.hook ORDER BY m.seq"
            ).fetchall()
            return [self._message(db, *row) for row in rows]

    def _message(self, db, receipt, hook, tenant, datasource, event, received_at, blob, size, state) -> Message:
        assert state == (5 if self.keep else 2)
        parts = db.execute("SELECT data, head FROM body WHERE id >> 16 = ? ORDER BY id", (blob,)).fetchall()
        body = b"".join(data for data, _ in parts)
        assert len(body) == size
        return Message(
            receipt=receipt, hook=hook, tenant=tenant, datasource=datasource, event=event,
            received_at=received_at, headers=msgspec.json.decode(parts[0][1]), body=body,
        )  # fmt: skip


class InKeepingSpool(InSpool):
    keep = True


class InRabbitMQ:
    """Read by a consumer with a queue of its own. A message there does not name its hook: that is remembered here."""

    largest_in_order = 2 * MIB

    def __init__(self, url: str) -> None:
        self.url = url
        self.far = FarSide(url)
        self.hooks: dict[str, str] = {}

    async def open(self) -> Publisher:
        link = Remembered(Access(urls=self.url), EXCHANGE, purpose="contract")
        link.hooks = self.hooks
        up = asyncio.Event()
        link.on_change(up.set)
        link.start()
        await up.wait()
        async with self.far as far:
            await far.bind()
        return link

    async def consume(self) -> list[Message]:
        async with self.far as far:
            return [self._message(found) for found in await far.take()]

    def _message(self, found: AbstractIncomingMessage) -> Message:
        _, tenant, datasource, event = found.routing_key.split(".", 3)
        assert found.timestamp is not None
        received_at = found.headers.get("receivedAt", 1000 * int(found.timestamp.timestamp()))
        return Message(
            receipt=found.message_id, hook=self.hooks[found.message_id], tenant=tenant, datasource=datasource,
            event=event, received_at=received_at, headers=dict(found.headers), body=found.body,
        )  # fmt: skip


class Remembered(AmqpLink):
    hooks: dict[str, str]

    def send(self, message: Message, answer: Answer) -> None:
        self.hooks[message.receipt] = message.hook
        super().send(message, answer)


class InBoth(InRabbitMQ):
    """Read from both: what the broker has, and what the spool still holds for it."""

    largest_in_order = MIB
    """A body over 1 MiB takes another link, and may be overtaken by what is on its way at the same time."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url)
        self.spool = InSpool(folder)

    async def open(self) -> Publisher:
        links = [await super(InBoth, self).open() for _ in range(3)]
        spool = await self.spool.open()
        live, large, drain = links
        fallback = await Fallback.open(spool, live, PacedLink(large), drain, publish_timeout=30, publish_window=1024)
        return Whole(fallback, [*links, spool])

    async def consume(self) -> list[Message]:
        return [*await super().consume(), *await self.spool.consume()]


class Whole:
    """A Fallback that closes the parts that it is made of."""

    def __init__(self, fallback: Fallback, parts: list[Publisher]) -> None:
        self.publish = fallback.publish
        self._parts = [fallback, *parts]

    async def close(self) -> None:
        for part in self._parts:
            await part.close()


PLACES: dict[str, Callable[..., Place]] = {
    "memory": InMemory,
    "spool": InSpool,
    "spool that keeps": InKeepingSpool,
    "amqp": InRabbitMQ,
    "fallback": InBoth,
}
FAR = {"amqp": ("vhost",), "fallback": ("vhost", "tmp_path")}
"""What a place is made in, where it is not a folder of its own."""
DURABLE = [name for name in PLACES if name != "memory"]


def where(request: pytest.FixtureRequest) -> Place:
    """Return the place that the test asks for, new: in a folder or in a vhost of its own."""
    return PLACES[request.param](*map(request.getfixturevalue, FAR.get(request.param, ("tmp_path",))))


@pytest.fixture(params=PLACES)
def place(request) -> Place:
    return where(request)


@pytest.fixture(params=DURABLE)
def durable_place(request) -> Place:
    return where(request)


Scenario = Callable[[Publisher], Awaitable[None]]


def run(place: Place, *scenarios: Scenario) -> None:
    """Run each scenario on the publisher, which is opened anew for each and closed behind it."""

    async def one(scenario: Scenario) -> None:
        publisher = await place.open()
        try:
            await scenario(publisher)
        finally:
            await publisher.close()

    for scenario in scenarios:
        asyncio.run(asyncio.wait_for(one(scenario), 60))


def digests(messages: Collection[Message]) -> dict[str, str]:
    return {message.receipt: hashlib.sha256(message.body).hexdigest() for message in messages}


def test_what_is_done_is_there_whole(place):
    message = a_message(1, b'{"a": "\xc3\xa9"}', tenant="t-1_x", datasource="x_-9", event="a.b:c")

    async def scenario(publisher):
        assert await publisher.publish(message) in ("confirmed", "spooled")
        assert await place.consume() == [message]

    run(place, scenario)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"receivedAt": 2**62, "n": -(2**62), "zero": 0},
        {"schemaError": 'at /a: "\u00e9\U0001f600" \u2028 is not \\ / \x7f of type "x"', "empty": ""},
    ],
)
def test_headers_keep_their_types_and_characters(place, headers):
    async def scenario(publisher):
        await publisher.publish(a_message(headers=headers))
        (found,) = await place.consume()
        assert found.headers == headers
        assert [type(value) for value in found.headers.values()] == [type(value) for value in headers.values()]

    run(place, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_bodies_of_every_size_are_kept_byte_for_byte(place, size):
    message = a_message(1, random_body(size, size))

    async def scenario(publisher):
        await publisher.publish(message)
        assert digests(await place.consume()) == digests([message])

    run(place, scenario)


def test_two_hundred_concurrent_ones_all_arrive_the_largest_too(place):
    sizes = [25 * MIB, *(random.Random(7).choice(SIZES[:10]) for _ in range(199))]
    random.Random(8).shuffle(sizes)
    messages = [a_message(n, random_body(n, size), hook=f"{n:040x}") for n, size in enumerate(sizes)]

    async def scenario(publisher):
        await asyncio.gather(*(publisher.publish(message) for message in messages))
        assert digests(await place.consume()) == digests(messages)

    run(place, scenario)


def test_messages_of_one_hook_keep_their_order_whatever_their_size(place):
    rng = random.Random(9)
    messages = [
        a_message(
            n, random_body(n, rng.choice([5, 2000, 40_000, place.largest_in_order])), hook=f"{rng.randrange(3):040x}"
        )
        for n in range(60)
    ]

    async def scenario(publisher):
        done: list[int] = []
        futures = [publisher.publish(message) for message in messages]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: done.append(number))
        await asyncio.gather(*futures)
        await asyncio.sleep(0)  # for the callbacks of those that were done at once
        found = await place.consume()
        for hook in {message.hook for message in messages}:
            expected = [message.receipt for message in messages if message.hook == hook]
            assert [message.receipt for message in found if message.hook == hook] == expected
            told = [messages[number].receipt for number in done if messages[number].hook == hook]
            if not isinstance(place, InRabbitMQ):  # which confirms large and small ones each in their own time
                assert told == expected

    run(place, scenario)


def test_the_same_message_twice_is_there_twice(place):
    """After an unknown outcome a message may come again: a consumer tells by its receipt."""

    async def scenario(publisher):
        await asyncio.gather(publisher.publish(a_message(1)), publisher.publish(a_message(1)))
        assert [message.receipt for message in await place.consume()] == [a_message(1).receipt] * 2

    run(place, scenario)


def test_a_publish_that_nobody_waits_for_any_more_harms_no_other(place):
    async def scenario(publisher):
        futures = [publisher.publish(a_message(n)) for n in range(20)]
        for future in futures[::2]:
            future.cancel()
        await asyncio.gather(*futures[1::2])
        await publisher.publish(a_message(99))
        found = {message.receipt for message in await place.consume()}
        assert found >= {a_message(n).receipt for n in (*range(1, 20, 2), 99)}

    run(place, scenario)


def test_close_finishes_what_is_in_flight(place):
    messages = [a_message(n, random_body(n, 3 * MIB if n == 5 else 900)) for n in range(50)]

    async def scenario(publisher):
        futures = [publisher.publish(message) for message in messages]
        await publisher.close()
        assert all(future.done() and future.exception() is None for future in futures)

    run(place, scenario)
    assert digests(asyncio.run(place.consume())) == digests(messages)


def test_after_close_nothing_is_taken(place):
    async def scenario(publisher):
        await publisher.publish(a_message(1))
        await publisher.close()
        await publisher.close()
        future = publisher.publish(a_message(2))
        with pytest.raises(Unpublished, match="closed"):
            await future
        with pytest.raises(Unpublished):
            await publisher.publish(a_message(3))

    run(place, scenario)
    assert [message.receipt for message in asyncio.run(place.consume())] == [a_message(1).receipt]


def test_what_was_durable_is_there_after_reopening_and_goes_on(durable_place):
    messages = [a_message(n, random_body(n, 700 * n)) for n in range(40)]

    async def first(publisher):
        await asyncio.gather(*(publisher.publish(message) for message in messages[:20]))

    async def second(publisher):
        assert await durable_place.consume() == messages[:20]
        await asyncio.gather(*(publisher.publish(message) for message in messages[20:]))

    async def third(publisher):
        assert await durable_place.consume() == messages

    run(durable_place, first, second, third)


def test_a_refusal_in_memory_is_told(tmp_path):
    async def scenario(publisher):
        publisher.refusal = ShareExceeded("over")
        with pytest.raises(ShareExceeded):
            await publisher.publish(a_message())
        publisher.refusal = None
        await publisher.publish(a_message())

    run(InMemory(tmp_path), scenario)
