"""A connection of aiormq's with a tap in it: opened and let go of within deadlines, its faults in words."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import aiormq
from aiormq.abc import AbstractConnection
from aiormq.connection import Connection
from aiormq.exceptions import AMQPError

from webhookd.adapters.amqp_access import Access
from webhookd.adapters.amqp_fault import LinkFault
from webhookd.adapters.amqp_frames import UNLIMITED
from webhookd.adapters.amqp_session import Session
from webhookd.adapters.amqp_tap import Tap, TapFactory
from webhookd.adapters.names import Names
from webhookd.errors import ConfigurationError

CONNECT_TIMEOUT = 10.0
"""Seconds within which a connection is up, or given up."""
GOODBYE_TIMEOUT = 2.0
"""Seconds that the broker has to say goodbye."""
# What happens to a connection is told by the link, in a line each; aiormq tells it again, with tracebacks.
logging.getLogger("aiormq").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that is up, and the tap in it."""

    connection: AbstractConnection
    tap: Tap


@contextlib.asynccontextmanager
async def connected(session: Session, access: Access, names: Names, name: str) -> AsyncIterator[Opened]:
    """Connect to the session's address, as `name` in the broker's lists; let go of it at the end. Raises LinkFault."""
    with faults(session):
        opened = await _open(session, access, names, name)
    try:
        yield opened
    finally:
        await _let_go(opened)


@contextlib.contextmanager
def faults(session: Session) -> Iterator[None]:
    """Say what goes wrong with a connection as LinkFault; what ended the session explains it best."""
    try:
        yield
    except ConfigurationError as error:
        raise LinkFault(str(error), denied=True) from error
    except asyncio.CancelledError as error:
        # aiormq raises it at those who wait for a connection that it gave up: nobody cancelled us then
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _explained(session, "the connection broke off") from error
    except TimeoutError as error:
        raise LinkFault(f"{session.address.shown}: no answer in time") from error
    except (AMQPError, OSError, UnicodeError) as error:
        raise _explained(session, _words(error)) from error


def _explained(session: Session, reason: str) -> LinkFault:
    return session.ended.result() if session.ended.done() else LinkFault(f"{session.address.shown}: {reason}")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, UnicodeError):
        return "no host can have this name"
    if isinstance(error, OSError) and error.strerror:
        # asyncio says `Connect call failed` whatever the errno
        return os.strerror(error.errno or 0) if error.strerror.startswith("Connect call") else error.strerror
    return f"{type(error).__name__} {error}"


async def _open(session: Session, access: Access, names: Names, name: str) -> Opened:
    address = session.address
    context = await asyncio.to_thread(access.tls) if address.tls else None
    factory = TapFactory(address, context, names, session)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection: Connection = await aiormq.connect(
                address.url, transport_factory=factory, client_properties={"connection_name": name}
            )
    except BaseException:
        factory.tap.abort()
        raise
    factory.tap.incoming.frame_max = connection.connection_tune.frame_max or UNLIMITED
    return Opened(connection, factory.tap)


async def _let_go(opened: Opened) -> None:
    """Close the connection, politely where nothing of ours is in the way."""
    if opened.tap.unsent:
        opened.tap.abort()
    closing = asyncio.get_running_loop().create_task(opened.connection.close())
    await asyncio.wait({closing}, timeout=GOODBYE_TIMEOUT)
    opened.tap.abort()
    if closing.done() and not closing.cancelled():
        closing.exception()
    else:
        closing.cancel()
