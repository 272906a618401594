"""What a store held last, on this machine: a daemon that starts while the store is away serves its hooks at once.

What is remembered is never taken for current: a hook that is not in it may be a new one.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import structlog

from webhookd.adapters.sqlite import SqliteStore
from webhookd.errors import StoreError
from webhookd.model import Hook
from webhookd.ports import Change, Deleted, HookStore, SetAside, Snapshot

PATIENCE = 2.0
"""How long, in seconds, the store may take to answer before what is remembered of it is used."""
RETRY = 5.0
"""Seconds between two attempts to write a file that cannot be written."""
LAST_WRITE = 5.0
"""How long, in seconds, the end waits for what is not yet on disk."""

log = structlog.get_logger(__name__)


class Remembered:
    """A HookStore that is `store`, and remembers in the file `path` what it tells."""

    def __init__(self, store: HookStore, path: Path) -> None:
        self._store = store
        self._memory = _Memory(path)
        self._loaded = False

    async def put(self, hook: Hook) -> Hook:
        """As the port promises."""
        return await self._store.put(hook)

    async def delete(self, hook_id: str) -> int:
        """As the port promises."""
        return await self._store.delete(hook_id)

    async def changes(self) -> AsyncGenerator[Change, None]:
        """As the port promises; begins with what is remembered when the store is lost, or silent for PATIENCE."""
        async with aclosing(self._store.changes()) as changes:
            if not self._loaded:
                first = asyncio.ensure_future(anext(changes))
                try:
                    await asyncio.wait([first], timeout=PATIENCE)
                    silent = not first.done()
                    if not silent:
                        yield self._noted(first.result())
                    if not self._loaded and (remembered := await self._memory.recall()) is not None:
                        yield remembered
                    if silent:
                        yield self._noted(await first)
                finally:
                    first.cancel()
                    await asyncio.wait([first])
            async for change in changes:
                yield self._noted(change)

    async def close(self) -> None:
        """As the port promises."""
        await self._store.close()
        await self._memory.close()

    def _noted(self, change: Change) -> Change:
        self._loaded = self._loaded or isinstance(change, Snapshot)
        self._memory.take(change)
        return change


class _Memory:
    """Writes behind: at any time one transaction is under way, and the next one takes all that came meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = SqliteStore(path)
        self._whole: Snapshot | None = None
        self._since: dict[str, Hook | None] = {}
        """What came after `_whole`, or after what is on disk: None for a hook that is gone."""
        self._revision = 0
        self._failing = False
        self._closing = False
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def take(self, change: Change) -> None:
        """Have `change` written."""
        match change:
            case Snapshot():
                self._whole = change
                self._since.clear()
            case Hook(id=hook_id):
                self._since[hook_id] = change
            case Deleted(token=hook_id) | SetAside(token=hook_id):
                self._since[hook_id] = None
            case _:
                return
        self._revision = change.revision
        self._work.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_behind())

    async def recall(self) -> Snapshot | None:
        """Return what the file holds; None where it holds nothing or cannot be read."""
        if not self._path.exists():
            return None
        try:
            held = await self._file.snapshot()
        except StoreError as error:
            log.warning("the hooks remembered cannot be read", reason=str(error))
            return None
        return Snapshot(held.hooks, held.revision, checked=-math.inf) if held.revision else None

    async def close(self) -> None:
        """Write what is not yet on disk, if that goes, and let go of the file."""
        if self._task is not None:
            self._closing = True
            self._work.set()
            await asyncio.wait([self._task], timeout=0 if self._failing else LAST_WRITE)
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._file.close()

    async def _write_behind(self) -> None:
        while self._whole or self._since or not self._closing:
            await self._work.wait()
            self._work.clear()
            try:
                await self._write()
            except StoreError as error:
                if not self._failing:
                    log.warning("the hooks cannot be remembered", reason=str(error))
                self._failing = True
                _remove_if_damaged(self._path, error)
                await asyncio.sleep(RETRY)
                self._work.set()
            else:
                self._failing = False

    async def _write(self) -> None:
        whole, since, self._whole, self._since = self._whole, self._since, None, {}
        try:
            if whole is not None:
                await self._file.replace_all(whole)
            if since:
                await self._file.replace(since, self._revision)
        except StoreError:
            if self._whole is None:  # else all of this is out of date
                self._whole, self._since = whole, since | self._since
            raise


def _remove_if_damaged(path: Path, error: StoreError) -> None:
    """Remove a file that no later attempt could write either: what was in it comes again with the next snapshot."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF  # the primary code, https://sqlite.org/rescode.html
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
