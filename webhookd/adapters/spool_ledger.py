"""How many messages and bytes the spool holds, by state and by tenant: always what the last commit left."""

from __future__ import annotations

from webhookd.adapters.spool_layout import STATES, State
from webhookd.adapters.spool_lines import Line, Lines


class Ledger:
    """Changed inside a transaction, valid from its commit on. Only the writer changes it; any thread may read it."""

    def __init__(self, lines: Lines) -> None:
        self.messages: dict[State, int] = dict.fromkeys(STATES, 0)
        self.held: dict[str, int] = {}
        """Bytes of disk by tenant, those on their way into the file included."""
        self._lines = lines
        self._changes: list[tuple[Line, State | None, State | None, int]] = []
        """Line, old state, new state and bytes to release of each message that changed since the last commit."""

    def load(self, line: Line, state: State, count: int, cost: int) -> None:
        """Count what the file holds already."""
        self.messages[state] += count
        line.messages += count
        self.hold(line.tenant, cost)
        self._lines.count(line, None, state, count)

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

    def add(self, line: Line, state: State) -> None:
        """Count a message, whose bytes are held already."""
        line.messages += 1
        self._changes.append((line, None, state, 0))

    def remove(self, line: Line, state: State, cost: int) -> None:
        """Count a message, and its bytes, no more."""
        line.messages -= 1
        self._changes.append((line, state, None, cost))

    def move(self, line: Line, old: State, new: State) -> None:
        """Count a message in another state."""
        self._changes.append((line, old, new, 0))

    def settle(self) -> None:
        """Make what changed since the last commit valid."""
        for line, old, new, cost in self._changes:
            if old is not None:
                self.messages[old] -= 1
            if new is not None:
                self.messages[new] += 1
            else:
                self.release(line.tenant, cost)
            self._lines.count(line, old, new)
        self._changes.clear()
        self._lines.settle()

    def forget(self) -> None:
        """Undo what changed since the last commit."""
        for line, old, new, _ in self._changes:
            line.messages += (old is not None) - (new is not None)
        self._changes.clear()
        self._lines.forget()
