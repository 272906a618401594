"""Reads the spool beside its writer, in short transactions: a long one would let the WAL grow without end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import msgspec
import structlog

from webhookd.adapters.spool_care import SpoolFile
from webhookd.adapters.spool_db import crc_of
from webhookd.adapters.spool_layout import NUMBER, PART_BITS, STATES, Entry, SpoolError, State
from webhookd.model import HeaderValue

COLUMNS = "seq, receipt, hook, tenant, datasource, event, state, attempts, received_at, bytes, reason, headers, crc"
SPAN = 20_000
"""How many places one transaction looks at."""
_OF_SPAN = f"SELECT {COLUMNS} FROM message WHERE seq > ? AND seq <= ?"  # noqa: S608 - constants
_FIRST_OF_HOOKS = (
    f"SELECT {COLUMNS} FROM message WHERE seq IN "  # noqa: S608 - constants
    "(SELECT min(seq) FROM message WHERE state < 2 GROUP BY hook) ORDER BY seq LIMIT ?"
)

log = structlog.get_logger(__name__)


class SpoolReader:
    """A read-only connection, used by one thread, made anew when the writer has opened the file again."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._db: sqlite3.Connection | None = None
        self._generation = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def entries(
        self, after: int, limit: int, max_bytes: int, tenant: str | None, states: frozenset[State] | None, bodies: bool
    ) -> list[Entry]:
        """See `Spool.entries`."""
        query = _OF_SPAN
        if tenant is not None:
            query += " AND tenant = ?"
        if states is not None:
            query += f" AND state IN ({','.join(str(NUMBER[state]) for state in states)})"
        query += " ORDER BY seq LIMIT ?"
        found: list[Entry] = []
        first, last = self._ends()
        after = max(after, first - 1)
        while after < last and not found:
            values = (after, after + SPAN, *(() if tenant is None else (tenant,)), limit)
            found = self._page(query, values, max_bytes, bodies=bodies)
            after += SPAN
        return found

    def next_waiting(self, limit: int) -> list[Entry]:
        """See `Spool.next_waiting`."""
        return self._page(_FIRST_OF_HOOKS, (limit,), 0, bodies=False)

    def _ends(self) -> tuple[int, int]:
        with self._transaction() as db:
            first, last = db.execute("SELECT (SELECT min(seq) FROM message), (SELECT max(seq) FROM message)").fetchone()
        return first or 1, last or 0

    def _page(self, query: str, values: tuple[object, ...], max_bytes: int, *, bodies: bool) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        with self._transaction() as db:
            for row in db.execute(query, values):
                entry = _entry(row)
                if bodies:
                    size += entry.bytes
                    if found and size > max_bytes:
                        break
                    entry = _with_body(db, entry, row[11], row[12])
                found.append(entry)
        return found

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._file.gate:
            try:
                db = self._connected()
                db.execute("BEGIN")
                try:
                    yield db
                finally:
                    db.execute("ROLLBACK")
            except (sqlite3.Error, OSError) as error:
                self.close()
                raise SpoolError(f"the spool cannot be read: {error}") from error

    def _connected(self) -> sqlite3.Connection:
        if self._db is None or self._generation != self._file.generation:
            self.close()
            if self._file.db is None:
                raise SpoolError(f"the spool cannot be read: {self._file.failing}")
            self._generation = self._file.generation
            uri = f"file:{quote(str(self._file.path))}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        return self._db


def _entry(row: Any) -> Entry:
    seq, receipt, hook, tenant, datasource, event, state, attempts, received_at, size, reason, _headers, _crc = row
    return Entry(
        seq=seq,
        receipt=receipt,
        hook=hook,
        tenant=tenant,
        datasource=datasource,
        event=event,
        state=STATES[state],
        attempts=attempts,
        received_at=received_at,
        bytes=size,
        reason=reason,
    )


def _with_body(db: sqlite3.Connection, entry: Entry, headers: bytes, crc: int) -> Entry:
    parts = db.execute(
        "SELECT data FROM body WHERE id >= ? AND id < ? ORDER BY id",
        (entry.seq << PART_BITS, (entry.seq + 1) << PART_BITS),
    )
    body = b"".join(part for (part,) in parts)
    if crc_of(headers, body) != crc:
        log.error("a message in the spool is damaged on disk", receipt=entry.receipt, bytes=entry.bytes)
        return msgspec.structs.replace(entry, reason="damaged on disk")
    known = msgspec.json.decode(headers, type=dict[str, HeaderValue])
    return msgspec.structs.replace(entry, headers=known, body=body)
