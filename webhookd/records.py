"""The last deliveries of each hook, as they ended: bounded in memory, and next to nothing on the path of a delivery."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Protocol

import uuid_utils

from webhookd.errors import Rejected
from webhookd.hooks import HookTable
from webhookd.http1_head import Fields
from webhookd.ingest import Datasources
from webhookd.model import Event, Hook, Message, Outcome, Record
from webhookd.record_ring import ACCEPTED, ANSWERED, Begun, Ended, Kept, Noted, Ring, head_of
from webhookd.record_shares import Shares, Turns

MAX_KEPT_BODY = 64 * 1024
"""The largest body, in bytes as received, that is kept with a record."""
UNSORTED = 256
"""How many deliveries are noted before they are sorted by hook: of a busy hook most are never looked at."""


class Bodies(Protocol):
    """Where bodies are once they are no longer in memory."""

    def body(self, id_: str) -> bytes | None:
        """Return the body of a record, None where it is not there or cannot be read."""


class Records:
    """The last `per_hook` deliveries of each hook, together at most `max_bytes`; used on the event loop only.

    Over that, records of the tenant that has most go first: those of its hooks that have had no delivery for longest.
    They go with their hook. With `keep_accepted` small bodies of accepted deliveries are kept, too, as of refused ones.
    """

    bodies: Bodies | None = None
    """Where bodies are that were written to disk, if they are."""

    def __init__(
        self, hooks: HookTable, datasources: Datasources, *, per_hook: int, max_bytes: int, keep_accepted: bool = False
    ) -> None:
        self.per_hook = per_hook
        self.keep_accepted = keep_accepted
        self.gone: set[str] = set()
        """The hooks whose records are gone since this was last emptied."""
        self._hooks = hooks
        self._datasources = datasources
        self._max_bytes = max_bytes
        self._fresh: list[Noted] = []
        self.shares = Shares(per_hook)
        """Whose records they are, and about how much memory they take."""
        self._rings = self.shares.rings
        self._unwritten = Turns()
        self._listeners: dict[str, list[Callable[[Record], None]]] = {}
        hooks.on_gone(self._hook_gone)

    def __len__(self) -> int:
        self._sort()
        return sum(len(ring.entries) for ring in self._rings.values())

    # --- on the path of a delivery -----------------------------------------------------------------------------------

    def accepted(
        self, hook: Hook, headers: Mapping[str, str], body: bytes | None, size: int, seconds: float, message: Message
    ) -> None:
        """Note a delivery whose `message` is durable. `body` is as received, None where it is too large to be kept."""
        kept = body if self.keep_accepted else None
        head = headers.block if type(headers) is Fields else headers
        said = message.headers.get
        named, event = said("deliveryId"), said("providerEvent")
        # a plain tuple: what is built from it is built when somebody asks
        self._fresh.append(
            (hook, message.receipt, message.received_at, ACCEPTED, size, seconds, named, event, head, kept, None)
        )
        if len(self._fresh) >= UNSORTED or (self._listeners and hook.id in self._listeners):
            self._sort()

    def ignored(self, hook: Hook, headers: Mapping[str, str], size: int, started: float, event: Event) -> None:
        """Note a delivery that is answered 204 without being published; `started` is of `time.perf_counter`."""
        seconds = time.perf_counter() - started
        ended: Ended = ("ignored", event.ignored, ANSWERED, None, None)
        self._note((hook, *_now(), ended, size, seconds, event.id, event.type, head_of(headers), None, None))

    def begun(self, hook: Hook | tuple[str, str]) -> Begun | None:
        """Return what a refused delivery of a hook (itself, or apiToken and token) is noted by; None without a hook."""
        if isinstance(hook, tuple):
            try:
                hook = self._hooks.find(*hook)
            except Rejected:
                return None
        return Begun(hook, *_now())

    def refused(
        self,
        begun: Begun,
        headers: Mapping[str, str],
        body: bytes | None,
        size: int,
        seconds: float,
        why: tuple[str, int, str | None, str | None],
    ) -> None:
        """Note a refused delivery, and `why` (reason, status, detail, check); it took `seconds` to be answered."""
        self._note((*begun, ("refused", *why), size, seconds, None, None, head_of(headers), body, None))

    def replayed(self, hook: Hook, record: Record, body: bytes | None) -> None:
        """Note a replay, whose `record` is made already."""
        ended: Ended = (record.outcome, record.reason, record.status, record.detail, record.check)
        size, seconds = record.size, record.duration
        self._note((hook, record.id, record.received_at, ended, size, seconds, None, None, {}, body, record))

    def _note(self, noted: Noted) -> None:
        self._fresh.append(noted)
        # bodies count: what is not sorted is not counted yet
        if len(self._fresh) >= UNSORTED or noted[9] is not None or noted[0].id in self._listeners:
            self._sort()

    # --- what is asked of them ---------------------------------------------------------------------------------------

    def of(self, token: str, *, outcome: str | None = None, before: str | None = None, limit: int = 50) -> list[Record]:
        """Return at most `limit` records of a hook, newest first; those older than `before` (an id) where given."""
        found: list[Record] = []
        for kept in self._older(token, before):
            if outcome is None or kept.outcome == outcome:
                found.append(self.make(kept))
                if len(found) >= limit:
                    break
        return found

    def outcomes(self, token: str) -> list[tuple[int, Outcome]]:
        """Return when (ms since the epoch) and how each remembered delivery of a hook ended, newest first."""
        return [(kept.received_at, kept.outcome) for kept in self._older(token, None)]

    def get(self, token: str, id_: str) -> Record | None:
        """Return the record with this id, if the hook has it still."""
        kept = self._find(token, id_)
        return None if kept is None else self.make(kept)

    def body(self, token: str, id_: str) -> bytes | None:
        """Return the body that was kept with a record, as received; None where there is none (any more)."""
        kept = self._find(token, id_)
        if kept is None or not kept.has_body:
            return None
        if kept.body is not None or self.bodies is None:
            return kept.body
        return self.bodies.body(id_)

    def listen(self, token: str, heard: Callable[[Record], None]) -> Callable[[], None]:
        """Have `heard` called with each new record of a hook; of more than `per_hook` at once with the last ones.

        Returns what ends it.
        """
        self._sort()
        token = self._hooks.id_of(token)
        listeners = self._listeners.setdefault(token, [])
        listeners.append(heard)

        def stop() -> None:
            if heard in listeners:
                listeners.remove(heard)
            if not listeners and self._listeners.get(token) is listeners:
                del self._listeners[token]

        return stop

    def forget(self, token: str) -> None:
        """Let go of all records of a hook."""
        self._sort()
        if self.shares.drop(token):
            self.gone.add(token)

    # --- to disk and back --------------------------------------------------------------------------------------------

    def unwritten(self, most: int, most_bytes: int) -> list[tuple[str, str, list[Kept]]]:
        """Return what is new since, of whole hooks (tenant, id), up to about these bounds.

        Tenants take turns; of each the hook that is longest unwritten comes first.
        """
        self._sort()
        taken: list[tuple[str, str, list[Kept]]] = []
        count = size = 0
        while count < most and size < most_bytes and (token := self._unwritten.next()) is not None:
            ring = self._rings.get(token)
            if ring is not None:
                ring.listed = False
                fresh = ring.take_fresh()
                count += len(fresh)
                size += sum(kept.bytes for kept in fresh)
                taken.append((ring.tenant, token, fresh))
        return taken

    def make(self, kept: Kept) -> Record:
        """Return the record of what was noted; any thread may ask."""
        return kept.made(self._datasources)

    def written(self, token: str, written: Iterable[tuple[Kept, Record]]) -> None:
        """Let go of bodies that are on disk now, with the records that were made of them."""
        ring = self._rings.get(token)
        if ring is not None:
            before = ring.bytes
            ring.let_go(written)
            self.shares.resized(ring, ring.bytes - before)
            self._shrink()

    def not_written(self, token: str, entries: Collection[Kept]) -> None:
        """Take back what could not be written, to be returned by `unwritten` again."""
        ring = self._rings.get(token)
        if ring is not None:
            ring.give_back(entries)
            self._list(token, ring)

    def restore(self, token: str, tenant: str, records: Collection[Record]) -> None:
        """Take the records of a tenant's hook that has none yet, oldest first, that were written before."""
        ring = self.shares.begin(token, tenant)
        before = ring.bytes
        for record in records:
            ring.restore(record)
        self.shares.used(token, ring, ring.bytes - before)
        self._shrink()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _sort(self) -> None:
        """Give what was noted to its hooks, the newest first, so that what would not stay costs nothing."""
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, []
        newest: dict[str, list[Noted]] = {}
        for noted in reversed(fresh):
            token = noted[0].id
            if (mine := newest.get(token)) is None:
                newest[token] = [noted]
            elif len(mine) < self.per_hook:
                mine.append(noted)
        for token, mine in newest.items():
            self._add(token, mine)
        self._shrink()

    def _add(self, token: str, newest_first: list[Noted]) -> None:
        ring = self._rings.get(token)
        if ring is None:
            hook = self._hooks.by_id(token)
            if hook is None:
                return  # deleted meanwhile
            ring = self.shares.begin(token, hook.tenant)
        if not ring.listed:
            self._list(token, ring)
        before = ring.bytes
        ring.add(newest_first)
        self.shares.used(token, ring, ring.bytes - before)
        if token in self._listeners:
            added = [self.make(kept) for kept in list(ring.entries)[-len(newest_first) :]]
            for heard in tuple(self._listeners[token]):
                for record in added:
                    heard(record)

    def _list(self, token: str, ring: Ring) -> None:
        ring.listed = True
        self._unwritten.wait(token, ring.tenant)

    def _shrink(self) -> None:
        if self.shares.bytes > self._max_bytes:
            self.gone.update(self.shares.shrink(self._max_bytes))

    def _older(self, token: str, before: str | None) -> Iterator[Kept]:
        """Yield a hook's records, newest first, from behind the one with the id `before`."""
        self._sort()
        ring = self._rings.get(self._hooks.id_of(token))
        entries = [] if ring is None else list(reversed(ring.entries))
        if before is None:
            yield from entries
            return
        place = next((number for number, kept in enumerate(entries) if kept.id == before), None)
        if place is None:  # gone meanwhile: ids are of their time, so what is older is known all the same
            yield from (kept for kept in entries if kept.id < before)
        else:
            yield from entries[place + 1 :]

    def _find(self, token: str, id_: str) -> Kept | None:
        return next((kept for kept in self._older(token, None) if kept.id == id_), None)

    def _hook_gone(self, token: str | None) -> None:
        if token is not None:
            self.forget(token)
            return
        for known in list(self._rings):
            if self._hooks.by_id(known) is None and known not in self._hooks.set_aside:
                self.forget(known)


def _now() -> tuple[str, int]:
    """Return a new id, and the time in ms since the epoch."""
    return str(uuid_utils.uuid7()), time.time_ns() // 1_000_000
