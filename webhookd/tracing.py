"""Traces where they are asked for; where they are not, deliveries are what they are without them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import structlog

from webhookd.forms import mask_url
from webhookd.http_delivery import DeliveryWork
from webhookd.http_ingest import Work
from webhookd.http_intake import Intake
from webhookd.records import Records
from webhookd.replay import Replayer, Spooled

if TYPE_CHECKING:  # it needs what is installed with the extra alone
    from webhookd.traced import Exporter

FLUSH = 3.0
"""Seconds that a stop waits for the spans that are not exported yet."""
EXTRA = "pip install 'webhookd[otel]'"
"""What to do where it is missing."""
NEEDED = "opentelemetry"
"""The package that the extra brings."""

log = structlog.get_logger(__name__)


class Traced(NamedTuple):
    """What takes a delivery (`work`), and what makes the `Replayer`: with spans or without."""

    work: Work = DeliveryWork
    replayer: Callable[[Records, Intake, Spooled | None], Replayer] = Replayer


def traced(endpoint: str | None, intake: Intake, stack: AsyncExitStack) -> Traced:
    """Return what takes and replays deliveries: with spans, exported to `endpoint` (OTLP/HTTP), where there is one.

    Then the messages of `intake` carry the span's context. Where the extra is not installed, there are no spans, and
    the log says what is missing. What is open at the end, `stack` exports and closes.
    """
    if endpoint is None:
        return Traced()
    try:
        from webhookd.traced import Exporter, TracedDelivery, TracedPublisher, TracedReplayer  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != NEEDED:
            raise
        log.warning("there are no traces: what otel_endpoint needs is missing", missing=error.name, install=EXTRA)
        return Traced()
    exporter = Exporter(endpoint, socket.gethostname())
    stack.push_async_callback(_finish, exporter)
    intake.publisher = TracedPublisher(intake.publisher)
    log.info("deliveries are traced", otel_endpoint=mask_url(endpoint))
    return Traced(partial(TracedDelivery, exporter.tracer), partial(TracedReplayer, tracer=exporter.tracer))


async def _finish(exporter: Exporter) -> None:
    ending = asyncio.ensure_future(asyncio.to_thread(exporter.finish))
    done, _ = await asyncio.wait([ending], timeout=FLUSH)
    if not done:
        log.warning("spans are lost: nobody took them in time")
        exporter.give_up()
        await ending
