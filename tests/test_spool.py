"""The spool beyond its port: bounds, states, reading while it is written, and disks and files that fail."""

import asyncio
import itertools
import random
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from harness import PATIENCE
from test_publishers import MIB, a_message

from webhookd.adapters import spool_reader, spool_writer
from webhookd.adapters.spool import Entry, Spool, SpoolError, State
from webhookd.adapters.spool_layout import CHANGE_PAGES, PAGE, Sizes, footprint
from webhookd.errors import ShareExceeded, Unpublished

Scenario = Callable[[Spool], Awaitable[None]]


def run(path: Path, *scenarios: Scenario, **options) -> None:
    """Run each scenario on the spool, which is opened anew for each and closed behind it."""
    chosen = {"max_bytes": 64 * MIB, "retention": 3600.0, "keep": False, **options}

    async def one(scenario: Scenario) -> None:
        spool = await Spool.open(path, **chosen)
        try:
            await scenario(spool)
        finally:
            await spool.close()

    for scenario in scenarios:
        asyncio.run(asyncio.wait_for(one(scenario), 60))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def quick(monkeypatch) -> None:
    """Let what is looked at once a second be looked at fifty times."""
    monkeypatch.setattr(spool_writer, "TICK", 0.02)


async def publish(spool: Spool, *messages) -> list[BaseException | None]:
    return await asyncio.gather(*(spool.publish(message) for message in messages), return_exceptions=True)


async def fill(spool: Spool, size: int, **fields) -> tuple[int, Unpublished]:
    """Publish bodies of `size` bytes until one is refused; return how many were taken, and the refusal."""
    together = 1 if size > 5000 else 50
    for start in itertools.count(0, together):
        outcomes = await publish(spool, *(a_message(start + n, bytes(size), **fields) for n in range(together)))
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, Unpublished):
                return start + number, outcome
            assert outcome == "spooled"
    raise AssertionError


async def until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what changes in another thread has no event
            await asyncio.sleep(0.005)


async def receipts(spool: Spool, **which) -> list[str]:
    return [entry.receipt for entry in await spool.entries(limit=10_000, **which)]


def names(*numbers: int) -> list[str]:
    return [a_message(number).receipt for number in numbers]


def on_disk(path: Path) -> int:
    return sum(part.stat().st_size for part in (path, path.with_name("spool.db-wal")) if part.exists())


# --- reading --------------------------------------------------------------------------------------------------------


def test_entries_say_everything(path):
    message = a_message(3, b'{"a":1}', tenant="t9")

    async def scenario(spool):
        await spool.publish(message)
        (listed,) = await spool.entries()
        (whole,) = await spool.entries(bodies=True)
        expected = Entry(
            seq=listed.seq,
            receipt=message.receipt,
            hook=message.hook,
            tenant="t9",
            datasource="github",
            event="push",
            state=State.WAITING,
            attempts=0,
            received_at=message.received_at,
            bytes=7,
            headers=message.headers,
            body=b'{"a":1}',
        )
        assert whole == expected
        assert (listed.headers, listed.body) == ({}, None)
        for text in (repr(whole), repr(message)):
            assert message.hook not in text
            assert "{" not in text

    run(path, scenario)


def test_entries_page_by_place_number_and_bytes(path):
    async def scenario(spool):
        await publish(spool, *(a_message(n, bytes(1000)) for n in range(25)), a_message(25, bytes(5 * MIB)))
        seen, after = [], 0
        while page := await spool.entries(after=after, limit=10, bodies=True, max_bytes=4000):
            assert len(page) <= 10
            assert len(page) == 1 or sum(entry.bytes for entry in page) <= 4000
            seen += page
            after = page[-1].seq
        assert [entry.receipt for entry in seen] == names(*range(26))
        assert [entry.seq for entry in seen] == sorted({entry.seq for entry in seen})
        assert await receipts(spool, max_bytes=0) == names(*range(26))
        assert await spool.entries(after=after) == []

    run(path, scenario)


def test_the_newest_place_is_that_of_the_last_entry(path):
    async def scenario(spool: Spool) -> None:
        assert await spool.newest() == 0
        await publish(spool, a_message(1), a_message(2))
        assert await spool.newest() == (await spool.entries())[-1].seq

    run(path, scenario)


