"""Every order of a broker's frames: each message gets the one answer that is its own, and nothing hangs."""

import asyncio
import contextlib
import socket
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pamqp.frame
import pytest
from broker import Broker
from pamqp import commands, header, heartbeat
from pamqp.body import ContentBody
from test_amqp import becomes, fault, linked, messages, outcomes
from test_publishers import a_message, random_body

from webhookd.adapters import amqp, amqp_tap
from webhookd.adapters.amqp import AmqpLink
from webhookd.adapters.amqp_access import Access
from webhookd.adapters.amqp_channel import Confirms
from webhookd.adapters.amqp_session import Session
from webhookd.errors import Nacked, NotSent, OutcomeUnknown, Unacceptable, Unroutable


@contextlib.asynccontextmanager
async def scripted(**options: Any) -> AsyncIterator[tuple[Broker, AmqpLink]]:
    async with Broker(**options) as broker, linked(broker.url) as link:
        yield broker, link


async def sent(broker: Broker, link: AmqpLink, count: int, **fields: Any) -> list[asyncio.Future]:
    """Publish so many messages, and return their futures once the broker has them."""
    futures = [link.publish(message) for message in messages(count, **fields)]
    await broker.has(count)
    return futures


def settled(futures: list[asyncio.Future]) -> list[object]:
    """Return what is known of each: `confirmed`, the class of its error, or None."""
    return [
        None if not future.done() else type(future.exception()) if future.exception() else future.result()
        for future in futures
    ]


async def is_settled(futures: list[asyncio.Future], expected: list[object]) -> None:
    async with asyncio.timeout(20):
        await asyncio.gather(*(f for f, e in zip(futures, expected, strict=True) if e), return_exceptions=True)
    assert settled(futures) == expected


@pytest.mark.gen_test(timeout=30)
async def test_acks_in_any_order_and_many_at_a_time():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 6)
        broker.ack(5)
        await is_settled(futures, [None, None, None, None, "confirmed", None])
        broker.ack(2)
        broker.ack(4, multiple=True)
        await is_settled(futures, ["confirmed"] * 5 + [None])
        assert link.in_flight == 1
        broker.ack(0, multiple=True)  # all there are
        await is_settled(futures, ["confirmed"] * 6)
        assert link.in_flight == 0
        futures = [link.publish(a_message(9))]
        await broker.has(7)
        broker.ack(7)
        await is_settled(futures, ["confirmed"])
        assert broker.connections == 1


@pytest.mark.gen_test(timeout=30)
async def test_nacks_one_and_many():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 5)
        broker.nack(2)
        broker.ack(1)
        broker.nack(4, multiple=True)
        await is_settled(futures, ["confirmed", Nacked, Nacked, Nacked, None])
        broker.send(commands.Basic.Nack(0, True, False))
        await is_settled(futures, ["confirmed", *[Nacked] * 4])


@pytest.mark.parametrize(
    "frames",
    [
        commands.Basic.Ack(7),
        commands.Basic.Ack(7, True),
        commands.Basic.Ack(0),
        commands.Basic.Nack(7),
        commands.Basic.Return(312, "NO_ROUTE", "events-to-enrich", "event.42.github.push"),
        header.ContentHeader(0, 5, commands.Basic.Properties()),
    ],
    ids=["ack", "ack of many", "ack of tag 0", "nack", "return without content", "content without return"],
)
@pytest.mark.gen_test(timeout=30)
async def test_what_answers_nothing_in_flight_ends_the_connection_and_the_next_one_works(frames):
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 3)
        broker.send(frames)
        broker.ack(1)  # comes too late, or in the place of content
        await is_settled(futures, [OutcomeUnknown] * 3)
        await becomes(link, "up")
        assert broker.connections == 2
        futures = await sent(broker, link, 1)
        broker.ack(1)
        await is_settled(futures, ["confirmed"])


@pytest.mark.gen_test(timeout=30)
async def test_a_second_answer_to_one_message_ends_the_connection():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2)
        broker.ack(1)
        broker.nack(1)
        await is_settled(futures, ["confirmed", OutcomeUnknown])


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 300_000])
@pytest.mark.gen_test(timeout=30)
async def test_a_message_that_comes_back_is_not_confirmed_by_the_ack_behind_it(size):
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 3, body=random_body(1, size))
        broker.give_back(broker.published[1])
        await is_settled(futures, [None, Unroutable, None])
        assert link.in_flight == 3
        broker.ack(2)
        broker.ack(3)
        await is_settled(futures, [None, Unroutable, "confirmed"])
        broker.ack(1, multiple=True)
        await is_settled(futures, ["confirmed", Unroutable, "confirmed"])
        assert (link.in_flight, broker.connections) == (0, 1)


