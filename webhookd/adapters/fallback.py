"""A Publisher that is done once the broker has a message, or else the spool, which is drained to it in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any, Self

import msgspec

from webhookd.adapters.breaker import Breaker
from webhookd.adapters.drain import MIB, Drain, Lanes
from webhookd.adapters.drain_pace import Pace
from webhookd.adapters.handover import Handover
from webhookd.adapters.lane import DeadlineMissed, Lane
from webhookd.adapters.lines import Line, Lines
from webhookd.adapters.refusals import Refusals
from webhookd.adapters.spool import Spool, SpoolError
from webhookd.errors import Nacked, OutcomeUnknown, Unacceptable, Unpublished, Unroutable
from webhookd.model import Message
from webhookd.ports import Answer, Link, LinkState, Publisher

DRAIN_TIMEOUT = 10.0
"""Seconds that a message of the spool waits for its answer: nobody waits for it, and it would be published twice."""
LARGE_TIMEOUT = 60.0
REASONS: tuple[tuple[type[Unpublished], str], ...] = (
    (DeadlineMissed, "deadline"),
    (Nacked, "nacked"),
    (Unroutable, "returned"),
    (Unacceptable, "refused"),
)
"""Why a message that the broker was tried with went to the spool, where it was not for the link."""
STOPPED = "the publisher is closed"


class FallbackStats(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a Fallback did so far, and how it stands.

    `spooled` is by reason. `waiting`: messages that wait for the broker now. `hooks_behind`: hooks with messages in
    the spool; `hooks_unroutable`: those of them whose oldest message no queue takes. `repeated`: messages that were
    sent to the broker again after an unknown outcome.
    """

    confirmed: int
    spooled: dict[str, int]
    drained: int
    repeated: int
    set_aside: int
    waiting: int
    hooks_behind: int
    hooks_unroutable: int


