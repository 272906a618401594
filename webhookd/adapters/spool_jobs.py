"""Changes of messages that are in the spool: each a row of short steps, so that new messages need not wait for all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from webhookd.adapters.spool_db import SpoolDb
from webhookd.adapters.spool_layout import State

Apply = Callable[[SpoolDb, Collection[int]], int]
"""(file, places) -> how many messages were changed."""
Job = Callable[[SpoolDb], Iterator[int]]
"""Yields, after each step of at most a transaction, how many messages it changed."""


def mark_waiting(db: SpoolDb, seqs: Collection[int]) -> int:
    """Let messages wait again, as if they had not been refused."""
    return db.mark(seqs, State.WAITING, None, 0)


def deleting(seqs: Collection[int]) -> Job:
    """Delete these messages."""
    return _over(sorted(seqs), SpoolDb.delete)


def marking(seqs: Collection[int], state: State, reason: str | None) -> Job:
    """Give these messages a state and a reason, and count an attempt."""
    return _over(sorted(seqs), lambda db, piece: db.mark(piece, state, reason, 1))


def _over(chosen: list[int], apply: Apply) -> Job:
    def job(db: SpoolDb) -> Iterator[int]:
        for start in range(0, len(chosen), db.sizes.step):
            yield apply(db, chosen[start : start + db.sizes.step])

    return job


def selecting(states: frozenset[State], before: int | None, receipts: Collection[str] | None, apply: Apply) -> Job:
    """Change the messages in `states`, received before `before` (ms), with one of `receipts` (None: any)."""
    wanted = None if receipts is None else frozenset(receipts)

    def job(db: SpoolDb) -> Iterator[int]:
        after = 0
        while places := db.window(after, db.sizes.step):
            after = places[-1].seq
            chosen = [
                place.seq
                for place in places
                if place.state in states
                and (before is None or place.received_at < before)
                and (wanted is None or place.receipt in wanted)
            ]
            yield apply(db, chosen) if chosen else 0

    return job


def expiring(retention: float, now: Callable[[], float]) -> Job:
    """Delete kept messages that are `retention` seconds old: the oldest come first, so that few are looked at."""

    def job(db: SpoolDb) -> Iterator[int]:
        after = 0
        before = round((now() - retention) * 1000)
        while places := db.window(after, db.sizes.step):
            after = places[-1].seq
            old = [place.seq for place in places if place.state is State.KEPT and place.received_at < before]
            if not old:
                return
            yield db.delete(old)

    return job