@pytest.mark.parametrize("answer", ["ack", "nack"])
@pytest.mark.gen_test(timeout=30)
async def test_returned_ones_among_many_that_are_answered_at_once(answer):
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 4)
        broker.give_back(broker.published[0])
        broker.give_back(broker.published[3])
        getattr(broker, answer)(4, multiple=True)
        other = "confirmed" if answer == "ack" else Nacked
        await is_settled(futures, [Unroutable, other, other, Unroutable])
        assert link.in_flight == 0


@pytest.mark.gen_test(timeout=30)
async def test_equal_receipts_come_back_each_for_itself():
    async with scripted() as (broker, link):
        there, gone = a_message(1), a_message(1, event="other")
        futures = [link.publish(message) for message in (there, gone, gone, there)]
        await broker.has(4)
        broker.give_back(broker.published[1])
        broker.give_back(broker.published[2])
        broker.ack(4, multiple=True)
        await is_settled(futures, ["confirmed", Unroutable, Unroutable, "confirmed"])


@pytest.mark.gen_test(timeout=30)
async def test_a_message_that_is_not_ours_comes_back():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 1)
        stranger = broker.published[0]
        stranger.properties.message_id = "another"
        broker.give_back(stranger)
        await is_settled(futures, [OutcomeUnknown])


@pytest.mark.gen_test(timeout=30)
async def test_the_channel_closes_in_the_middle_of_a_body_that_comes_back():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2, body=b"x" * 5000)
        broker.give_back(broker.published[0], ends=2000)
        broker.send(commands.Channel.Close(404, "NOT_FOUND - no exchange", 60, 40))
        await is_settled(futures, [OutcomeUnknown] * 2)
        await becomes(link, "up")


@pytest.mark.gen_test(timeout=30)
async def test_a_body_that_comes_back_longer_than_it_said():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2, body=b"x" * 500)
        message = broker.published[0]
        message.properties.message_id = "another"
        broker.give_back(message, ends=100)
        broker.send(commands.Basic.Ack(2))
        await is_settled(futures, [OutcomeUnknown] * 2)


@pytest.mark.gen_test(timeout=30)
async def test_one_that_is_too_large_is_the_only_one_to_blame():
    async with scripted() as (broker, link):
        futures = [link.publish(a_message(n, b"x" * size)) for n, size in enumerate((10, 6000, 7000, 20))]
        await broker.has(4)
        text = "PRECONDITION_FAILED - message size 6000 is larger than configured max size 5000"
        broker.send(commands.Channel.Close(406, text, 60, 40))
        await is_settled(futures, [OutcomeUnknown, Unacceptable, OutcomeUnknown, OutcomeUnknown])
        error = futures[1].exception()
        assert isinstance(error, Unacceptable)
        assert error.limit == 5001
        assert "5000 bytes" in str(error)
        await becomes(link, "up")


@pytest.mark.parametrize(("count", "expected"), [(1, Unacceptable), (2, OutcomeUnknown)])
@pytest.mark.gen_test(timeout=30)
async def test_another_precondition_blames_a_message_only_if_it_is_alone(count, expected):
    async with scripted() as (broker, link):
        futures = await sent(broker, link, count)
        broker.send(commands.Channel.Close(406, "PRECONDITION_FAILED - something about it", 60, 40))
        await is_settled(futures, [expected] * count)


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (403, "ACCESS_REFUSED - write access to exchange refused", "user guest may not write to exchange"),
        (404, "NOT_FOUND - no exchange", "exchange events-to-enrich is gone"),
        (541, "INTERNAL_ERROR", "closed the channel: 541"),
    ],
)
@pytest.mark.gen_test(timeout=30)
async def test_a_channel_that_is_closed_says_why_and_nothing_more_is_written_to_it(code, text, words):
    async with scripted() as (broker, link):
        faults = []
        link.on_change(lambda: faults.append(link.fault))
        futures = await sent(broker, link, 3)
        broker.send(commands.Channel.Close(code, text, 60, 40))
        await is_settled(futures, [OutcomeUnknown] * 3)
        assert words in faults[0]
        with pytest.raises(NotSent):
            await link.publish(a_message())
        assert len(broker.published) == 3