class Fallback(Publisher):
    """The broker over three links, and the spool. It closes none of them."""

    def __init__(
        self, spool: Spool, live: Link, large: Link, drain: Link, *, publish_timeout: float, publish_window: int
    ) -> None:
        self.confirmed = 0
        self._spool = spool
        self._links = (live, large, drain)
        self._timeout = publish_timeout
        self._window = publish_window
        self._loop = asyncio.get_running_loop()
        self._handover: Handover[Answer] = Handover(self._route, partial(self._spool_it, "order"))
        self._lines = Lines(self._handover.emptied)
        self._refusals = Refusals()
        self._spooled: Counter[str] = Counter()
        self._large_hooks: Counter[str] = Counter()
        self._pending = 0
        self._idle: asyncio.Future[None] | None = None
        self._recount: asyncio.Task[None] | None = None
        self._closed = False
        self._breakers = breakers = {
            link: Breaker(name) for link, name in zip(self._links, ("live", "large", "drain"), strict=True)
        }
        self._live: Lane[Answer] = Lane(live, breakers[live], publish_timeout, self._heard)
        self._large: Lane[Answer] = Lane(large, breakers[large], publish_timeout, self._heard_large)
        pace = Pace(lambda: self.confirmed, self._spooled.total)
        self._drain = Drain(spool, self._lines, self._refusals, pace, self._handover.stalled)
        self._drain.lanes = Lanes(
            Lane(drain, breakers[drain], max(DRAIN_TIMEOUT, publish_timeout), self._drain.heard),
            Lane(large, breakers[large], max(LARGE_TIMEOUT, publish_timeout), self._drain.heard),
            Lane(live, breakers[live], max(DRAIN_TIMEOUT, publish_timeout), self._drain.heard),
        )
        for link in self._links:
            link.on_change(partial(self._changed, link))

    @classmethod
    async def open(
        cls, spool: Spool, live: Link, large: Link, drain: Link, *, publish_timeout: float, publish_window: int
    ) -> Self:
        """Begin with what an earlier run has left in the spool.

        `live` is for bodies up to 1 MiB, `large` for larger ones, `drain` for what the spool holds. A delivery waits
        `publish_timeout` seconds for the broker, and at most `publish_window` of them do.
        """
        fallback = cls(spool, live, large, drain, publish_timeout=publish_timeout, publish_window=publish_window)
        spool.on_change = fallback._spool_changed
        try:
            await fallback._drain.load()
        except SpoolError:
            fallback._spool_changed()
        return fallback

    @property
    def state(self) -> LinkState:
        """That of the worst link; one that does not answer is down."""
        if any(breaker.open for breaker in self._breakers.values()):
            return "down"
        return self._worst()

    @property
    def fault(self) -> str | None:
        """Why `state` is what it is, in words for an operator; None where it is up."""
        state = self.state
        faults = [link.fault for link in self._links if link.state == state]
        return None if state == "up" else next((fault for fault in faults if fault), "it does not answer")

    @property
    def stats(self) -> FallbackStats:
        """The numbers as of now."""
        drain = self._drain
        return FallbackStats(
            confirmed=self.confirmed,
            spooled=dict(self._spooled),
            drained=drain.drained,
            repeated=drain.repeated,
            set_aside=drain.set_aside,
            waiting=self._waiting,
            hooks_behind=len(self._lines),
            hooks_unroutable=sum(line.fault is Unroutable for line in self._lines.values()),
        )

    def send(self, message: Message, answer: Answer) -> None:
        """As the port promises; told within `publish_timeout`, HOLD, and a commit of the spool."""
        if self._closed:
            answer.set_exception(Unpublished(STOPPED))
        else:
            self._route(message, answer)

    async def close(self) -> None:
        """Answer everything: by the broker until its deadline, by the spool otherwise."""
        if self._closed:
            return
        self._closed = True
        if self._recount is not None:
            self._recount.cancel()
        self._handover.close()
        self._idle = self._loop.create_future()
        self._settle_idle()
        await asyncio.gather(self._drain.close(self._timeout), self._idle)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _route(self, message: Message, answer: Answer) -> None:
        """Try the broker, if nothing speaks against it."""
        hook, size = message.hook, len(message.body)
        live, large = self._live, self._large
        lane = large if size > MIB or hook in self._large_hooks else live
        if (
            hook in self._lines
            or lane.down
            or lane.breaker.open
            or live.waiting + large.waiting + self._handover.waiting >= self._window
            or size >= self._refusals.limit
        ):
            self._pass_by(message, answer, lane)
            return
        if lane is large:
            self._large_hooks[hook] += 1
        lane.publish(message, answer)

    @property
    def _waiting(self) -> int:
        return self._live.waiting + self._large.waiting + self._handover.waiting

    def _pass_by(self, message: Message, answer: Answer, lane: Lane[Answer]) -> None:
        """Take a message that the broker is not to be tried with."""
        line = self._lines.get(message.hook)
        if line is not None:
            soon = lane.shut is None and self._drain.able and self._waiting < self._window
            if soon and self._handover.takes(line):
                self._handover.hold(line, message, answer)
            else:
                self._handover.stalled(line)
                self._spool_it("order", message, answer)
        elif len(message.body) >= self._refusals.limit:
            self._spool_it("size", message, answer)
        else:
            self._spool_it(lane.shut or "window", message, answer)

    def _heard(self, answer: Answer, message: Message, error: Unpublished | None) -> None:
        """Take the broker's answer."""
        if error is None:
            self.confirmed += 1
            if not answer.done():
                answer.set_result("confirmed")
            if self._idle is not None:
                self._settle_idle()
            return
        if isinstance(error, Unacceptable):
            self._refusals.note(message, error)
        elif isinstance(error, Nacked):
            self._drain.nacked()
        self._spool_it(self._reason(error), message, answer)

    def _reason(self, error: Unpublished) -> str:
        for kind, reason in REASONS:
            if isinstance(error, kind):
                return reason
        state = self._worst()
        return "unknown" if state == "up" else state

    def _worst(self) -> LinkState:
        """Return the state of the link that is worst off."""
        states = {link.state for link in self._links}
        return "down" if "down" in states else "blocked" if "blocked" in states else "up"

    def _heard_large(self, answer: Answer, message: Message, error: Unpublished | None) -> None:
        hook = message.hook
        self._large_hooks[hook] -= 1
        if not self._large_hooks[hook]:
            del self._large_hooks[hook]
        self._heard(answer, message, error)

    def _spool_it(self, reason: str, message: Message, answer: Answer) -> None:
        self._spooled[reason] += 1
        line = self._lines.hand(message.hook)
        self._pending += 1
        self._spool.publish(message).add_done_callback(partial(self._stored, line, answer))

    def _stored(self, line: Line, answer: Answer, stored: asyncio.Future[Any]) -> None:
        """Take the spool's answer, and pass it on."""
        self._pending -= 1
        error = Unpublished("the spool gave it up") if stored.cancelled() else stored.exception()
        self._lines.stored(line, taken=error is None)
        self._drain.stored(line)
        if error is not None and not self._lines:
            self._let_probe()
        if not answer.done():
            if error is None:
                answer.set_result("spooled")
            else:
                answer.set_exception(error)
        if self._idle is not None:
            self._settle_idle()

    def _let_probe(self) -> None:
        """Let deliveries find out whether a silent link answers again: there is nothing in the spool to do it with."""
        for lane in (self._live, self._large):
            lane.breaker.reset()

    def _changed(self, link: Link) -> None:
        """Have what waits on a link that is not up any more spooled at once, and go on with one that is up again."""
        state = link.state
        for lane in (self._live, self._large):
            if lane.link is link:
                lane.down = state != "up"
                if lane.down:
                    lane.fall(_cut(state))
        for attempts in self._drain.lanes:  # what a blocked broker has in its buffers it takes later: no second copy
            if attempts.link is link and state == "down":
                attempts.fall(_cut(state))
        if state == "up":
            self._breakers[link].reset()
            self._drain.link_up()

    def _spool_changed(self) -> None:
        """Look at the spool again: an operator has dropped or retried messages, say."""
        if self._closed:
            return
        if self._recount is None or self._recount.done():
            self._recount = self._loop.create_task(self._drain.recount())

    def _in_work(self) -> bool:
        return bool(self._waiting or self._pending)

    def _settle_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self._in_work():
            self._idle.set_result(None)


def _cut(state: LinkState) -> Unpublished:
    return OutcomeUnknown(f"the broker was {state} before it answered")
