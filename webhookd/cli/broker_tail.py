"""The messages that are published while one looks on: an endless list for a command, which ends when nobody reads."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator

from webhookd.adapters.amqp_tail import Seen, TailError, published
from webhookd.cli.output import Failure
from webhookd.outlet import broker_access
from webhookd.settings import Settings


def messages(settings: Settings, tenant: str | None, ready: Callable[[], None]) -> Iterator[Seen]:
    """Yield each message published from the call of `ready` on, until stdout is closed; SIGTERM is a Ctrl-C.

    Raises Failure, with one line that says what to do, and ConfigurationError.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with asyncio.Runner() as runner:
        source = published(broker_access(settings), settings.exchange, tenant, ready)
        unread = _unread(runner.get_loop())

        async def following() -> Seen | None:
            coming = asyncio.ensure_future(anext(source))
            await asyncio.wait((coming, unread), return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else None

        try:
            while (seen := runner.run(following())) is not None:
                yield seen
        except TailError as error:
            raise Failure(str(error)) from None


def _unread(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Return what is done once the other end of a pipe at stdout is closed: nothing may come that would show it."""
    closed = loop.create_future()
    out = sys.stdout.fileno()
    if stat.S_ISFIFO(os.fstat(out).st_mode):
        loop.add_reader(out, closed.cancel)
    return closed
