"""Accepts connections while there is room for them; those that come meanwhile wait, and cost nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from webhookd.http1_limits import Watch
from webhookd.http1_wire import Wire
from webhookd.listeners import EXHAUSTED, PAUSE

AT_ONCE = 64
"""How many connections are accepted before those that are there have their turn."""

log = structlog.get_logger(__name__)


class Acceptor:
    """Accepts connections of one listening socket; `make` makes the protocol of each."""

    def __init__(self, listening: socket.socket, watch: Watch, make: Callable[[], Wire]) -> None:
        self._listening = listening
        self._watch = watch
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False
        listening.setblocking(False)
        if listening.family in (socket.AF_INET, socket.AF_INET6):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
        self.go_on()

    def go_on(self) -> None:
        """Accept, from now on."""
        self._pause = None
        if not self._closed:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept nothing any more: those that wait are refused."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            if self._watch.full(self.go_on):
                self._loop.remove_reader(self._listening.fileno())
                return
            try:
                accepted, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                log.warning("no connection can be accepted now: those that come wait", reason=error.strerror)
                self._loop.remove_reader(self._listening.fileno())  # or the event loop would spin
                self._pause = self._loop.call_later(PAUSE, self.go_on)
                return
            accepted.setblocking(False)
            protocol = self._make()
            self._watch.connections.add(protocol)
            opening = self._loop.create_task(self._open(protocol, accepted))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, protocol: Wire, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError:  # it is gone already
            accepted.close()
            self._watch.gone(protocol)
