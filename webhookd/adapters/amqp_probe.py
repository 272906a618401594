"""What `webhookd check` says of RabbitMQ: tried without leaving a message, a queue or an exchange behind."""

from __future__ import annotations

import asyncio
import uuid
from typing import NamedTuple

from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed, PublishError
from pamqp import commands

from webhookd.adapters.amqp_access import Access, Address
from webhookd.adapters.amqp_connection import connected, faults
from webhookd.adapters.amqp_fault import LinkFault
from webhookd.adapters.amqp_session import Session
from webhookd.adapters.amqp_topology import EXCHANGE_TYPE, exists, may_make, may_write
from webhookd.adapters.names import Names
from webhookd.errors import ConfigurationError

PROBE_TIMEOUT = 5.0
"""Seconds that one broker has for all questions."""
HEARTBEAT = 5


class Finding(NamedTuple):
    """`what` was looked at, whether it is `ok`, and what there is to say: where it is not, what to do."""

    what: str
    ok: bool
    text: str


async def probe(access: Access, exchange: str) -> list[Finding]:
    """Look at every broker of `access`, all at a time; no exception, and at most PROBE_TIMEOUT and a goodbye."""
    try:
        addresses = await asyncio.to_thread(access.addresses, HEARTBEAT)
    except ConfigurationError as error:
        return [Finding("broker", ok=False, text=str(error))]
    names = Names()
    found = await asyncio.gather(*(_probe(access, address, names, exchange) for address in addresses))
    return [finding for findings in found for finding in findings]


async def _probe(access: Access, address: Address, names: Names, exchange: str) -> list[Finding]:
    findings: list[Finding] = []
    session = Session(address, exchange, lambda: None)
    try:
        with faults(session):
            async with asyncio.timeout(PROBE_TIMEOUT), connected(session, access, names, "webhookd/check") as opened:
                await _ask(opened.connection, address, exchange, findings)
    except LinkFault as fault:
        findings.append(Finding("broker", ok=False, text=str(fault)))
    return findings


async def _ask(connection: AbstractConnection, address: Address, exchange: str, findings: list[Finding]) -> None:
    shown, user = address.shown, address.user
    named = [connection.server_properties.get(name) for name in ("product", "version")]
    text = " ".join([f"{shown}: connected", *(word for word in named if isinstance(word, str))])
    findings.append(Finding("broker", ok=True, text=text))
    look = _form if await exists(connection, exchange) else _missing
    findings.append(await look(connection, address, exchange))
    if await may_write(connection, exchange):
        findings.append(Finding("permission", ok=True, text=f"{shown}: user {user} may write to {exchange}"))
    else:
        text = f"{shown}: user {user} may not write to exchange {exchange}: give it write on ^{exchange}$"
        findings.append(Finding("permission", ok=False, text=text))
    findings.append(await _returns(connection, address))


async def _missing(connection: AbstractConnection, address: Address, exchange: str) -> Finding:
    if await may_make(connection, exchange):
        text = f"{address.shown}: {exchange} is not there yet; the daemon makes it"
        return Finding("exchange", ok=True, text=text)
    text = (
        f"{address.shown}: exchange {exchange} is missing, and user {address.user} may not make it: make it (topic, "
        f"durable, without arguments), or give it configure on ^{exchange}$"
    )
    return Finding("exchange", ok=False, text=text)


async def _form(connection: AbstractConnection, address: Address, exchange: str) -> Finding:
    """Say whether the exchange, which is there, is as it should be: to declare it again changes nothing then."""
    channel = await connection.channel(publisher_confirms=False)
    try:
        await channel.exchange_declare(exchange, exchange_type=EXCHANGE_TYPE, durable=True)
    except ChannelAccessRefused:
        text = f"{address.shown}: {exchange} is there (whether topic and durable: without configure it is not told)"
        return Finding("exchange", ok=True, text=text)
    except ChannelPreconditionFailed as error:
        text = f"{address.shown}: exchange {exchange} is not topic, durable, without arguments: make it anew: {error}"
        return Finding("exchange", ok=False, text=text)
    await channel.close()
    return Finding("exchange", ok=True, text=f"{address.shown}: {exchange} is there: topic, durable")


async def _returns(connection: AbstractConnection, address: Address) -> Finding:
    """Say whether the broker returns what no queue takes.

    Asked through the default exchange, where a queue that does not exist can be named: on our own exchange a queue
    may take any key. Users who may write to nothing else cannot be told.
    """
    channel = await connection.channel(publisher_confirms=True)
    name = f"webhookd-check-{uuid.uuid4()}"
    properties = commands.Basic.Properties(message_id=name)
    try:
        await channel.basic_publish(b"", exchange="", routing_key=name, mandatory=True, properties=properties)
    except PublishError:
        await channel.close()
        return Finding("returns", ok=True, text=f"{address.shown}: what no queue takes is returned")
    except ChannelAccessRefused:
        text = f"{address.shown}: not tried: user {address.user} may not write to the default exchange, and need not"
        return Finding("returns", ok=True, text=text)
    text = f"{address.shown}: what no queue takes is confirmed and lost, not returned: is this RabbitMQ?"
    return Finding("returns", ok=False, text=text)
