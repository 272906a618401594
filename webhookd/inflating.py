"""Inflates a body as long as there is room for it, without holding the event loop."""

from __future__ import annotations

import asyncio
import io

from webhookd.body import Encoding, inflate
from webhookd.errors import BodyTooLarge, Overloaded
from webhookd.limits import Ticket


async def inflated(data: bytes, encoding: Encoding, most: int, ticket: Ticket | None) -> bytes:
    """Return `data` inflated, which `ticket` holds as it grows; it holds `data` no longer then.

    Raises `BodyTooLarge` over `most` bytes, what `inflate` raises, and what the ticket does.
    """
    buffer, steps = io.BytesIO(), inflate(data, encoding)
    step = next(steps, None)  # one step costs as much as a small delivery; only what has more to come is worth a thread
    while step is not None:
        if buffer.tell() + len(step) > most:
            raise BodyTooLarge(f"the inflated body is over {most} bytes", check="inflate")
        if ticket is not None:
            _hold(ticket, len(step))
        buffer.write(step)
        step = await asyncio.to_thread(next, steps, None)
    if ticket is not None:
        ticket.shrink(len(data))
    return buffer.getvalue()


def _hold(ticket: Ticket, size: int) -> None:
    try:
        ticket.grow(size)
    except Overloaded as error:
        error.check = "inflate"  # the checks before it are passed
        raise
