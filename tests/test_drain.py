"""The drain of the spool over links that answer as they are told: order, failures, and who waits for whom."""

import asyncio
import collections
import itertools
import math
import random
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from test_fallback import HOOK, OTHER, Setup, a_setup, names, receipts, run, until, until_drained
from test_publishers import MIB, a_message, random_body

from webhookd.adapters import drain, drain_order, drain_pace, drain_records
from webhookd.adapters.drain import Drain
from webhookd.adapters.drain_pace import Pace
from webhookd.adapters.spool import Spool, SpoolError, State
from webhookd.errors import Nacked, OutcomeUnknown, Unacceptable, Unroutable


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spool.db"


async def backlog(setup: Setup, *messages) -> None:
    """Have messages in the spool, and the broker back."""
    setup.everywhere("down")
    assert set(await asyncio.gather(*map(setup.fallback.publish, messages))) == {"spooled"}
    setup.everywhere("up")


def hooks(messages) -> dict[str, list[str]]:
    by_hook: dict[str, list[str]] = collections.defaultdict(list)
    for message in messages:
        by_hook[message.hook].append(message.receipt)
    return by_hook


def yes(_) -> None:
    return None


# --- what is drained ------------------------------------------------------------------------------------------------


def test_everything_is_drained_whole_and_in_order_of_its_hook(path):
    rng = random.Random(3)
    messages = [
        a_message(n, random_body(n, rng.choice([2, 900, 30_000])), hook=f"{rng.randrange(40):040x}") for n in range(900)
    ]

    async def scenario(setup):
        setup.drain.play(yes)
        await backlog(setup, *messages)
        await until_drained(setup)
        assert hooks(setup.drain.taken) == hooks(messages)
        assert {m.receipt: m for m in setup.drain.taken} == {m.receipt: m for m in messages}
        assert setup.fallback.stats.drained == 900
        assert setup.fallback.stats.repeated == 0

    run(path, scenario)


def test_what_an_earlier_run_left_is_drained_oldest_hook_first(path):
    messages = [a_message(n, hook=f"{n % 50:040x}") for n in range(200)]

    async def before(setup):
        setup.everywhere("down")
        await asyncio.gather(*map(setup.fallback.publish, messages))

    async def after(setup):
        await until(lambda: len(setup.drain.published) == drain_order.TURNS)
        assert receipts(setup.drain.published) == names(*range(drain_order.TURNS))
        setup.drain.play(yes)
        await until_drained(setup)
        assert hooks(setup.drain.taken) == hooks(messages)

    run(path, before)
    run(path, after)


def test_large_bodies_are_drained_one_at_a_time_on_their_own_link(path):
    bodies = {1: 2 * MIB, 4: 3 * MIB}
    messages = [a_message(n, random_body(n, bodies.get(n, 100)), hook=hook) for hook in (HOOK, OTHER) for n in range(6)]

    async def scenario(setup):
        setup.drain.play(yes)
        await backlog(setup, *messages)
        for _ in range(4):
            await until(lambda: setup.large.waiting)
            await asyncio.sleep(0.02)
            assert len(setup.large.waiting) == 1
            setup.large.answer()
        await until_drained(setup)
        assert [len(m.body) for m in setup.large.taken] == [2 * MIB, 2 * MIB, 3 * MIB, 3 * MIB]
        for hook in (HOOK, OTHER):
            assert [m.receipt for m in setup.drain.taken if m.hook == hook] == names(0, 2, 3, 5)

    run(path, scenario)


def test_a_hook_never_has_two_attempts_of_one_message_in_flight(path):
    messages = [a_message(n) for n in range(300)]

    async def scenario(setup):
        await backlog(setup, *messages)
        rng = random.Random(4)
        while setup.fallback.stats.hooks_behind:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            flying = receipts(m for m, future in setup.drain.waiting if not future.done())
            assert len(flying) == len(set(flying))
            if setup.drain.waiting:
                setup.drain.answer(OutcomeUnknown("lost") if rng.random() < 0.02 else None)
        firsts = list(dict.fromkeys(receipts(setup.drain.published)))
        assert firsts == receipts(messages)

    run(path, scenario)


# --- failures -------------------------------------------------------------------------------------------------------


