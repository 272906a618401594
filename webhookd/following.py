"""Keeps the hooks in memory current, and tells the operator when the store cannot be followed and when it can again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import AsyncIterator, Iterable

import structlog

from webhookd.errors import StoreError
from webhookd.hooks import HookTable
from webhookd.logs import hook_id
from webhookd.ports import Change, HookStore, Lost, SetAside, Snapshot
from webhookd.vitals import Vitals

LOAD_TIMEOUT = 5.0
"""How long a start waits, in seconds, for the hooks, before it serves without knowing them."""
RETRY_STORE = 1.0
COLLECT = (50_000, 20, 50)
"""When to look for garbage in cycles: deliveries make none, and each look at those in work is a delay for them."""
SHOWN = 10
"""How many of the hooks that one snapshot sets aside get a line of their own."""

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def following(store: HookStore, table: HookTable, vitals: Vitals) -> AsyncIterator[None]:
    """Keep `table` current; enter once it has been loaded, or after LOAD_TIMEOUT without."""
    task = asyncio.get_running_loop().create_task(_Follower(table, vitals).run(store))
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(table.first_snapshot(), LOAD_TIMEOUT)
        gc.collect()
        gc.freeze()  # hooks are here to stay: no collection need look at them again
        gc.set_threshold(*COLLECT)
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Follower:
    def __init__(self, table: HookTable, vitals: Vitals) -> None:
        self._table = table
        self._vitals = vitals
        self._lost_at = 0.0

    async def run(self, store: HookStore) -> None:
        while True:
            try:
                async with contextlib.aclosing(store.changes()) as changes:
                    async for change in changes:
                        self._take(change)
                        del change  # a snapshot would hold every hook that it had until the next change
            except StoreError as error:
                self._take(Lost(str(error)))
            await asyncio.sleep(RETRY_STORE)

    def _take(self, change: Change) -> None:
        match change:
            case Lost(reason=reason):
                self._lost(reason)
            case Snapshot():
                self._log_set_aside(change.set_aside.items())
                if change.checked > -math.inf:
                    self._found()
                elif self._vitals.store_fault is None:
                    self._lost("no answer yet; the hooks are those that are remembered")
            case SetAside(token=token, reason=reason):
                self._log_set_aside([(token, reason)])
            case _:
                self._found()
        self._table.apply(change)

    def _lost(self, reason: str) -> None:
        if self._vitals.store_fault is None:
            self._lost_at = time.monotonic()
            log.error("the hooks in memory no longer follow the store", error=reason)
        self._vitals.store_fault = reason

    def _found(self) -> None:
        if self._vitals.store_fault is not None:
            log.info("the hooks in memory follow the store again", seconds=round(time.monotonic() - self._lost_at, 1))
        self._vitals.store_fault = None

    def _log_set_aside(self, hooks: Iterable[tuple[str, str]]) -> None:
        new = [(token, reason) for token, reason in hooks if self._table.set_aside.get(token) != reason]
        for token, reason in new[:SHOWN]:
            log.error("hook set aside: deliveries to it get 503", hook=hook_id(token), reason=reason)
        if len(new) > SHOWN:
            log.error("more hooks set aside", count=len(new) - SHOWN)