def test_entries_of_one_tenant_and_some_states(path, monkeypatch):
    monkeypatch.setattr(spool_reader, "WINDOW", 7)

    async def scenario(spool):
        await publish(spool, *(a_message(n, tenant=f"t{n % 40 == 39}") for n in range(100)))
        assert await receipts(spool, tenant="tTrue") == names(39, 79)
        assert await receipts(spool, tenant="nobody") == []
        (first,) = await spool.entries(limit=1)
        await spool.mark([first.seq], State.SET_ASIDE, "too large")
        assert await receipts(spool, states=[State.SET_ASIDE]) == names(0)
        assert await receipts(spool, states=[State.KEPT, State.SET_ASIDE]) == names(0)
        assert len(await receipts(spool, states=[State.WAITING])) == 99
        assert await receipts(spool, states=[]) == []

    run(path, scenario)


def test_places_are_never_given_twice(path):
    seen = []

    async def scenario(spool):
        await publish(spool, a_message(1), a_message(2, bytes(3 * MIB)), a_message(3))
        found = await spool.entries()
        assert [entry.receipt for entry in found] == names(1, 2, 3)
        assert await spool.confirm([entry.seq for entry in found]) == 3
        seen.extend(entry.seq for entry in found)

    run(path, scenario, scenario, scenario)
    assert seen == sorted(set(seen))


def test_a_follower_never_misses_a_large_one_that_began_before_small_ones(path):
    async def scenario(spool):
        large = spool.publish(a_message(0, bytes(20 * MIB), hook="large"))
        smalls = 0
        seen, after = [], 0
        while not large.done():
            await spool.publish(a_message(smalls := smalls + 1))
            for entry in await spool.entries(after=after):
                seen.append(entry.receipt)
                after = entry.seq
        seen += [entry.receipt for entry in await spool.entries(after=after)]
        assert smalls > 3
        assert sorted(seen) == names(*range(smalls + 1))
        assert seen[0] != names(0)[0]

    run(path, scenario)


def test_waiting_for_the_next_message(path):
    async def scenario(spool):
        assert not await spool.wait_append(0, 0.02)
        waiting = asyncio.create_task(spool.wait_append(0, 10))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await spool.publish(a_message(1))
        assert await waiting
        (entry,) = await spool.entries()
        assert await spool.wait_append(entry.seq - 1, 0)
        assert not await spool.wait_append(entry.seq, 0)
        waiting = asyncio.create_task(spool.wait_append(entry.seq, 60))
        await asyncio.sleep(0.05)
        await spool.close()
        assert not await waiting
        assert not await spool.wait_append(0, 10)

    run(path, scenario)


def test_lines_of_hooks_for_a_drain(path):
    async def scenario(spool):
        await publish(spool, *(a_message(n, bytes([n]), hook="abc"[n % 3]) for n in range(12)))
        assert [entry.receipt for entry in await spool.next_waiting()] == names(0, 1, 2)
        line = await spool.line("b")
        assert [(entry.receipt, entry.body) for entry in line] == [(names(n)[0], bytes([n])) for n in (1, 4, 7, 10)]
        assert [entry.receipt for entry in await spool.line("b", after=line[1].seq, limit=1)] == names(7)
        assert await spool.line("nobody") == []
        await spool.mark([line[0].seq], State.UNROUTABLE, "no queue")
        await spool.mark([line[1].seq], State.SET_ASIDE, "too large")
        assert [(entry.receipt, entry.state) for entry in await spool.line("b")] == [
            (names(1)[0], State.UNROUTABLE),
            (names(7)[0], State.WAITING),
            (names(10)[0], State.WAITING),
        ]
        await spool.confirm([line[0].seq])
        assert [entry.receipt for entry in await spool.next_waiting()] == names(0, 2, 7)
        await spool.drop()
        assert await spool.next_waiting() == []

    run(path, scenario)


def test_kept_messages_are_not_published_when_a_broker_comes(path):
    async def keeping(spool):
        await publish(spool, a_message(1), a_message(2))

    async def with_broker(spool):
        await publish(spool, a_message(3), a_message(4))
        assert [entry.state for entry in await spool.entries()] == [State.KEPT] * 2 + [State.WAITING] * 2
        assert [entry.receipt for entry in await spool.next_waiting()] == names(3)
        assert [entry.receipt for entry in await spool.line("a" * 40)] == names(3, 4)

    run(path, keeping, keep=True, retention=1e9)
    run(path, with_broker, retention=1e9)


