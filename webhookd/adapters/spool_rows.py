"""The rows of messages in the spool's file: every method is a part of a transaction of the writer's."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from webhookd.adapters.spool_item import Item, LargeBody
from webhookd.adapters.spool_layout import CHANGE_PAGES, NUMBER, PART_BITS, STATE, UNIT_MIN, Sizes, State
from webhookd.adapters.spool_ledger import Ledger
from webhookd.adapters.spool_lines import Line, Lines
from webhookd.adapters.spool_schema import NEXT, SEQ_MAX, Damaged

COLUMNS = "seq, receipt, hook, state, received_at, bytes, cost, blob, seal"
WINDOW = "SELECT seq, state, received_at, receipt FROM message WHERE seq > ? ORDER BY seq LIMIT ?"
OLDEST_UNKEPT = """
SELECT max(seq), min(iif(state < 5, seq, NULL))
FROM (SELECT seq, state FROM message WHERE seq > ? ORDER BY seq LIMIT ?)"""
CHOSEN = "seq IN (SELECT value FROM json_each(?))"
SUMS = """
SELECT hook, state, count(*), sum(cost), sum(typeof(cost) = 'integer') FROM message GROUP BY hook, state"""
PARTS = "SELECT id FROM body WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
ROWS = 64
"""Rows of one INSERT: each statement gives the interpreter lock away, so fewer are cheaper."""
LOOKED_AT = 2000
"""Messages that one transaction looks at when it searches for some."""
REASON_MAX = 200
"""Characters that are kept of a reason."""


class Place(NamedTuple):
    """Enough of a message to choose it."""

    seq: int
    state: State
    received_at: int
    receipt: str


class Allowance:
    """What one transaction may still change: pages written, bytes of bodies deleted, messages looked at."""

    __slots__ = ("bytes", "frugal", "granted", "looks", "pages")

    def __init__(self, pages: int, size: int, *, frugal: bool) -> None:
        self.pages = self.granted = pages
        self.bytes = size
        self.frugal = frugal
        """Whether what makes a message longer must be left out."""
        self.looks = LOOKED_AT

    @property
    def changes(self) -> int:
        """How many messages may be changed or deleted."""
        return max(0, self.pages // CHANGE_PAGES) if self.bytes > 0 else 0

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return not self.changes or self.looks <= 0

    def spend(self, changes: int, size: int = 0) -> None:
        """Take what so many changes cost, and the deletion of so many bytes."""
        self.pages -= changes * CHANGE_PAGES
        self.bytes -= size


class Rows:
    """Messages with their bodies, and the numbers that they are given.

    A body that is too large to be deleted in one transaction is `doomed` with its message, and goes part by part.
    """

    def __init__(self, connection: sqlite3.Connection, sizes: Sizes) -> None:
        self.lines = Lines(connection)
        self.ledger = Ledger(self.lines)
        self.doomed: deque[int] = deque()
        """Numbers of bodies whose parts are to be deleted."""
        self.next = 1
        self._db = connection
        self._sizes = sizes
        self._newly_doomed: list[int] = []
        self._cleared = 0
        self._kept_until = 0
        """The place up to which there are only kept messages."""

    def load(self) -> None:
        """Learn numbers, hooks and sums from the file; raises Damaged."""
        self.lines.load()
        (following,) = self._db.execute(NEXT).fetchone()
        if not isinstance(following, int) or not 0 < following < SEQ_MAX:
            raise Damaged("the spool's numbers are out of range")
        self.next = following
        for hook, number, count, cost, costs in self._db.execute(SUMS):
            if number not in STATE or costs != count:
                raise Damaged("a message of the spool is not what was written")
            self.ledger.load(self._line(hook), STATE[number], count, cost)
        self.doomed.extend(blob for (blob,) in self._db.execute("SELECT blob FROM unfinished"))

    def settle(self) -> None:
        """Make valid what changed since the last commit."""
        self.ledger.settle()
        for _ in range(self._cleared):
            self.doomed.popleft()
        self.doomed += self._newly_doomed
        self._begin_anew()

    def forget(self) -> None:
        """Undo what changed since the last commit."""
        self.ledger.forget()
        self._begin_anew()

    # --- messages ---------------------------------------------------------------------------------------------------

    def append(self, items: Sequence[Item]) -> None:
        """Write messages whose bodies take one part, and give them their places."""
        for start in range(0, len(items), ROWS):
            rows: list[object] = []
            bodies: list[object] = []
            for item in items[start : start + ROWS]:
                seq = self._take_number()
                rows += self._row(seq, item, seq)
                bodies += (seq << PART_BITS, item.message.body, item.head)
            count = len(bodies) // 3
            self._db.execute(_insert(f"message ({COLUMNS})", 9, count), rows)
            self._db.execute(_insert("body", 3, count), bodies)

    def large(self, item: Item) -> LargeBody:
        """Begin a body of many parts."""
        return LargeBody(item, self._take_number(), self._sizes.unit)

    def append_part(self, large: LargeBody) -> None:
        """Write the next part; with the last one the message is there."""
        if not large.started:
            self._db.execute("INSERT INTO unfinished VALUES (?)", (large.blob,))
        self._db.execute("INSERT INTO body VALUES (?, ?, ?)", large.part())
        if large.ends:
            self._db.execute("DELETE FROM unfinished WHERE blob = ?", (large.blob,))
            row = self._row(self._take_number(), large.item, large.blob)
            self._db.execute(_insert(f"message ({COLUMNS})", 9, 1), row)

    def delete(self, seqs: Sequence[int], allowance: Allowance) -> tuple[int, int | None]:
        """Delete messages, given in order, as far as they are allowed.

        Return how many there were, and behind which place the others are, None where there are none.
        """
        chosen = seqs[: allowance.changes]
        found = self._db.execute(
            f"SELECT seq, hook, state, bytes, cost, blob FROM message WHERE {CHOSEN} ORDER BY seq",  # noqa: S608
            (json.dumps(chosen),),
        ).fetchall()
        gone: list[int] = []
        small: list[int] = []
        lines = set()
        for seq, hook, number, length, cost, blob in found:
            if gone and allowance.bytes < length <= self._sizes.unit:
                break
            line = self._line(hook)
            lines.add(line)
            gone.append(seq)
            self.ledger.remove(line, STATE[number], cost)
            allowance.spend(1, self._delete_body(blob, length, small))
        self._delete_rows("message", "seq", gone)
        self._delete_rows("body", "id", sorted(small))
        self.lines.prune(lines)
        self._db.execute("UPDATE floor SET next = ?", (self.next,))
        handled = chosen if len(gone) == len(found) else gone
        return len(gone), handled[-1] if handled and handled[-1] != seqs[-1] else None

    def clear_doomed(self, allowance: Allowance) -> None:
        """Delete parts of bodies whose messages are gone, as far as it is allowed."""
        for blob in self.doomed:
            limit = min(allowance.changes, max(1, allowance.bytes // self._sizes.unit))
            if allowance.spent:
                return
            found = self._db.execute(PARTS, (blob << PART_BITS, (blob + 1) << PART_BITS, limit)).fetchall()
            self._delete_rows("body", "id", [part for (part,) in found])
            allowance.spend(len(found) + 1, len(found) * self._sizes.unit)
            if len(found) == limit:
                return
            self._db.execute("DELETE FROM unfinished WHERE blob = ?", (blob,))
            self._cleared += 1

    def mark(self, seqs: Collection[int], state: State, reason: str | None, *, tried: bool) -> int:
        """Give messages another state and reason; return how many there were.

        Counts an attempt where the message was `tried`, and forgets all of them where it was not.
        """
        values: dict[str, object] = {"reason": reason and reason[:REASON_MAX], "tried": tried}
        return self._change(seqs, state, ", reason = :reason, attempts = iif(:tried, attempts + 1, 0)", values)

    def mark_only(self, seqs: Collection[int], state: State) -> int:
        """Give messages another state and nothing else, which takes no room; return how many there were."""
        return self._change(seqs, state, "", {})

    def window(self, after: int, limit: int) -> list[Place]:
        """Return the next `limit` messages behind the place `after`."""
        rows = self._db.execute(WINDOW, (after, limit))
        return [Place(seq, STATE[number], received_at, receipt) for seq, number, received_at, receipt in rows]

    def oldest_unkept(self) -> int | None:
        """Return when the oldest message that is not kept was received, in ms since the epoch.

        Behind many kept ones it takes some calls until it is found.
        """
        behind, found = self._db.execute(OLDEST_UNKEPT, (self._kept_until, 10 * LOOKED_AT)).fetchone()
        if found is None:
            self._kept_until = behind or self._kept_until
            return None
        self._kept_until = found - 1
        (received_at,) = self._db.execute("SELECT received_at FROM message WHERE seq = ?", (found,)).fetchone()
        return int(received_at)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        self._newly_doomed = []
        self._cleared = 0

    def _take_number(self) -> int:
        number = self.next
        self.next = number + 1
        return number

    def _row(self, seq: int, item: Item, blob: int) -> tuple[object, ...]:
        m = item.message
        line = self.lines.of((m.hook, m.tenant, m.datasource, m.event))
        self.ledger.add(line, item.state)
        item.seq = seq
        return (seq, m.receipt, line.number, NUMBER[item.state], m.received_at, len(m.body), item.cost, blob, item.seal)

    def _line(self, hook: object) -> Line:
        line = self.lines.get(hook) if isinstance(hook, int) else None
        if line is None:
            raise Damaged("a message of the spool is of no hook")
        return line

    def _change(self, seqs: Collection[int], state: State, more: str, values: dict[str, object]) -> int:
        chosen = json.dumps(sorted(seqs))
        held = self._db.execute(f"SELECT hook, state FROM message WHERE {CHOSEN}", (chosen,)).fetchall()  # noqa: S608
        for hook, old in held:
            self.ledger.move(self._line(hook), STATE[old], state)
        self._db.execute(
            f"UPDATE message SET state = :state{more} WHERE seq IN (SELECT value FROM json_each(:chosen))",  # noqa: S608
            {**values, "state": NUMBER[state], "chosen": chosen},
        )
        return len(held)

    def _delete_body(self, blob: int, length: int, small: list[int]) -> int:
        """Delete a body now or later, and return how many bytes go now."""
        if length <= UNIT_MIN:  # shorter than any part: its one row goes with those of others
            small.append(blob << PART_BITS)
            return length
        if length <= self._sizes.unit:
            self._db.execute("DELETE FROM body WHERE id >= ? AND id < ?", (blob << PART_BITS, (blob + 1) << PART_BITS))
            return length
        self._db.execute("INSERT INTO unfinished VALUES (?)", (blob,))
        self._newly_doomed.append(blob)
        return 0

    def _delete_rows(self, table: str, key: str, numbers: Sequence[int]) -> None:
        if numbers:
            delete = f"DELETE FROM {table} WHERE {key} IN (SELECT value FROM json_each(?))"  # noqa: S608
            self._db.execute(delete, (json.dumps(numbers),))


@cache
def _insert(table: str, columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {','.join([row] * rows)}"  # noqa: S608 (names of this module, and question marks)
