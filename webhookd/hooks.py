"""Every hook in memory: lookups cost the same for one hook and for a million, and ask the store nothing."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from hmac import compare_digest
from operator import attrgetter

from webhookd.errors import HooksNotCurrent, UnknownHook
from webhookd.model import Hook
from webhookd.ports import Change, Checked, Deleted, Lost, SetAside, Snapshot
from webhookd.tenant_index import TenantIndex

STALE = 10.0
"""For how many seconds after the store was last checked the table is taken to hold what the store holds."""


class HookTable:
    """The mirror of the store. Only `apply`, fed with the store's changes in their order, writes to it."""

    def __init__(self, now: Callable[[], float] = time.monotonic, clock: Callable[[], float] = time.time) -> None:
        self.revision = 0
        """The store's revision that this table has reached."""
        self.set_aside: dict[str, str] = {}
        """The hooks whose record cannot be read, by id, and why."""
        self.following = False
        """Whether the store can be followed at this moment, as far as is known."""
        self._now = now
        self._clock = clock
        self._checked = -math.inf
        self._first_snapshot = asyncio.Event()
        self._hooks: dict[str, Hook] = {}
        self._rotated: dict[str, Hook] = {}
        """The hooks whose token was replaced, by id; all others have their token for one."""
        self._previous: dict[str, Hook] = {}
        """The same ones by the token that was replaced last, its time over or not."""
        self._unreadable: dict[str, str] = {}
        """The tokens that hooks set aside had when they could be read, and the ids of these hooks."""
        self._tenants = TenantIndex()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._told: list[Callable[[str | None], None]] = []

    def __len__(self) -> int:
        return len(self._hooks)

    @property
    def current(self) -> bool:
        """Whether the table is known to hold what the store holds; if not, an unknown token may be a new one."""
        return self._now() - self._checked <= STALE

    @property
    def loaded(self) -> bool:
        """Whether there has been a snapshot at all."""
        return self._first_snapshot.is_set()

    async def first_snapshot(self) -> None:
        """Return once there has been a snapshot."""
        await self._first_snapshot.wait()

    @property
    def tenants(self) -> int:
        """How many tenants have hooks."""
        return len(self._tenants)

    def find(self, api_token: str, token: str) -> Hook:
        """Return the hook with this address; both parts are compared in constant time or by hash.

        Raises `UnknownHook`, or `HooksNotCurrent` where the address may belong to a hook that has not arrived yet.
        """
        hook = self._hooks.get(token) or self._by_previous(token)
        if hook is not None and api_token.isascii() and compare_digest(api_token, hook.api_token):
            return hook
        if token in self.set_aside or self._unreadable.get(token) in self.set_aside:
            raise HooksNotCurrent("the record of this hook cannot be read; send it again")
        if not self.current:
            raise HooksNotCurrent("the hooks are not known to be current; send it again")
        raise UnknownHook("no hook has this address")

    def get(self, token: str) -> Hook | None:
        """Return the hook with this token, or with it as a previous one that is still valid, if any."""
        return self._hooks.get(token) or self._by_previous(token)

    def id_of(self, token: str) -> str:
        """Return the id of the hook that `get` finds by this token; where it finds none, the token itself."""
        hook = self.get(token)
        return token if hook is None else hook.id

    def by_id(self, hook_id: str) -> Hook | None:
        """Return the hook with this id, whatever its token is now, if any."""
        hook = self._rotated.get(hook_id) or self._hooks.get(hook_id)
        return hook if hook is not None and hook.id == hook_id else None

    def by_key(self, tenant: str, datasource: str, event: str) -> Hook | None:
        """Return the tenant's hook for this datasource and event, if any."""
        return self._tenants.get(tenant, datasource, event)

    def of_tenant(self, tenant: str) -> list[Hook]:
        """Return the tenant's hooks, oldest first."""
        # twice costs a quarter of what a tuple for each of many hooks does
        return sorted(sorted(self._tenants.of(tenant), key=attrgetter("token")), key=attrgetter("created_at"))

    def any_of_tenant(self, tenant: str) -> Hook | None:
        """Return one of the tenant's hooks, if any."""
        return self._tenants.any(tenant)

    def apply(self, change: Change) -> None:
        """Take over one change of the store; a snapshot replaces everything at once."""
        match change:
            case Snapshot():
                self._replace(change)
            case Deleted(token=hook_id):
                self._forget(hook_id)
            case SetAside(token=hook_id, reason=reason):
                self._unreadable |= self._tokens([hook_id])
                self._forget(hook_id)
                self.set_aside[hook_id] = reason
            case Hook():
                self._hold(change)
            case Checked(at=at):
                self._checked = at
                self.following = True
                return
            case Lost():
                self._checked = min(self._checked, self._now())
                self.following = False
                return
        self.revision = change.revision
        self._wake()
        self._tell(change)

    def on_gone(self, told: Callable[[str | None], None]) -> None:
        """Have `told` called with the id of each hook that is deleted; with None where any may be gone.

        The latter follows a snapshot of the store itself: one that is only remembered may lack a hook that is there.
        """
        self._told.append(told)

    async def reached(self, revision: int) -> None:
        """Return once the table holds the store's `revision`, so that a caller finds what it has just written."""
        if self.revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((revision, waiter))
        await waiter

    def _replace(self, snapshot: Snapshot) -> None:
        tokens = self._unreadable | self._tokens(snapshot.set_aside)
        self._unreadable = {token: hook_id for token, hook_id in tokens.items() if hook_id in snapshot.set_aside}
        self._hooks = {hook.token: hook for hook in snapshot.hooks}
        self._rotated = {hook.id: hook for hook in snapshot.hooks if hook.rotation is not None}
        self._previous = {token: hook for hook in self._rotated.values() if (token := _replaced(hook)) is not None}
        self._tenants = TenantIndex(snapshot.hooks)
        self.set_aside = dict(snapshot.set_aside)
        self._checked = snapshot.checked
        self.following = snapshot.checked > -math.inf
        self._first_snapshot.set()

    def _hold(self, hook: Hook) -> None:
        self._forget(hook.id)
        held = hook.stored(hook.revision, self._tenants.any(hook.tenant))
        self._hooks[held.token] = held
        self._tenants.put(held)
        if held.rotation is not None:
            self._rotated[held.id] = held
            if (token := _replaced(held)) is not None:
                self._previous[token] = held

    def _forget(self, hook_id: str) -> None:
        self.set_aside.pop(hook_id, None)
        rotated = self._rotated.pop(hook_id, None)
        hook = self._hooks.pop(hook_id if rotated is None else rotated.token, None)
        if rotated is not None:
            self._previous.pop(_replaced(rotated) or "", None)
        if hook is not None:
            self._tenants.discard(hook)

    def _tell(self, change: Change) -> None:
        match change:
            case Deleted(token=hook_id):
                gone: str | None = hook_id
            case Snapshot(checked=checked) if checked > -math.inf:
                gone = None
            case _:
                return
        for told in self._told:
            told(gone)

    def _by_previous(self, token: str) -> Hook | None:
        hook = self._previous.get(token)
        return hook if hook is not None and hook.previous(int(self._clock() * 1000)) is not None else None

    def _tokens(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the tokens, and the id with each, that these hooks have beside their ids."""
        rotated = [hook for hook_id in ids if (hook := self._rotated.get(hook_id)) is not None]
        return {token: hook.id for hook in rotated for token in (hook.token, _replaced(hook)) if token is not None}

    def _wake(self) -> None:
        for revision, waiter in self._waiters:
            if revision <= self.revision and not waiter.done():
                waiter.set_result(None)
        self._waiters = [(revision, waiter) for revision, waiter in self._waiters if not waiter.done()]


def _replaced(hook: Hook) -> str | None:
    """Return the token that the hook's own one replaced, whether it is still valid or not."""
    return None if hook.rotation is None else hook.rotation.previous
