"""What the daemon needs from the world: a store of hooks and a publisher of messages.

The obligations above each method are tested over every adapter, by `tests/test_hook_stores.py` and
`tests/test_publishers.py`.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from webhookd.model import Hook, Message


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every hook there is at `revision`: what is not in it does not exist."""

    hooks: tuple[Hook, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """The hook `token` is gone as of `revision`."""

    token: str
    revision: int


Change = Snapshot | Hook | Deleted


class HookStore(Protocol):
    """Where hooks live. Revisions grow with every write, over all hooks; they start above 0."""

    # Writes `hook` if the store still holds it at `hook.revision` (0: if there is none for its key), and returns it with
    # its new revision. A first hook of a tenant fixes the tenant's apiToken; every later new hook is returned with
    # that one, whatever it came with, even after all of the tenant's hooks are gone. Otherwise raises Conflict with
    # what the store holds for the key (or None), or StoreError when the store cannot be reached or written.
    async def put(self, hook: Hook) -> Hook: ...

    # Deletes the hook if it is still there, and returns the revision as of which it is gone; deleting what is not
    # there is no error. Raises StoreError when the store cannot be reached or written.
    async def delete(self, token: str) -> int: ...

    # First a Snapshot, then each change after it, in order, none missing; after any gap another Snapshot. Never ends
    # by itself; what disturbs it is its own business. One consumer at a time.
    def changes(self) -> AsyncIterator[Change]: ...

    # Lets go of everything; nothing may be called after it.
    async def close(self) -> None: ...


class Publisher(Protocol):
    """A durable place for messages."""

    # Done once the message is durable (a commit that fsynced, a confirm of the broker), or failed with Unpublished
    # (ShareExceeded when only this tenant is out of room). Never hangs, never blocks, may be called again before it
    # is done; messages of one hook become durable in the order of the calls.
    def publish(self, message: Message) -> Future[None]: ...

    # Finishes what is in flight, then lets go; publishing after it fails with Unpublished.
    async def close(self) -> None: ...
