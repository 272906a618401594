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

    async def put(self, hook: Hook) -> Hook:
        """Write `hook` if the store holds it at `hook.revision` (0: holds none for its key); return it as written.

        It comes back with its new revision. The first hook of a tenant fixes the tenant's apiToken: every later new
        hook comes back with that one, whatever it came with, even after all of the tenant's hooks are gone. Raises
        `Conflict` with what the store holds for the key (or None), `StoreError` when it cannot be reached or written.
        """

    async def delete(self, token: str) -> int:
        """Delete the hook if it is there, and return the revision as of which it is gone.

        Deleting what is not there is no error. Raises `StoreError` when the store cannot be reached or written.
        """

    def changes(self) -> AsyncIterator[Change]:
        """Yield a `Snapshot`, then each change after it, in order, none missing; after any gap another `Snapshot`.

        Never ends by itself: what disturbs it is its own business. One consumer at a time.
        """

    async def close(self) -> None:
        """Let go of everything; nothing may be called after it."""


class Publisher(Protocol):
    """A durable place for messages."""

    def publish(self, message: Message) -> Future[None]:
        """Return a future that is done once the message is durable (a commit that fsynced, a confirm of the broker).

        It fails with `Unpublished`, or with `ShareExceeded` when only this tenant is out of room. It never hangs, and
        the call never blocks; messages of one hook become durable in the order of the calls.
        """

    async def close(self) -> None:
        """Finish what is in flight, then let go; publishing after it fails with `Unpublished`."""
