"""Stores with very many hooks, made in one go."""

import asyncio
import uuid
from pathlib import Path

from webhookd.adapters.sqlite import SqliteStore
from webhookd.model import Hook
from webhookd.ports import Snapshot

EVENTS = [
    "push",
    "pull_request",
    "issues",
    "issue_comment",
    "release",
    "create",
    "delete",
    "check_run",
    "workflow_run",
    "deployment_status",
]
PER_TENANT = len(EVENTS)


def a_hook(number: int, per_tenant: int = PER_TENANT) -> Hook:
    """Return hook `number`; tenants have `per_tenant` each: their own apiToken, and events that others have too."""
    tenant, event = divmod(number, per_tenant)
    return Hook(
        token=uuid.uuid5(uuid.NAMESPACE_URL, str(number)).hex + f"{number:08x}",
        api_token=str(uuid.uuid5(uuid.NAMESPACE_DNS, str(tenant))),
        tenant=str(tenant),
        tenant_is_int=True,
        datasource="github",
        event=EVENTS[event] if event < PER_TENANT else f"event-{event}",
        ts_field="repository.pushed_at",
        base_url="https://webhook.example.org",
        created_at=1_700_000_000_000 + number,
        revision=number + 1,
    )


def fill(path: Path, count: int, per_tenant: int = PER_TENANT) -> None:
    """Make the SQLite store `path` hold hooks 0 to `count` - 1."""

    async def write() -> None:
        store = SqliteStore(path)
        await store.replace_all(Snapshot(tuple(a_hook(number, per_tenant) for number in range(count)), count))
        await store.close()

    asyncio.run(write())


def paths(count: int, per_tenant: int = PER_TENANT, most: int = 1000) -> tuple[str, ...]:
    """Return the paths of at most `most` of these hooks, spread over all of them."""
    step = max(1, count // most)
    hooks = (a_hook(number, per_tenant) for number in range(0, count, step))
    return tuple(f"/wh/{hook.api_token}/{hook.token}" for hook in hooks)[:most]
