"""The collector sees what is published, and the checker sees each way in which an account can be wrong."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import aio_pika
import pytest
from faults.checker import Account, Window
from faults.collector import EXCHANGE, Collector, declare
from harness import until
from servers import RabbitMQ
from traffic import Delivery, Kept, Sender, Traffic

HOOKS = [{"event": f"e{n}", "tenantId": "t", "datasource": "generic", "hookUrl": "http://x/wh/a/b"} for n in (0, 1)]


def account(*, queue: str, fates: Sequence[str] = ("204",) * 4, spool: Sequence[str] = (), **options: Any) -> Account:
    """Return the account of four deliveries to hook 0 of which the queue gave those in `queue`; * is redelivered."""
    traffic = Traffic(0, HOOKS)
    sender = Sender(traffic, 0)
    traffic.senders = [sender]
    for number, fate in enumerate(fates):
        one = Delivery(0, number, f"digest {number}", "answered" if fate.isdigit() else fate, began=time.monotonic())
        if fate.isdigit():
            one.status = int(fate)
            one.retry_after = "1"
            one.receipt = f"r{number}" if one.status == 204 else None
        sender.deliveries.append(one)
    words = queue.split()
    came = [kept(int(word.strip("*")), redelivered=word.endswith("*")) for word in words]
    return Account("a scenario", traffic, came, spool, **options)


def kept(number: int, **options: Any) -> Kept:
    values = {"receipt": f"r{number}", "tenant": "t", "datasource": "generic", "event": "e0"}
    return Kept(**{**values, "digest": f"digest {number}", "size": 1, "number": number, **options})


def around() -> list[Window]:
    return [Window(time.monotonic() - 1, time.monotonic() + 1, 3)]


def test_a_true_account_passes() -> None:
    account(queue="0 1 2 3").check()
    account(queue="0 1 2", spool=["r3"]).check(spooled=1)
    account(queue="0 0* 1 2 3*").check()  # the consumer's acknowledgement was lost, no publish
    account(queue="0 2 3", fates=["204", "503", "204", "204"]).check()
    account(queue="0 2 1 3", fates=["204", "cut", "204", "204"]).check()  # nobody was told that 1 was taken
    account(queue="0 1 2 1 3", windows=around()).check(duplicates=True)


@pytest.mark.parametrize(
    ("queue", "options", "words"),
    [
        ("0 1 3", {}, "1 lost"),
        ("0 1 2 2 3", {}, "published twice, which no fault explains"),
        ("0 2 1 3", {}, "e0: 2 before 1"),
        ("0 1 2", {"spool": ["r3"]}, "left in the spool"),
        ("0 1 2 3", {"fates": ["204", "204", "204", "hung"]}, "hung"),
    ],
)
def test_a_false_account_fails(queue: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        account(queue=queue, **options).check()


def test_a_duplicate_far_from_any_fault_fails() -> None:
    early = [Window(time.monotonic() - 90, time.monotonic() - 80, 3)]
    with pytest.raises(AssertionError, match="without a fault near it"):
        account(queue="0 0 1 2 3", windows=early).check(duplicates=True)


@pytest.mark.parametrize("wrong", [{"digest": "another"}, {"tenant": "u"}, {"datasource": "github"}])
def test_a_message_that_is_not_what_was_sent_fails(wrong: dict[str, str]) -> None:
    found = account(queue="0 1 2")
    found.queue = [*found.queue, kept(3, **wrong)]
    with pytest.raises(AssertionError):
        found.check()


def test_a_row_tells_what_was_seen() -> None:
    row = account(queue="0 0 1 2", windows=around()).row("a remark")
    assert (row.injected, row.effective, row.accepted, row.lost, row.duplicates) == (1, 1, 4, 1, 1)
    assert str(row).endswith("s  a remark")
    assert len(row.HEAD) + len("  a remark") == len(str(row))


def test_the_collector_takes_what_is_published_and_comes_back(rabbitmq: RabbitMQ) -> None:
    vhost = rabbitmq.vhost()
    url = rabbitmq.url(vhost)
    declare(url)
    numbers = itertools.count()

    async def publish(count: int, **options: Any) -> None:
        async with await aio_pika.connect(url) as connection:
            exchange = await (await connection.channel()).get_exchange(EXCHANGE)
            for number in itertools.islice(numbers, count):
                body = b'{"number": %d}' % number
                values: dict[str, Any] = {
                    "delivery_mode": 2,
                    "content_type": "application/json",
                    "app_id": "webhookd",
                    "type": "a.b",
                    "timestamp": 1,
                    "message_id": f"m{number}",
                }
                await exchange.publish(aio_pika.Message(body, **{**values, **options}), "event.t.generic.a.b")

    with Collector(url) as collector:
        asyncio.run(publish(20))
        until(lambda: len(collector.receipts) == 20)
        rabbitmq.ctl("close_all_connections", "--vhost", vhost, "a test")
        until(lambda: collector.begun == 2)
        asyncio.run(publish(20))
        until(lambda: len(collector.receipts) == 40)
        assert [message.number for message in collector.messages if not message.redelivered] == list(range(40))
        assert {message.event for message in collector.messages} == {"a.b"}
        assert collector.faults == []
        asyncio.run(publish(1, delivery_mode=1))
        until(lambda: len(collector.faults) == 1)
