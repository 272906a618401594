"""Takes in hooks with their tokens and apiTokens, so that their URLs go on working; changes none that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from webhookd.errors import Conflict
from webhookd.hooks import HookTable
from webhookd.model import Hook
from webhookd.ports import HookStore

OTHER_API_TOKEN = "the tenant has another apiToken, and a tenant has one: this hook needs a new URL"  # noqa: S105


class Verdict(msgspec.Struct, frozen=True):
    """What became of a hook: it is `new`, was `there` already, or stands against what is there, and how."""

    state: Literal["new", "there", "conflict"]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Adoption:
    """Takes hooks into `store`, which `table` follows."""

    store: HookStore
    table: HookTable

    def look(self, hook: Hook) -> Verdict:
        """Say what would become of `hook`, as far as the hooks that there are can tell."""
        if hook.token in self.table.set_aside:
            return Verdict("conflict", "the hook is there, and its record cannot be read")
        if (held := self.table.get(hook.token)) is not None:
            return _against(hook, held)
        if self.table.by_key(*hook.key) is not None:
            return _second(hook)
        if self.table.by_id(hook.token) is not None:
            return Verdict("conflict", "another hook had this token, and has another one now")
        other = self.table.any_of_tenant(hook.tenant)
        if other is not None and other.api_token != hook.api_token:
            return Verdict("conflict", OTHER_API_TOKEN)
        return Verdict("new")

    async def take(self, hook: Hook) -> Verdict:
        """Take `hook` in, if nothing stands against it; once it is told, this node accepts deliveries to it.

        Raises StoreError; repeating it is safe.
        """
        while (verdict := self.look(hook)).state == "new":
            try:
                stored = await self.store.put(hook)
            except Conflict as conflict:
                if conflict.current is None:
                    continue  # what was in its way is gone again
                return _against(hook, conflict.current) if conflict.current.token == hook.token else _second(hook)
            await self.table.reached(stored.revision)
            if stored.api_token != hook.api_token:  # of a tenant whose hooks are all gone
                await self.table.reached(await self.store.delete(stored.token))
                return Verdict("conflict", OTHER_API_TOKEN)
            return verdict
        return verdict

    async def take_all(self, hooks: Sequence[Hook], *, dry_run: bool) -> list[Verdict]:
        """Take hooks in, in their order, or with `dry_run` only say what would become of each by itself."""
        return [self.look(hook) if dry_run else await self.take(hook) for hook in hooks]


def _against(hook: Hook, held: Hook) -> Verdict:
    """Compare a hook with the one that is found by its token."""
    if held.key != hook.key:
        return Verdict("conflict", "another hook has this token")
    if held.api_token != hook.api_token:
        return Verdict("conflict", OTHER_API_TOKEN)
    return Verdict("there")


def _second(hook: Hook) -> Verdict:
    return Verdict("conflict", f"the tenant has another hook for {hook.datasource} {hook.event}, with another URL")
