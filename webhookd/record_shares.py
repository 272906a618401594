"""Each tenant's part of the records: where they are too many, the tenant that has most loses first."""

from __future__ import annotations

from collections import OrderedDict

from webhookd.record_ring import Ring

FINENESS = 3
"""Parts of two tenants that differ by less than an eighth (2 to the power of this) are taken for equal."""


class _Share:
    """One tenant's records, by hook, longest unused first: `bytes`, which is in the grade from `least` to `most`."""

    __slots__ = ("bytes", "least", "most", "rings")

    def __init__(self) -> None:
        self.bytes = 0
        self.least = self.most = 0
        self.rings: OrderedDict[str, Ring] = OrderedDict()


class Shares:
    """The records of every hook, and about how many `bytes` they take.

    What any call costs depends neither on how many tenants there are nor on how many hooks.
    """

    def __init__(self, per_hook: int) -> None:
        self.bytes = 0
        self.rings: dict[str, Ring] = {}
        """By the id of their hook; to be looked at only."""
        self._per_hook = per_hook
        self._tenants: dict[str, _Share] = {}
        self._grades: dict[int, dict[str, _Share]] = {}
        """The tenants of each grade, by what it begins with; none is empty."""

    def begin(self, token: str, tenant: str) -> Ring:
        """Return the records, none yet, of a hook that had none."""
        ring = self.rings[token] = Ring(self._per_hook, tenant)
        share = self._tenants.get(tenant)
        if share is None:
            share = self._tenants[tenant] = _Share()
        share.rings[token] = ring
        self._grown(tenant, share, ring.bytes)
        return ring

    def used(self, token: str, ring: Ring, more: int) -> None:
        """Know that a hook has a new record, and its records take `more` bytes."""
        self._tenants[ring.tenant].rings.move_to_end(token)
        self.resized(ring, more)

    def resized(self, ring: Ring, more: int) -> None:
        """Know that the records of a hook take `more` bytes."""
        self._grown(ring.tenant, self._tenants[ring.tenant], more)

    def drop(self, token: str) -> bool:
        """Let go of all records of a hook; return whether there were any."""
        ring = self.rings.pop(token, None)
        if ring is None:
            return False
        share = self._tenants[ring.tenant]
        del share.rings[token]
        self._grown(ring.tenant, share, -ring.bytes)
        if not share.rings:
            del self._tenants[ring.tenant]
            self._leave(ring.tenant, share)
        return True

    def shrink(self, most: int) -> list[str]:
        """Let records go until they take at most `most` bytes or one is left; return the hooks that have none any more.

        They are the oldest of the hook that is longest unused, of the tenant that has most, for as long as it has.
        """
        gone = []
        while self.bytes > most:
            tenant, share = next(iter(self._grades[max(self._grades)].items()))
            token, ring = next(iter(share.rings.items()))
            if len(self.rings) == len(ring.entries) == 1:
                break
            freed = ring.shrink(min(self.bytes - most, share.bytes - share.least + 1))
            self._grown(tenant, share, -freed)
            if not ring.entries:
                self.drop(token)
                gone.append(token)
        return gone

    def _grown(self, tenant: str, share: _Share, more: int) -> None:
        self.bytes += more
        share.bytes += more
        if not share.least <= share.bytes < share.most:
            self._regrade(tenant, share)

    def _regrade(self, tenant: str, share: _Share) -> None:
        self._leave(tenant, share)
        step = 1 << max(share.bytes.bit_length() - FINENESS - 1, 0)
        share.least = share.bytes - share.bytes % step
        share.most = share.least + step
        self._grades.setdefault(share.least, {})[tenant] = share

    def _leave(self, tenant: str, share: _Share) -> None:
        """Take a tenant out of its grade, if it is in one."""
        grade = self._grades.get(share.least)
        if grade is not None and grade.pop(tenant, None) is not None and not grade:
            del self._grades[share.least]


class Turns:
    """Hooks that wait for something, of which tenants take turns: who has many waits no less than who has one."""

    def __init__(self) -> None:
        self._tenants: dict[str, dict[str, None]] = {}

    def wait(self, token: str, tenant: str) -> None:
        """Have a hook wait, unless it does."""
        self._tenants.setdefault(tenant, {}).setdefault(token)

    def next(self) -> str | None:
        """Return the hook whose turn it is, which waits no more; of each tenant the one that waits longest."""
        for tenant, hooks in self._tenants.items():
            token = next(iter(hooks))
            del hooks[token], self._tenants[tenant]
            if hooks:
                self._tenants[tenant] = hooks  # behind the others
            return token
        return None