def test_only_the_oldest_unroutable_message_of_a_hook_is_tried_again(path):
    async def scenario(setup):
        setup.drain.play(lambda message: Unroutable("no queue") if message.hook == HOOK else None)
        await backlog(setup, *(a_message(n, hook=(HOOK, OTHER)[n % 2]) for n in range(40)))
        await until(lambda: len([m for m in setup.drain.published if m.hook == HOOK]) >= 4)
        assert set(hooks(setup.drain.published)[HOOK]) == set(names(0))
        assert hooks(setup.drain.taken)[OTHER] == names(*range(1, 40, 2))
        assert setup.fallback.stats.hooks_unroutable == 1
        entries = await setup.spool.entries()
        assert [entry.state for entry in entries] == [State.UNROUTABLE, *[State.WAITING] * 19]
        assert (entries[0].reason, entries[0].attempts >= 2) == ("no queue", True)
        assert await setup.fallback.publish(a_message(50, hook=HOOK)) == "spooled"
        setup.drain.play(yes)
        await until_drained(setup)
        assert hooks(setup.drain.taken)[HOOK] == names(*range(0, 40, 2), 50)
        assert setup.fallback.stats.hooks_unroutable == 0

    run(path, scenario)


def test_many_unroutable_hooks_hold_up_nobody_and_make_no_storm(path):
    async def scenario(setup):
        setup.drain.play(lambda message: Unroutable("no queue") if message.tenant == "lost" else None)
        lost = [a_message(n, hook=f"{n:040x}", tenant="lost") for n in range(1000)]
        found = [a_message(5000 + n, hook=f"{5000 + n:040x}", tenant="found") for n in range(200)]
        await backlog(setup, *lost, *found)
        await until(lambda: len(setup.drain.taken) == 200)
        await until(lambda: setup.fallback.stats.hooks_unroutable == 1000)
        loop = asyncio.get_running_loop()
        began, before = loop.time(), len(setup.drain.published)
        await asyncio.sleep(1.5)
        tries = len(setup.drain.published) - before
        assert 0 < tries <= (loop.time() - began) / drain_order.RETRY_SPACING + 10
        setup.drain.play(yes)
        await until_drained(setup)

    run(path, scenario)


def test_a_nack_is_tried_again_and_nothing_overtakes(path):
    async def scenario(setup):
        tries = collections.Counter()

        def judge(message):
            tries[message.receipt] += 1
            return Nacked("queue full") if tries[message.receipt] == 1 else None

        setup.drain.play(judge)
        await backlog(setup, *(a_message(n) for n in range(6)))
        await until(lambda: tries)
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(*range(6))
        assert set(tries.values()) == {2}

    run(path, scenario)


def test_after_a_nack_nothing_of_a_hook_is_in_flight_beside_another(path):
    async def scenario(setup):
        refused = setup.fallback.publish(a_message(0))
        setup.live.answer(Nacked("queue full"))
        assert await refused == "spooled"
        setup.live.become("down")
        await asyncio.gather(*(setup.fallback.publish(a_message(n)) for n in range(1, 9)))
        for _ in range(9):
            await until(lambda: setup.drain.waiting)
            await asyncio.sleep(0.01)
            assert len(setup.drain.waiting) == 1
            setup.drain.answer()
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(*range(9))

    run(path, scenario)


def test_a_nack_in_the_drain_ends_its_haste(path):
    async def scenario(setup):
        await backlog(setup, *(a_message(n) for n in range(30)))
        for _ in range(10):
            await until(lambda: setup.drain.waiting)
            setup.drain.answer()
        await until(lambda: len(setup.drain.waiting) > 2)
        while setup.drain.waiting:
            setup.drain.answer(Nacked("queue full"))
        while setup.fallback.stats.hooks_behind:
            await until(lambda: setup.drain.waiting)
            await asyncio.sleep(0.005)
            assert len(setup.drain.waiting) == 1
            setup.drain.answer()
            await asyncio.sleep(0.005)
        assert receipts(setup.drain.taken) == names(*range(30))

    run(path, scenario)


def test_an_unknown_outcome_is_tried_again_with_the_same_receipt(path):
    async def scenario(setup):
        await backlog(setup, *(a_message(n) for n in range(3)))
        await until(lambda: setup.drain.waiting)
        setup.drain.become("down")
        await asyncio.sleep(0.02)
        setup.drain.play(yes)
        setup.drain.become("up")
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(0, 1, 2)
        assert receipts(setup.drain.published)[:2] == names(0, 0)
        assert setup.fallback.stats.repeated == 1

    run(path, scenario)


def test_a_blocked_link_is_sent_nothing_more(path):
    async def scenario(setup):
        await backlog(setup, *(a_message(n) for n in range(3)))
        await until(lambda: setup.drain.waiting)
        setup.drain.become("blocked")
        setup.drain.answer()
        await asyncio.sleep(0.1)
        assert receipts(setup.drain.published) == names(0)
        setup.drain.play(yes)
        setup.drain.become("up")
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(0, 1, 2)

    run(path, scenario)


# --- what the broker refuses for itself -----------------------------------------------------------------------------


def by_size(limit):
    def judge(message):
        size = len(message.body)
        return Unacceptable(f"message size {size} is larger than {limit - 1}", limit) if size >= limit else None

    return judge