# --- changing -------------------------------------------------------------------------------------------------------


def test_mark_retry_and_confirm(path):
    async def scenario(spool):
        await publish(spool, *(a_message(n) for n in range(6)))
        seqs = [entry.seq for entry in await spool.entries()]
        assert await spool.mark(seqs[:2], State.UNROUTABLE, "no queue takes it") == 2
        assert await spool.mark(seqs[:1], State.UNROUTABLE, "still none") == 1
        assert await spool.mark([seqs[2]], State.SET_ASIDE, "too large") == 1
        assert await spool.mark([10_000], State.SET_ASIDE, "nobody") == 0
        shown = [(e.state, e.attempts, e.reason) for e in await spool.entries()]
        assert shown == [
            (State.UNROUTABLE, 2, "still none"),
            (State.UNROUTABLE, 1, "no queue takes it"),
            (State.SET_ASIDE, 1, "too large"),
            *[(State.WAITING, 0, None)] * 3,
        ]
        counts = {State.WAITING: 3, State.UNROUTABLE: 2, State.SET_ASIDE: 1, State.KEPT: 0}
        assert spool.stats.messages == counts
        assert await spool.retry(names(1, 5)) == 1
        assert await spool.retry() == 2
        assert await spool.retry() == 0
        assert {(e.state, e.attempts, e.reason) for e in await spool.entries()} == {(State.WAITING, 0, None)}
        assert await spool.confirm(seqs[:3]) == 3
        assert await spool.confirm(seqs[:3]) == 0
        assert await receipts(spool) == names(3, 4, 5)

    run(path, scenario)


def test_drop_by_state_age_and_receipt(path):
    clock = [1_700_000_000.0]

    async def scenario(spool):
        await publish(spool, *(a_message(n, received_at=1_700_000_000_000 + n * 1000) for n in range(10)))
        seqs = [entry.seq for entry in await spool.entries()]
        await spool.mark(seqs[:4], State.SET_ASIDE, "x")
        clock[0] += 10
        assert await spool.drop(states=[State.SET_ASIDE], older_than=7.5) == 3
        assert await spool.drop(states=[State.WAITING], receipts=names(3, 4, 5, 77)) == 2
        assert await spool.drop(older_than=100) == 0
        assert await receipts(spool) == names(3, 6, 7, 8, 9)
        assert await spool.drop() == 5
        assert spool.stats.messages == dict.fromkeys(State, 0)

    run(path, scenario, now=lambda: clock[0])


def test_changes_of_many_take_many_short_transactions(path):
    async def scenario(spool):
        step = Sizes.of(MIB).wal_frames // CHANGE_PAGES
        await publish(spool, *(a_message(n) for n in range(step * 5)))
        seqs = [entry.seq for entry in await spool.entries(limit=10_000)]
        assert await spool.mark(seqs, State.SET_ASIDE, "x") == step * 5
        late = [spool.publish(a_message(1000 + n)) for n in range(3)]
        assert await spool.drop(states=[State.SET_ASIDE]) == step * 5
        await asyncio.gather(*late)
        assert await receipts(spool) == names(1000, 1001, 1002)

    run(path, scenario, max_bytes=MIB)


def test_calls_after_close_say_so(path):
    async def scenario(spool):
        await spool.close()
        calls = [spool.entries, spool.next_waiting, spool.retry, spool.drop, lambda: spool.confirm([1])]
        for call in calls:
            with pytest.raises(SpoolError, match="closed"):
                await call()
        assert spool.stats.failing == "the spool is closed"

    run(path, scenario)


# --- expiry ---------------------------------------------------------------------------------------------------------


def test_kept_messages_expire_and_others_do_not(path, quick):
    clock = [1_700_000_000.0]

    async def waiting(spool):
        await publish(spool, *(a_message(n) for n in range(30)))

    async def keeping(spool):
        assert spool.stats.oldest_received_at == 1_700_000_000_000
        await publish(spool, *(a_message(n, bytes(40_000)) for n in range(30, 60)))
        await until(lambda: spool.stats.oldest_kept_received_at)
        assert await receipts(spool) == names(*range(60))
        assert spool.stats.oldest_received_at == 1_700_000_000_000
        assert spool.stats.oldest_kept_received_at == 1_700_000_000_030
        clock[0] += 60.040
        await until(lambda: spool.stats.messages[State.KEPT] == 19)
        clock[0] += 100
        await until(lambda: spool.stats.messages[State.KEPT] == 0)
        await until(lambda: spool.stats.oldest_kept_received_at is None)
        assert await receipts(spool) == names(*range(30))

    run(path, waiting, retention=60, max_bytes=3 * MIB, now=lambda: clock[0])
    run(path, keeping, retention=60, max_bytes=3 * MIB, keep=True, now=lambda: clock[0])


