"""Which hooks the spool's file holds messages of, and how many each: a hook whose last message goes, goes too."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from webhookd.adapters.spool_layout import PUBLISHED, State

Key = tuple[str, str, str, str]
"""A hook's token, tenant, datasource and event."""


class Line:
    """The messages of one hook: `messages` are in the file, the uncommitted ones among them."""

    __slots__ = ("key", "messages", "number")

    def __init__(self, number: int, key: Key) -> None:
        self.number = number
        self.key = key
        self.messages = 0

    @property
    def tenant(self) -> str:
        """The tenant that the hook belongs to."""
        return self.key[1]


class Lines:
    """The rows of the table `hook`. Only the writer changes it; any thread may ask for `numbers` and `waiting`.

    What is changed inside a transaction is valid from its commit on, which `settle` is told, and `forget` otherwise.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.waiting: dict[str, int] = {}
        """Messages that are to be published, by the hook's token, where there are any."""
        self._db = connection
        self._by_key: dict[Key, Line] = {}
        self._by_number: dict[int, Line] = {}
        self._by_token: dict[str, tuple[int, ...]] = {}
        self._next = 1
        self._fresh: list[Line] = []
        self._gone: list[Line] = []

    def load(self) -> None:
        """Learn the hooks from the file."""
        for number, *key in self._db.execute("SELECT id, token, tenant, datasource, event FROM hook"):
            self._know(Line(number, (key[0], key[1], key[2], key[3])))
        self._next = max(self._by_number, default=0) + 1

    def numbers(self, token: str) -> tuple[int, ...]:
        """Return the numbers that stand for a hook in the file."""
        return self._by_token.get(token, ())

    def get(self, number: int) -> Line | None:
        """Return the line with this number."""
        return self._by_number.get(number)

    def of(self, key: Key) -> Line:
        """Return the line of a hook, which gets a row if it has none."""
        line = self._by_key.get(key)
        if line is None:
            line = Line(self._next, key)
            self._next += 1
            self._db.execute("INSERT INTO hook VALUES (?, ?, ?, ?, ?)", (line.number, *key))
            self._know(line)
            self._fresh.append(line)
        return line

    def prune(self, lines: Iterable[Line]) -> None:
        """Delete the rows of those that have no message left."""
        for line in lines:
            if not line.messages and line.number in self._by_number:
                self._db.execute("DELETE FROM hook WHERE id = ?", (line.number,))
                self._unknow(line)
                self._gone.append(line)

    def count(self, line: Line, old: State | None, new: State | None, number: int = 1) -> None:
        """Count committed messages of `line` in another state, None for where they are not in the file."""
        change = number * ((new in PUBLISHED) - (old in PUBLISHED))
        if change:
            token = line.key[0]
            left = self.waiting.get(token, 0) + change
            if left:
                self.waiting[token] = left
            else:
                del self.waiting[token]

    def settle(self) -> None:
        """Keep what changed since the last commit."""
        self._fresh.clear()
        self._gone.clear()

    def forget(self) -> None:
        """Undo what changed since the last commit."""
        for line in self._fresh:
            if line.number in self._by_number:
                self._unknow(line)
        for line in self._gone:
            if line not in self._fresh:
                self._know(line)
        self.settle()

    def _know(self, line: Line) -> None:
        token = line.key[0]
        self._by_key[line.key] = line
        self._by_number[line.number] = line
        self._by_token[token] = (*self._by_token.get(token, ()), line.number)

    def _unknow(self, line: Line) -> None:
        token = line.key[0]
        del self._by_key[line.key]
        del self._by_number[line.number]
        left = tuple(number for number in self._by_token[token] if number != line.number)
        if left:
            self._by_token[token] = left
        else:
            del self._by_token[token]
