"""Reads the spool beside its writer, in short transactions: a long one would keep the WAL from being emptied."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from webhookd.adapters.spool_file import SpoolFile
from webhookd.adapters.spool_item import seal
from webhookd.adapters.spool_layout import CLOSED, MANY, MIB, NUMBER, PART_BITS, STATE, STATES, Entry, SpoolError, State
from webhookd.adapters.spool_schema import Damaged

WINDOW = 2000
"""Messages that one transaction looks at."""
SLACK = 30_000
"""By how many ms at the most the order of messages is taken to differ from that of their receipt."""
PAUSE = 0.0005
"""Seconds between two windows, in which the writer has its turn."""
DAMAGED = "damaged on disk"

FIELDS = """
m.seq, m.receipt, h.token, h.tenant, h.datasource, h.event, m.state, m.attempts, m.received_at, m.bytes, m.reason,
m.blob, m.seal"""
BOUND = "SELECT max(seq) FROM (SELECT seq FROM message WHERE seq > ?1 ORDER BY seq LIMIT ?2)"
FOUND = f"""
SELECT {FIELDS} FROM message AS m CROSS JOIN hook AS h ON h.id = m.hook
WHERE m.seq > ?1 AND m.seq <= ?2 AND (?3 IS NULL OR h.tenant = ?3) AND m.state IN (SELECT value FROM json_each(?4))
ORDER BY m.seq LIMIT ?5"""  # noqa: S608 (names of this module)
OF_HOOK = f"""
SELECT {FIELDS} FROM message AS m CROSS JOIN hook AS h ON h.id = m.hook
WHERE m.hook = ?1 AND m.state < 4 AND m.seq > ?2 ORDER BY m.seq LIMIT ?3"""  # noqa: S608
FIRST_OF_HOOKS = f"""
WITH RECURSIVE line (hook) AS (
    SELECT min(hook) FROM message WHERE state < 4
    UNION ALL SELECT (SELECT min(hook) FROM message WHERE state < 4 AND hook > line.hook) FROM line WHERE hook NOTNULL
)
SELECT {FIELDS} FROM line CROSS JOIN hook AS h ON h.id = line.hook CROSS JOIN message AS m
ON m.seq = (SELECT min(seq) FROM message WHERE state < 4 AND hook = line.hook)
ORDER BY m.seq"""  # noqa: S608
PLACE = "SELECT seq, received_at FROM message WHERE seq >= ? ORDER BY seq LIMIT 1"
BY_RECEIPT = f"""
SELECT {FIELDS} FROM message AS m CROSS JOIN hook AS h ON h.id = m.hook
WHERE m.seq BETWEEN ?1 AND coalesce((SELECT min(seq) FROM message WHERE seq > ?1 AND received_at > ?2), 1 << 62)
AND m.receipt = ?3 LIMIT 1"""  # noqa: S608
BODY = "SELECT id, data, head FROM body WHERE id >= ? AND id < ? ORDER BY id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which entries are wanted, as `Spool.entries` has it; with `hook` its line."""

    after: int = 0
    limit: int = MANY
    max_bytes: int = MIB
    tenant: str | None = None
    states: Collection[State] | None = None
    bodies: bool = False
    hook: str | None = None