def test_a_clock_that_goes_back_only_delays_expiry(path, quick):
    clock = [1_700_000_050.0]

    async def scenario(spool):
        await publish(spool, a_message(1, received_at=1_700_000_000_000), a_message(2, received_at=1_699_990_000_000))
        clock[0] = 1_699_990_000.0
        await asyncio.sleep(0.1)
        assert await receipts(spool) == names(1, 2)
        clock[0] = 1_700_000_061.0
        await until(lambda: spool.stats.messages[State.KEPT] == 0)

    run(path, scenario, retention=60, keep=True, now=lambda: clock[0])


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_bytes", "size"),
    [(MIB, 10), (MIB, 3000), (MIB, 8000), (MIB, 90_000), (3 * MIB, 300), (3 * MIB, 8100), (16 * MIB, 5000)],
)
def test_the_spool_never_grows_past_its_bound_and_keeps_what_it_has(path, quick, max_bytes, size):
    largest = 0
    watching = threading.Event()

    def watch():
        nonlocal largest
        while not watching.wait(0.001):
            largest = max(largest, on_disk(path))

    async def scenario(spool):
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            taken, refusal = await fill(spool, size)
            assert "spool full" in str(refusal)
            assert not isinstance(refusal, ShareExceeded)
            assert len(await receipts(spool)) == taken
            assert taken * max(size, 350) > max_bytes * 0.35
            assert spool.stats.bytes <= max_bytes
            seqs = [entry.seq for entry in await spool.entries(limit=taken)]
            await spool.mark(seqs[: min(100, taken // 2)], State.SET_ASIDE, "a reason that takes room " * 20)
            await spool.drop(states=[State.SET_ASIDE])
            await fill(spool, size)
            await spool.drop()
            again, _ = await fill(spool, size)
            assert again >= taken * 0.95 - 1
        finally:
            watching.set()
            watcher.join()

    run(path, scenario, max_bytes=max_bytes)
    assert largest <= max_bytes


def test_full_is_said_and_unsaid(path):
    async def scenario(spool):
        assert not spool.stats.full
        await fill(spool, 1000)
        assert spool.stats.full
        await spool.drop()
        assert not spool.stats.full
        assert spool.stats.used < MIB // 2
        await spool.publish(a_message())

    run(path, scenario, max_bytes=MIB)


def test_what_is_too_large_for_what_is_left_is_refused_and_smaller_ones_pass(path):
    async def scenario(spool):
        await fill(spool, 150_000)
        large, small = await publish(spool, a_message(1, bytes(149_000)), a_message(2, bytes(100), hook="other"))
        assert isinstance(large, Unpublished)
        assert small == "spooled"
        (largest,) = await publish(spool, a_message(3, bytes(2 * MIB)))
        assert "spool full" in str(largest)
        assert spool.publish(a_message(4, bytes(2 * MIB), hook="x"))
        await spool.publish(a_message(5, hook="x"))

    run(path, scenario, max_bytes=MIB)


def test_mixed_sizes_never_pass_the_bound(path):
    """Records of unlike size pack badly: SQLite's own bound is then what holds."""
    rng = random.Random(1)

    async def scenario(spool):
        for number in range(3000):
            batch = [a_message(number, bytes(rng.choice([10, 8100, 4100, 60_000])), hook=str(n)) for n in range(3)]
            await publish(spool, *batch)
            assert on_disk(path) <= 2 * MIB
            if number % 50 == 49:
                places = [entry.seq for entry in await spool.entries(limit=1000)]
                await spool.confirm(rng.sample(places, len(places) // 2))

    run(path, scenario, max_bytes=2 * MIB)


def test_a_lower_bound_than_what_is_there_takes_nothing_until_it_fits(path):
    async def filled(spool):
        await fill(spool, 50_000)

    async def lowered(spool):
        assert spool.stats.full
        (refusal,) = await publish(spool, a_message(1))
        assert "spool full" in str(refusal)
        places = [entry.seq for entry in await spool.entries(limit=1000)]
        await spool.confirm(places[5:])
        await spool.publish(a_message(1))

    run(path, filled, max_bytes=4 * MIB)
    run(path, lowered, max_bytes=MIB)


def test_no_tenant_holds_more_than_its_share(path):
    share = [0.25]

    async def scenario(spool):
        taken, refusal = await fill(spool, 20_000, tenant="greedy")
        assert isinstance(refusal, ShareExceeded)
        assert 0.15 < taken * 20_000 / (8 * MIB) < 0.25
        for message in (a_message(1, bytes(100_000), tenant="greedy"), a_message(2, bytes(2 * MIB), tenant="greedy")):
            with pytest.raises(ShareExceeded):
                await spool.publish(message)
        await spool.publish(a_message(3, bytes(MIB), tenant="modest"))
        assert not spool.stats.full
        share[0] = 0.5
        await spool.publish(a_message(4, tenant="greedy"))
        share[0] = 0.25

    async def reopened(spool):
        with pytest.raises(ShareExceeded):
            await spool.publish(a_message(5, bytes(50_000), tenant="greedy"))
        mine = [entry.seq for entry in await spool.entries(tenant="greedy", limit=1000)]
        await spool.confirm(mine[:10])
        await spool.publish(a_message(6, bytes(50_000), tenant="greedy"))
        (refused, taken) = await publish(
            spool, a_message(7, bytes(3 * MIB), tenant="greedy"), a_message(8, bytes(3 * MIB // 2), tenant="modest")
        )
        assert isinstance(refused, ShareExceeded)
        assert taken == "spooled" or isinstance(taken, ShareExceeded)

    run(path, scenario, reopened, max_bytes=8 * MIB, share=lambda: share[0])


def test_what_was_refused_holds_no_share(path):
    async def scenario(spool):
        for _ in range(30):
            outcomes = await publish(spool, *(a_message(n, bytes(MIB), tenant=f"t{n}") for n in range(4)))
            assert all(isinstance(outcome, Unpublished) for outcome in outcomes)
        await spool.publish(a_message(9, bytes(100_000), tenant="t0"))

    run(path, scenario, max_bytes=MIB, share=lambda: 0.9)


def test_an_outage_gives_its_disk_back(path, quick, monkeypatch):
    async def scenario(spool):
        await publish(spool, *(a_message(n, bytes(300_000), hook=str(n)) for n in range(80)), a_message(99))
        assert path.stat().st_size > 16 * MIB
        await spool.confirm([entry.seq for entry in await spool.entries(limit=80)])
        await until(lambda: path.stat().st_size < MIB)
        assert await receipts(spool) == names(99)
        await spool.publish(a_message(100))
        assert await receipts(spool) == names(99, 100)

    run(path, scenario, max_bytes=32 * MIB)


@pytest.mark.parametrize("length", [0, 10, 3000, 4000, 8100, 8157, 8158, 8300, 16_000, 100_000, 10 * MIB])
def test_what_a_message_is_reckoned_to_cost_is_what_it_costs(path, length):
    count = max(1, min(200, 20 * MIB // max(length, 1)))

    async def scenario(spool):
        before = spool.stats.used
        for start in range(0, count, 50):
            await publish(
                spool, *(a_message(n, bytes(length), headers={}) for n in range(start, min(start + 50, count)))
            )
        await spool.confirm([])
        grown = spool.stats.used - before
        reckoned = footprint(length + 2) * count
        assert grown - 20 * PAGE <= reckoned * 1.1
        assert reckoned <= grown * 1.25 + 300 * count + PAGE

    run(path, scenario, max_bytes=128 * MIB)


def test_another_process_that_reads_the_file_cannot_make_the_wal_pass_the_bound(path):
    async def scenario(spool):
        await spool.publish(a_message())
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM message").fetchone()
            for _ in range(3):
                _, refusal = await fill(spool, 10_000)
                assert "another process" in str(refusal)
            assert on_disk(path) <= 4 * MIB
            with pytest.raises(SpoolError, match="another process"):
                await spool.drop()
        await spool.publish(a_message())
        assert await spool.drop() >= 2

    run(path, scenario, max_bytes=4 * MIB)
