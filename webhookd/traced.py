"""Spans of deliveries by OpenTelemetry: needs the extra `otel`, and is imported only where traces are asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from webhookd.errors import Rejected, Unpublished
from webhookd.http_delivery import DeliveryWork
from webhookd.http_intake import Answers, Intake
from webhookd.logs import hook_id
from webhookd.model import Hook, Message, Record
from webhookd.ports import Answer, Publisher
from webhookd.replay import Body, Replayer
from webhookd.version import __version__

EXPORT_TIMEOUT = 3.0
"""How long one attempt to export may take, in seconds, repetitions included."""
TRACEPARENT = "traceparent"
"""The header of messages that carries the context (W3C Trace Context, section "Traceparent Header")."""
_NO_CONTENT = int(HTTPStatus.NO_CONTENT)
LEAST_FAULT = int(HTTPStatus.INTERNAL_SERVER_ERROR)
"""Refusals with this status and above are faults of the server's, which a span marks as such."""


class Exporter:
    """Sends spans to the OTLP/HTTP receiver at `endpoint`, in batches, from a thread of its own."""

    def __init__(self, endpoint: str, node: str) -> None:
        resource = Resource.create(
            {SERVICE_NAME: "webhookd", SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: node},
        )
        self._sender = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT)
        self._batches = BatchSpanProcessor(self._sender)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._batches)
        self.tracer = provider.get_tracer("webhookd", __version__)

    def finish(self) -> None:
        """Export what waits, and return; blocks until `give_up` is called where nobody answers."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def give_up(self) -> None:
        """Let go of what waits."""
        self._sender.shutdown()  # type: ignore[no-untyped-call]


class TracedDelivery(DeliveryWork):
    """A delivery with a span, from its header to its answer.

    Its trace begins here: a sender is a stranger, who does not decide what is traced. What the sender's `traceparent`
    names is a link of the span.
    """

    _span: Span | None = None

    def __init__(self, tracer: Tracer, answers: Answers, intake: Intake, api_token: str, token: str) -> None:
        super().__init__(answers, intake, api_token, token)
        self._tracer = tracer
        self._arrived = time.time_ns()

    @property
    def traceparent(self) -> str | None:
        """The context of the span as a header has it; None where there is no span, or the SDK is disabled."""
        return None if self._span is None else _named(self._span)

    def _admit(self, headers: Mapping[str, str], length: int | None, held: int) -> Hook | None:
        self._span = self._tracer.start_span(
            "delivery",
            context=Context(),
            kind=SpanKind.SERVER,
            links=_links(headers),
            start_time=self._arrived,
            attributes={"http.request.method": "POST", "webhookd.hook": hook_id(self._token)},
        )
        return super()._admit(headers, length, held)

    def _accept(self, outcome: str, hook: Hook, reason: str | None, message: Message | None = None) -> None:
        self._note(outcome, reason, None if message is None else message.receipt, _NO_CONTENT)
        super()._accept(outcome, hook, reason, message)

    def _refuse(self, error: Rejected, cause: str | None = None) -> None:
        self._note("refused", error.reason, None, error.status)
        super()._refuse(error, cause)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, Rejected | Unpublished):
            self._note("refused", "bug", None, LEAST_FAULT)
        super()._fail(error)

    def closed(self) -> None:
        """Let go, if the sender went away in the middle of the body."""
        if self._span is not None and not self._whole:
            self._span.set_attribute("webhookd.outcome", "aborted")
        super().closed()

    def _leave(self) -> None:
        super()._leave()
        span, self._span = self._span, None
        if span is not None:
            if self._record is not None:
                span.set_attribute("webhookd.record", self._record)
            span.end()

    def _note(self, outcome: str, reason: str | None, receipt: str | None, status: int) -> None:
        """Set what is known at the end."""
        if self._span is not None:
            words = {"webhookd.reason": reason, "webhookd.receipt": receipt}
            _note(self._span, self._hook, outcome, self._size, status, words)


@dataclass(frozen=True)
class TracedReplayer(Replayer):
    """Replays with a span for each, which begins a trace of its own as that of a delivery does."""

    tracer: Tracer = field(kw_only=True)

    async def _again(self, hook: Hook, record: Record, body: Body) -> Record:
        with self.tracer.start_as_current_span(
            "replay",
            context=Context(),
            links=_links(record.headers),
            attributes={"webhookd.hook": hook_id(hook.token), "webhookd.replay_of": record.id},
            record_exception=False,  # its text may be a secret
        ) as span:
            replay = await super()._again(hook, record, body)
            id_ = "webhookd.receipt" if replay.outcome == "accepted" else "webhookd.record"
            words = {"webhookd.reason": replay.reason, id_: replay.id}
            _note(span, hook, replay.outcome, replay.size, replay.status, words)
            return replay


class TracedPublisher(Publisher):
    """A publisher whose messages carry the context of the span of their delivery, or of their replay."""

    def __init__(self, inner: Publisher) -> None:
        self._inner = inner

    def send(self, message: Message, answer: Answer) -> None:
        """Name the span in the message, and do what the publisher within does."""
        traceparent = answer.traceparent if isinstance(answer, TracedDelivery) else _named(get_current_span())
        if traceparent is not None:
            message.headers[TRACEPARENT] = traceparent
        self._inner.send(message, answer)

    async def close(self) -> None:
        """Close the publisher within."""
        await self._inner.close()


def _named(span: Span) -> str | None:
    """Return the context of a span as a header has it; None where there is no span."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _note(span: Span, hook: Hook | None, outcome: str, size: int, status: int, words: Mapping[str, str | None]) -> None:
    """Set what is known at the end."""
    if not span.is_recording():
        return
    facts: dict[str, str | int] = {
        "webhookd.outcome": outcome,
        "webhookd.bytes": size,
        "http.response.status_code": status,
    }
    facts |= {name: word for name, word in words.items() if word is not None}
    if hook is not None:
        facts |= {"webhookd.tenant": hook.tenant, "webhookd.datasource": hook.datasource, "webhookd.event": hook.event}
    span.set_attributes(facts)
    if status >= LEAST_FAULT:
        span.set_status(Status(StatusCode.ERROR, words["webhookd.reason"]))


def _links(headers: Mapping[str, str]) -> tuple[Link, ...]:
    given = headers.get(TRACEPARENT)
    if given is None:
        return ()
    context = get_current_span(
        TraceContextTextMapPropagator().extract({TRACEPARENT: given}, Context())
    ).get_span_context()
    return (Link(context),) if context.is_valid else ()