class Reader:
    """A read-only connection to the file, made anew when the writer has opened it again. Used by one thread."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._generation = 0

    def entries(self, query: Query) -> list[Entry]:
        """Return what is wanted, in order; raises SpoolError, sqlite3.Error where the file cannot be read."""
        found: list[Entry] = []
        after: int | None = query.after
        budget = query.max_bytes
        while after is not None and len(found) < query.limit:
            with self._transaction() as db:
                if query.hook is not None:
                    rows, after = self._line(db, query.hook, after, query.limit), None
                else:
                    rows, after = _window(db, query, after, query.limit - len(found))
                for entry, blob, check in rows:
                    budget -= entry.bytes if query.bodies else 0
                    if budget < 0 and found:
                        return found
                    found.append(complete(db, entry, blob, check) if query.bodies else entry)
            if after is not None:
                time.sleep(PAUSE)
        return found

    def newest(self) -> int:
        """Return the place of the newest message, 0 where there is none."""
        with self._transaction() as db:
            (newest,) = db.execute("SELECT max(seq) FROM message").fetchone()
        return newest or 0

    def find(self, receipt: str, received_at: int) -> Entry | None:
        """Return the message with this receipt, with its body; None where there is none of about that time (ms)."""
        with self._transaction() as db:
            low, high = db.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM message").fetchone()
            while low < high:  # places are given in about the order of receipt
                middle = (low + high) // 2
                seq, at = db.execute(PLACE, (middle,)).fetchone()
                low, high = (low, middle) if at >= received_at - SLACK else (seq + 1, high)
            row = db.execute(BY_RECEIPT, (low, received_at + SLACK, receipt)).fetchone()
            return None if row is None else complete(db, *entry_of(row))

    def first_of_hooks(self) -> list[Entry]:
        """Return the first message of each hook that has any to be published, in order."""
        with self._transaction() as db:
            return [entry_of(row)[0] for row in db.execute(FIRST_OF_HOOKS)]

    def close(self) -> None:
        """Let go of the file."""
        with self._file.gate:
            self._let_go()

    def _line(self, db: sqlite3.Connection, hook: str, after: int, limit: int) -> list[Found]:
        file = self._file.db
        rows: list[Any] = []
        for number in file.rows.lines.numbers(hook) if file else ():
            rows += db.execute(OF_HOOK, (number, after, limit))
        return [entry_of(row) for row in sorted(rows)[:limit]]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._file.gate:
            db = self._connected()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("ROLLBACK")

    def _connected(self) -> sqlite3.Connection:
        file = self._file
        if file.db is None:
            raise SpoolError(file.failing or CLOSED)
        if file.reading is None or self._generation != file.generation:
            self._let_go()
            uri = f"{file.path.absolute().as_uri()}?mode=ro"
            file.reading = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=1, check_same_thread=False)
            file.reading.text_factory = forgiving_text
            self._generation = file.generation
        return file.reading

    def _let_go(self) -> None:
        if self._file.reading is not None:
            self._file.reading.close()
            self._file.reading = None


Found = tuple[Entry, int, int]
"""An entry, the number of its body, and its checksum."""


def forgiving_text(data: bytes) -> str:
    """Read what should be UTF-8: where it is not, the checksum says so."""
    return data.decode("utf-8", "replace")


def _window(db: sqlite3.Connection, query: Query, after: int, limit: int) -> tuple[list[Found], int | None]:
    """Return the next rows, and behind which place the next window begins: None at the end."""
    states = STATES if query.states is None else query.states
    (bound,) = db.execute(BOUND, (after, WINDOW)).fetchone()
    if bound is None:
        return [], None
    numbers = json.dumps([NUMBER[state] for state in states])
    found = db.execute(FOUND, (after, bound, query.tenant, numbers, limit))
    return [entry_of(row) for row in found], bound


def entry_of(row: Any) -> Found:
    """Return the entry of a row of FIELDS, without its body; raises Damaged."""
    seq, receipt, hook, tenant, datasource, event, state, attempts, received_at, length, reason, blob, check = row
    if state not in STATE or not isinstance(length, int):
        raise Damaged("a message of the spool is not what was written")
    entry = Entry(
        seq=seq,
        receipt=receipt,
        hook=hook,
        tenant=tenant,
        datasource=datasource,
        event=event,
        state=STATE[state],
        attempts=attempts,
        received_at=received_at,
        bytes=length,
        reason=reason,
    )
    return entry, blob, check


def complete(db: sqlite3.Connection, entry: Entry, blob: int, check: int) -> Entry:
    """Add headers and body, if they are what was written."""
    try:
        parts = db.execute(BODY, (blob << PART_BITS, (blob + 1) << PART_BITS)).fetchall()
        body = b"".join([data for _, data, _ in parts])
        head = parts[0][2]
        names = (entry.receipt, entry.hook, entry.tenant, entry.datasource, entry.event)
        if seal(names, entry.received_at, head, body) == check:
            return replace(entry, headers=msgspec.json.decode(head), body=body)
    except (sqlite3.DatabaseError, IndexError, TypeError, ValueError):
        pass  # each of them is what damage looks like
    return replace(entry, state=State.SET_ASIDE, reason=DAMAGED)
