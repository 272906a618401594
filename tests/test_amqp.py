"""The link to RabbitMQ, against a real one: what it publishes, how it fails, and how it comes back."""

import asyncio
import contextlib
import gc
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from certificates import Certificates
from far_side import EXCHANGE, FarSide
from servers import RabbitMQ
from test_publishers import a_message

from webhookd.adapters import amqp
from webhookd.adapters.amqp import AmqpLink
from webhookd.adapters.amqp_access import Access
from webhookd.errors import Nacked, NotSent, OutcomeUnknown, Unacceptable, Unpublished, Unroutable
from webhookd.ports import LinkState
from webhookd.settings import read_secret_file


@contextlib.asynccontextmanager
async def linked(*urls: str, up: bool = True, **access: Any) -> AsyncIterator[AmqpLink]:
    errors: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    link = AmqpLink(Access(urls=",".join(urls), **access), EXCHANGE, purpose="test")
    link.start()
    try:
        if up:
            await becomes(link, "up")
        yield link
    finally:
        await link.close()
    bugs = [context for context in errors if not isinstance(context.get("exception"), Unpublished)]
    assert bugs == []  # outcomes that nobody looks at are a test's own affair


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


async def fault(link: AmqpLink, words: str) -> None:
    """Wait until the link says so of itself."""
    async with asyncio.timeout(30):
        while words not in (link.fault or ""):  # noqa: ASYNC110  one fault after another is no change of state
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory, certificates) -> Iterator[RabbitMQ]:
    with RabbitMQ(tmp_path_factory.mktemp("disturbed"), certificates=certificates) as running:
        yield running


@pytest.fixture
def node(disturbed) -> Iterator[RabbitMQ]:
    """Return a node that the test may do with what it likes: it is put right again."""
    yield disturbed
    if not disturbed.running:
        disturbed.start()
    disturbed.resume()
    for resource in ("memory", "disk"):
        disturbed.alarm(resource, on=False)
    disturbed.eval("application:unset_env(rabbit, max_message_size)")


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


@pytest.mark.gen_test(timeout=60)
async def test_a_queue_that_is_unbound_takes_nothing_until_it_is_bound_again(vhost):
    async with linked(vhost) as link, FarSide(vhost) as far:
        await far.bind()
        assert await link.publish(a_message(1)) == "confirmed"
        await far.unbind()
        assert await outcomes(link.publish(message) for message in messages(20)) == {Unroutable: 20}
        await far.bind()
        assert await link.publish(a_message(2)) == "confirmed"
        assert link.state == "up"


@pytest.mark.gen_test(timeout=120)
async def test_a_broker_that_is_killed_is_found_again(node):
    url = node.url(node.vhost())
    async with linked(url) as link, FarSide(url) as far:
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
    async with FarSide(url) as far:
        assert [message.message_id for message in await far.take()] == [a_message().receipt]


@pytest.mark.gen_test(timeout=120)
async def test_a_broker_that_is_stopped_under_load_loses_nothing_that_it_confirmed(node):
    url = node.url(node.vhost())
    confirmed = set()

    async def publish(link: AmqpLink, start: int) -> None:
        for number in range(start, 100_000, 16):
            try:
                await link.publish(a_message(number))
            except Unpublished:
                return
            confirmed.add(a_message(number).receipt)

    async with linked(url) as link, FarSide(url) as far:
        await far.bind()
        load = asyncio.gather(*(publish(link, start) for start in range(16)))
        await link.publish(a_message(100_001))
        await asyncio.to_thread(node.stop)
        await load
        assert link.state == "down"
        await asyncio.to_thread(node.start)
        await becomes(link, "up")
    async with FarSide(url) as far:
        found = {message.message_id for message in await far.take()}
    assert confirmed
    assert confirmed <= found


@pytest.mark.gen_test(timeout=120)
async def test_a_broker_that_is_down_at_the_start_is_found_once_it_is_there(node):
    url = node.url(node.vhost())
    node.kill()
    async with linked(url, up=False) as link:
        with pytest.raises(NotSent, match="not connected yet"):
            await link.publish(a_message())
        await fault(link, "Connect")
        assert link.state == "down"
        await asyncio.to_thread(node.start)
        await becomes(link, "up")


