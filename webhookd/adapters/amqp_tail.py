"""Shows what is published, by a queue of its own: nobody's messages are taken away, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from typing import Any

import aiormq
import msgspec
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pamqp.common import FieldTable

from webhookd.adapters.amqp_access import Access, Address
from webhookd.adapters.amqp_connection import connected
from webhookd.adapters.amqp_fault import LinkFault
from webhookd.adapters.amqp_session import Session
from webhookd.adapters.names import Names

TIMEOUT = 10.0
"""How long, in seconds, a broker may take to make the queue."""
HEARTBEAT = 60
PREFETCH = 20
"""How many messages the broker hands out ahead of what is shown: they may have bodies of many MiB."""
QUEUE: FieldTable = {
    "x-queue-type": "classic",  # whatever the vhost makes by default: a temporary queue can be no other
    "x-max-length": 10_000,
    "x-max-length-bytes": 64 * 1024 * 1024,
    "x-overflow": "drop-head",
}
"""What keeps a reader that is too slow from filling the broker's memory: the oldest are dropped, and for it alone."""
YEAR_10000 = 253_402_300_800_000
"""The end of what can be shown as a date, in ms since the epoch."""
SEGMENTS = 4
"""`event.TENANT.DATASOURCE.EVENT`."""


class TailError(Exception):
    """There is nothing to be seen; the text is one line that says why, and what to do."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A published message as a consumer gets it.

    Whoever publishes to the exchange may have sent it: what a message of webhookd has and this one has not is empty,
    or 0. `received_at` is in ms since the epoch.
    """

    receipt: str
    routing_key: str
    tenant: str
    datasource: str
    event: str
    received_at: int
    headers: dict[str, Any]
    body: bytes

    def __repr__(self) -> str:
        """Keep the body out of logs and tracebacks."""
        return f"Seen(receipt={self.receipt!r}, routing_key={self.routing_key!r}, {len(self.body)} bytes)"


async def published(
    access: Access, exchange: str, tenant: str | None, ready: Callable[[], None]
) -> AsyncGenerator[Seen]:
    """Yield each message that is published from the call of `ready` on, of one tenant or of all.

    The queue is exclusive and server-named, and ends with the connection. Raises `TailError` when no broker can be
    reached, when something is refused or missing, and when the connection is lost: it is not made again, since what
    came meanwhile could not be shown. Raises `ConfigurationError` for a file of the settings that cannot be used.
    """
    async with AsyncExitStack() as stack:
        connection, address = await _connected(access, stack)
        channel = await connection.channel(publisher_confirms=False)
        arrived: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        try:
            async with asyncio.timeout(TIMEOUT):
                await _consume(channel, exchange, tenant, arrived)
        except (aiormq.AMQPError, TimeoutError) as error:
            raise TailError(_refused(error, address, exchange)) from None
        ready()
        while (message := await arrived.get()) is not None:
            yield _seen(message)
            with suppress(aiormq.exceptions.ChannelInvalidStateError, TimeoutError):  # None comes next, then
                async with asyncio.timeout(TIMEOUT):
                    await channel.basic_ack(message.delivery_tag or 0, wait=False)
    raise TailError(f"{address.shown}: the connection or the queue is gone: start again")


async def _connected(access: Access, stack: AsyncExitStack) -> tuple[AbstractConnection, Address]:
    """Connect to the first broker that takes us; `stack` lets go of it."""
    faults, names = [], Names()
    for address in access.addresses(HEARTBEAT):
        session = Session(address, "", lambda: None)
        try:
            opened = await stack.enter_async_context(connected(session, access, names, "webhookd/tail"))
        except LinkFault as fault:
            faults.append(str(fault))
        else:
            return opened.connection, address
    raise TailError("; ".join(faults))


async def _consume(
    channel: AbstractChannel, exchange: str, tenant: str | None, arrived: asyncio.Queue[DeliveredMessage | None]
) -> None:
    """Have every message put into `arrived`, and None once no more can come."""
    declared = await channel.queue_declare("", exclusive=True, auto_delete=True, arguments=QUEUE)
    queue = declared.queue or ""
    await channel.queue_bind(queue, exchange, "event.#" if tenant is None else f"event.{tenant}.#")
    await channel.basic_qos(prefetch_count=PREFETCH)
    for gone in (channel.closing.add_done_callback, channel.on_consumer_cancel_callbacks.add):
        gone(lambda _: arrived.put_nowait(None))
    await channel.basic_consume(queue, arrived.put, exclusive=True)


def _seen(message: DeliveredMessage) -> Seen:
    key, properties = message.routing_key or "", message.header.properties
    _, tenant, datasource, event, *_ = (*key.split(".", SEGMENTS - 1), "", "", "")
    headers = {name: _plain(value) for name, value in (properties.headers or {}).items()}
    received_at = headers.get("receivedAt")
    if not isinstance(received_at, int) or not 0 <= received_at < YEAR_10000:
        received_at = 0 if properties.timestamp is None else int(properties.timestamp.timestamp() * 1000)
    return Seen(
        receipt=properties.message_id or "",
        routing_key=key,
        tenant=tenant,
        datasource=datasource,
        event=event,
        received_at=received_at,
        headers=headers,
        body=bytes(message.body),
    )


def _plain(value: object) -> Any:
    """Return a header's value as JSON can have it: others than webhookd may send any type of AMQP."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _refused(error: Exception, address: Address, exchange: str) -> str:
    """Say what the queue could not be made for: the permission that is missing, in RabbitMQ's words."""
    said = str(error.args[0]) if error.args else ""
    if isinstance(error, aiormq.exceptions.ChannelNotFoundEntity):
        return f"{address.shown}: there is no exchange {exchange}: start the daemon, which makes it, or set exchange"
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        needed = f"read on {exchange}" if "access to exchange" in said else "configure, write and read on ^amq\\.gen-"
        if "access to topic" in said:
            needed = f"read, by topic, on {exchange}"
        return f"{address.shown}: user {address.user} lacks a permission: {needed}"
    return f"{address.shown}: no queue could be made: {said or 'no answer'}"
