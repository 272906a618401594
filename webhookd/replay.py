"""Deliveries that are remembered, put through the same checks again and published as new messages, in their order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import structlog
import uuid_utils

from webhookd.body import content_encoding
from webhookd.errors import (
    NotReplayable,
    Rejected,
    Stopping,
    Unavailable,
    Unpublished,
    refusal_of,
)
from webhookd.examiner import LARGE_BODY, is_large
from webhookd.http_intake import Intake
from webhookd.http_problem import bug
from webhookd.inflating import inflated
from webhookd.limits import Ticket
from webhookd.logs import HOOK_EVENT, hook_id
from webhookd.model import Delivery, Event, Hook, Record, Verified
from webhookd.record_ring import ACCEPTED, ANSWERED, Ended
from webhookd.records import MAX_KEPT_BODY, Records
from webhookd.remedies import BUG

MOST_AT_ONCE = 50
"""How many deliveries one request may have replayed."""
REPLAY_OF = "replayOf"
"""The header of a message that names the delivery it is a replay of."""
Spooled = Callable[[str, int], Awaitable[bytes | None]]
"""Tells the body, inflated, of an accepted message by its receipt and the time of its receipt (ms); None without."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which deliveries of a hook to replay, oldest first: those behind the one with the id `after`, where given."""

    outcome: str
    reason: str | None = None
    after: str | None = None
    limit: int = MOST_AT_ONCE


class Replayed(NamedTuple):
    """What became of the replay of `record`: a record of its own, or why there was none."""

    record: Record
    outcome: Record | NotReplayable


class Body(NamedTuple):
    """What is replayed: as it was received, or `inflated`."""

    data: bytes
    inflated: bool


