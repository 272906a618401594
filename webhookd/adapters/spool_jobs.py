"""Changes of messages that are in the spool: each a row of short steps, so that new messages need not wait for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from webhookd.adapters.spool_db import Place, SpoolDb
from webhookd.adapters.spool_layout import State
from webhookd.adapters.spool_schema import Damaged

Step = Callable[[SpoolDb, int, int], tuple[int, int, int | None]]
"""(file, cursor, limit) -> (messages looked at, messages changed, the next cursor or None at the end)."""


class Job:
    """A change on its way: `future` gets the number of messages that it changed."""

    __slots__ = ("changed", "cursor", "future", "step")

    def __init__(self, step: Step, future: asyncio.Future[Any]) -> None:
        self.step = step
        self.future = future
        self.cursor = 0
        self.changed = 0


def deleting(seqs: Collection[int]) -> Step:
    """Delete these messages."""
    chosen = sorted(seqs)

    def step(db: SpoolDb, cursor: int, limit: int) -> tuple[int, int, int | None]:
        piece = chosen[cursor : cursor + limit]
        return len(piece), db.delete(piece), _next(chosen, cursor + limit)

    return step


def marking(seqs: Collection[int], state: State, reason: str | None) -> Step:
    """Give these messages a state and a reason, and count an attempt."""
    chosen = sorted(seqs)

    def step(db: SpoolDb, cursor: int, limit: int) -> tuple[int, int, int | None]:
        piece = chosen[cursor : cursor + limit]
        return len(piece), db.mark(piece, state, reason, tried=True), _next(chosen, cursor + limit)

    return step


def retrying(receipts: Collection[str] | None) -> Step:
    """Let messages that are set aside or unroutable wait again, as if they had not been tried."""

    def step(db: SpoolDb, cursor: int, limit: int) -> tuple[int, int, int | None]:
        places = db.window(cursor, limit, kept=False)
        chosen = [
            place.seq
            for place in places
            if place.state in {State.UNROUTABLE, State.SET_ASIDE} and (receipts is None or place.receipt in receipts)
        ]
        return len(places), db.mark(chosen, State.WAITING, None, tried=False), _behind(places, limit)

    return step


def dropping(states: Collection[State], received_before: float | None, receipts: Collection[str] | None) -> Step:
    """Delete messages by state, time of receipt (ms since the epoch) and receipt, as far as each is given."""
    kept = State.KEPT in states

    def step(db: SpoolDb, cursor: int, limit: int) -> tuple[int, int, int | None]:
        places = db.window(cursor, limit, kept=kept)
        chosen = [
            place.seq
            for place in places
            if place.state in states
            and (received_before is None or place.received_at < received_before)
            and (receipts is None or place.receipt in receipts)
        ]
        return len(places), db.delete(chosen) if chosen else 0, _behind(places, limit)

    return step


class Expiry:
    """Finds the kept messages that were kept for long enough, in order of their places, a window at a time.

    That is the order of receipt but for what the wall clock did, so the first one that stays ends the search.
    """

    def __init__(self, retention: float) -> None:
        self.oldest: int | None = None
        """When the first kept message that stays was received, in ms since the epoch."""
        self.due = False
        """Whether there may be more to expire."""
        self._retention = retention * 1000
        self._behind = 0

    def rewind(self) -> None:
        """Begin at the first message: the file is another one."""
        self._behind = 0

    def step(self, db: SpoolDb, limit: int, now: float) -> int:
        """Delete what has expired of the next `limit` messages; return how many. `now` is in ms since the epoch."""
        places = db.window(self._behind, limit, kept=True)
        gone = []
        behind = self._behind
        self.oldest = None
        for place in places:
            if place.state is State.KEPT:
                if place.received_at > now - self._retention:
                    self.oldest = place.received_at
                    break
                gone.append(place.seq)
            behind = place.seq
        self.due = self.oldest is None and len(places) == limit
        deleted = db.delete(gone) if gone else 0
        self._behind = behind
        return deleted


def condemning(reason: str, still: Callable[[], bool]) -> Step:
    """Say that the file is damaged, as its reader has found, if it is `still` the same file."""

    def step(_db: SpoolDb, _cursor: int, _limit: int) -> tuple[int, int, int | None]:
        if still():
            raise Damaged(reason)
        return 0, 0, None

    return step


def _next(chosen: Sequence[int], cursor: int) -> int | None:
    return cursor if cursor < len(chosen) else None


def _behind(places: Sequence[Place], limit: int) -> int | None:
    return places[-1].seq if len(places) == limit else None
