"""One hook's turn to be drained: its oldest messages, in order, and none behind one that fails."""

from __future__ import annotations

import asyncio
from typing import Protocol

from webhookd.adapters.drain_records import Records
from webhookd.adapters.lane import Lane
from webhookd.adapters.lines import Line, Lines
from webhookd.adapters.spool import Entry, Spool
from webhookd.errors import Unpublished

READ = 64
"""Messages of one reading."""
READ_BYTES = 256 * 1024
BYTES_MAX = 512 * 1024
"""Bytes of one hook that are in flight, unless it is one message alone."""


class Attempt:
    """One message of the spool in flight."""

    __slots__ = ("entry", "turn")

    def __init__(self, turn: Turn, entry: Entry) -> None:
        self.turn = turn
        self.entry = entry


class Roads(Protocol):
    """What decides how, and whether, the next message of a turn goes to the broker."""

    def settled(self, turn: Turn, entry: Entry) -> bool:
        """Return whether a message needs no publishing: what had to be done about it is done."""

    def pick(self, turn: Turn, entry: Entry) -> tuple[Lane[Attempt], int] | None:
        """Return the lane for a message, and how many of the hook may be in flight with it; None ends the turn."""

    async def pace(self) -> None:
        """Wait until one more message may be published."""


class Turn:
    """Reads and publishes the line of one hook until it is empty, something fails, or `Roads` ends it.

    `retry`: the oldest message has failed before, and the turn is only to find out whether it does so again.
    """

    def __init__(self, line: Line, spool: Spool, lines: Lines, records: Records, roads: Roads, *, retry: bool) -> None:
        self.line = line
        self.retry = retry
        self.large = line.large
        """Whether the turn has the right to read large bodies."""
        self.failures: list[tuple[Entry, Unpublished]] = []
        self.published = 0
        self.over = False
        self.exhausted = False
        """Whether the line was read to its end."""
        self._spool = spool
        self._lines = lines
        self._records = records
        self._roads = roads
        self._in_flight = 0
        self._bytes = 0
        self._enough = 0
        self._waiter: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Take the turn; `failures`, oldest first, is what went wrong. Raises SpoolError if it cannot read."""
        try:
            while not self.over:
                for entry in await self._read():
                    if not self._roads.settled(self, entry):
                        await self._publish(entry)
                    if self.over:
                        break
        finally:
            await self._fewer_than(1)
            if self.failures:
                self._step_back()

    def heard(self, entry: Entry) -> None:
        """Note that a message of this turn was answered."""
        self._in_flight -= 1
        self._bytes -= entry.bytes
        if self._waiter is not None and self._in_flight <= self._enough and not self._waiter.done():
            self._waiter.set_result(None)

    def failed(self, entry: Entry, error: Unpublished) -> None:
        """Note that it has failed: the turn ends."""
        self.failures.append((entry, error))
        self.over = True

    async def _publish(self, entry: Entry) -> None:
        picked = self._roads.pick(self, entry)
        if picked is not None:
            lane, limit = picked
            await self._fewer_than(1 if self._bytes + entry.bytes > BYTES_MAX else limit)
            await self._roads.pace()
        if picked is None or self.over:
            self.over = True
            self.line.after = min(self.line.after, entry.seq - 1)
            return
        self._in_flight += 1
        self._bytes += entry.bytes
        self.published += 1
        self._records.taken.add(entry.seq)
        lane.publish(entry.message, Attempt(self, entry))
        if limit == 1:
            await self._fewer_than(1)
        self.over |= self.retry

    async def _read(self) -> list[Entry]:
        """Return the next messages; the turn is over where there are none."""
        line = self.line
        taken = self._records.taken.copy()
        if line.rewind:
            line.rewind = False
            line.after = 0
        handed, pending = line.handed, line.pending
        limit = 1 if self.retry else READ
        entries = await self._spool.line(line.hook, after=line.after, limit=limit, max_bytes=READ_BYTES)
        if not entries:
            self.over = self.exhausted = True
            if not (line.rewind or pending or line.handed != handed):
                self._lines.exhausted(line, self._in_flight + len(self.failures))
            return []
        if not line.rewind:
            line.after = entries[-1].seq
        return [entry for entry in entries if entry.seq not in taken and entry.seq not in self._records.taken]

    def _step_back(self) -> None:
        """Have what failed read again: nothing of it is in flight any more."""
        for entry, _ in self.failures:
            self._records.taken.discard(entry.seq)
        self.failures.sort(key=lambda failure: failure[0].seq)
        self.line.after = min(self.line.after, self.failures[0][0].seq - 1)

    async def _fewer_than(self, limit: int) -> None:
        """Wait until fewer messages are in flight; when it has to, until half of them are answered."""
        while self._in_flight >= limit:
            self._enough = limit // 2
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
