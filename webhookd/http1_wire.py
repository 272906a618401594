"""A connection below its requests: deadlines, a client that does not read, and an end that does not eat the answer."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import cast

import structlog

from webhookd.http1_limits import BODY, DRAIN, HEAD, IDLE, LINGER, NEVER, WRITE, Watch

log = structlog.get_logger(__name__)


class Wire(asyncio.Protocol, ABC):
    """What a connection does whatever it carries. Subclasses read and answer requests."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.phase = IDLE
        self.deadline = watch.idle_until
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.eof = False
        """Whether the client sends nothing more."""
        self.received = 0
        """How much of the body has come, in bytes."""
        self.writable: asyncio.Future[None] | None = None
        """Done once the client has read enough to be sent more; None where that is so."""
        self._open = False
        self._body_began = 0.0
        self._unsent = 0

    # --- for subclasses -------------------------------------------------------------------------------------------

    @abstractmethod
    def too_slow(self) -> None:
        """Refuse a head or a body that takes too long."""

    @abstractmethod
    def broken(self) -> None:
        """Answer what is a bug, and close."""

    @abstractmethod
    def in_work(self) -> bool:
        """Whether the client is still to have an answer."""

    @abstractmethod
    def abandon(self) -> None:
        """Let go of the request."""

    @abstractmethod
    def rest(self) -> None:
        """Set `phase` and `deadline` to what the connection is at."""

    @abstractmethod
    def hold(self) -> None:
        """Hand nothing on until as many calls of `release`."""

    @abstractmethod
    def release(self) -> None:
        """Go on."""

    def expect_body(self) -> None:
        """Begin to count how fast a body comes."""
        self.received = 0
        self._body_began = self.watch.now
        self.phase, self.deadline = BODY, self.watch.now + self.watch.limits.body_grace

    # --- what the event loop tells ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note."""
        self.transport = cast("asyncio.Transport", transport)
        self._open = True
        if self.phase == LINGER:  # closed before it was open
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - asyncio's
        """Take note, and tell whoever has a request in work."""
        self.watch.gone(self)
        self.phase, self.deadline = LINGER, NEVER
        self.abandon()
        self._wake()

    def eof_received(self) -> bool:
        """Take note that the client sends nothing more; what it has asked for is answered all the same."""
        self.eof = True
        return self.phase != LINGER and self.in_work()

    def pause_writing(self) -> None:
        """Read nothing more from a client that does not read its answers."""
        self.writable = asyncio.get_running_loop().create_future()
        self._unsent = self.transport.get_write_buffer_size()
        if self.phase != LINGER:
            self.phase, self.deadline = WRITE, self.watch.now + self.watch.limits.write
        self.hold()

    def resume_writing(self) -> None:
        """Go on."""
        self._wake()
        if self.phase == WRITE:
            self.rest()
        self.release()

    def _wake(self) -> None:
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    # --- deadlines and ends -----------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Do what is to be done where `deadline` has passed."""
        if self.phase == IDLE:
            self.close()
        elif self.phase == HEAD or (self.phase == BODY and not self._keeps_up(now)):
            self.too_slow()
        elif self.phase == DRAIN:
            self.linger()
        elif self.phase in (LINGER, WRITE) and not self._is_read(now):
            self.transport.abort()

    def _keeps_up(self, now: float) -> bool:
        limits = self.watch.limits
        elapsed = now - self._body_began
        return elapsed < limits.body and self.received >= limits.body_rate * elapsed

    def _is_read(self, now: float) -> bool:
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        self.deadline = now + self.watch.limits.write
        return self._unsent < before

    def close(self) -> None:
        """Close once everything is written."""
        if not self._open:
            self.abort()
            return
        self._unsent = self.transport.get_write_buffer_size()
        self.phase, self.deadline = LINGER, self.watch.now + self.watch.limits.write
        self.transport.close()

    def abort(self) -> None:
        """Close now, whatever is left."""
        self.phase, self.deadline = LINGER, NEVER
        if self._open:
            self.transport.abort()

    def linger(self) -> None:
        """Close once the client has closed, too, or after a while; closed at once, unread bytes would be a reset."""
        self.abandon()
        self._unsent = self.transport.get_write_buffer_size()
        self.phase, self.deadline = LINGER, self.watch.now + self.watch.limits.linger
        if self.eof or self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()

    def fail(self, error: BaseException) -> None:
        """Log what is a bug, and let the others go on."""
        log.error("a connection failed by a bug", exc_info=error)
        self.broken()
