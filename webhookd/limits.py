"""What may be in work at once: deliveries and bytes, over all and for each tenant."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from webhookd.errors import Overloaded, TenantOverShare


class _Use(msgspec.Struct, gc=False):
    """What one tenant has in work."""

    deliveries: int = 0
    bytes: int = 0


class Budget:
    """Counts deliveries in work and the bytes they hold; refuses what is over the limits.

    `share` gives the part of both limits that one tenant may hold, in (0, 1]; it is not asked below `least`, which it
    never is under. Used on the event loop only.
    """

    def __init__(self, max_deliveries: int, max_bytes: int, share: Callable[[], float], least: float = 0.0) -> None:
        self.max_deliveries = max_deliveries
        self.max_bytes = max_bytes
        self.deliveries = 0
        self.bytes = 0
        self.share = share
        self._least_deliveries = int(max_deliveries * least)
        self._least_bytes = max_bytes * least
        self._tenants: dict[str, _Use] = {}

    def admit(self, tenant: str, size: int = 0) -> Ticket:
        """Count one more delivery of `tenant` that holds `size` bytes; raises `Overloaded` or `TenantOverShare`."""
        use = self._tenants.get(tenant)
        if use is None:
            use = _Use()
        if use.deliveries >= self._least_deliveries and use.deliveries >= self._share_of_deliveries():
            raise TenantOverShare("this tenant has as many deliveries in work as its share allows; send it again")
        if self.deliveries >= self.max_deliveries:
            raise Overloaded("as many deliveries are in work as may be; send it again")
        self.hold(use, size)
        self._tenants[tenant] = use
        use.deliveries += 1
        self.deliveries += 1
        return Ticket(self, tenant, use, size)

    def hold(self, use: _Use, size: int) -> None:
        """Count `size` more bytes; raises `Overloaded` or `TenantOverShare`."""
        held = use.bytes + size
        if held > self._least_bytes and held > self.max_bytes * self.share():
            raise TenantOverShare("this tenant has as many bytes in work as its share allows; send it again")
        if self.bytes + size > self.max_bytes:
            raise Overloaded("as many bytes are in work as may be; send it again")
        use.bytes = held
        self.bytes += size

    def release(self, tenant: str, use: _Use, size: int) -> None:
        """Count a delivery that held `size` bytes no more."""
        use.bytes -= size
        use.deliveries -= 1
        self.bytes -= size
        self.deliveries -= 1
        if not use.deliveries:
            self._tenants.pop(tenant, None)

    def _share_of_deliveries(self) -> int:
        return max(1, int(self.max_deliveries * self.share()))


class Ticket(msgspec.Struct, gc=False):
    """One delivery's place in the budget; `release` gives everything back, once, however often it is called."""

    budget: Budget | None
    tenant: str
    use: _Use
    size: int

    def grow(self, size: int) -> None:
        """Hold `size` more bytes; raises `Overloaded` or `TenantOverShare`, and then holds no more than before."""
        if self.budget is not None:
            self.budget.hold(self.use, size)
            self.size += size

    def shrink(self, size: int) -> None:
        """Give `size` of the bytes back."""
        if self.budget is not None:
            self.use.bytes -= size
            self.budget.bytes -= size
            self.size -= size

    def release(self) -> None:
        """Give everything back."""
        budget, self.budget = self.budget, None
        if budget is not None:
            budget.release(self.tenant, self.use, self.size)
