"""What was published here is on disk, in order, until it is confirmed, dropped, or its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import msgspec
import structlog

from webhookd.adapters import spool_jobs
from webhookd.adapters.answers import pass_on
from webhookd.adapters.spool_file import DAMAGE, SpoolFile, code_of
from webhookd.adapters.spool_item import Item
from webhookd.adapters.spool_layout import CLOSED, MANY, MIB, Entry, Sizes, SpoolError, SpoolStats, State
from webhookd.adapters.spool_reader import DAMAGED, Query, Reader
from webhookd.adapters.spool_takeover import Takeover
from webhookd.adapters.spool_writer import Writer
from webhookd.errors import ConfigurationError, Unpublished
from webhookd.model import Message
from webhookd.ports import Answer, Durable, Publisher

__all__ = ["Entry", "Spool", "SpoolError", "SpoolStats", "State"]

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class Spool(Publisher):
    """A Publisher to a bounded, fsynced file of one process. Every method is called on the loop that opened it.

    What cannot be read or changed raises SpoolError.
    """

    on_change: Callable[[], None] | None = None
    """Called on the loop when lines of hooks may have changed otherwise than by `publish`, `confirm` and `mark`."""

    def __init__(self, file: SpoolFile, writer: Writer, *, keep: bool, now: Callable[[], float]) -> None:
        self._file = file
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(file)
        self._reading = ThreadPoolExecutor(1, "spool-reader")
        self._now = now
        self._state = State.KEPT if keep else State.WAITING
        self._behind_large: dict[str, int] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._generation = file.generation
        self._takeover = Takeover(file.path, self._put, self._tell)
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
        """Open or create the spool in the file `path`.

        Database and WAL together never pass `max_bytes` (at least 1 MiB). No tenant holds more than `share()` of it,
        which is called in another thread. With `keep`, messages are kept for `retention` seconds, to be read; without,
        they wait to be published. A file that is damaged is put aside and a new one begun, which takes over what of the
        old one is readable, behind what was published meanwhile. Raises ConfigurationError.
        """
        file = SpoolFile(path, Sizes.of(max_bytes))
        try:
            await asyncio.to_thread(file.open)
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(
                f"spool {path} cannot be opened ({error}): see to its disk and its owner"
            ) from error
        writer = Writer(file, retention=retention, share=share, now=now)
        spool = cls(file, writer, keep=keep, now=now)
        await asyncio.to_thread(writer.start, spool._settle_soon)
        spool._takeover.look()
        return spool

    @property
    def stats(self) -> SpoolStats:
        """The spool as the last commit left it."""
        stats = self._writer.stats()
        return msgspec.structs.replace(stats, failing=CLOSED) if self._closed else stats

    def send(self, message: Message, answer: Answer) -> None:
        """As the port promises."""
        self._put(message, self._state).add_done_callback(partial(pass_on, answer=answer))

    def publish(self, message: Message) -> asyncio.Future[Durable]:
        """As the port promises."""
        return self._put(message, self._state)

    async def entries(
        self,
        *,
        after: int = 0,
        limit: int = MANY,
        max_bytes: int = MIB,
        tenant: str | None = None,
        states: Collection[State] | None = None,
        bodies: bool = False,
    ) -> list[Entry]:
        """Return the messages behind the place `after`, in order, of this tenant and these states where given.

        With `bodies`, as many as have bodies of `max_bytes` together, but at least one. One that is damaged comes as
        set aside, without a body.
        """
        query = Query(after=after, limit=limit, max_bytes=max_bytes, tenant=tenant, states=states, bodies=bodies)
        return await self._entries(query)

    async def newest(self) -> int:
        """Return the place of the newest message, 0 where there is none."""
        return await self._read(self._reader.newest)

    async def body_of(self, receipt: str, received_at: int) -> bytes | None:
        """Return the body of the message with this receipt, of about that time (ms); None where it cannot be had."""
        try:
            entry = await self._read(partial(self._reader.find, receipt, received_at))
        except SpoolError:
            return None
        return None if entry is None else entry.body

    async def hooks_waiting(self) -> dict[str, int]:
        """Return how many messages each hook has that are to be published, by its token, where there are any."""
        db = self._file.db
        if self._closed or db is None:
            raise SpoolError(self._file.failing or CLOSED)
        return db.rows.lines.waiting.copy()

    async def next_waiting(self) -> list[Entry]:
        """Return the first message of each hook that has any to be published, in order, without bodies."""
        return await self._read(self._reader.first_of_hooks)

    async def line(self, hook: str, *, after: int = 0, limit: int = MANY, max_bytes: int = MIB) -> list[Entry]:
        """Return a hook's messages that are to be published (waiting or unroutable), in order, with bodies."""
        return await self._entries(Query(after=after, limit=limit, max_bytes=max_bytes, bodies=True, hook=hook))

    async def confirm(self, seqs: Collection[int]) -> int:
        """Delete messages that the broker has confirmed; return how many there were."""
        return await self._change(spool_jobs.deleting(seqs))

    async def mark(self, seqs: Collection[int], state: State, reason: str | None) -> int:
        """Give messages a state and a reason, and count an attempt; return how many there were."""
        return await self._change(spool_jobs.marking(seqs, state, reason))

    async def retry(self, receipts: Collection[str] | None = None) -> int:
        """Let messages that are set aside or unroutable (all, or these) wait again as if untried; return how many."""
        return await self._change(spool_jobs.retrying(receipts), told=True)

    async def drop(
        self,
        *,
        states: Collection[State] | None = None,
        older_than: float | None = None,
        receipts: Collection[str] | None = None,
    ) -> int:
        """Delete the messages that all given conditions hold for; `older_than` is in seconds. Return how many.

        They go some at a time: a crash leaves those that it had not come to.
        """
        before = None if older_than is None else (self._now() - older_than) * 1000
        step = spool_jobs.dropping(frozenset(State if states is None else states), before, receipts)
        return await self._change(step, told=True)

    async def wait_append(self, after: int, timeout: float) -> bool:  # noqa: ASYNC109 (running out is an answer)
        """Return whether there is a message behind the place `after`, waiting up to `timeout` seconds for one."""
        deadline = self._loop.time() + timeout
        while not self._closed:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                if await self.entries(after=after, limit=1):
                    return True
                left = deadline - self._loop.time()
                if left <= 0:
                    return False
                await asyncio.wait([waiter], timeout=left)
            finally:
                self._waiters.discard(waiter)
        return False

    async def close(self) -> None:
        """Make durable what was published, then let go of the file."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        await self._takeover.close()
        await self._loop.run_in_executor(self._reading, self._reader.close)
        await asyncio.to_thread(self._writer.close)
        self._reading.shutdown()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _put(self, message: Message, state: State) -> asyncio.Future[Durable]:
        future: asyncio.Future[Durable] = self._loop.create_future()
        if self._closed:
            future.set_exception(Unpublished(CLOSED))
            return future
        item = Item(message, state, self._file.sizes.unit, future)
        hook = message.hook
        large = item.parts > 1 or hook in self._behind_large
        if large:
            self._behind_large[hook] = self._behind_large.get(hook, 0) + 1
            future.add_done_callback(partial(self._passed, hook))
        self._writer.put(item, large=large)
        return future

    def _settle_soon(self, outcome: spool_jobs.Outcome) -> None:
        """Have the loop's thread tell the outcome; nobody is left to tell once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: spool_jobs.Outcome) -> None:
        for future, result in outcome:
            if future.done():
                continue  # cancelled
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if self._waiters:
            self._wake()
        if self._file.generation != self._generation:
            self._generation = self._file.generation
            self._tell()
            self._takeover.look()

    def _passed(self, hook: str, _: asyncio.Future[Durable]) -> None:
        """Let the hook's next messages overtake again once no large one is before them."""
        self._behind_large[hook] -= 1
        if not self._behind_large[hook]:
            del self._behind_large[hook]

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self, _: object = None) -> None:
        if self.on_change is not None and not self._closed:
            self.on_change()

    async def _change(self, step: spool_jobs.Step, *, told: bool = False) -> int:
        if self._closed:
            raise SpoolError(CLOSED)
        future: asyncio.Future[int] = self._loop.create_future()
        if told:
            future.add_done_callback(self._tell)
        self._writer.put_job(spool_jobs.Job(step, future))
        return await asyncio.shield(future)  # a caller that is cancelled cancels no job

    async def _entries(self, query: Query) -> list[Entry]:
        found = await self._read(partial(self._reader.entries, query))
        damaged = [entry.seq for entry in found if entry.reason == DAMAGED and entry.body is None and query.bodies]
        if damaged and not self._closed:
            log.error(
                "messages in the spool are damaged on disk", receipts=[e.receipt for e in found if e.seq in damaged]
            )
            await self._change(spool_jobs.marking(damaged, State.SET_ASIDE, DAMAGED), told=True)
        return found

    async def _read(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise SpoolError(CLOSED)
        generation = self._file.generation
        try:
            return await self._loop.run_in_executor(self._reading, work)
        except sqlite3.Error as error:
            if code_of(error) in DAMAGE and not self._closed:
                condemned: asyncio.Future[int] = self._loop.create_future()
                condemned.add_done_callback(asyncio.Future.exception)  # nobody else looks
                step = spool_jobs.condemning(str(error), lambda: self._file.generation == generation)
                self._writer.put_job(spool_jobs.Job(step, condemned))
            raise SpoolError(f"the spool cannot be read: {error}") from error
