"""A request for a hook is answered in time, whatever the store and what follows it do."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs
from test_hooks import hook

from webhookd import tenant_hooks
from webhookd.adapters.memory import MemoryStore
from webhookd.auth import Caller
from webhookd.config import Wish
from webhookd.errors import StoreUnavailable
from webhookd.hooks import HookTable
from webhookd.ports import Snapshot
from webhookd.registry import load
from webhookd.schema import Schemas
from webhookd.tenant_hooks import TenantHooks

REGISTRY = load(None, None)


class Hanging(MemoryStore):
    """A store that does not answer."""

    async def put(self, hook):
        await asyncio.Event().wait()

    delete = put


@pytest.mark.parametrize("store", [MemoryStore, Hanging])
def test_a_store_that_hangs_or_is_not_followed_is_unavailable_in_time(store, monkeypatch):
    """What was written may be there: the caller is told that repeating the request is safe."""
    monkeypatch.setattr(tenant_hooks, "STORE_TIMEOUT", 0.1)

    async def main():
        table = HookTable()
        table.apply(Snapshot((), 0))
        service = TenantHooks(store(), table, REGISTRY, Schemas(REGISTRY), None, 0, None)
        with pytest.raises(StoreUnavailable) as caught:
            await service.put(Caller("42", tenant_is_int=True), Wish("github", "push"), None, "https://x")
        assert "repeating the request is safe" in caught.value.detail
        held = hook(1)
        service.store.hooks[held.token] = held
        with pytest.raises(StoreUnavailable):
            await service.delete(held)

    began = time.monotonic()
    with capture_logs() as logs:
        asyncio.run(main())
    assert time.monotonic() - began < 5
    assert [line["error"] for line in logs] == ["no answer in time"] * 2
