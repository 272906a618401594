"""What tenants do with their hooks, apart from HTTP: create, update, give another token, delete."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from webhookd import config
from webhookd.auth import Bearer, Caller
from webhookd.errors import Conflict, NotFound, StoreError, StoreUnavailable
from webhookd.hooks import HookTable
from webhookd.ingest import SchemaCheck
from webhookd.model import Hook
from webhookd.ports import HookStore
from webhookd.registry import Registry
from webhookd.rotation import rotated

STORE_TIMEOUT = 2.5
"""How long, in seconds, a request waits for the store, and for this node to have seen what it wrote."""
STORE_AWAY = "the store of hooks cannot be reached; repeating the request is safe"

NO_HOOK = "there is no such hook"

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

        def wanted(current: Hook | None, now_ms: int) -> Hook:
            if current is None:
                return config.new_hook(wish, caller, given or default, self.datasources.get(wish.datasource), now_ms)
            return config.updated(current, wish, given, now_ms, self.secret_grace)

        return await self._write(self.table.by_key(caller.tenant, wish.datasource, wish.event), wanted)

    async def rotate(self, hook: Hook, token: str, *, immediately: bool) -> Hook:
        """Give the hook another token instead of `token`, and return it once this node knows it.

        The old one stays valid for `secret_grace`, with `immediately` not at all. Of calls that name the same token,
        one after the other or at a time, one replaces it and all return what it has led to. Raises `NotFound` where
        the token has ended meanwhile, `StoreUnavailable`; repeating the call is safe.
        """

        def wanted(current: Hook | None, now_ms: int) -> Hook:
            grace = self.secret_grace
            turned = current and rotated(current, token, immediately=immediately, now_ms=now_ms, grace=grace)
            if turned is None:
                raise NotFound(NO_HOOK)
            return turned

        return await self._write(hook, wanted)

    async def delete(self, hook: Hook) -> None:
        """Delete the hook, and return once this node refuses deliveries to each of its tokens.

        Raises `StoreUnavailable`.
        """
        async with _store_deadline():
            await self.table.reached(await self.store.delete(hook.id))

    async def _write(self, current: Hook | None, wanted: Callable[[Hook | None, int], Hook]) -> Hook:
        """Write what is `wanted` in place of `current` at a time (ms), and return it once this node knows it."""
        async with _store_deadline():
            while True:  # each round somebody gets through; the deadline ends it
                hook = wanted(current, self.now_ms())
                if hook == current:
                    return hook
                try:
                    stored = await self.store.put(hook)
                except Conflict as conflict:
                    current = conflict.current  # somebody was faster: on top of what is there now
                else:
                    await self.table.reached(stored.revision)
                    return stored


@asynccontextmanager
async def _store_deadline() -> AsyncIterator[None]:
    """Turn whatever keeps the store from answering into `StoreUnavailable`."""
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            yield
    except (TimeoutError, StoreError) as error:
        log.warning("the store of hooks failed", error=str(error) or "no answer in time")
        raise StoreUnavailable(STORE_AWAY) from None