@dataclass(frozen=True, slots=True)
class Replayer:
    """What the config API and the console ask for a replay; used on the event loop only."""

    records: Records
    intake: Intake
    spooled: Spooled | None = None
    _busy: set[str] = field(default_factory=set)

    async def one(self, hook: Hook, record: Record) -> Record:
        """Replay one delivery of `hook` and return the record of that; raises `NotReplayable`."""
        with self._turn(hook):
            return await self._replay(hook, record)

    async def some(self, hook: Hook, wanted: Wanted) -> tuple[list[Replayed], bool]:
        """Replay the deliveries of `hook` that are wanted; return what became of each, and whether there are more.

        Left out are replays, and what was replayed and accepted already. It stops early where nothing can be taken at
        present. Raises `NotReplayable` where another replay of the hook is under way.
        """
        with self._turn(hook):
            found = self._found(hook, wanted)
            done: list[Replayed] = []
            for record in found[: wanted.limit]:
                try:
                    outcome: Record | NotReplayable = await self._replay(hook, record)
                except NotReplayable as error:
                    outcome = error
                done.append(Replayed(record, outcome))
                if isinstance(outcome, Record) and outcome.status == Unavailable.status:
                    break
            return done, len(found) > len(done)

    @contextmanager
    def _turn(self, hook: Hook) -> Iterator[None]:
        if hook.id in self._busy:
            raise NotReplayable("another replay of this hook is under way; wait for its answer")
        self._busy.add(hook.id)
        try:
            yield
        finally:
            self._busy.discard(hook.id)

    def _found(self, hook: Hook, wanted: Wanted) -> list[Record]:
        everything = self.records.of(hook.token, limit=self.records.per_hook)[::-1]
        done = {record.replay_of for record in everything if record.outcome == "accepted"}
        place = next((n for n, record in enumerate(everything, 1) if record.id == wanted.after), 0)
        return [
            record
            for record in everything[place:]
            if record.outcome == wanted.outcome and record.reason == (wanted.reason or record.reason)
            if record.replay_of is None and record.id not in done
        ]

    async def _replay(self, hook: Hook, record: Record) -> Record:
        return await self._again(hook, record, await self._body(hook, record))

    async def _again(self, hook: Hook, record: Record, body: Body) -> Record:
        """Put a delivery with its body through everything once more, and note what became of it."""
        started, now_ms = time.perf_counter(), time.time_ns() // 1_000_000
        id_, ended, event = await self._judged(hook, record, body, now_ms)
        outcome, reason, status, detail, check = ended
        replay = msgspec.structs.replace(
            record,
            id=id_,
            received_at=now_ms,
            outcome=outcome,
            reason=reason,
            status=status,
            detail=detail,
            check=check,
            size=len(body.data),
            duration=time.perf_counter() - started,
            delivery_id=record.delivery_id if event is None else event.id,
            provider_event=record.provider_event if event is None else event.type,
            replay_of=record.id,
            has_body=self._keeps(outcome, body),
        )
        self.intake.metrics.replayed(outcome)
        self.records.replayed(hook, replay, body.data if replay.has_body else None)
        facts = {"hook": hook_id(hook.token), "tenant": hook.tenant, "replay_of": record.id}
        log.info("delivery replayed", outcome=outcome, reason=reason, **facts)
        return replay

    def _keeps(self, outcome: str, body: Body) -> bool:
        wanted = outcome == "refused" or (outcome == "accepted" and self.records.keep_accepted)
        return wanted and not body.inflated and len(body.data) <= MAX_KEPT_BODY

    async def _body(self, hook: Hook, record: Record) -> Body:
        """Return the body to replay; raises `NotReplayable` where nobody has it any more."""
        kept = self.records.body(hook.token, record.id)
        if kept is not None:
            return Body(kept, inflated=False)
        if record.outcome == "accepted" and self.spooled is not None:
            spooled = await self.spooled(record.id, record.received_at)
            if spooled is not None:
                compressed = content_encoding(record.headers.get("content-encoding")) is not None
                if compressed and hook.signed:
                    raise NotReplayable("it came compressed and signed, and only its inflated body is kept")
                return Body(spooled, inflated=compressed)
        if record.outcome == "refused":
            raise NotReplayable(f"its body is not kept: it was over {MAX_KEPT_BODY} bytes, or did not come whole")
        raise NotReplayable(
            "its body is not kept: of accepted deliveries it is where keep_accepted is set, up to "
            f"{MAX_KEPT_BODY} bytes, and with broker = spool: as long as the spool keeps it"
        )

    async def _judged(self, hook: Hook, record: Record, body: Body, now_ms: int) -> tuple[str, Ended, Event | None]:
        """Do with a delivery what is done when one comes; return the id of its record, how it ended, and the event."""
        intake, receipt = self.intake, str(uuid_utils.uuid7())
        ticket = None
        event: Event | None = None
        intake.open.add(receipt)  # a stop waits for it
        try:
            ticket = self._admitted(hook, record, len(body.data))
            verified = await self._verified(hook, record, body, now_ms, ticket)
            event = await self._examined(hook, verified)
            if event.ignored is not None:
                return receipt, ("ignored", event.ignored, ANSWERED, None, None), event
            message = intake.ingest.compose(hook, event, verified, receipt)
            message.headers[REPLAY_OF] = record.id
            await intake.publisher.publish(message)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's bug ends no replay but this one
            return receipt, _refused(error, hook, record), event
        finally:
            intake.leave(receipt)
            if ticket is not None:
                ticket.release()
        return receipt, ACCEPTED, event

    def _admitted(self, hook: Hook, record: Record, size: int) -> Ticket:
        """Return the place of a delivery in the budget; raises what is raised before a body of `size` bytes is read."""
        intake = self.intake
        if intake.stopping:
            raise Stopping("webhookd is about to stop; replay it again")
        intake.ingest.admit(hook.api_token, hook.token, record.headers, size)
        return intake.budget.admit(hook.tenant, size)

    async def _verified(self, hook: Hook, record: Record, body: Body, now_ms: int, ticket: Ticket) -> Verified:
        """Return the delivery as proved, at the time at which its sender says it was signed, and inflated."""
        source = self.intake.ingest.datasources.get(hook.datasource)
        headers = dict(record.headers)
        then = source.signed_at(headers)
        # the secrets of when it came and of now, never those of when it says it was made: anybody may write that
        secrets = dict.fromkeys((*hook.valid_secrets(now_ms), *hook.valid_secrets(record.received_at)))
        delivery = Delivery(headers, body.data, record.received_at if then is None else then, hook.url_of(record))
        if len(body.data) > LARGE_BODY:
            await asyncio.to_thread(source.verify, delivery, tuple(secrets))
        else:
            source.verify(delivery, tuple(secrets))
        encoding = None if body.inflated else content_encoding(headers.get("content-encoding"))
        data = body.data
        if encoding is not None:
            data = await inflated(data, encoding, self.intake.ingest.max_body, ticket)
        return Verified(Delivery(headers, data, now_ms, delivery.hook_url))

    async def _examined(self, hook: Hook, verified: Verified) -> Event:
        if is_large(hook, verified.body):
            return await self.intake.examiner.examine(hook, verified)
        return self.intake.ingest.examine(hook, verified)


def _refused(error: BaseException, hook: Hook, record: Record) -> Ended:
    """Return how a replay ended that went wrong; what is no refusal is a bug of ours or of a plugin, and logged."""
    match error:
        case Rejected():
            refusal = error
        case Unpublished():
            refusal = refusal_of(error, "replay it again")
        case _:
            facts = {"hook": hook_id(hook.token), "tenant": hook.tenant, "datasource": hook.datasource}
            log.error(
                "a delivery failed by a bug", exc_info=error, replay_of=record.id, **{**facts, HOOK_EVENT: hook.event}
            )
            status, *_ = bug()
            return "refused", BUG, status, None, None
    return "refused", refusal.reason, refusal.status, refusal.detail, refusal.check
