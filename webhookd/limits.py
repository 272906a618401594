"""What may be in work at once: deliveries and bytes, over all and for each tenant."""

from __future__ import annotations

from collections.abc import Callable

from webhookd.errors import Overloaded, TenantOverShare


class _Use:
    """What one tenant has in work."""

    __slots__ = ("bytes", "deliveries")

    def __init__(self) -> None:
        self.deliveries = 0
        self.bytes = 0


class Budget:
    """Counts deliveries in work and the bytes they hold; refuses what is over the limits.

    `share` gives the part of both limits that one tenant may hold, in (0, 1]. Used on the event loop only.
    """

    def __init__(self, max_deliveries: int, max_bytes: int, share: Callable[[], float]) -> None:
        self.max_deliveries = max_deliveries
        self.max_bytes = max_bytes
        self.deliveries = 0
        self.bytes = 0
        self.share = share
        self._tenants: dict[str, _Use] = {}

    def admit(self, tenant: str) -> Ticket:
        """Count one more delivery of `tenant`; raises `Overloaded` or `TenantOverShare`."""
        use = self._tenants.get(tenant)
        if use is not None and use.deliveries >= max(1, int(self.max_deliveries * self.share())):
            raise TenantOverShare("this tenant has as many deliveries in work as its share allows; send it again")
        if self.deliveries >= self.max_deliveries:
            raise Overloaded("as many deliveries are in work as may be; send it again")
        if use is None:
            use = self._tenants[tenant] = _Use()
        use.deliveries += 1
        self.deliveries += 1
        return Ticket(self, tenant, use)

    def forget(self, tenant: str) -> None:
        """Take note that a tenant has nothing in work."""
        self._tenants.pop(tenant, None)


class Ticket:
    """One delivery's place in the budget; `release` gives everything back, once, however often it is called."""

    __slots__ = ("_budget", "_size", "_tenant", "_use")

    def __init__(self, budget: Budget, tenant: str, use: _Use) -> None:
        self._budget: Budget | None = budget
        self._tenant = tenant
        self._use = use
        self._size = 0

    def grow(self, size: int) -> None:
        """Hold `size` more bytes; raises `Overloaded` or `TenantOverShare`, and then holds no more than before."""
        budget, use = self._budget, self._use
        if budget is None:
            return
        if use.bytes + size > budget.max_bytes * budget.share():
            raise TenantOverShare("this tenant has as many bytes in work as its share allows; send it again")
        if budget.bytes + size > budget.max_bytes:
            raise Overloaded("as many bytes are in work as may be; send it again")
        use.bytes += size
        budget.bytes += size
        self._size += size

    def shrink(self, size: int) -> None:
        """Give `size` of the bytes back."""
        if self._budget is not None:
            self._use.bytes -= size
            self._budget.bytes -= size
            self._size -= size

    def release(self) -> None:
        """Give everything back."""
        budget, use = self._budget, self._use
        if budget is None:
            return
        self._budget = None
        use.bytes -= self._size
        use.deliveries -= 1
        budget.bytes -= self._size
        budget.deliveries -= 1
        if not use.deliveries:
            budget.forget(self._tenant)
