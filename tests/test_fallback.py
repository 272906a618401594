"""The fallback over links that answer as they are told: where each message goes, in which order, and why."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from harness import PATIENCE
from links import ScriptedLink
from test_publishers import MIB, a_message

from webhookd.adapters.fallback import Fallback
from webhookd.adapters.spool import Spool, State
from webhookd.errors import Nacked, OutcomeUnknown, Unacceptable, Unpublished, Unroutable

HOOK, OTHER = "a" * 40, "b" * 40


class Setup:
    """A Fallback on scripted links and a real spool."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.live = ScriptedLink()
        self.large = ScriptedLink()
        self.drain = ScriptedLink()
        self.fallback: Fallback

    @property
    def links(self) -> tuple[ScriptedLink, ...]:
        return (self.live, self.large, self.drain)

    @property
    def spooled(self) -> dict[str, int]:
        return self.fallback.stats.spooled

    async def open(self, **options) -> Fallback:
        chosen = {"publish_timeout": 30.0, "publish_window": 1024, **options}
        self.fallback = await Fallback.open(self.spool, self.live, self.large, self.drain, **chosen)
        return self.fallback

    def everywhere(self, state) -> None:
        for link in self.links:
            link.become(state)

    async def held(self, **which) -> list[str]:
        return [entry.receipt for entry in await self.spool.entries(**which)]


@contextlib.asynccontextmanager
async def a_setup(path: Path, **options) -> AsyncIterator[Setup]:
    spool = await Spool.open(path, max_bytes=options.pop("max_bytes", 256 * MIB), retention=1e9, keep=False)
    try:
        setup = Setup(spool)
        fallback = await setup.open(**options)
        try:
            yield setup
        finally:
            for link in setup.links:
                link.play(lambda _: None)
            await fallback.close()
    finally:
        await spool.close()


def run(path: Path, scenario: Callable[[Setup], Awaitable[None]], **options) -> None:
    async def main() -> None:
        async with a_setup(path, **options) as setup:
            await scenario(setup)

    uvloop.run(asyncio.wait_for(main(), 60))  # the event loop of the daemon


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spool.db"


async def until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what happens in another thread has no event
            await asyncio.sleep(0.002)


def receipts(messages) -> list[str]:
    return [message.receipt for message in messages]


def names(*numbers: int) -> list[str]:
    return [a_message(number).receipt for number in numbers]


async def empty(setup: Setup) -> bool:
    return not await setup.spool.entries(limit=1) and not setup.fallback.stats.hooks_behind


async def until_drained(setup: Setup, seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not await empty(setup):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- where a message goes -------------------------------------------------------------------------------------------


def test_a_confirm_is_an_answer(path):
    async def scenario(setup):
        answer = setup.fallback.publish(a_message(1))
        await asyncio.sleep(0.02)
        assert not answer.done()
        setup.live.answer()
        assert await answer == "confirmed"
        assert await setup.held() == []
        assert setup.fallback.stats.confirmed == 1

    run(path, scenario)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Nacked("nack"), "nacked"),
        (Unroutable("no queue"), "returned"),
        (OutcomeUnknown("lost"), "unknown"),
        (Unacceptable("too large", 1), "refused"),
    ],
)
def test_what_the_broker_does_not_take_the_spool_does(path, refusal, reason):
    async def scenario(setup):
        setup.drain.become("down")
        answer = setup.fallback.publish(a_message(1))
        setup.live.answer(refusal)
        assert await answer == "spooled"
        assert await setup.held() == names(1)
        assert setup.spooled == {("down" if reason == "unknown" else reason): 1}

    run(path, scenario)


def test_a_passed_deadline_spools(path):
    async def scenario(setup):
        setup.drain.become("down")
        assert await setup.fallback.publish(a_message(1)) == "spooled"
        assert setup.spooled == {"deadline": 1}
        assert setup.live.waiting[0][1].done()

    run(path, scenario, publish_timeout=0.05)