def test_what_is_refused_twice_is_set_aside_and_as_large_ones_untried(path):
    async def scenario(setup):
        for link in setup.links:
            link.play(by_size(1000))
        answers = [setup.fallback.publish(a_message(n, bytes(1000 * (n % 2)))) for n in range(2)]
        assert await asyncio.gather(*answers) == ["confirmed", "spooled"]
        await until(lambda: setup.fallback.stats.set_aside == 1)
        tried = receipts(setup.live.published + setup.drain.published)
        assert tried.count(a_message(1).receipt) == 2
        assert await setup.fallback.publish(a_message(2, bytes(1001))) == "spooled"
        await until(lambda: setup.fallback.stats.set_aside == 2)
        assert await setup.fallback.publish(a_message(3, bytes(999))) == "confirmed"
        assert a_message(2).receipt not in receipts(setup.live.published + setup.drain.published)
        await until(lambda: not setup.fallback._drain._records.taken)
        one, two = await setup.spool.entries()
        assert (one.state, one.reason) == (
            State.SET_ASIDE,
            "refused twice: message size 1000 is larger than 999",
        )
        assert (two.state, two.reason) == (State.SET_ASIDE, "1001 bytes: the broker takes none of 1000 or more")
        assert setup.spooled == {"refused": 1, "size": 1}

    run(path, scenario)


def test_what_is_set_aside_stops_nothing_behind_it(path):
    async def scenario(setup):
        setup.drain.play(by_size(1000))
        await backlog(setup, *(a_message(n, bytes(2000 if n in (0, 3, 4) else 1)) for n in range(8)))
        await until(lambda: setup.fallback.stats.hooks_behind == 0)
        assert receipts(setup.drain.taken) == names(1, 2, 5, 6, 7)
        await until(lambda: not setup.fallback._drain._records.taken)
        assert [entry.receipt for entry in await setup.spool.entries(states=[State.SET_ASIDE])] == names(0, 3, 4)
        assert receipts(setup.drain.published).count(a_message(0).receipt) == 2
        assert a_message(4).receipt not in receipts(setup.drain.published)

    run(path, scenario)


def test_a_retry_lets_it_be_tried_once_more(path):
    async def scenario(setup):
        setup.drain.play(by_size(1000))
        await backlog(setup, a_message(0, bytes(2000)))
        await until(lambda: not setup.fallback.stats.hooks_behind and not setup.fallback._drain._records.taken)
        assert await setup.spool.retry() == 1
        await until(lambda: setup.fallback.stats.set_aside == 2)
        assert len(setup.drain.published) == 3
        await until(lambda: not setup.fallback._drain._records.taken)
        setup.drain.play(yes)
        assert await setup.spool.retry() == 1
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(0)

    run(path, scenario)


def test_a_retried_message_is_found_before_what_its_hook_waits_for(path):
    async def scenario(setup):
        setup.drain.play(lambda message: by_size(1000)(message) or Unroutable("no queue"))
        await backlog(setup, a_message(0, bytes(2000)), a_message(1), a_message(2))
        await until(lambda: setup.fallback.stats.hooks_unroutable and not setup.fallback._drain._records._task)
        assert setup.fallback.stats.set_aside == 1
        setup.drain.play(yes)
        assert await setup.spool.retry() == 2
        await until_drained(setup)
        assert sorted(receipts(setup.drain.taken)) == names(0, 1, 2)

    run(path, scenario)


# --- what an operator does ------------------------------------------------------------------------------------------


def test_dropping_what_holds_up_a_hook_lets_it_be_live_again(path):
    async def scenario(setup):
        setup.drain.play(lambda _: Unroutable("no queue"))
        setup.live.play(yes)
        await backlog(setup, a_message(0), a_message(1))
        await until(lambda: setup.fallback.stats.hooks_unroutable)
        assert await setup.spool.drop() == 2
        await until(lambda: not setup.fallback.stats.hooks_behind)
        assert await setup.fallback.publish(a_message(2)) == "confirmed"

    run(path, scenario)


def test_a_damaged_message_stops_nothing_behind_it(path):
    async def scenario(setup):
        setup.everywhere("down")
        await asyncio.gather(*(setup.fallback.publish(a_message(n)) for n in range(3)))
        await setup.fallback.close()
        await setup.spool.close()
        import sqlite3

        with sqlite3.connect(path) as db:
            db.execute("UPDATE body SET data = x'00' WHERE id = (SELECT min(id) FROM body)")
        db.close()

    async def after():
        async with a_setup(path) as setup:
            setup.drain.play(yes)
            await until(lambda: not setup.fallback.stats.hooks_behind)
            assert receipts(setup.drain.taken) == names(1, 2)

    run(path, scenario)
    asyncio.run(asyncio.wait_for(after(), 30))


