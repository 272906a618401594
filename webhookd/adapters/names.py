"""Names of neighbours are looked up in threads that nobody waits for: not the ingest, not the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

LOOKUPS_AT_A_TIME = 2
"""How many names may be looked up; what comes beyond waits, within its own deadline."""
NEXT_ADDRESS = 1.0
"""How long, in seconds, the connection to one address of several may take before the next one is tried."""

Addresses = list[tuple[int, Any]]
"""Addresses of a name, each behind its family."""
Connection = TypeVar("Connection")


class Names:
    """Looks names up for one neighbour, in threads that nobody waits for.

    A name server that does not answer keeps its thread for long. asyncio's own threads are those of the ingest, and the
    end of the process waits for them.
    """

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(LOOKUPS_AT_A_TIME)

    async def connected(self, host: str, port: int, connect: Callable[[int, Any], Awaitable[Connection]]) -> Connection:
        """Return the connection that `connect` makes, given family and address, to the first address that takes one.

        Raises `OSError` or `UnicodeError`.
        """
        addresses = await self._addresses(host, port)
        for left, (family, address) in zip(reversed(range(len(addresses))), addresses, strict=True):
            try:
                async with asyncio.timeout(NEXT_ADDRESS if left else None):
                    return await connect(family, address)
            except OSError:
                if not left:
                    raise
        raise socket.gaierror

    async def _addresses(self, host: str, port: int) -> Addresses:
        """Return where the name is; raises `OSError` or `UnicodeError`."""
        await self._turns.acquire()  # given back when the thread ends, which may be long after the caller has left
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Addresses] = loop.create_future()

        def look_up() -> None:
            try:
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                settle = partial(found.set_exception, error)
            else:
                settle = partial(found.set_result, [(kind, address) for kind, _, _, _, address in infos])
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(self._end, found, settle)

        try:
            threading.Thread(target=look_up, name="name lookup", daemon=True).start()
        except RuntimeError as error:  # as many threads run as may
            self._turns.release()
            raise OSError(errno.EAGAIN, f"no thread for a name lookup: {os.strerror(errno.EAGAIN)}") from error
        return await found

    def _end(self, found: asyncio.Future[Addresses], settle: partial[None]) -> None:
        self._turns.release()
        if not found.done():
            settle()
