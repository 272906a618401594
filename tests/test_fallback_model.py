"""Whatever broker and links do, and in whatever order: nothing answered is lost, and no delivery overtakes another."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from harness import PATIENCE
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from links import ScriptedLink
from test_publishers import MIB, a_message, random_body

from webhookd.adapters import drain_order, fallback, handover
from webhookd.adapters.fallback import Fallback
from webhookd.adapters.spool import Spool, State
from webhookd.errors import Nacked, OutcomeUnknown, Unacceptable, Unroutable
from webhookd.model import Message
from webhookd.ports import Durable

HOOKS = ["a" * 40, "b" * 40, "c" * 40]
SIZES = [2, 2, 500, 5000, MIB + 1]
LIMIT = 4000
"""The broker takes no message of so many bytes, but for what goes over the link for large ones."""
QUICK = {"BACKOFF_MIN": 0.005, "BACKOFF_MAX": 0.02}


@dataclass
class Published:
    """One delivery: `began` and `answered` are moments, in the order of what happened."""

    message: Message
    answer: asyncio.Future[Durable]
    began: int
    answered: int | None = None


class Broker(ScriptedLink):
    """One link to a broker that notes, in `log`, every message that it takes, answered or not."""

    def __init__(self, log: list[Message], limited: bool) -> None:
        super().__init__()
        self.log = log
        self.limited = limited

    def answer(self, refusal: Exception | None = None, index: int = 0) -> Message:
        message = self.waiting[index][0]
        if self.limited and len(message.body) >= LIMIT:
            super().answer(Unacceptable("message too large", LIMIT), index)
            self.lose()  # the channel is closed
            return message
        if refusal is None:
            self.log.append(message)
        return super().answer(refusal, index)

    def take_silently(self) -> None:
        """Take what waits, and never say so."""
        self.log += [message for message, _ in self.waiting if not (self.limited and len(message.body) >= LIMIT)]
        self.lose()

    def lose(self) -> None:
        lost, self.waiting = self.waiting, []
        for _, future in lost:
            if not future.done():
                future.set_exception(OutcomeUnknown("lost"))


class FallbackMachine(RuleBasedStateMachine):
    """A Fallback on a real spool; the broker, the links and the operator are the test."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="webhookd-model-"))
        self.patch = mock.patch.multiple(drain_order, **QUICK)
        self.patch.start()
        self.patch_hold = mock.patch.multiple(handover, HOLD=0.01, PAUSE=0.02)
        self.patch_hold.start()
        self.patch_timeouts = mock.patch.multiple(fallback, DRAIN_TIMEOUT=0.05, LARGE_TIMEOUT=0.1)
        self.patch_timeouts.start()
        self.runner = asyncio.Runner()
        self.numbers = itertools.count()
        self.moments = itertools.count()
        self.log: list[Message] = []
        self.published: list[Published] = []
        self.returned: set[str] = set()
        """Hooks of which a message was unroutable: their order is not promised."""
        self.dropped = False
        self.spool: Spool
        self.fallback: Fallback
        self.links: tuple[Broker, ...] = ()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(asyncio.wait_for(work, 120))

    @initialize()
    def begin(self) -> None:
        self.run(self.open())

    async def open(self) -> None:
        self.spool = await Spool.open(self.folder / "spool.db", max_bytes=256 * MIB, retention=1e9, keep=False)
        self.links = (Broker(self.log, True), Broker(self.log, False), Broker(self.log, True))
        live, large, drain = self.links
        self.fallback = await Fallback.open(self.spool, live, large, drain, publish_timeout=0.05, publish_window=4)

    @rule(sizes=st.lists(st.tuples(st.sampled_from(HOOKS), st.sampled_from(SIZES)), min_size=1, max_size=6))
    def publish(self, sizes: list[tuple[str, int]]) -> None:
        async def work() -> None:
            for hook, size in sizes:
                number = next(self.numbers)
                message = a_message(number, random_body(number, size), hook=hook)
                one = Published(message, self.fallback.publish(message), next(self.moments))
                one.answer.add_done_callback(lambda _, one=one: setattr(one, "answered", next(self.moments)))
                self.published.append(one)

        self.run(work())

    @rule(seconds=st.sampled_from([0.0, 0.002, 0.01, 0.06]))
    def let_time_pass(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(link=st.integers(0, 2), answers=st.integers(1, 5))
    def confirm(self, link: int, answers: int) -> None:
        async def work() -> None:
            for _ in range(answers):
                if self.links[link].waiting and self.links[link].state == "up":
                    self.links[link].answer()
                    await asyncio.sleep(0.001)

        self.run(work())

    @rule(link=st.integers(0, 2), unroutable=st.booleans())
    def refuse(self, link: int, unroutable: bool) -> None:
        """Refuse everything that waits, as a full queue or a missing one does."""

        async def work() -> None:
            broker = self.links[link]
            while broker.waiting and broker.state == "up":
                refused = broker.answer(Unroutable("no queue") if unroutable else Nacked("queue full"))
                if unroutable:
                    self.returned.add(refused.hook)

        self.run(work())

    @rule(link=st.integers(0, 2), taken=st.booleans())
    def lose(self, link: int, taken: bool) -> None:
        async def work() -> None:
            if taken:
                self.links[link].take_silently()
            else:
                self.links[link].lose()

        self.run(work())

    @rule(link=st.integers(0, 2), state=st.sampled_from(["up", "up", "blocked", "down"]))
    def become(self, link: int, state: Any) -> None:
        async def work() -> None:
            self.links[link].become(state)

        self.run(work())

    @rule(link=st.integers(0, 2), on=st.booleans())
    def answer_by_itself(self, link: int, on: bool) -> None:
        async def work() -> None:
            self.links[link].play((lambda _: None) if on else None)

        self.run(work())

    @rule()
    def retry(self) -> None:
        self.run(self.spool.retry())

    @rule()
    def drop_what_is_set_aside(self) -> None:
        self.run(self.spool.drop(states=[State.SET_ASIDE]))
        self.dropped = True

    @rule()
    def restart(self) -> None:
        async def work() -> None:
            await self.fallback.close()
            assert all(one.answer.done() for one in self.published)
            await self.spool.close()
            await self.open()

        self.run(work())

    @invariant()
    def nothing_answered_is_lost(self) -> None:
        if not self.links:
            return
        taken = {message.receipt for message in self.log}
        large = {one.message.receipt for one in self.published if len(one.message.body) >= LIMIT}
        told = {one.message.receipt for one in self.published if one.answered is not None}
        held = {entry.receipt for entry in self.run(self.spool.entries(limit=100_000))}
        assert told <= taken | held | (large if self.dropped else set())

    def firsts(self) -> Iterator[tuple[Published, int]]:
        """Yield each delivery whose order is promised, with its place in the broker's log."""
        places: dict[str, int] = {}
        for place, message in enumerate(self.log):
            places.setdefault(message.receipt, place)
        for one in self.published:
            if one.message.hook not in self.returned and one.message.receipt in places:
                yield one, places[one.message.receipt]

    @invariant()
    def nothing_overtakes(self) -> None:
        """What came after the answer to an earlier delivery of its hook is first published after it."""
        for hook in HOOKS:
            mine = [(one, place) for one, place in self.firsts() if one.message.hook == hook]
            small = [(one, place) for one, place in mine if len(one.message.body) < LIMIT]
            for (earlier, first), (later, second) in itertools.product(small, small):
                if earlier.answered is not None and earlier.answered < later.began:
                    assert first < second

    def teardown(self) -> None:
        try:
            if self.links:
                self.run(self.heal())
                self.nothing_answered_is_lost()
                self.nothing_overtakes()
                self.run(self.spool.close())
        finally:
            self.runner.close()
            self.patch.stop()
            self.patch_timeouts.stop()
            self.patch_hold.stop()
            shutil.rmtree(self.folder)

    async def heal(self) -> None:
        for link in self.links:
            link.become("up")
            link.play(lambda _: None)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(one.answer for one in self.published))
            await asyncio.sleep(0.01)  # for what an operator has just changed to be seen
            while self.fallback.stats.hooks_behind:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await self.fallback.close()
        left = await self.spool.entries(limit=100_000)
        assert {entry.state for entry in left} <= {State.SET_ASIDE}
        assert all(entry.bytes >= LIMIT for entry in left)


TestFallbackModel = FallbackMachine.TestCase
TestFallbackModel.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
