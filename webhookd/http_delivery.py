"""The work on one delivery: refused before the body where that can be told, answered when the message is durable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import structlog
import uuid_utils

from webhookd.body import Encoding, content_encoding
from webhookd.errors import (
    BodyTooLarge,
    HooksNotCurrent,
    MethodNotAllowed,
    Rejected,
    Stopping,
    UnknownHook,
    Unpublished,
    refusal_of,
)
from webhookd.examiner import LARGE_BODY, LARGE_SCHEMA_BODY, is_large
from webhookd.http_intake import Answers, Intake
from webhookd.http_pieces import Pieces
from webhookd.http_problem import bug, problem
from webhookd.inflating import inflated
from webhookd.limits import Ticket
from webhookd.logs import HOOK_EVENT, hook_id
from webhookd.model import Delivery, Event, Hook, Message, Verified
from webhookd.ports import Durable
from webhookd.records import MAX_KEPT_BODY, Records

HOOK_METHODS = ("POST", "HEAD")

log = structlog.get_logger(__name__)


class DeliveryWork:
    """One request to a hook's URL, in the parts in which it arrives: `begin`, `part`, `end`; it answers by itself."""

    # plain defaults: most deliveries set few of them
    _hook: Hook | None = None
    _ticket: Ticket | None = None
    _message: Message | None = None
    _task: asyncio.Task[None] | None = None
    _headers: Mapping[str, str] = MappingProxyType({})
    _pieces: Pieces | None = None  # of the body, where that comes in pieces
    _small: bytes | None = None  # the body as received, where it may be kept with the delivery's record
    _record: str | None = None  # the id of the record of a refused one
    _size = 0
    _whole = False  # whether the body has come to its end

    def __init__(self, answers: Answers, intake: Intake, api_token: str, token: str) -> None:
        self._answers = answers
        self._intake = intake
        self._api_token = api_token
        self._token = token
        self._started = time.perf_counter()

    # --- the request, as it arrives --------------------------------------------------------------------------------

    def begin(self, method: str, headers: Mapping[str, str], length: int | None) -> None:
        """Decide all that can be before the body (`length` bytes, where that is told); `headers` are lower-case."""
        if method == "POST":
            self._admit(headers, length, 0)
        elif method == "HEAD":
            self._answer_head()
        else:
            self._headers = headers
            self._refuse(MethodNotAllowed(HOOK_METHODS, method))

    def whole(self, method: str, headers: Mapping[str, str], body: bytes) -> None:
        """Do all of `begin`, `part` and `end`, for a body that is there already."""
        if method != "POST":
            self.begin(method, headers, None)
            return
        self._size = size = len(body)
        self._whole = True
        if size <= MAX_KEPT_BODY:
            self._small = body
        hook = self._admit(headers, size, size)
        if hook is not None:
            self._check(hook, body)

    def part(self, chunk: bytes) -> None:
        """Take the next bytes of the body; they count as they arrive."""
        self._size += len(chunk)
        try:
            if self._size > self._intake.ingest.max_body:
                raise BodyTooLarge(f"the body is over {self._intake.ingest.max_body} bytes")
            if self._ticket is not None:
                self._ticket.grow(len(chunk))
        except Rejected as error:
            if self._size <= MAX_KEPT_BODY:
                self._add(chunk)
            self._refuse(error)
        else:
            self._add(chunk)

    def end(self) -> None:
        """Check the delivery and publish its message."""
        hook = self._hook
        if hook is None:
            return  # answered already: there is nothing to check
        self._whole = True
        body = self._body()
        if self._size <= MAX_KEPT_BODY:
            self._small = body
        self._check(hook, body)

    def _admit(self, headers: Mapping[str, str], length: int | None, held: int) -> Hook | None:
        """Return the hook; None where the delivery was refused. `held` bytes of the body are here already."""
        intake = self._intake
        self._headers = headers
        try:
            if intake.stopping:
                raise Stopping("webhookd is about to stop; send it again")
            self._hook = hook = intake.ingest.admit(self._api_token, self._token, headers, length)
            self._ticket = intake.budget.admit(hook.tenant, held)
        except Rejected as error:
            self._refuse(error)
            return None
        intake.open.add(self)
        return hook

    def _check(self, hook: Hook, body: bytes) -> None:
        headers, ingest = self._headers, self._intake.ingest
        delivery = Delivery(headers, body, time.time_ns() // 1_000_000, hook.url(self._token))
        encoding = content_encoding(headers.get("content-encoding"))
        if encoding is None and (len(body) <= LARGE_SCHEMA_BODY or not is_large(hook, body)):
            try:
                event, verified = ingest.judge(hook, delivery)
                self._publish(hook, event, verified)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the outermost edge; no plugin ends the daemon
                self._fail(error)
            return
        slowly = self._end_slowly(hook, delivery, encoding)
        self._task = asyncio.get_running_loop().create_task(slowly)  # kept: the loop does not

    def _add(self, chunk: bytes) -> None:
        if self._pieces is None:
            self._pieces = Pieces(chunk)
        else:
            self._pieces.add(chunk)

    def _body(self) -> bytes:
        pieces, self._pieces = self._pieces, None
        return b"" if pieces is None else pieces.whole()

    async def _end_slowly(self, hook: Hook, delivery: Delivery, encoding: Encoding | None) -> None:
        """Do what `end` does for a body that is large or compressed, without holding the event loop."""
        intake = self._intake
        try:
            if len(delivery.body) > LARGE_BODY:
                verified = await asyncio.to_thread(intake.ingest.verify, hook, delivery)
            else:
                verified = intake.ingest.verify(hook, delivery)
            del delivery  # the body as sent is let go once it is inflated
            if encoding is not None:
                body = await inflated(verified.body, encoding, intake.ingest.max_body, self._ticket)
                verified = Verified(verified._replace(body=body))
            if is_large(hook, verified.body):
                event = await intake.examiner.examine(hook, verified)
            else:
                event = intake.ingest.examine(hook, verified)
            self._publish(hook, event, verified)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            self._fail(error)

    # --- the answer ------------------------------------------------------------------------------------------------

    def _publish(self, hook: Hook, event: Event, verified: Verified) -> None:
        if event.ignored is not None:
            if self._intake.records is not None:
                self._intake.records.ignored(hook, self._headers, self._size, self._started, event)
            self._accept("ignored", hook, event.ignored)
            return
        message = self._intake.ingest.compose(hook, event, verified, str(uuid_utils.uuid7()))
        self._message = message
        self._intake.publisher.send(message, self)

    def done(self) -> bool:
        """As the Answer to the message."""
        return self._message is None

    def set_result(self, durable: Durable, /) -> None:
        """As the Answer to the message."""
        hook, message = self._hook, self._message
        self._message = None
        if hook is None or message is None:
            return
        try:
            self._accept(durable, hook, None, message)
        except Exception as error:  # noqa: BLE001 - the outermost edge: who tells it has others to tell, too
            self._fail(error)

    def set_exception(self, error: BaseException, /) -> None:
        """As the Answer to the message."""
        self._message = None
        self._fail(error)

    def _accept(self, outcome: str, hook: Hook, reason: str | None, message: Message | None = None) -> None:
        intake = self._intake
        seconds = time.perf_counter() - self._started
        intake.metrics.accepted(outcome, self._size, seconds)
        receipt = None if message is None else message.receipt
        self._answers.accepted(receipt)
        if intake.log_accepted:
            log.info("delivery accepted", outcome=outcome, reason=reason, receipt=receipt, **self._facts(hook))
        if message is not None:
            if intake.records is not None:
                intake.records.accepted(hook, self._headers, self._small, self._size, seconds, message)
            if intake.on_accepted is not None:
                intake.on_accepted(message)
        self._leave()

    def _fail(self, error: BaseException) -> None:
        """Refuse for whatever went wrong; what is no refusal is a bug of ours or of a plugin."""
        match error:
            case Rejected():
                self._refuse(error)
            case Unpublished():
                self._refuse(refusal_of(error, "send it again"), str(error))
            case _:
                log.error("a delivery failed by a bug", exc_info=error, **self._facts(self._hook))
                self._intake.metrics.refused("bug")
                self._answer_refused("bug", None, None, *bug())

    def _refuse(self, error: Rejected, cause: str | None = None) -> None:
        intake = self._intake
        intake.metrics.refused(error.reason)
        if intake.log_refused:
            facts = self._facts(self._hook) | ({} if cause is None else {"cause": cause})
            intake.refusals.line(reason=error.reason, status=error.status, detail=error.detail, **facts)
        self._answer_refused(error.reason, error.check, error.detail, *problem(error))

    def _answer_refused(self, reason: str, check: str | None, detail: str | None, status: int, *answer: Any) -> None:
        self._answers.reply(status, *answer)
        if (records := self._intake.records) is not None:
            self._keep_record(records, (reason, status, detail, check))
        self._leave()

    def _keep_record(self, records: Records, why: tuple[str, int, str | None, str | None]) -> None:
        """Note the refused delivery, once all of its body is here, if that may be kept."""
        begun = records.begun(self._hook or (self._api_token, self._token))
        if begun is None:
            return
        self._record = begun.id
        headers, size = self._headers, self._size
        seconds = time.perf_counter() - self._started
        if self._whole or size > MAX_KEPT_BODY:
            records.refused(begun, headers, self._small, size, seconds, why)
            return
        come = self._body()

        def rest_came(rest: bytes | None) -> None:
            body = (come + rest or None) if rest is not None else None
            records.refused(begun, headers, body, size if body is None else len(body), seconds, why)

        self._answers.keep_rest(MAX_KEPT_BODY - len(come), rest_came)

    def _answer_head(self) -> None:
        """Say whether the hook is there: some senders ask before they send (Trello)."""
        try:
            self._intake.ingest.hooks.find(self._api_token, self._token)
        except (UnknownHook, HooksNotCurrent) as error:
            self._answers.reply(error.status, error.headers)
        else:
            self._answers.reply(200, {})

    def _facts(self, hook: Hook | None) -> dict[str, object]:
        facts: dict[str, object] = {"hook": hook_id(self._token), "bytes": self._size}
        if hook is not None:
            facts |= {"tenant": hook.tenant, "datasource": hook.datasource, HOOK_EVENT: hook.event}
        return facts | {"duration": round(time.perf_counter() - self._started, 6)}

    def closed(self) -> None:
        """Let go, if the sender went away in the middle of the body; what is whole is published all the same."""
        if not self._whole:
            self._leave()

    def _leave(self) -> None:
        self._pieces = self._small = None
        intake = self._intake
        if intake.stopping:
            intake.leave(self)
        else:
            intake.open.discard(self)  # the same, for less
        if self._ticket is not None:
            self._ticket.release()
