"""What is kept of one hook's deliveries: as it was noted until somebody asks, and never more than its limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple, cast

import msgspec

from webhookd.http1_head import Fields
from webhookd.ingest import MAX_SENDER_WORD, Datasources
from webhookd.model import Delivery, HeaderValue, Hook, Outcome, Record, Verified

Ended = tuple[Outcome, str | None, int, str | None, str | None]
"""How a delivery ended: outcome, reason, status, detail, and the check that refused it."""
ANSWERED = int(HTTPStatus.NO_CONTENT)
"""What the sender of an accepted or ignored delivery is told."""
ACCEPTED: Ended = ("accepted", None, ANSWERED, None, None)
Headers = bytes | Mapping[str, str]
"""Header fields, or the head that they are of (`Fields.block`)."""
Said = HeaderValue | None
Noted = tuple[Hook, str, int, Ended, int, float, Said, Said, Headers, bytes | None, Record | None]
"""A delivery as it is noted.

Hook, id, received_at, how it ended, size, duration, the sender's words for the delivery and its event (of refused ones
they are read from headers and body when somebody asks), headers, body, and the record where that is made already.
"""
OVERHEAD = 500
"""About how many bytes of memory a record takes beside its headers and its body."""
PER_FIELD = 150
"""And each header field beside its value, once it is read."""
PER_HOOK = 1000
"""And each hook that has any."""


class Begun(NamedTuple):
    """The hook, the id and the time (ms since the epoch) of a delivery that is to be noted."""

    hook: Hook
    id: str
    received_at: int


class Kept(msgspec.Struct, gc=False, eq=False):
    """One delivery: as it was noted (which takes least memory) or, read from disk or its body let go, as a record.

    `bytes` is about how much memory it takes, `body` what was kept of its body and is not on disk, `fresh` whether it
    is still to be written.
    """

    noted: Noted | None
    record: Record | None
    body: bytes | None
    bytes: int
    fresh: bool

    @property
    def id(self) -> str:
        """The id of the record."""
        noted = self.noted
        return noted[1] if noted is not None else self._made.id

    @property
    def received_at(self) -> int:
        """When the delivery came, in ms since the epoch."""
        noted = self.noted
        return noted[2] if noted is not None else self._made.received_at

    @property
    def outcome(self) -> Outcome:
        """What became of the delivery."""
        noted = self.noted
        return noted[3][0] if noted is not None else self._made.outcome

    @property
    def has_body(self) -> bool:
        """Whether the body was kept, here or on disk."""
        noted = self.noted
        return noted[9] is not None if noted is not None else self._made.has_body

    @property
    def _made(self) -> Record:
        assert self.record is not None  # noqa: S101 - for the type checker: it is one or the other
        return self.record

    def made(self, datasources: Datasources) -> Record:
        """Return the record; any thread may ask."""
        noted = self.noted
        return self._made if noted is None else noted[10] or _made(noted, datasources)


class Ring:
    """The last `limit` deliveries of one hook of `tenant`, oldest first, and about how many `bytes` they take.

    `listed`: whoever writes them knows that there are some to be written.
    """

    __slots__ = ("bytes", "entries", "limit", "listed", "tenant")

    def __init__(self, limit: int, tenant: str) -> None:
        self.limit = limit
        self.tenant = tenant
        self.listed = False
        self.bytes = PER_HOOK
        self.entries: deque[Kept] = deque()

    def add(self, newest_first: Sequence[Noted]) -> None:
        """Keep some more, and let the oldest go where there are too many."""
        entries, used = self.entries, self.bytes
        for noted in reversed(newest_first):
            headers, body = noted[8], noted[9]
            size = OVERHEAD + (len(headers) if type(headers) is bytes else _weight(headers))
            if body is not None:
                size += len(body)
            used += size
            entries.append(Kept(noted, None, body, size, True))
            if len(entries) > self.limit:
                used -= entries.popleft().bytes
        self.bytes = used

    def restore(self, record: Record) -> None:
        """Keep what was written before."""
        kept = Kept(None, record, None, OVERHEAD + _weight(record.headers), fresh=False)
        self.entries.append(kept)
        self.bytes += kept.bytes
        if len(self.entries) > self.limit:
            self.bytes -= self.entries.popleft().bytes

    def let_go(self, written: Iterable[tuple[Kept, Record]]) -> None:
        """Let go of bodies that are on disk now, and of all else that the records say that were made of these."""
        here = set(self.entries)
        for kept, record in written:
            if kept.body is not None and kept in here:
                before = kept.bytes
                kept.record, kept.noted, kept.body = record, None, None
                kept.bytes = OVERHEAD + _weight(record.headers)
                self.bytes += kept.bytes - before

    def shrink(self, most: int) -> int:
        """Let the oldest go until `most` bytes are free or none is left; return how many are free."""
        before = self.bytes
        while self.entries and before - self.bytes < most:
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


def head_of(headers: Mapping[str, str]) -> Headers:
    """Return what to keep of header fields."""
    return headers.block if isinstance(headers, Fields) else headers


def _weight(headers: Headers) -> int:
    """Return about how many bytes of memory header fields take."""
    if isinstance(headers, bytes):
        return len(headers)
    return PER_FIELD * len(headers) + sum(map(len, headers.values()))


def _made(noted: Noted, datasources: Datasources) -> Record:
    hook, id_, received_at, ended, size, duration, named, event, head, body, _ = noted
    outcome, reason, status, detail, check = ended
    headers = dict(Fields.of(head) if isinstance(head, bytes) else head)
    token = _token(hook, head)
    if outcome == "refused":
        source, delivery = (
            datasources.get(hook.datasource),
            Delivery(headers, body or b"", received_at, hook.url(token)),
        )
        named, event = _said(source.delivery_id, delivery), _said(source.event_type, delivery)
    return Record(
        id=id_,
        received_at=received_at,
        outcome=outcome,
        reason=reason,
        status=status,
        detail=detail,
        check=check,
        size=size,
        duration=duration,
        delivery_id=_word(named),
        provider_event=_word(event),
        headers=headers,
        token=None if token == hook.id else token,
        has_body=body is not None,
    )


def _token(hook: Hook, headers: Headers) -> str:
    """Return the token that a delivery came with: its hook's own, or the one before where the request line has that."""
    previous = None if hook.rotation is None else hook.rotation.previous
    if previous is None or not isinstance(headers, bytes):
        return hook.token
    return previous if previous.encode() in headers[: headers.find(b"\n")] else hook.token


def _said(read: Callable[[Verified], str | None], delivery: Delivery) -> str | None:
    """Return what the sender of a refused delivery says, as far as that can be read."""
    try:
        return read(cast("Verified", delivery))  # to be shown and for nothing else: nobody has proved who says so
    except (Exception, SystemExit):  # noqa: BLE001 - a plugin takes a verified delivery for a good one: this is none
        return None


def _word(word: object) -> str | None:
    if isinstance(word, str) and word and len(word) <= MAX_SENDER_WORD and word.isascii() and word.isprintable():
        return word
    return None
