"""Publisher to a durable local log: what it took is on disk, in order, until it is confirmed, dropped or expired."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from webhookd.adapters.spool_care import SpoolFile
from webhookd.adapters.spool_db import Row, SpoolDb
from webhookd.adapters.spool_jobs import Job, deleting, expiring, mark_waiting, marking, selecting
from webhookd.adapters.spool_layout import MIB, Entry, Sizes, SpoolError, SpoolStats, State
from webhookd.adapters.spool_reader import SpoolReader
from webhookd.adapters.spool_writer import Append, Change, Writer
from webhookd.errors import Unpublished
from webhookd.model import Message

__all__ = ["Entry", "Spool", "SpoolError", "SpoolStats", "State"]

T = TypeVar("T")

_METADATA = 256
"""About what names, headers and receipt of a message take, in bytes."""


class Spool:
    """The spool in one SQLite file. All of it is called on the event loop that opened it."""

    def __init__(self, writer: Writer, reader: SpoolReader, sizes: Sizes, state: State) -> None:
        self._writer = writer
        self._reader = reader
        self._sizes = sizes
        self._state = state
        self._thread = ThreadPoolExecutor(1, "spool-reader")
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        max_bytes: int,
        retention: float,
        keep: bool,
        share: Callable[[], float] = lambda: 1.0,
        now: Callable[[], float] = time.time,
    ) -> Self:
        """Open or create the spool at `path`.

        Database and WAL together never pass `max_bytes`, and one tenant never holds more than `share()` of it. With
        `keep` messages are kept for `retention` seconds, to be read; without, they wait to be published. Raises
        `ConfigurationError` for a file of another format, `SpoolError` for one that cannot be opened.
        """
        file = SpoolFile(path, Sizes.of(max_bytes))
        try:
            await asyncio.to_thread(file.open)
        except (sqlite3.Error, OSError) as error:
            raise SpoolError(f"the spool {path} cannot be opened: {error}") from error
        writer = Writer(file, share, expiring(retention, now), asyncio.get_running_loop())
        writer.start()
        return cls(writer, SpoolReader(file), file.sizes, State.KEPT if keep else State.WAITING)

    @property
    def stats(self) -> SpoolStats:
        """The spool as the last commit left it."""
        return self._writer.stats

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Return a future that is done once the message is fsynced; see `webhookd.ports.Publisher`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(Unpublished("the spool is closed"))
            return future
        row = Row(message, self._state, self._sizes.cost(len(message.body) + _METADATA))
        self._writer.put(Append(row, future))
        if self._waiters:
            future.add_done_callback(self._wake)
        return future

    async def entries(
        self,
        *,
        after: int = 0,
        limit: int = 500,
        max_bytes: int = MIB,
        tenant: str | None = None,
        states: Collection[State] | None = None,
        bodies: bool = False,
    ) -> list[Entry]:
        """Return messages behind the place `after`, in order: `limit` of them and `max_bytes` of bodies at the most.

        At least one is returned where there is one. Raises `SpoolError`.
        """
        chosen = None if states is None else frozenset(states)
        return await self._read(self._reader.entries, after, limit, max_bytes, tenant, chosen, bodies)

    async def next_waiting(self, *, limit: int = 500) -> list[Entry]:
        """Return the oldest message of each hook that has any to be published, oldest first, without bodies."""
        return await self._read(self._reader.next_waiting, limit)

    async def confirm(self, seqs: Collection[int]) -> int:
        """Delete messages that the broker has confirmed; return how many there were."""
        return await self._change(deleting(seqs))

    async def mark(self, seqs: Collection[int], state: State, reason: str | None) -> int:
        """Give messages a state and a reason, and count an attempt; return how many there were."""
        return await self._change(marking(seqs, state, reason))

    async def retry(self, receipts: Collection[str] | None = None) -> int:
        """Let messages that are set aside or unroutable (all, or these) wait again; return how many there were."""
        states = frozenset({State.UNROUTABLE, State.SET_ASIDE})
        return await self._change(selecting(states, None, receipts, mark_waiting))

    async def drop(
        self,
        *,
        states: Collection[State] | None = None,
        older_than: float | None = None,
        receipts: Collection[str] | None = None,
    ) -> int:
        """Delete the messages that all given conditions hold for; `older_than` is in seconds. Return how many."""
        before = None if older_than is None else round((time.time() - older_than) * 1000)
        chosen = frozenset(State) if states is None else frozenset(states)
        return await self._change(selecting(chosen, before, receipts, SpoolDb.delete))

    async def wait_append(self, after: int, timeout: float) -> bool:  # noqa: ASYNC109 - running out is an answer
        """Return whether there is a message behind the place `after`, waiting up to `timeout` seconds for one."""
        deadline = time.monotonic() + timeout
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            while not await self.entries(after=after, limit=1):
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    return False
                await asyncio.wait([waiter], timeout=left)
                self._waiters.discard(waiter)
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
        finally:
            self._waiters.discard(waiter)
        return True

    async def close(self) -> None:
        """Make durable what was published, then let go of the file."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        await asyncio.to_thread(self._writer.finish)
        await self._read(self._reader.close)
        self._thread.shutdown()

    def _wake(self, durable: asyncio.Future[None] | None = None) -> None:
        del durable
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self, job: Job) -> int:
        if self._closed:
            raise SpoolError("the spool is closed")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._writer.put(Change(job, future))
        return await future

    async def _read(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