@pytest.mark.gen_test(timeout=30)
async def test_what_comes_behind_the_close_of_a_channel_disturbs_no_goodbye():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2)
        broker.send(commands.Channel.Close(404, "NOT_FOUND", 60, 40), commands.Basic.Ack(1))
        await is_settled(futures, [OutcomeUnknown] * 2)
        await becomes(link, "up")
        assert broker.goodbyes == 1


@pytest.mark.gen_test(timeout=30)
async def test_a_broker_that_says_no_more_and_reads_nothing_is_left_at_once():
    async with scripted() as (broker, link):
        broker.stop_reading()
        futures = [link.publish(message) for message in messages(20, body=bytes(1 << 20))]
        broker.say_no_more()
        async with asyncio.timeout(5):
            told = await outcomes(futures)
        assert told.keys() == {OutcomeUnknown, NotSent}
        broker.drop()


@pytest.mark.gen_test(timeout=30)
async def test_a_connection_that_is_closed_says_why():
    async with scripted() as (broker, link):
        faults = []
        link.on_change(lambda: faults.append(link.fault))
        futures = await sent(broker, link, 3)
        broker.send(commands.Connection.Close(320, "CONNECTION_FORCED - broker forced it", 0, 0), channel=0)
        await is_settled(futures, [OutcomeUnknown] * 3)
        assert "320 CONNECTION_FORCED" in faults[0]
        await becomes(link, "up")


@pytest.mark.gen_test(timeout=30)
async def test_blocked_and_unblocked():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2)
        broker.send(commands.Connection.Blocked("low on memory"), channel=0)
        await becomes(link, "blocked")
        assert "low on memory" in link.fault
        with pytest.raises(NotSent, match="low on memory"):
            await link.publish(a_message())
        assert settled(futures) == [None, None]
        broker.ack(1)  # what is in flight is answered all the same
        await is_settled(futures, ["confirmed", None])
        broker.send(commands.Connection.Unblocked(), channel=0)
        await becomes(link, "up")
        assert link.fault is None
        broker.ack(2)
        await is_settled(futures, ["confirmed"] * 2)
        broker.send(commands.Connection.Blocked(""), channel=0)
        await becomes(link, "blocked")
        broker.drop()
        await becomes(link, "up")


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"\x01\x00\x00\xff\xff\xff\xff" + b"x" * 100,
        pamqp.frame.marshal(commands.Basic.Ack(1), 1)[:-1] + b"x",
        b"\x01\x00\x01\x00\x00\x00\x06\x00\x3c\x00\x50\x00\x00\xce",
        b"\x01\x00\x01\x00\x00\x00\x06\x00\x3c\x00\x32\x00\x00\xce",
        b"\x01\x00\x01\x00\x00\x00\x06\x00\x14\x00\x28\x00\x00\xce",
        b"\x01\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x32\x00\xce",
    ],
    ids=["HTTP", "another version", "too long", "no end", "short ack", "short return", "short close", "short goodbye"],
)
@pytest.mark.gen_test(timeout=30)
async def test_garbage_ends_the_connection_and_the_next_one_works(garbage):
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2)
        assert broker.channel == 1
        broker.raw(garbage)
        await is_settled(futures, [OutcomeUnknown] * 2)
        await becomes(link, "up")


@pytest.mark.gen_test(timeout=30)
async def test_a_connection_that_is_cut_between_two_bytes_of_a_confirm():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 3)
        whole = pamqp.frame.marshal(commands.Basic.Ack(1), broker.channel)
        broker.raw(whole + pamqp.frame.marshal(commands.Basic.Ack(2), broker.channel)[:-1])
        await is_settled(futures, ["confirmed", None, None])
        broker.drop()
        await is_settled(futures, ["confirmed", OutcomeUnknown, OutcomeUnknown])


