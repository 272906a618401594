"""What is kept of one hook's deliveries: as it was noted until somebody asks, and never more than its limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import cast

from webhookd.http1_head import Fields
from webhookd.ingest import MAX_SENDER_WORD, Datasources
from webhookd.model import Delivery, Hook, Outcome, Record, Verified

Ended = tuple[Outcome, str | None, int, str | None]
"""How a delivery ended: outcome, reason, status, detail."""
Words = Mapping[str, object]
Noted = tuple[Hook, str, int, Ended, int, float, Words | None, Mapping[str, str], bytes | None, Record | None]
"""A delivery as it is noted.

Hook, id, received_at, how it ended, size, duration, the sender's words (None: to be read from headers and body),
headers, body, and the record where that is made already.
"""
OVERHEAD = 900
"""About how many bytes of memory a record takes beside its headers and its body."""
PER_FIELD = 90
"""And each header field beside its value."""


class Kept:
    """One delivery, as it was noted or as a record."""

    __slots__ = ("_noted", "_record", "body", "bytes", "fresh", "has_body", "id", "outcome")

    def __init__(self, noted: Noted | None, record: Record | None, body: bytes | None) -> None:
        self._noted = noted
        self._record = record
        self.body = body
        self.fresh = noted is not None
        """Whether it is still to be written."""
        if noted is not None:
            self.id: str = noted[1]
            self.outcome: Outcome = noted[3][0]
            self.has_body = body is not None
        elif record is not None:
            self.id = record.id
            self.outcome = record.outcome
            self.has_body = record.has_body
        self.bytes = self.weight()

    def weight(self) -> int:
        """Return about how many bytes of memory it takes."""
        headers: Mapping[str, str] | Mapping[str, bytes] = {}
        if self._noted is not None:
            headers = self._noted[7]
        elif self._record is not None:
            headers = self._record.headers
        if isinstance(headers, Fields):
            headers = headers.raw  # nothing is decoded for this
        size = OVERHEAD + PER_FIELD * len(headers) + sum(map(len, headers.values()))
        return size + (0 if self.body is None else len(self.body))

    def made(self, datasources: Datasources) -> Record:
        """Return the record, made now if it was not yet."""
        noted, record = self._noted, self._record  # in this order: another thread may be doing the same
        if record is None:
            assert noted is not None  # noqa: S101 - for the type checker: it is one or the other
            record = _made(noted, datasources)
            self._record = record
            self._noted = None
        return record


class Ring:
    """The last `limit` deliveries of one hook, oldest first, and about how many `bytes` they take."""

    __slots__ = ("bytes", "entries", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.entries: deque[Kept] = deque()

    def append(self, noted: Noted) -> Kept:
        """Keep one more, and let the oldest go where there are too many."""
        kept = Kept(noted, noted[9], noted[8])
        self._append(kept)
        return kept

    def restore(self, record: Record) -> None:
        """Keep what was written before."""
        self._append(Kept(None, record, None))

    def _append(self, kept: Kept) -> None:
        self.entries.append(kept)
        self.bytes += kept.bytes
        while len(self.entries) > self.limit:
            self.bytes -= self.entries.popleft().bytes

    def weigh(self, kept: Kept) -> int:
        """Weigh one again whose body was let go, and return how many bytes more it takes (less: below 0)."""
        before, kept.bytes = kept.bytes, kept.weight()
        self.bytes += kept.bytes - before
        return kept.bytes - before

    def shrink(self, most: int) -> int:
        """Let the oldest go until `most` bytes are free or one is left; return how many are."""
        before = self.bytes
        while len(self.entries) > 1 and before - self.bytes < most:
            self.bytes -= self.entries.popleft().bytes
        return before - self.bytes

    def take_fresh(self) -> list[Kept]:
        """Return what is still to be written, oldest first, and take it for written."""
        fresh = [kept for kept in self.entries if kept.fresh]
        for kept in fresh:
            kept.fresh = False
        return fresh

    def give_back(self, entries: Collection[Kept]) -> None:
        """Take these for still to be written, so far as they are here."""
        for kept in entries:
            kept.fresh = True


def _made(noted: Noted, datasources: Datasources) -> Record:
    hook, id_, received_at, (outcome, reason, status, detail), size, duration, words, headers, body, _ = noted
    given = dict(headers)
    if words is None:
        words = _words(datasources, hook, Delivery(given, body or b"", received_at, hook.hook_url))
    return Record(
        id=id_,
        received_at=received_at,
        outcome=outcome,
        reason=reason,
        status=status,
        detail=detail,
        size=size,
        duration=duration,
        delivery_id=_word(words.get("deliveryId")),
        provider_event=_word(words.get("providerEvent")),
        headers=given,
        has_body=body is not None,
    )


def _words(datasources: Datasources, hook: Hook, delivery: Delivery) -> Words:
    """Return what the sender calls a refused delivery and its event, as far as that can be read."""
    source = datasources.get(hook.datasource)
    words: dict[str, object] = {}
    # to be shown and for nothing else: nobody has proved who says so
    unproved = cast("Verified", delivery)
    for name, read in (("deliveryId", source.delivery_id), ("providerEvent", source.event_type)):
        try:
            words[name] = read(unproved)
        except (Exception, SystemExit):  # noqa: BLE001 - a plugin may take a verified delivery for a good one: this is none
            words[name] = None
    return words


def _word(word: object) -> str | None:
    good = isinstance(word, str) and word and len(word) <= MAX_SENDER_WORD and word.isascii() and word.isprintable()
    return word if good and isinstance(word, str) else None