# --- a spool that fails ---------------------------------------------------------------------------------------------


def failing(monkeypatch, spool, name, times):
    """Have a method of the spool fail as on a broken disk, so many times; return what counts its calls."""
    calls = []
    whole = getattr(spool, name)

    async def method(*args, **kwargs):
        calls.append(args)
        if len(calls) <= times:
            raise SpoolError("I/O error")
        return await whole(*args, **kwargs)

    monkeypatch.setattr(spool, name, method)
    return calls


def test_nothing_is_published_again_while_the_spool_cannot_note_what_was(path, monkeypatch):
    monkeypatch.setattr(drain_records, "RETRY", 0.05)

    async def scenario(setup):
        calls = failing(monkeypatch, setup.spool, "confirm", 4)
        setup.drain.play(yes)
        await backlog(setup, *(a_message(n) for n in range(100)))
        await until(lambda: len(calls) == 2)
        setup.live.become("down")
        assert await setup.fallback.publish(a_message(100, hook=OTHER)) == "spooled"
        await until(lambda: len(calls) == 4)
        assert a_message(100).receipt not in receipts(setup.drain.published)
        await until_drained(setup)
        assert sorted(receipts(setup.drain.published)) == names(*range(101))

    run(path, scenario)


def test_a_spool_that_cannot_be_read_is_read_again(path, monkeypatch):
    async def scenario(setup):
        calls = failing(monkeypatch, setup.spool, "line", 3)
        setup.drain.play(yes)
        with capture_logs() as logs:
            await backlog(setup, a_message(0), a_message(1))
            await until_drained(setup)
        assert len(calls) > 3
        assert receipts(setup.drain.taken) == names(0, 1)
        assert [line["event"] for line in logs].count("spool cannot be read: its drain waits") == 1

    run(path, scenario)


def test_a_spool_that_cannot_be_read_at_the_start_is_drained_once_it_can(path, monkeypatch):
    monkeypatch.setattr(drain, "RETRY", 0.05)

    async def before(setup):
        setup.everywhere("down")
        await asyncio.gather(*(setup.fallback.publish(a_message(n)) for n in range(3)))

    async def after():
        spool = await Spool.open(path, max_bytes=64 * MIB, retention=1e9, keep=False)
        calls = failing(monkeypatch, spool, "hooks_waiting", 3)
        setup = Setup(spool)
        fallback = await setup.open()
        setup.live.play(yes)
        setup.drain.play(yes)
        assert await fallback.publish(a_message(9, hook=OTHER)) == "confirmed"
        await until(lambda: len(setup.drain.taken) == 3)
        assert len(calls) == 4
        await fallback.close()
        await spool.close()

    run(path, before)
    asyncio.run(asyncio.wait_for(after(), 30))


def test_a_bug_in_a_turn_costs_its_hook_a_pause_and_nobody_a_place(path, monkeypatch):
    async def scenario(setup):
        whole = Drain.pick
        bugs = iter([ZeroDivisionError("a bug")] * 3)

        def pick(self, turn, entry):
            if turn.line.hook == HOOK and (bug := next(bugs, None)):
                raise bug
            return whole(self, turn, entry)

        monkeypatch.setattr(Drain, "pick", pick)
        setup.drain.play(yes)
        with capture_logs() as logs:
            await backlog(setup, a_message(0), a_message(1, hook=OTHER))
            await until_drained(setup)
        assert receipts(setup.drain.taken) == names(1, 0)
        assert [line["event"] for line in logs].count("drain of a hook") == 3

    run(path, scenario)


# --- pace -----------------------------------------------------------------------------------------------------------


def test_live_deliveries_slow_the_drain_but_not_below_what_comes_in():
    live = behind = 0
    clock = 100.0
    pace = Pace(lambda: live, lambda: behind, lambda: clock)

    def rate_after(confirmed: int, spooled: int) -> float:
        nonlocal live, behind, clock
        live, behind, clock = live + confirmed, behind + spooled, clock + 1.25
        asyncio.run(pace.take())
        return pace.rate

    assert rate_after(0, 5000) == math.inf
    assert rate_after(1, 0) == drain_pace.BESIDE
    assert rate_after(500, 5000) == drain_pace.AHEAD * 5000 / 1.25
    assert rate_after(0, 0) == math.inf


def test_the_pace_holds(monkeypatch):
    monkeypatch.setattr(drain_pace, "BESIDE", 400.0)
    clock = itertools.count()

    async def scenario():
        pace = Pace(lambda: next(clock), lambda: 0)
        pace._measured -= 10
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(pace.take() for _ in range(drain_pace.BURST + 200)))
        assert loop.time() - began >= 0.49

    asyncio.run(scenario())
