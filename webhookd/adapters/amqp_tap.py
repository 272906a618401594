"""Stands in the stream between the broker and aiormq: frames that are ours never reach aiormq, all others do."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Protocol, cast

from aiormq.connection import TransportFactory

from webhookd.adapters.amqp_access import Address
from webhookd.adapters.amqp_frames import HEARTBEAT_FRAME, FrameError, Incoming
from webhookd.adapters.names import Names

SIGN_OF_LIFE = 1.0
"""Seconds: aiormq, which takes a connection without frames for dead, is shown a heartbeat this often in their stead."""
WRITE_BUFFER = 1024 * 1024
"""The bytes that may wait in the transport before it asks for a pause."""


class Watcher(Protocol):
    """Who wants to know what happens on the connection."""

    def received(self, frame: bytes) -> bool:
        """Take a frame if it is ours, and say so; raises FrameError for what a broker may not send."""

    def paused(self, is_paused: bool) -> None:
        """Stop writing, or go on: the transport holds as much as it should."""

    def broken(self, reason: str) -> None:
        """Know that nothing comes or goes any more, and why."""


class Tap(asyncio.StreamReaderProtocol):
    """aiormq's end of the stream, with `watcher` before it."""

    def __init__(self, watcher: Watcher, loop: asyncio.AbstractEventLoop) -> None:
        self.reader = asyncio.StreamReader(loop=loop)
        super().__init__(self.reader, loop=loop)
        self.incoming = Incoming()
        self._watcher = watcher
        self._now = loop.time
        self._pipe: asyncio.Transport | None = None
        self._shown = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._pipe = cast(asyncio.Transport, transport)
        self._pipe.set_write_buffer_limits(WRITE_BUFFER)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hand each whole frame to the watcher, or else to aiormq."""
        try:
            frames = self.incoming.feed(data)
            kept = [frame for frame in frames if not self._watcher.received(frame)]
        except FrameError as error:
            self._watcher.broken(f"it broke the protocol: {error}")
            self.abort()
            return
        if not kept and frames and self._now() - self._shown >= SIGN_OF_LIFE:
            kept = [HEARTBEAT_FRAME]
        if kept:
            self._shown = self._now()
            super().data_received(b"".join(kept))

    def pause_writing(self) -> None:
        """Pass it on to both who write."""
        super().pause_writing()
        self._watcher.paused(True)

    def resume_writing(self) -> None:
        """Pass it on to both who write."""
        super().resume_writing()
        self._watcher.paused(False)

    def eof_received(self) -> bool | None:
        """Pass it on to both."""
        self._watcher.broken("the broker closed the connection")
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on to both."""
        super().connection_lost(exc)
        self._watcher.broken(f"the connection was lost: {exc}" if exc else "the broker closed the connection")

    @property
    def unsent(self) -> int:
        """How many bytes the network has still to take."""
        return self._pipe.get_write_buffer_size() if self._pipe is not None else 0

    def write(self, data: bytes) -> None:
        """Send whole frames."""
        if self._pipe is not None:
            self._pipe.write(data)

    def abort(self) -> None:
        """Drop the connection at once, with whatever is still to be written."""
        if self._pipe is not None:
            self._pipe.abort()


class TapFactory(TransportFactory):
    """Connects aiormq to `address` through a tap. Raises OSError, of which ssl.SSLError is one, or UnicodeError."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, names: Names, watcher: Watcher) -> None:
        self._address = address
        self._context = context
        self._names = names
        self._watcher = watcher
        self.tap = Tap(watcher, asyncio.get_running_loop())

    async def create(self, *_: Any, **__: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As aiormq asks for it: connect to the first address of the name that takes us."""
        return await self._names.connected(self._address.host, self._address.port, self._connect)

    async def _connect(self, _family: int, address: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port, *_ = address
        loop = asyncio.get_running_loop()
        tap = self.tap = Tap(self._watcher, loop)
        name = self._address.host if self._context else None
        transport, _ = await loop.create_connection(lambda: tap, host, port, ssl=self._context, server_hostname=name)
        return tap.reader, asyncio.StreamWriter(transport, tap, tap.reader, loop)
