"""What tenants do with their hooks, apart from HTTP: create, update, delete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from webhookd import config
from webhookd.auth import Bearer, Caller
from webhookd.errors import Conflict, StoreError, StoreUnavailable
from webhookd.hooks import HookTable
from webhookd.ingest import SchemaCheck
from webhookd.model import Hook
from webhookd.ports import HookStore
from webhookd.registry import Registry

STORE_TIMEOUT = 2.5
"""How long, in seconds, a request waits for the store, and for this node to have seen what it wrote."""
STORE_AWAY = "the store of hooks cannot be reached; repeating the request is safe"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TenantHooks:
    """What the config API does, apart from HTTP."""

    store: HookStore
    table: HookTable
    datasources: Registry
    schemas: SchemaCheck
    bearer: Bearer
    secret_grace: float
    public_url: str | None
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    async def put(self, caller: Caller, wish: config.Wish, given: str | None, default: str) -> Hook:
        """Create or update the caller's hook as `wish` says, and return it once this node knows it.

        `given` is the base URL that the request asked for, `default` the one of a new hook without. Raises
        `StoreUnavailable`; repeating the call is safe.
        """
        current = self.table.by_key(caller.tenant, wish.datasource, wish.event)
        async with _store_deadline():
            while True:  # each round somebody gets through; the deadline ends it
                now_ms = self.now_ms()
                if current is None:
                    source = self.datasources.get(wish.datasource)
                    wanted = config.new_hook(wish, caller, given or default, source, now_ms)
                else:
                    wanted = config.updated(current, wish, given, now_ms, self.secret_grace)
                if wanted == current:
                    return wanted
                try:
                    stored = await self.store.put(wanted)
                except Conflict as conflict:
                    current = conflict.current  # somebody was faster: on top of what is there now
                else:
                    await self.table.reached(stored.revision)
                    return stored

    async def delete(self, hook: Hook) -> None:
        """Delete the hook, and return once this node refuses deliveries to it; raises `StoreUnavailable`."""
        async with _store_deadline():
            await self.table.reached(await self.store.delete(hook.token))


@asynccontextmanager
async def _store_deadline() -> AsyncIterator[None]:
    """Turn whatever keeps the store from answering into `StoreUnavailable`."""
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            yield
    except (TimeoutError, StoreError) as error:
        log.warning("the store of hooks failed", error=str(error) or "no answer in time")
        raise StoreUnavailable(STORE_AWAY) from None
