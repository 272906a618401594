"""Changes of messages that are in the spool: each a row of short steps, so that new messages need not wait for all."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from webhookd.adapters.spool_layout import State
from webhookd.adapters.spool_rows import Allowance, Place, Rows
from webhookd.adapters.spool_schema import Damaged

Step = Callable[[Rows, int, Allowance], tuple[int, int | None]]
"""(rows, behind which place, what is allowed) -> (messages changed, behind which place to go on or None at the end)."""
Outcome = list[tuple[asyncio.Future[Any], Any]]
"""Futures, each with its result or exception."""


class Job:
    """A change on its way: `future` gets the number of messages that it changed."""

    __slots__ = ("behind", "changed", "future", "step")

    def __init__(self, step: Step, future: asyncio.Future[Any]) -> None:
        self.step = step
        self.future = future
        self.behind = 0
        self.changed = 0


class Jobs:
    """The jobs that are queued, and what expires meanwhile; what a transaction does of them counts once it is over."""

    def __init__(self, expiry: Expiry) -> None:
        self.expiry = expiry
        self.resting = False
        """Whether what nobody waits for is left alone until there is another look at the file."""
        self._queue: deque[Job] = deque()
        self._stepped: list[tuple[Job, int, int | None]] = []

    def __bool__(self) -> bool:
        """Whether somebody waits for a job."""
        return bool(self._queue)

    def put(self, job: Job) -> None:
        """Queue a job, from any thread."""
        self._queue.append(job)

    def due(self, rows: Rows) -> bool:
        """Whether there is anything to do."""
        return bool(self._queue or (not self.resting and (self.expiry.due or rows.doomed)))

    def step(self, rows: Rows, allowance: Allowance) -> None:
        """Do, in a transaction, as much as is allowed."""
        self._stepped = []
        rows.clear_doomed(allowance)
        for job in tuple(self._queue):
            if allowance.spent:
                return
            changed, behind = job.step(rows, job.behind, allowance)
            self._stepped.append((job, changed, behind))
            if behind is not None:
                return
        if self.expiry.due and not allowance.spent:
            self.expiry.step(rows, allowance)

    def committed(self) -> Outcome:
        """Keep what the last steps did; return the outcome of the jobs that are done."""
        outcome: Outcome = []
        for job, changed, behind in self._stepped:
            job.changed += changed
            if behind is None:
                outcome.append((job.future, job.changed))
                self._queue.popleft()
            else:
                job.behind = behind
        self._stepped = []
        self.expiry.committed()
        return outcome

    def fail(self, error: Exception) -> Outcome:
        """Give up all jobs; return their outcome."""
        outcome: Outcome = []
        while self._queue:
            outcome.append((self._queue.popleft().future, error))
        return outcome


def deleting(seqs: Collection[int]) -> Step:
    """Delete these messages."""
    chosen = sorted(seqs)

    def step(rows: Rows, behind: int, allowance: Allowance) -> tuple[int, int | None]:
        return rows.delete(chosen[bisect_right(chosen, behind) :], allowance)

    return step


def marking(seqs: Collection[int], state: State, reason: str | None) -> Step:
    """Give these messages a state and a reason, and count an attempt; the state alone where there is no room."""
    chosen = sorted(seqs)

    def step(rows: Rows, behind: int, allowance: Allowance) -> tuple[int, int | None]:
        start = bisect_right(chosen, behind)
        piece = chosen[start : start + allowance.changes]
        allowance.spend(len(piece))
        changed = rows.mark_only(piece, state) if allowance.frugal else rows.mark(piece, state, reason, tried=True)
        return changed, piece[-1] if start + len(piece) < len(chosen) else None

    return step


def retrying(receipts: Collection[str] | None) -> Step:
    """Let messages that are set aside or unroutable wait again, as if they had not been tried."""

    def fits(place: Place) -> bool:
        return place.state in {State.UNROUTABLE, State.SET_ASIDE} and (receipts is None or place.receipt in receipts)

    def step(rows: Rows, behind: int, allowance: Allowance) -> tuple[int, int | None]:
        chosen, end = _search(rows, behind, allowance, fits)
        piece = chosen[: allowance.changes]
        allowance.spend(len(piece))
        changed = rows.mark(piece, State.WAITING, None, tried=False)
        return changed, piece[-1] if len(piece) < len(chosen) else end

    return step


def dropping(states: Collection[State], received_before: float | None, receipts: Collection[str] | None) -> Step:
    """Delete messages by state, time of receipt (ms since the epoch) and receipt, as far as each is given."""

    def fits(place: Place) -> bool:
        return (
            place.state in states
            and (received_before is None or place.received_at < received_before)
            and (receipts is None or place.receipt in receipts)
        )

    def step(rows: Rows, behind: int, allowance: Allowance) -> tuple[int, int | None]:
        chosen, end = _search(rows, behind, allowance, fits)
        if not chosen:
            return 0, end
        changed, left = rows.delete(chosen, allowance)
        return changed, end if left is None else left

    return step


class Expiry:
    """Finds the kept messages that were kept for long enough, in order of their places, some in each transaction.

    That is the order of receipt but for what the wall clock did, so the first one that stays ends the search.
    """

    def __init__(self, retention: float, now: Callable[[], float]) -> None:
        self.oldest: int | None = None
        """When the first kept message that stays was received, in ms since the epoch."""
        self.due = False
        """Whether there may be more to expire."""
        self._retention = retention
        self._now = now
        self._behind = 0
        self._found: tuple[int, int | None, bool] | None = None

    def rewind(self) -> None:
        """Begin at the first message: the file is another one."""
        self._behind = 0

    def step(self, rows: Rows, allowance: Allowance) -> None:
        """Delete the next messages that have expired, as far as it is allowed."""
        limit = allowance.looks
        places = rows.window(self._behind, limit)
        cutoff = (self._now() - self._retention) * 1000
        gone: list[int] = []
        behind, oldest = self._behind, None
        for place in places:
            if place.state is State.KEPT:
                if place.received_at > cutoff:
                    oldest = place.received_at
                    break
                gone.append(place.seq)
            behind = place.seq
        left = rows.delete(gone, allowance)[1] if gone else None
        due = left is not None or (oldest is None and len(places) == limit)
        self._found = (behind if left is None else left, oldest if left is None else None, due)

    def committed(self) -> None:
        """Go on behind what the last step found."""
        if self._found is not None:
            self._behind, self.oldest, self.due = self._found
            self._found = None


def condemning(reason: str, still: Callable[[], bool]) -> Step:
    """Say that the file is damaged, as its reader has found, if it is `still` the same file."""

    def step(_rows: Rows, _behind: int, _allowance: Allowance) -> tuple[int, int | None]:
        if still():
            raise Damaged(reason)
        return 0, None

    return step


def _search(
    rows: Rows, behind: int, allowance: Allowance, fits: Callable[[Place], bool]
) -> tuple[list[int], int | None]:
    """Return which of the next messages fit, and behind which place the others are, None where there are none."""
    limit = allowance.looks
    places = rows.window(behind, limit)
    allowance.looks -= len(places)
    return [place.seq for place in places if fits(place)], places[-1].seq if len(places) == limit else None
