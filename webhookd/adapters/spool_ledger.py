"""How many messages and bytes the spool holds, by state and by tenant: always what the last commit left."""

from __future__ import annotations

from webhookd.adapters.spool_layout import STATES, State


class Ledger:
    """Changed inside a transaction, valid from its commit on. Only the writer changes it; any thread may read it."""

    def __init__(self) -> None:
        self.messages: dict[State, int] = dict.fromkeys(STATES, 0)
        self.held: dict[str, int] = {}
        """Bytes of disk by tenant, those on their way into the file included."""
        self._added: dict[State, int] = dict.fromkeys(STATES, 0)
        self._gone: list[tuple[str, int]] = []

    def hold(self, tenant: str, cost: int) -> None:
        """Count what a message will take, at once."""
        self.held[tenant] = self.held.get(tenant, 0) + cost

    def release(self, tenant: str, cost: int) -> None:
        """Take back a `hold`, at once."""
        left = self.held.get(tenant, 0) - cost
        if left > 0:
            self.held[tenant] = left
        else:
            self.held.pop(tenant, None)

    def add(self, state: State) -> None:
        """Count a message, whose bytes are held already."""
        self._added[state] += 1

    def remove(self, tenant: str, state: State, cost: int) -> None:
        """Count a message, and its bytes, no more."""
        self._added[state] -= 1
        self._gone.append((tenant, cost))

    def move(self, old: State, new: State) -> None:
        """Count a message in another state."""
        self._added[old] -= 1
        self._added[new] += 1

    def settle(self) -> None:
        """Make what changed since the last commit valid."""
        for state, count in self._added.items():
            self.messages[state] += count
        for tenant, cost in self._gone:
            self.release(tenant, cost)
        self.forget()

    def forget(self) -> None:
        """Undo what changed since the last commit."""
        for state in STATES:
            self._added[state] = 0
        self._gone.clear()
