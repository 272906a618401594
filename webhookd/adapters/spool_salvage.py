"""What is readable of a damaged spool, message by message: nothing that it yields is not what was published."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from webhookd.adapters.spool_layout import MIB, State
from webhookd.adapters.spool_reader import FIELDS, complete, entry_of, forgiving_text
from webhookd.adapters.spool_schema import SEQ_MAX
from webhookd.model import Message

SPAN = 256
"""Places that one question asks for; where the answer is an error, half as many."""
FAULTS_MAX = 100_000
"""Places that cannot be read, after which the rest of a file is given up."""
BATCH = 100
"""Messages that are yielded together."""

RANGE = f"""
SELECT {FIELDS} FROM message AS m CROSS JOIN hook AS h ON h.id = m.hook
WHERE m.seq >= ?1 AND m.seq < ?2 ORDER BY m.seq"""  # noqa: S608 (names of the spool's modules)
ENDS = ("SELECT min(seq), max(seq) FROM message", "SELECT 1, next FROM floor", "SELECT 1, max(id) >> 16 FROM body")
"""Where the places begin and end: whichever can be answered."""

Salvaged = list[tuple[Message, State]]


class Salvage:
    """Reads one file that was put aside, and changes nothing in it. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.unreadable = 0
        """Messages that are known to be lost, and places that could not be read."""
        self._db: sqlite3.Connection | None = None
        self._batches = self._read(path)

    def next_batch(self) -> Salvaged:
        """Return some more messages, none at the end."""
        return next(self._batches, [])

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, path: Path) -> Iterator[Salvaged]:
        try:
            uri = f"{path.absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        except sqlite3.Error:
            return
        self._db.text_factory = forgiving_text
        batch: Salvaged = []
        size = 0
        for message, state in self._messages(self._db):
            batch.append((message, state))
            size += len(message.body)
            if len(batch) >= BATCH or size >= MIB:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _messages(self, db: sqlite3.Connection) -> Iterator[tuple[Message, State]]:
        place, end = _ends(db)
        span = SPAN
        while place < end and self.unreadable < FAULTS_MAX:
            try:
                rows = db.execute(RANGE, (place, min(end, place + span))).fetchall()
            except sqlite3.DatabaseError:
                if span > 1:
                    span //= 2
                    continue
                self.unreadable += 1
                rows = []
            for row in rows:
                found = _message(db, row)
                if found is None:
                    self.unreadable += 1
                else:
                    yield found
            place += span
            span = min(SPAN, 2 * span)


def _ends(db: sqlite3.Connection) -> tuple[int, int]:
    for question in ENDS:
        try:
            first, last = db.execute(question).fetchone()
        except (sqlite3.DatabaseError, TypeError):
            continue
        if isinstance(first, int) and isinstance(last, int) and 0 < first <= last < SEQ_MAX:
            return first, last + 1
    return 0, 0


def _message(db: sqlite3.Connection, row: object) -> tuple[Message, State] | None:
    try:
        entry, blob, check = entry_of(row)
    except (sqlite3.DatabaseError, TypeError):
        return None
    whole = complete(db, entry, blob, check)
    if whole.body is None:
        return None
    return whole.message, State.WAITING if whole.state is State.UNROUTABLE else whole.state