@pytest.mark.parametrize("frame_max", [4096, 131072])
@pytest.mark.gen_test(timeout=30)
async def test_bodies_fill_frames_of_the_size_that_the_broker_allows(frame_max):
    full = frame_max - 8
    sizes = [0, 1, full - 1, full, full + 1, 2 * full, 2 * full + 1, 700_000]
    async with scripted(frame_max=frame_max) as (broker, link):
        bodies = [random_body(n, size) for n, size in enumerate(sizes)]
        futures = [link.publish(a_message(n, body)) for n, body in enumerate(bodies)]
        published = await broker.has(len(sizes))
        assert [message.body for message in published] == bodies
        for message, size in zip(published, sizes, strict=True):
            assert message.frames == [full] * (size // full) + ([size % full] if size % full else [])
        broker.ack(len(sizes), multiple=True)
        assert await outcomes(futures) == {"confirmed": len(sizes)}


@pytest.mark.gen_test(timeout=30)
async def test_a_broker_without_a_limit_gets_frames_that_every_broker_takes():
    body = random_body(3, 300_000)
    async with Broker() as broker:
        broker.answers[commands.Connection.StartOk] = lambda _: commands.Connection.Tune(2047, 0, 60)
        async with linked(broker.url) as link:
            futures = await sent(broker, link, 2, body=body)
            assert broker.published[0].body == body
            message = broker.published[1]
            broker.send(commands.Basic.Return(312, "NO_ROUTE", "", message.method.routing_key))
            broker.send(header.ContentHeader(0, len(body), message.properties), ContentBody(body))  # in one frame
            broker.ack(2, multiple=True)
            await is_settled(futures, ["confirmed", Unroutable])


@pytest.mark.gen_test(timeout=30)
async def test_one_that_nobody_waits_for_any_more_keeps_its_tag():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 3)
        futures[0].cancel()
        assert link.in_flight == 3
        broker.give_back(broker.published[1])
        broker.ack(1)
        broker.ack(3)
        await is_settled(futures[1:], [Unroutable, "confirmed"])
        assert link.in_flight == 1
        broker.ack(2)
        unsent = link.publish(a_message(4))
        unsent.cancel()  # before anything of it is written: it never is, and takes no tag
        last = link.publish(a_message(5))
        assert (await broker.has(4))[3].properties.message_id == a_message(5).receipt
        broker.ack(4)
        assert await last == "confirmed"
        assert broker.connections == 1


@pytest.mark.gen_test(timeout=30)
async def test_a_broker_that_reads_nothing_fills_no_memory_with_what_was_given_up():
    async with scripted() as (broker, link):
        broker.stop_reading()
        held = []
        for number in range(200):
            message = a_message(number, bytes(1 << 20))
            held.append(weakref.finalize(future := link.publish(message), lambda: None))
            await asyncio.sleep(0)
            future.cancel()
            del future
        assert sum(one.alive for one in held) < 30
        assert link.state == "up"


@pytest.mark.gen_test(timeout=30)
async def test_what_amqp_cannot_hold_is_refused_and_takes_no_tag():
    async with scripted() as (broker, link):
        futures = [link.publish(a_message(n, headers={"n": 2**63} if n == 1 else {})) for n in range(3)]
        await broker.has(2)
        broker.ack(2, multiple=True)
        await is_settled(futures, ["confirmed", Unacceptable, "confirmed"])


@pytest.mark.gen_test(timeout=30)
async def test_a_connection_that_is_lost_while_it_is_prepared_is_never_published_to():
    (address,) = Access(urls="amqp://127.0.0.1").addresses(5)
    session = Session(address, "events-to-enrich", lambda: None)
    session.broken("gone")
    session.opened(lambda _: None, 1, 131072)
    assert not session.writable


@pytest.mark.gen_test(timeout=60)
async def test_every_address_of_a_name_is_tried(monkeypatch):
    real = socket.getaddrinfo

    def two(host: str, port: int, **more: Any) -> list:
        return [found for one in ("127.0.0.2", "127.0.0.1") for found in real(one, port, **more)]

    async with Broker() as broker:  # it listens on the second one alone
        monkeypatch.setattr(socket, "getaddrinfo", two)
        async with linked(broker.url.replace("127.0.0.1", "broker.test")) as link:
            assert link.state == "up"


