"""What open pages are told of deliveries: once for all pages of a hook, and one hook at a time."""

import asyncio
import json

from test_records import a_hook, accept, refuse, some

from webhookd.console.feed import MOST_AT_ONCE, Feed
from webhookd.ports import Deleted, Snapshot


async def told_by(*queues: asyncio.Queue) -> list:
    async with asyncio.timeout(20):
        return [await queue.get() for queue in queues]


def test_the_pages_of_a_hook_are_told_the_same_until_they_are_closed():
    async def scenario() -> None:
        records, table = some(hooks=2, per_hook=100)
        feed = Feed(records, table, "/console")
        one, two, other = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
        stop = [feed.watch(a_hook(number), page.put_nowait) for number, page in ((1, one), (1, two), (2, other))]
        for number in range(MOST_AT_ONCE + 5):
            accept(records, a_hook(1), number)
        refuse(records, a_hook(2))
        first, second, third = await told_by(one, two, other)
        assert first is second
        document = json.loads(first)
        assert (document["count"], len(document["rows"])) == (MOST_AT_ONCE + 5, MOST_AT_ONCE)
        assert f"/console/hooks/{a_hook(1).token}/deliveries/receipt-000029" in document["rows"][-1]["html"]
        assert 'class="good"' in document["spark"] or "0 deliveries" in document["spark"]
        assert json.loads(third)["rows"][0]["outcome"] == "refused"
        stop[0]()
        accept(records, a_hook(1), 99)
        assert "receipt-000099" in (await told_by(two))[0]
        assert one.empty()
        stop[1]()
        accept(records, a_hook(1), 100)
        refuse(records, a_hook(2))
        await told_by(other)
        assert two.empty()

    asyncio.run(scenario())


def test_pages_of_a_hook_that_is_gone_are_told_so():
    async def scenario() -> None:
        records, table = some(hooks=3)
        feed = Feed(records, table, "/console")
        pages = [asyncio.Queue() for _ in range(3)]
        for number, page in enumerate(pages, 1):
            feed.watch(a_hook(number), page.put_nowait)
        table.apply(Deleted(a_hook(1).token, 2))
        assert [page.empty() for page in pages] == [False, True, True]
        table.apply(Snapshot((a_hook(3),), 3))
        assert [page.empty() for page in pages] == [False, False, True]
        assert await told_by(*pages[:2]) == [None, None]

    asyncio.run(scenario())


def test_between_two_hooks_the_event_loop_does_other_things():
    async def scenario() -> None:
        count = 20
        records, table = some(hooks=count)
        feed = Feed(records, table, "/console")
        turns, rounds = [], 0

        def turn() -> None:
            nonlocal rounds
            rounds += 1
            loop.call_soon(turn)

        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def told(_: str | None) -> None:
            turns.append(rounds)
            if len(turns) == count:
                done.set()

        for number in range(1, count + 1):
            feed.watch(a_hook(number), told)
            refuse(records, a_hook(number))
        turn()
        async with asyncio.timeout(20):
            await done.wait()
        assert len(set(turns)) == count

    asyncio.run(scenario())
