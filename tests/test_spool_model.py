"""The spool does what a list of messages would do, in whatever order it is told to."""

import asyncio
import contextlib
import itertools
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_publishers import MIB, a_message, random_body

from webhookd.adapters.spool import Spool, State
from webhookd.errors import ShareExceeded, Unpublished

HOOKS = {"a" * 40: "t1", "b" * 40: "t1", "c" * 40: "t2"}
SIZES = [0, 3, 900, 8150, 20_000, 33_000, 120_000]
RETENTION = 1000.0
SHARE = 0.5


@dataclass
class Held:
    """What the model knows of one message."""

    receipt: str
    hook: str
    size: int
    received_at: int
    state: State
    attempts: int = 0
    reason: str | None = None
    seq: int = 0


class SpoolMachine(RuleBasedStateMachine):
    """A bounded spool of 1 MiB against a list; places are compared by order, bodies by their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="webhookd-model-"))
        self.loop = asyncio.Runner()
        self.clock = 1_700_000_000.0
        self.numbers = itertools.count()
        self.held: list[Held] = []
        self.last_seq = 0
        self.spool: Spool

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(asyncio.wait_for(work, 30))

    @initialize(keep=st.booleans())
    def begin(self, keep: bool) -> None:
        self.open(keep)

    def open(self, keep: bool) -> None:
        self.keep = keep
        self.spool = self.run(
            Spool.open(
                self.folder / "spool.db",
                max_bytes=MIB,
                retention=RETENTION,
                keep=keep,
                share=lambda: SHARE,
                now=lambda: self.clock,
            )
        )

    @rule(sizes=st.lists(st.tuples(st.sampled_from(sorted(HOOKS)), st.sampled_from(SIZES)), min_size=1, max_size=6))
    def publish(self, sizes: list[tuple[str, int]]) -> None:
        messages = []
        for hook, size in sizes:
            number = next(self.numbers)
            fields = {"hook": hook, "tenant": HOOKS[hook], "received_at": int(self.clock * 1000) + number}
            messages.append(a_message(number, random_body(number, size), **fields))

        async def work() -> list[BaseException | None]:
            return await asyncio.gather(*map(self.spool.publish, messages), return_exceptions=True)

        state = State.KEPT if self.keep else State.WAITING
        for message, outcome in zip(messages, self.run(work()), strict=True):
            if outcome == "spooled":
                self.held.append(Held(message.receipt, message.hook, len(message.body), message.received_at, state))
                continue
            assert isinstance(outcome, Unpublished)
            mine = sum(held.size for held in self.held if HOOKS[held.hook] == message.tenant)
            if isinstance(outcome, ShareExceeded):
                assert mine + len(message.body) + 9000 * (1 + len(self.held)) > SHARE * MIB
            else:
                everything = sum(held.size for held in self.held)
                assert everything + len(message.body) + 9000 * (1 + len(self.held)) > MIB * 0.5

    def some(self, data: st.DataObject) -> list[Held]:
        return data.draw(st.lists(st.sampled_from(self.held), min_size=1, max_size=5, unique_by=lambda held: held.seq))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), repeat=st.booleans())
    def confirm(self, data: st.DataObject, repeat: bool) -> None:
        chosen = self.some(data)
        seqs = [held.seq for held in chosen]
        assert self.run(self.spool.confirm(seqs)) == len(seqs)
        self.held = [held for held in self.held if held not in chosen]
        if repeat:
            assert self.run(self.spool.confirm(seqs)) == 0

    @precondition(lambda self: self.held)
    @rule(data=st.data(), state=st.sampled_from([State.UNROUTABLE, State.SET_ASIDE]))
    def mark(self, data: st.DataObject, state: State) -> None:
        chosen = self.some(data)
        assert self.run(self.spool.mark([held.seq for held in chosen], state, f"it is {state}")) == len(chosen)
        for held in chosen:
            held.state, held.reason, held.attempts = state, f"it is {state}", held.attempts + 1

    @rule(data=st.data(), some=st.booleans())
    def retry(self, data: st.DataObject, some: bool) -> None:
        wanted = {held.receipt for held in self.some(data)} if some and self.held else None
        chosen = [
            held
            for held in self.held
            if held.state in {State.UNROUTABLE, State.SET_ASIDE} and (wanted is None or held.receipt in wanted)
        ]
        assert self.run(self.spool.retry(wanted)) == len(chosen)
        for held in chosen:
            held.state, held.reason, held.attempts = State.WAITING, None, 0

    @rule(states=st.sets(st.sampled_from(list(State)), min_size=1), age=st.sampled_from([None, 0.0, 300.0]))
    def drop(self, states: set[State], age: float | None) -> None:
        before = None if age is None else (self.clock - age) * 1000
        gone = [held for held in self.held if held.state in states and (before is None or held.received_at < before)]
        assert self.run(self.spool.drop(states=states, older_than=age)) == len(gone)
        self.held = [held for held in self.held if held not in gone]

    @rule(seconds=st.sampled_from([1.0, 290.0, 1001.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass; what is due to expire is expired when the file is opened."""
        self.clock += seconds
        self.reopen(self.keep)
        cutoff = (self.clock - RETENTION) * 1000
        self.held = [held for held in self.held if held.state is not State.KEPT or held.received_at > cutoff]

        async def settled() -> None:
            async with asyncio.timeout(10):
                left = sum(held.state is State.KEPT for held in self.held)
                while self.spool.stats.messages[State.KEPT] != left:  # noqa: ASYNC110 - it happens in another thread
                    await asyncio.sleep(0.005)

        self.run(settled())

    @rule(keep=st.booleans())
    def reopen(self, keep: bool) -> None:
        self.run(self.spool.close())
        self.open(keep)

    @invariant()
    def holds_the_same(self) -> None:
        if not hasattr(self, "spool"):
            return
        found = self.run(self.spool.entries(limit=10_000, bodies=True, max_bytes=64 * MIB))
        by_receipt = {entry.receipt: entry for entry in found}
        assert sorted(by_receipt) == sorted(held.receipt for held in self.held)
        assert len(found) == len(by_receipt)
        for held in self.held:
            entry = by_receipt[held.receipt]
            number = int(held.receipt[-12:], 16)
            assert (entry.state, entry.attempts, entry.reason) == (held.state, held.attempts, held.reason)
            assert (entry.hook, entry.received_at, entry.bytes) == (held.hook, held.received_at, held.size)
            assert entry.body == random_body(number, held.size)
            assert held.seq in {0, entry.seq}
            assert held.seq or entry.seq > self.last_seq
            held.seq = entry.seq
        self.last_seq = max([self.last_seq, *(entry.seq for entry in found)])
        for hook in HOOKS:
            seqs = [held.seq for held in self.held if held.hook == hook]
            assert seqs == sorted(seqs)

    @invariant()
    def counts_the_same(self) -> None:
        if not hasattr(self, "spool"):
            return
        stats = self.spool.stats
        assert stats.messages == {state: sum(held.state is state for held in self.held) for state in State}
        assert stats.bytes <= MIB
        assert stats.failing is None
        assert stats.damaged == ()
        first = [
            next(
                held.receipt
                for held in self.held
                if held.hook == hook and held.state in {State.WAITING, State.UNROUTABLE}
            )
            for hook in HOOKS
            if any(held.hook == hook and held.state in {State.WAITING, State.UNROUTABLE} for held in self.held)
        ]
        assert sorted(entry.receipt for entry in self.run(self.spool.next_waiting())) == sorted(first)
        in_lines = Counter(held.hook for held in self.held if held.state in {State.WAITING, State.UNROUTABLE})
        assert self.run(self.spool.hooks_waiting()) == in_lines
        with closing(sqlite3.connect(self.folder / "spool.db")) as db:
            rows = {token for (token,) in db.execute("SELECT token FROM hook")}
        assert rows == {held.hook for held in self.held}

    def teardown(self) -> None:
        with contextlib.suppress(AttributeError):
            self.run(self.spool.close())
        self.loop.close()
        shutil.rmtree(self.folder)


TestSpoolModel = SpoolMachine.TestCase
TestSpoolModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
