"""The hooks of each tenant, held so that a million tenants of one hook cost no more than their hooks do."""

from __future__ import annotations

from collections.abc import Iterable

from webhookd.model import Hook

FEW = 16
"""Up to so many hooks of one tenant are looked through; more are found by their datasource and event."""

Many = dict[str, dict[str, Hook]]
"""The hooks of one tenant by datasource and event: nested, since a tuple as key would cost each hook another object."""


class TenantIndex:
    """Hooks by (tenant, datasource, event). A tenant's hook alone is held as itself, few as a tuple, many in dicts."""

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._tenants: dict[str, Hook | tuple[Hook, ...] | Many] = {}
        for hook in hooks:
            self.put(hook)

    def __len__(self) -> int:
        return len(self._tenants)

    def any(self, tenant: str) -> Hook | None:
        """Return one of the tenant's hooks, if any."""
        held = self._tenants.get(tenant)
        if isinstance(held, dict):
            return next(iter(next(iter(held.values())).values()))
        return next(iter(_few(held)), None)

    def get(self, tenant: str, datasource: str, event: str) -> Hook | None:
        """Return the tenant's hook for this datasource and event, if any."""
        held = self._tenants.get(tenant)
        if isinstance(held, dict):
            return held.get(datasource, {}).get(event)
        return next((hook for hook in _few(held) if (hook.datasource, hook.event) == (datasource, event)), None)

    def of(self, tenant: str) -> list[Hook]:
        """Return the tenant's hooks in any order."""
        held = self._tenants.get(tenant)
        return [hook for of in held.values() for hook in of.values()] if isinstance(held, dict) else list(_few(held))

    def put(self, hook: Hook) -> None:
        """Hold `hook`, instead of the one that the tenant has for its datasource and event, if any."""
        held = self._tenants.get(hook.tenant)
        if not isinstance(held, dict):
            few = (*_without(held, hook), hook)
            if len(few) <= FEW:
                self._tenants[hook.tenant] = few if len(few) > 1 else hook
                return
            held = self._tenants[hook.tenant] = {}
            for each in few:
                held.setdefault(each.datasource, {})[each.event] = each
        held.setdefault(hook.datasource, {})[hook.event] = hook

    def discard(self, hook: Hook) -> None:
        """Forget what the tenant has for the datasource and event of `hook`; nothing is done where it has none."""
        held = self._tenants.get(hook.tenant)
        if isinstance(held, dict):
            of_datasource = held.get(hook.datasource, {})
            of_datasource.pop(hook.event, None)
            if not of_datasource:
                held.pop(hook.datasource, None)
            left: Hook | tuple[Hook, ...] | Many = held
        else:
            few = _without(held, hook)
            left = few if len(few) != 1 else few[0]
        if left:
            self._tenants[hook.tenant] = left
        else:
            self._tenants.pop(hook.tenant, None)


def _few(held: Hook | tuple[Hook, ...] | None) -> tuple[Hook, ...]:
    if held is None:
        return ()
    return held if isinstance(held, tuple) else (held,)


def _without(held: Hook | tuple[Hook, ...] | None, hook: Hook) -> tuple[Hook, ...]:
    return tuple(each for each in _few(held) if each.key != hook.key)
