"""Tells the spool what became of its messages, many at a time, and remembers it until the spool has it on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from webhookd.adapters.spool import Spool, SpoolError, State

LINGER = 0.05
"""Seconds to wait for company: each record is a commit of the spool's."""
RETRY = 1.0
"""Seconds before the spool is tried again."""
log = structlog.get_logger(__name__)
Mark = tuple[State, str]


class Records:
    """What is to be deleted or marked. `taken` are all places that a reader of the spool must pass over.

    While the spool cannot write, `failing` is set, and everything is tried again each second.
    """

    def __init__(self, spool: Spool, written: Callable[[], None]) -> None:
        self.taken: set[int] = set()
        """Places in flight to the broker, or settled and not yet so on disk."""
        self.failing = False
        self._spool = spool
        self._written = written
        self._gone: set[int] = set()
        self._marks: dict[int, Mark] = {}
        self._task: asyncio.Task[None] | None = None

    def confirmed(self, seq: int) -> None:
        """Have a message deleted."""
        self._gone.add(seq)
        self._marks.pop(seq, None)
        self._wake()

    def mark(self, seq: int, state: State, reason: str) -> None:
        """Have a message marked, over any mark that is not on disk yet."""
        self._marks[seq] = (state, reason)
        self._wake()

    async def close(self) -> None:
        """Write what is left, if the spool can."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._write()

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._gone or self._marks:
            await asyncio.sleep(RETRY if self.failing else LINGER)
            await self._write()
        self._task = None

    async def _write(self) -> None:
        gone, self._gone = self._gone, set()
        marks, self._marks = self._marks, {}
        try:
            if gone:
                await self._spool.confirm(gone)
                self.taken -= gone
                gone = set()
            for mark, chosen in _grouped(marks).items():
                await self._spool.mark(chosen, *mark)
                if mark[0] is State.SET_ASIDE:
                    self.taken.difference_update(chosen)
        except (SpoolError, asyncio.CancelledError) as error:
            self._gone |= gone
            self._marks = marks | self._marks
            if isinstance(error, asyncio.CancelledError):
                raise
            self._fail(error)
        else:
            if self.failing:
                log.info("spool notes again what the broker has confirmed")
            self.failing = False
            self._written()

    def _fail(self, error: SpoolError) -> None:
        if not self.failing:
            log.error("spool cannot note what the broker has confirmed: the drain pauses", reason=str(error))
        self.failing = True


def _grouped(marks: dict[int, Mark]) -> dict[Mark, list[int]]:
    groups: dict[Mark, list[int]] = {}
    for seq, mark in marks.items():
        groups.setdefault(mark, []).append(seq)
    return groups
