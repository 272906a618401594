"""The exchange that messages are published to: found as it is, made only where there is none."""

from __future__ import annotations

from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp import commands
from pamqp.common import FieldTable

from webhookd.adapters.amqp_access import Address
from webhookd.adapters.amqp_fault import LinkFault

EXCHANGE_TYPE = "topic"
_NOBODY = "webhookd-nobody"


async def ensure_exchange(connection: AbstractConnection, address: Address, exchange: str) -> None:
    """See that the exchange is there: as it is, or else made as topic, durable, without arguments.

    Declared passively first, which needs no permission and finds an exchange whatever its arguments. Raises LinkFault.
    """
    if await exists(connection, exchange):
        return
    channel = await connection.channel(publisher_confirms=False)
    try:
        await channel.exchange_declare(exchange, exchange_type=EXCHANGE_TYPE, durable=True)
    except ChannelAccessRefused as error:
        raise LinkFault(
            f"{address.shown}: exchange {exchange} is missing, and user {address.user} may not make it: make it "
            f"(topic, durable, without arguments): {error}",
            denied=True,
        ) from error
    except ChannelPreconditionFailed as error:
        raise LinkFault(f"{address.shown}: exchange {exchange} cannot be made: {error}", denied=True) from error
    await channel.close()


async def exists(connection: AbstractConnection, exchange: str) -> bool:
    """Return whether there is an exchange of this name, of whatever type."""
    channel = await connection.channel(publisher_confirms=False)
    try:
        await channel.exchange_declare(exchange, passive=True)
    except ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


async def may_make(connection: AbstractConnection, exchange: str) -> bool:
    """Return whether the user may make the exchange, which is missing, without making it.

    RabbitMQ looks at the permission first, and only then at an `alternate-exchange` that is no name, which it refuses.
    """
    channel = await connection.channel(publisher_confirms=False)
    nonsense: FieldTable = {"alternate-exchange": 0}
    try:
        await channel.exchange_declare(exchange, exchange_type=EXCHANGE_TYPE, durable=True, arguments=nonsense)
    except ChannelPreconditionFailed:
        return True
    except ChannelAccessRefused:
        return False
    raise LinkFault("the broker makes an exchange whose alternate is no name: is it RabbitMQ?")


async def may_write(connection: AbstractConnection, exchange: str) -> bool:
    """Return whether the user may publish to the exchange, without publishing anything.

    RabbitMQ looks at the permission first, and only then at a `user_id` that is not the user's and at an `expiration`
    that is no number: it refuses those for everybody (406), the former but for users with the tag `impersonator`. So
    it can be told of an exchange that is missing, too (404).
    """
    channel = await connection.channel(publisher_confirms=True)
    properties = commands.Basic.Properties(user_id=_NOBODY, expiration=_NOBODY)
    try:
        await channel.basic_publish(b"", exchange=exchange, routing_key=_NOBODY, properties=properties)
    except (ChannelPreconditionFailed, ChannelNotFoundEntity):
        return True
    except ChannelAccessRefused:
        return False
    raise LinkFault("the broker takes a message of another user, whose expiration is no number: is it RabbitMQ?")