@pytest.mark.gen_test(timeout=120)
async def test_a_broker_that_hangs_is_given_up_and_taken_back(node, monkeypatch):
    monkeypatch.setattr(amqp, "HEARTBEAT", 1)  # given up after 6 seconds
    url = node.url(node.vhost())
    async with linked(url) as link, FarSide(url) as far:
        await far.bind()
        node.pause()
        futures = [link.publish(message) for message in messages(50)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(futures[0], 0.2)  # the deadline is the caller's
        assert link.state == "up"
        assert link.in_flight == 50
        assert await outcomes(futures[1:]) == {OutcomeUnknown: 49}
        assert link.state == "down"
        node.resume()
        await becomes(link, "up")
        assert await link.publish(a_message()) == "confirmed"


@pytest.mark.gen_test(timeout=120)
async def test_what_nobody_waits_for_any_more_is_not_sent_late(node):
    """While a broker hangs, messages wait here: those that the caller spooled meanwhile are no duplicates then."""
    url = node.url(node.vhost())
    async with linked(url) as link, FarSide(url) as far:
        await far.bind()
        node.pause()
        futures = [link.publish(message) for message in messages(60, body=b"x" * (1 << 20))]
        await asyncio.sleep(0)
        for future in futures:
            future.cancel()
        node.resume()
        assert await link.publish(a_message(99)) == "confirmed"
        found = [message.message_id for message in await far.take()]
        assert found[-1] == a_message(99).receipt
        assert len(found) < 40


@pytest.mark.gen_test(timeout=120)
async def test_an_alarm_blocks_and_its_end_unblocks(node):
    url = node.url(node.vhost())
    async with linked(url) as link, FarSide(url) as far:
        await far.bind()
        await asyncio.to_thread(node.alarm, "memory", on=True)
        futures = [link.publish(message) for message in messages(20)]
        await becomes(link, "blocked")
        assert "low on memory" in link.fault
        with pytest.raises(NotSent, match="low on memory"):
            await link.publish(a_message())
        assert not any(future.done() for future in futures)
        await asyncio.to_thread(node.alarm, "memory", on=False)
        await becomes(link, "up")
        assert await outcomes(futures) == {"confirmed": 20}


@pytest.mark.gen_test(timeout=120)
async def test_close_does_not_wait_for_a_broker_that_is_blocked(node):
    async with linked(node.url(node.vhost())) as link:
        await asyncio.to_thread(node.alarm, "disk", on=True)
        futures = [link.publish(message) for message in messages(20)]
        await becomes(link, "blocked")
        await link.close()
        assert await outcomes(futures) == {OutcomeUnknown: 20}


@pytest.mark.gen_test(timeout=60)
async def test_an_exchange_that_is_deleted_is_made_again(vhost):
    async with linked(vhost) as link, FarSide(vhost) as far:
        faults = []
        link.on_change(lambda: faults.append(link.fault))
        await far.bind()
        await far.delete_exchange()
        assert await outcomes(link.publish(message) for message in messages(150, body=b"x" * 5000)) == {
            OutcomeUnknown: 150
        }
        await becomes(link, "up")
        assert "exchange events-to-enrich is gone" in faults[0]
        with pytest.raises(Unroutable):
            await link.publish(a_message())
        await far.bind()
        assert await link.publish(a_message()) == "confirmed"


@pytest.mark.gen_test(timeout=60)
async def test_an_exchange_that_is_missing_is_made_as_consumers_declare_it(vhost):
    async with linked(vhost), FarSide(vhost) as far:
        await far.channel.declare_exchange(EXCHANGE, "topic", durable=True)


@pytest.mark.gen_test(timeout=60)
async def test_an_exchange_with_other_arguments_is_left_as_it_is(vhost):
    arguments = {"alternate-exchange": "other"}
    async with FarSide(vhost) as far:
        await far.channel.declare_exchange(EXCHANGE, "topic", durable=True, arguments=arguments)
        async with linked(vhost):
            await far.channel.declare_exchange(EXCHANGE, "topic", durable=True, arguments=arguments)


@pytest.fixture
def writer(rabbitmq) -> tuple[str, str]:
    """Return a vhost and the name of a user who may write to the exchange there, and nothing else."""
    name = rabbitmq.vhost()
    rabbitmq.user(f"writer-{name}", "canary-password", name, write=f"^{EXCHANGE}$")
    return name, f"writer-{name}"


@pytest.mark.gen_test(timeout=60)
async def test_a_user_who_may_only_write_says_what_is_missing_and_then_publishes(rabbitmq, writer):
    name, user = writer
    async with linked(rabbitmq.url(name, user=user, password="canary-password"), up=False) as link:
        await fault(link, "exchange events-to-enrich is missing")
        assert f"user {user} may not make it" in link.fault
        async with FarSide(rabbitmq.url(name)) as far:
            await far.channel.declare_exchange(EXCHANGE, "topic", durable=True)
            await far.bind()
            await becomes(link, "up")
            assert await link.publish(a_message()) == "confirmed"


@pytest.mark.gen_test(timeout=120)
async def test_permission_that_is_taken_away_is_told_and_waited_for(rabbitmq, writer):
    name, user = writer
    async with FarSide(rabbitmq.url(name)) as far:
        await far.channel.declare_exchange(EXCHANGE, "topic", durable=True)
        await far.bind()
        async with linked(rabbitmq.url(name, user=user, password="canary-password")) as link:
            assert await link.publish(a_message()) == "confirmed"
            rabbitmq.allow(user, name, write="^other$", configure="", read="")
            told = Counter()
            states = []
            link.on_change(lambda: states.append(link.state))
            while link.state == "up":
                await asyncio.sleep(1.5)  # RabbitMQ remembers what a channel may do until it has been idle for a while
                told += await outcomes([link.publish(a_message())])
            assert told[OutcomeUnknown] == 1
            await fault(link, f"user {user} may not write to exchange {EXCHANGE}")
            await fault(link, "still refused")
            assert states == ["down"]
            rabbitmq.allow(user, name, write=f"^{EXCHANGE}$", configure="", read="")
            await becomes(link, "up")
            assert await link.publish(a_message()) == "confirmed"


@pytest.mark.gen_test(timeout=60)
async def test_a_password_comes_from_the_file_and_is_read_again_each_time(rabbitmq, writer, tmp_path, capsys):
    name, user = writer
    secret = tmp_path / "password"
    password = partial(read_secret_file, secret, "broker_password_file")
    async with FarSide(rabbitmq.url(name)) as far:
        await far.channel.declare_exchange(EXCHANGE, "topic", durable=True)
    async with linked(rabbitmq.url(name, user=user, password="other"), up=False, password=password) as link:
        await fault(link, "broker_password_file")
        secret.write_text("canary-wrong\n")
        await fault(link, f"user {user} is refused")
        assert "ACCESS_REFUSED" in link.fault
        secret.write_text("canary-password\n")
        await becomes(link, "up")
    assert "canary" not in capsys.readouterr().out


@pytest.mark.gen_test(timeout=60)
async def test_a_vhost_that_is_missing_or_forbidden_is_told(rabbitmq, writer):
    _, user = writer
    forbidden = rabbitmq.url(rabbitmq.vhost(), user=user, password="canary-password")
    for url in (rabbitmq.url("nowhere/at-all"), forbidden):
        async with linked(url, up=False) as link:
            await fault(link, "the vhost is not there, or user")
            assert "canary" not in link.fault


@pytest.mark.gen_test(timeout=60)
async def test_a_vhost_with_a_slash_in_its_name(rabbitmq):
    async with linked(rabbitmq.url(rabbitmq.vhost("a/b c"))) as link:
        with pytest.raises(Unroutable):
            await link.publish(a_message())


@pytest.mark.gen_test(timeout=60)
async def test_urls_are_tried_in_turn(vhost):
    async with linked("amqp://127.0.0.1:1", " " + vhost) as link:
        assert link.state == "up"


@pytest.mark.gen_test(timeout=120)
async def test_a_message_over_max_message_size_is_the_only_one_refused(node):
    url = node.url(node.vhost())
    node.eval("application:set_env(rabbit, max_message_size, 100000)")
    async with linked(url) as link, FarSide(url) as far:
        await far.bind()
        futures = [link.publish(a_message(n, b"x" * size)) for n, size in enumerate((10, 100_001, 20, 100_000))]
        told = [await outcomes([future]) for future in futures]
        assert told[1] == {Unacceptable: 1}
        assert futures[1].exception().limit == 100_001
        assert Unacceptable not in told[0] + told[2] + told[3]
        await becomes(link, "up")
        assert await link.publish(a_message(9, b"x" * 100_000)) == "confirmed"


@pytest.mark.gen_test(timeout=60)
async def test_tls_checks_the_broker_and_shows_our_certificate(node, certificates, monkeypatch):
    url = node.tls_url(node.vhost())
    async with linked(url, up=False) as link:
        await fault(link, "its certificate is not trusted: ")
    certfile, keyfile = certificates.client("webhookd-client")
    access = {"cafile": certificates.cafile, "certfile": certfile, "keyfile": keyfile}
    async with linked(url, **access) as link, FarSide(node.url(urlsplit(url).path[1:])) as far:
        await far.bind()
        assert await link.publish(a_message(1, b"x" * 3_000_000)) == "confirmed"
        assert "CN=webhookd-client" in node.ctl("list_connections", "peer_cert_subject")
    async with linked(url, up=False, cafile=certificates.cafile, certfile=keyfile) as link:
        await fault(link, "broker_certfile")
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
    async with linked(url.replace("127.0.0.1", "elsewhere.test"), up=False, cafile=certificates.cafile) as link:
        await fault(link, "Hostname mismatch")


@pytest.mark.gen_test(timeout=60)
async def test_plain_and_tls_mixed_up_are_told(node):
    async with linked(node.url(port=node.tls_port), up=False) as link:
        await fault(link, "the protocol")
    async with linked(node.url().replace("amqp:", "amqps:"), up=False) as link:
        await fault(link, "SSL")


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.gen_test(timeout=120)
async def test_nothing_is_left_behind(node):
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    url = node.url(node.vhost())
    before = open_files()
    async with linked(url) as link:
        for _ in range(5):
            for message in messages(20):
                link.publish(message).add_done_callback(asyncio.Future.exception)
            node.eval('[rabbit_networking:close_connection(P, "tests") || P <- rabbit_networking:connections()]')
            await becomes(link, "down")
            await becomes(link, "up")
        node.pause()
        link.publish(a_message()).add_done_callback(asyncio.Future.exception)
        node.kill()
        await becomes(link, "down")
        await asyncio.to_thread(node.start)
        await becomes(link, "up")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_files() <= before
    assert faults == []