@pytest.mark.gen_test(timeout=60)
async def test_a_name_that_cannot_be_is_told_and_tried_again():
    async with linked(f"amqp://{'x' * 70}.test", up=False) as link:
        await fault(link, "no host can have this name")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncio.CancelledError, "the connection broke off"),  # aiormq raises it at us, and nobody cancelled us
        (ZeroDivisionError, "a bug of webhookd: ZeroDivisionError"),
    ],
)
@pytest.mark.gen_test(timeout=60)
async def test_whatever_is_raised_at_the_link_is_told_and_does_not_end_it(monkeypatch, error, words):
    async def failing(*_: object) -> None:
        raise error

    async with Broker() as broker:
        monkeypatch.setattr(amqp, "ensure_exchange", failing)
        async with linked(broker.url, up=False) as link:
            await fault(link, words)
            monkeypatch.undo()
            await becomes(link, "up")


@pytest.mark.gen_test(timeout=30)
async def test_confirms_alone_keep_the_connection_alive_for_aiormq(monkeypatch):
    """It counts the frames that it sees: a busy broker sends confirms in the place of heartbeats."""
    shown = []
    monkeypatch.setattr(amqp_tap, "SIGN_OF_LIFE", 0.0)
    monkeypatch.setattr(asyncio.StreamReader, "feed_data", spy(asyncio.StreamReader.feed_data, shown))
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2)
        shown.clear()
        broker.ack(1)
        await is_settled(futures, ["confirmed", None])
        assert amqp_tap.HEARTBEAT_FRAME in shown
        broker.ack(2)


def spy(real: Any, seen: list[bytes]) -> Any:
    def feed_data(self: asyncio.StreamReader, data: bytes) -> None:
        seen.append(data)
        real(self, data)

    return feed_data


@pytest.mark.gen_test(timeout=30)
async def test_heartbeats_go_both_ways():
    async with scripted() as (broker, link):
        broker.send(heartbeat.Heartbeat(), channel=0)
        await broker.until(lambda: broker.heartbeats > 0)
        assert link.state == "up"
        assert broker.client_properties["connection_name"] == "webhookd/test"


@pytest.mark.gen_test(timeout=30)
async def test_silence_leaves_the_deadline_to_the_caller_and_close_ends_the_wait():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(futures[0], 0.1)
        await link.close()
        assert futures[0].cancelled()
        assert settled(futures[1:]) == [OutcomeUnknown]
        assert link.in_flight == 0
        with pytest.raises(NotSent, match="closed"):
            await link.publish(a_message())


@pytest.mark.gen_test(timeout=30)
async def test_close_waits_for_the_confirms_that_come():
    async with scripted() as (broker, link):
        futures = await sent(broker, link, 3)
        closing = asyncio.ensure_future(link.close())
        await asyncio.sleep(0)
        assert settled(futures) == [None] * 3
        broker.ack(3, multiple=True)
        await closing
        assert settled(futures) == ["confirmed"] * 3


def test_an_answer_of_one_of_very_many_costs_no_look_at_the_others():
    """A broker that answers one at a time, backwards or forwards: the work per answer does not grow with what waits."""
    loop = asyncio.new_event_loop()
    confirms = Confirms()
    futures = [loop.create_future() for _ in range(50_000)]
    for number, future in enumerate(futures):
        confirms.sent(future, str(number), "event.42.github.push", 10)
    for tag in (*range(50_000, 25_000, -1), *range(1, 12_501)):
        confirms.received(pamqp.frame.marshal(commands.Basic.Ack(tag), 1))
    assert confirms._first == 12_501  # or else the next would look at all of them again
    for tag in range(12_501, 25_001):
        confirms.received(pamqp.frame.marshal(commands.Basic.Ack(tag, True), 1))
    assert confirms.in_flight == 0
    assert all(future.result() == "confirmed" for future in futures)
    loop.close()


def test_one_that_is_answered_late_leaves_nothing_to_be_looked_at_again():
    """Queues that confirm at different speeds: the answers overtake each other all the time, and come one by one."""
    loop = asyncio.new_event_loop()
    confirms = Confirms()
    for tag in range(1, 101):
        confirms.sent(loop.create_future(), str(tag), "event.42.github.push", 10)
    for tag in (2, 1, *range(3, 100)):
        confirms.received(pamqp.frame.marshal(commands.Basic.Ack(tag), 1))
    assert confirms._first == 100  # what a confirm of many tags looks at begins here
    loop.close()