@pytest.mark.parametrize("state", ["down", "blocked"])
def test_links_that_are_not_up_are_not_tried(path, state):
    async def scenario(setup):
        setup.everywhere(state)
        assert await setup.fallback.publish(a_message(1)) == "spooled"
        assert await setup.fallback.publish(a_message(2, bytes(MIB + 1), hook=OTHER)) == "spooled"
        assert setup.live.published == setup.large.published == []
        assert setup.spooled == {state: 2}
        assert setup.fallback.fault == "scripted"

    run(path, scenario)


@pytest.mark.parametrize("state", ["down", "blocked"])
def test_what_waits_on_a_link_is_spooled_when_it_fails(path, state):
    async def scenario(setup):
        setup.drain.become("down")
        answers = [setup.fallback.publish(a_message(n, hook=f"{n:040x}")) for n in range(300)]
        await asyncio.sleep(0)
        setup.live.become(state)
        assert await asyncio.wait_for(asyncio.gather(*answers), 5) == ["spooled"] * 300
        assert await setup.held() == names(*range(300))

    run(path, scenario)


def test_beyond_the_window_it_is_the_spool(path):
    async def scenario(setup):
        setup.drain.become("down")
        answers = [setup.fallback.publish(a_message(n, hook=f"{n:040x}")) for n in range(5)]
        assert await asyncio.gather(*answers[3:]) == ["spooled"] * 2
        assert setup.spooled == {"window": 2}
        setup.live.play(lambda _: None)
        assert await asyncio.gather(*answers[:3]) == ["confirmed"] * 3
        assert await setup.fallback.publish(a_message(9)) == "confirmed"

    run(path, scenario, publish_window=3)


def test_large_bodies_have_a_link_of_their_own(path):
    async def scenario(setup):
        large = setup.fallback.publish(a_message(1, bytes(MIB + 1)))
        behind = setup.fallback.publish(a_message(2))
        other = setup.fallback.publish(a_message(3, bytes(MIB), hook=OTHER))
        assert receipts(setup.large.published) == names(1, 2)
        assert receipts(setup.live.published) == names(3)
        setup.large.play(lambda _: None)
        setup.live.play(lambda _: None)
        assert await asyncio.gather(large, behind, other) == ["confirmed"] * 3
        assert await setup.fallback.publish(a_message(4)) == "confirmed"
        assert receipts(setup.live.published) == names(3, 4)

    run(path, scenario)


