"""Publishes what the spool holds, in the background: each message until the broker has it, those of a hook in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from webhookd.adapters.drain_order import RETRIES, TURNS, Order
from webhookd.adapters.drain_pace import Pace
from webhookd.adapters.drain_records import RETRY, Records
from webhookd.adapters.drain_turn import Attempt, Turn
from webhookd.adapters.lane import Lane
from webhookd.adapters.lines import Line, Lines, Place
from webhookd.adapters.refusals import Refusals
from webhookd.adapters.spool import Entry, Spool, SpoolError, State
from webhookd.errors import Nacked, NotSent, OutcomeUnknown, Unacceptable, Unpublished, Unroutable
from webhookd.model import Message

MIB = 1 << 20
WINDOW = 256
"""Messages that are in flight at a time of all hooks that are drained, but for one of each."""
QUANTUM = 512
"""Messages of one turn while other hooks wait for theirs."""
CAREFUL = 30.0
"""Seconds after a nack in which no hook has two messages in flight."""
log = structlog.get_logger(__name__)


class Lanes(NamedTuple):
    """The ways to the broker: `drain` for all but large messages; `probe` is the live link, while that is silent."""

    drain: Lane[Attempt]
    large: Lane[Attempt]
    probe: Lane[Attempt]


class Drain:
    """Empties `lines`; `stalled` is called with each that has to wait."""

    def __init__(
        self, spool: Spool, lines: Lines, refusals: Refusals, pace: Pace, stalled: Callable[[Line], None]
    ) -> None:
        self.drained = 0
        self.repeated = 0
        """Messages that are tried again though the broker may have them already."""
        self.set_aside = 0
        self.lanes: Lanes
        self._spool = spool
        self._lines = lines
        self._refusals = refusals
        self._pace = pace
        self._stalled = stalled
        self._loop = asyncio.get_running_loop()
        self._order = Order(self._begin, self._may)
        self._records = Records(spool, self._order.pump)
        self._turns: dict[asyncio.Task[None], Turn] = {}
        self._careful_until = 0.0
        self._closing = False
        self._readable = True
        self._told = 0

    @property
    def able(self) -> bool:
        """Whether the drain goes on as it should."""
        return self._may() > 1

    # --- told by the owner ----------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Learn what an earlier run has left, oldest first; raises SpoolError."""
        left = await self._spool.hooks_waiting()
        for entry in await self._spool.next_waiting():
            line = self._lines.found(entry.hook)
            line.left = left.get(entry.hook, 1)
            line.counted = entry.hook in left
            self.stored(line)

    def stored(self, line: Line) -> None:
        """Note that there may be messages of the line on disk."""
        if line.place is Place.NOWHERE and self._lines.get(line.hook) is line:
            self._order.ready(line)
            self._order.pump()

    def nacked(self) -> None:
        """Note that the broker could not take a message: it may take the next one, so there must be none in flight."""
        self._careful_until = self._loop.time() + CAREFUL

    def link_up(self) -> None:
        """Note that a link has come back: what stalled for want of it goes on."""
        self._order.rouse(lambda line: line.fault is not None and issubclass(line.fault, NotSent | OutcomeUnknown))
        self._order.pump()

    async def recount(self) -> None:
        """Find out which hooks have messages in the spool, as soon as it can be read: others may have changed it."""
        while True:
            try:
                hooks = await self._spool.hooks_waiting()
                break
            except SpoolError as error:
                self._unreadable(error)
                await asyncio.sleep(RETRY)
        self._refusals.forget_limit()
        for hook in {*hooks, *self._lines}:
            self.stored(self._lines.found(hook))
        self._order.rouse(lambda _: True)
        self._order.pump()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 (what is in flight after it is let go)
        """Begin nothing more, and wait `timeout` seconds for what is in flight."""
        self._closing = True
        self._order.close()
        for turn in self._turns.values():
            turn.over = True
        if self._turns:
            await asyncio.wait(self._turns, timeout=timeout)
        for lane in self.lanes:
            lane.fall(OutcomeUnknown("the daemon is stopping"))
        if self._turns:
            await asyncio.wait(self._turns)
        await self._records.close()

    # --- turns ----------------------------------------------------------------------------------------------------

    def _may(self) -> int:
        """Return how many turns may be in work at a time."""
        if self._closing or self._records.failing or self.lanes.drain.link.state != "up":
            return 0
        return 1 if self.lanes.drain.breaker.open else TURNS + RETRIES + 1

    def _begin(self, line: Line, retry: bool) -> None:
        turn = Turn(line, self._spool, self._lines, self._records, self, retry=retry)
        task = self._loop.create_task(self._run(turn))
        self._turns[task] = turn
        task.add_done_callback(self._turns.pop)

    async def _run(self, turn: Turn) -> None:
        line = turn.line
        failed: type[Exception] | None = None
        if self._lines.get(line.hook) is line:
            try:
                await turn.run()
                self._readable = True
            except SpoolError as error:
                self._unreadable(error)
                failed = SpoolError
            except Exception as error:
                log.exception("drain of a hook")
                failed = type(error)
                line.rewind = True
            if turn.failures:
                failed = self._judge(turn)
        self._order.ended(retry=turn.retry, large=turn.large)
        self._place(turn, failed)
        self._order.pump()

    def _unreadable(self, error: SpoolError) -> None:
        if self._readable:
            log.error("spool cannot be read: its drain waits", reason=str(error))
        self._readable = False

    def _place(self, turn: Turn, failed: type[Exception] | None) -> None:
        line = turn.line
        line.fault = failed
        line.place = Place.NOWHERE
        if self._lines.get(line.hook) is not line:
            if not self._lines and self.drained > self._told:
                log.info("spool drained", messages=self.drained - self._told)
                self._told = self.drained
            return
        if turn.failures:
            line.large = turn.failures[0][0].bytes > MIB
        elif turn.exhausted:
            line.large = False
        if failed is not None:
            line.window = 1
            self._stalled(line)
            self._order.stall(line)
        elif line.left > line.pending or not (line.counted or (turn.exhausted and line.pending)):
            self._order.ready(line)

    def _judge(self, turn: Turn) -> type[Exception]:
        """Note what stands against the oldest message that failed, and return its kind; the others were never tried."""
        entry, error = turn.failures[0]
        self.repeated += sum(isinstance(error, OutcomeUnknown) for _, error in turn.failures)
        if isinstance(error, Unroutable):
            if entry.state is not State.UNROUTABLE:
                log.warning("no queue takes what a hook publishes", routing_key=entry.message.routing_key)
            self._records.mark(entry.seq, State.UNROUTABLE, str(error))
        elif not isinstance(error, NotSent):
            self._records.mark(entry.seq, State.WAITING, str(error))
        if any(isinstance(error, Nacked) for _, error in turn.failures):
            self.nacked()
        return type(error)

    # --- one message ----------------------------------------------------------------------------------------------

    def settled(self, turn: Turn, entry: Entry) -> bool:
        """Pass over what is damaged, and set aside what is as large as what the broker has refused."""
        if entry.body is None:
            self._lines.gone(turn.line)
            return True
        limit = self._refusals.limit
        if entry.bytes < limit:
            return False
        self._records.taken.add(entry.seq)
        self._set_aside(turn, entry, f"{entry.bytes} bytes: the broker takes none of {limit} or more")
        return True

    def pick(self, turn: Turn, entry: Entry) -> tuple[Lane[Attempt], int] | None:
        """Choose the lane; a link that is silent gets one message, alone, to see whether it answers again."""
        if self._closing or self._records.failing:
            return None
        drain, large, probe = self.lanes
        turn.line.large = entry.bytes > MIB
        if turn.published >= (1 if turn.large else QUANTUM):
            return None
        if turn.line.large:
            return (large, 1) if turn.large and not large.waiting else None
        if probe.breaker.open and not probe.waiting and probe.link.state == "up":
            return probe, 1
        careful = drain.breaker.open or self._careful_until > self._loop.time()
        return drain, 1 if careful else min(turn.line.window, max(1, WINDOW // self._order.active))

    async def pace(self) -> None:
        """Spread what is published evenly over all turns."""
        await self._pace.take()

    def heard(self, attempt: Attempt, message: Message, error: Unpublished | None) -> None:
        """Take the answer for one message."""
        turn, entry = attempt.turn, attempt.entry
        line = turn.line
        if error is None:
            self.drained += 1
            self._records.confirmed(entry.seq)
            line.window = min(WINDOW, line.window + 1)
            line.delay = 0.0
            line.fault = None
            self._lines.gone(line)
        elif isinstance(error, Unacceptable) and self._refusals.note(message, error):
            line.window = 1
            self._set_aside(turn, entry, f"refused twice: {error}")
        else:
            turn.failed(entry, error)
        turn.heard(entry)

    def _set_aside(self, turn: Turn, entry: Entry, reason: str) -> None:
        log.error("message set aside", receipt=entry.receipt, routing_key=entry.message.routing_key, reason=reason)
        self.set_aside += 1
        self._records.mark(entry.seq, State.SET_ASIDE, reason)
        self._lines.gone(turn.line)