def test_when_the_spool_fails_too_the_failure_is_told(path):
    async def scenario(setup):
        setup.everywhere("down")
        answers = [setup.fallback.publish(a_message(n, bytes(200_000), hook=f"{n:040x}")) for n in range(8)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        taken = outcomes.count("spooled")
        assert 0 < taken < 8
        assert all(outcome == "spooled" or isinstance(outcome, Unpublished) for outcome in outcomes)
        assert setup.fallback.stats.hooks_behind == taken

    run(path, scenario, max_bytes=MIB)


# --- a link that is silent ------------------------------------------------------------------------------------------


def test_a_silent_link_costs_the_first_deliveries_the_deadline_and_the_others_nothing(path):
    async def scenario(setup):
        loop = asyncio.get_running_loop()
        first = [setup.fallback.publish(a_message(n, hook=f"{n:040x}")) for n in range(10)]
        await asyncio.gather(*first)
        began = loop.time()
        later = [setup.fallback.publish(a_message(n, hook=f"{n:040x}")) for n in range(10, 110)]
        assert await asyncio.gather(*later) == ["spooled"] * 100
        assert loop.time() - began < 0.5
        assert setup.spooled == {"deadline": 10, "silent": 100}
        assert len(setup.live.published) - len([1 for m in setup.live.published if m.hook == f"{0:040x}"]) <= 11

    run(path, scenario, publish_timeout=0.5)


def test_a_probe_of_the_spool_closes_the_breaker(path):
    async def scenario(setup):
        assert await setup.fallback.publish(a_message(1)) == "spooled"
        assert setup.fallback.fault == "it does not answer"
        await until(lambda: len(setup.live.published) == 2)
        assert receipts(setup.live.published) == names(1, 1)
        assert setup.drain.published == []
        setup.live.play(lambda _: None)
        await until_drained(setup)
        assert setup.fallback.fault is None
        assert await setup.fallback.publish(a_message(2)) == "confirmed"

    run(path, scenario, publish_timeout=0.1)


def test_one_slow_queue_is_no_silence(path):
    async def scenario(setup):
        setup.drain.become("down")
        slow = setup.fallback.publish(a_message(1))
        await asyncio.sleep(0.05)
        quick = setup.fallback.publish(a_message(2, hook=OTHER))
        setup.live.answer(index=1)
        assert await quick == "confirmed"
        assert await slow == "spooled"
        again = setup.fallback.publish(a_message(3, hook=OTHER))
        setup.live.answer(index=1)
        assert await again == "confirmed"

    run(path, scenario, publish_timeout=0.2)


def test_when_a_link_turns_out_to_be_silent_nobody_waits_for_it_any_longer(path):
    async def scenario(setup):
        setup.drain.become("down")
        loop = asyncio.get_running_loop()
        first = setup.fallback.publish(a_message(1))
        await asyncio.sleep(0.6)
        began = loop.time()
        later = setup.fallback.publish(a_message(2, hook=OTHER))
        assert await asyncio.gather(first, later) == ["spooled"] * 2
        assert loop.time() - began < 0.9
        assert setup.spooled == {"deadline": 2}

    run(path, scenario, publish_timeout=1)


def test_a_new_connection_is_not_silent(path):
    async def scenario(setup):
        setup.drain.become("down")
        assert await setup.fallback.publish(a_message(1)) == "spooled"
        setup.live.become("down")
        setup.live.play(lambda _: None)
        setup.live.become("up")
        assert await setup.fallback.publish(a_message(2, hook=OTHER)) == "confirmed"

    run(path, scenario, publish_timeout=0.1)


def test_where_the_spool_can_take_nothing_a_delivery_finds_out_whether_a_silent_link_answers(path):
    async def scenario(setup):
        await setup.spool.close()
        with pytest.raises(Unpublished):
            await setup.fallback.publish(a_message(1))
        setup.live.play(lambda _: None)
        assert await setup.fallback.publish(a_message(2)) == "confirmed"

    run(path, scenario, publish_timeout=0.1)


# --- order ----------------------------------------------------------------------------------------------------------


def test_a_hook_is_live_again_when_its_last_spooled_message_is_confirmed(path):
    async def scenario(setup):
        setup.everywhere("down")
        await setup.fallback.publish(a_message(1))
        setup.everywhere("up")
        behind = setup.fallback.publish(a_message(2))
        assert await setup.fallback.publish(a_message(3)) == await behind == "spooled"
        assert setup.live.published == []
        setup.live.play(lambda _: None)
        assert await setup.fallback.publish(a_message(4, hook=OTHER)) == "confirmed"
        setup.drain.play(lambda _: None)
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(1, 2, 3)
        assert await setup.fallback.publish(a_message(5)) == "confirmed"
        assert receipts(setup.live.taken) == names(4, 5)

    run(path, scenario)


def test_the_order_holds_after_a_restart(path):
    async def before(setup):
        setup.everywhere("down")
        await asyncio.gather(*(setup.fallback.publish(a_message(n)) for n in range(3)))

    async def after(setup):
        assert await setup.fallback.publish(a_message(3)) == "spooled"
        assert setup.live.published == []
        setup.drain.play(lambda _: None)
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(0, 1, 2, 3)

    run(path, before)
    run(path, after)


async def almost_drained(setup: Setup) -> None:
    """Have one message of HOOK in flight on its way from the spool, and none behind it."""
    setup.everywhere("down")
    await setup.fallback.publish(a_message(0))
    setup.everywhere("up")
    await until(lambda: setup.drain.waiting)


def test_what_comes_while_the_last_spooled_ones_are_in_flight_waits_for_them(path):
    async def scenario(setup):
        await almost_drained(setup)
        answers = [setup.fallback.publish(a_message(n)) for n in (1, 2, 3)]
        assert setup.fallback.stats.waiting == 3
        assert setup.live.published == []
        setup.drain.answer()
        await until(lambda: len(setup.live.published) == 3)
        setup.live.play(lambda _: None)
        assert await asyncio.gather(*answers) == ["confirmed"] * 3
        assert receipts(setup.live.taken) == names(1, 2, 3)

    run(path, scenario)


def test_what_waits_for_spooled_ones_goes_behind_them_when_they_fail(path):
    async def scenario(setup):
        await almost_drained(setup)
        answers = [setup.fallback.publish(a_message(n)) for n in (1, 2)]
        setup.drain.answer(Nacked("queue full"))
        assert await asyncio.gather(*answers) == ["spooled"] * 2
        assert await setup.fallback.publish(a_message(3)) == "spooled"
        setup.drain.play(lambda _: None)
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(0, 1, 2, 3)

    run(path, scenario)


def test_what_waits_for_spooled_ones_does_so_for_a_moment_only(path):
    async def scenario(setup):
        await almost_drained(setup)
        assert await asyncio.wait_for(setup.fallback.publish(a_message(1)), 5) == "spooled"
        assert len(setup.drain.waiting) == 1
        next_one = setup.fallback.publish(a_message(2))
        assert setup.fallback.stats.waiting == 0  # none waits again so soon
        assert await next_one == "spooled"
        setup.drain.play(lambda _: None)
        await until_drained(setup)
        assert receipts(setup.drain.taken) == names(0, 1, 2)

    run(path, scenario)


def test_a_busy_hook_comes_back_from_the_spool(path):
    """With a delivery each time that the loop turns, one would always be on its way through the spool."""

    async def scenario(setup):
        setup.everywhere("down")
        await asyncio.gather(*(setup.fallback.publish(a_message(n)) for n in range(200)))
        setup.everywhere("up")
        setup.live.play(lambda _: None)
        setup.drain.play(lambda _: None)
        answers = []
        async with asyncio.timeout(30):
            for number in range(200, 1_000_000):
                answers.append(setup.fallback.publish(a_message(number)))
                await asyncio.sleep(0.001)
                if answers[-1].done() and answers[-1].result() == "confirmed":
                    break
        await asyncio.gather(*answers)
        places = receipts(setup.drain.taken) + receipts(setup.live.taken)
        assert places == names(*range(200 + len(answers)))

    run(path, scenario)


# --- the end --------------------------------------------------------------------------------------------------------


def test_close_spools_what_waits_for_spooled_ones(path):
    async def scenario(setup):
        await almost_drained(setup)
        answers = [setup.fallback.publish(a_message(n)) for n in (1, 2)]
        closing = asyncio.ensure_future(setup.fallback.close())
        await asyncio.sleep(0)
        assert setup.fallback.stats.waiting == 0
        assert await asyncio.gather(*answers) == ["spooled"] * 2
        await closing
        assert await setup.held() == names(0, 1, 2)

    run(path, scenario, publish_timeout=0.2)


def test_close_waits_for_the_broker_and_spools_the_rest(path):
    async def scenario(setup):
        setup.drain.become("down")
        answers = [setup.fallback.publish(a_message(n, hook=f"{n:040x}")) for n in range(4)]
        closing = asyncio.ensure_future(setup.fallback.close())
        await asyncio.sleep(0.01)
        setup.live.answer()
        setup.live.answer()
        await closing
        assert [answer.result() for answer in answers] == ["confirmed", "confirmed", "spooled", "spooled"]
        with pytest.raises(Unpublished, match="closed"):
            await setup.fallback.publish(a_message(5))
        assert await setup.held(states=[State.WAITING]) == names(2, 3)

    run(path, scenario, publish_timeout=0.3)
