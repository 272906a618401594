"""One connection to the broker, until its end: writes publishes, settles them, and says how it ended."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterator

from pamqp import commands

from webhookd.adapters.amqp_access import Address
from webhookd.adapters.amqp_channel import Confirms
from webhookd.adapters.amqp_fault import LinkFault
from webhookd.adapters.amqp_frames import (
    CHANNEL_CLOSE,
    CONNECTION_BLOCKED,
    CONNECTION_CLOSE,
    CONNECTION_UNBLOCKED,
    END,
    METHOD,
    PublishFrames,
    close_reason,
    parse,
)
from webhookd.errors import NotSent, Unacceptable
from webhookd.model import Message
from webhookd.ports import Answer

_BATCH = 256 * 1024
"""The bytes that are joined into one write."""


class Session:
    """A connection that publishes once it is `opened`, until `ended` says why it does no more.

    Watches the tap. Messages wait in order until the transport takes them; one whose answer is done by then is never
    sent.
    """

    def __init__(self, address: Address, exchange: str, changed: Callable[[], None]) -> None:
        self.address = address
        self.exchange = exchange
        self.ended: asyncio.Future[LinkFault] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        """Why the broker reads nothing, in its own words; None while it reads."""
        self.writable = False
        """Whether publishing makes sense: it is open, not blocked, and has not ended."""
        self.confirms = Confirms()
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Message, Answer]] = deque()
        self._rest: Iterator[bytes] | None = None
        """The frames of a large body that has been begun."""
        self._scheduled = False
        self._paused = False
        self._idle: asyncio.Event | None = None
        self._channel = b""

    def opened(self, write: Callable[[bytes], None], channel: int, frame_max: int) -> None:
        """Publish from now on by this channel, which is in confirm mode: `write` takes whole frames."""
        self._send = write
        self._channel = channel.to_bytes(2, "big")
        self._frames = PublishFrames(channel, self.exchange, frame_max)
        self.writable = self.blocked is None and not self.ended.done()

    @property
    def in_flight(self) -> int:
        """How many messages wait here or for the broker's answer, those that nobody waits for any more included."""
        return len(self._waiting) + self.confirms.in_flight

    def send(self, message: Message, answer: Answer) -> None:
        """Send a message; `answer` is told what the broker answers, or the end of the session, never at once."""
        if self._paused:
            self._forget_given_up()
        self._waiting.append((message, answer))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._write)

    def end(self, fault: LinkFault) -> None:
        """Settle everything: what was not sent, and what is in flight."""
        if self.ended.done():
            return
        self.ended.set_result(fault)
        self.writable = False
        self._rest = None
        waiting, self._waiting = self._waiting, deque()
        self.confirms.lost(str(fault))
        for _, answer in waiting:
            if not answer.done():
                answer.set_exception(NotSent(str(fault)))
        self._tell_idle()
        self._changed()

    async def finish(self, within: float) -> None:
        """Wait until nothing is in flight, for at most `within` seconds."""
        self._idle = asyncio.Event()
        self._tell_idle()
        try:
            async with asyncio.timeout(within):
                await self._idle.wait()
        except TimeoutError:
            return

    # --- what the tap tells ------------------------------------------------------------------------------------------

    def received(self, frame: bytes) -> bool:
        """As the tap's watcher."""
        method = frame[7:11] if frame[0] == METHOD else b""
        channel = frame[1:3]
        if channel == b"\x00\x00":
            self._of_connection(method, frame)
            return False
        if channel != self._channel or self.ended.done():
            return False
        if method == CHANNEL_CLOSE:
            self._channel_closed(frame)
            return False
        taken = self.confirms.received(frame)
        self._tell_idle()
        return taken

    def paused(self, is_paused: bool) -> None:
        """As the tap's watcher."""
        self._paused = is_paused
        if not is_paused and not self._scheduled:
            self._write()

    def broken(self, reason: str) -> None:
        """As the tap's watcher."""
        self.end(LinkFault(f"{self.address.shown}: {reason}"))

    def _of_connection(self, method: bytes, frame: bytes) -> None:
        if method == CONNECTION_BLOCKED:
            self.blocked = parse(frame, commands.Connection.Blocked).reason or "an alarm"
            self.writable = False
            self._changed()
        elif method == CONNECTION_UNBLOCKED:
            self.blocked = None
            self.writable = bool(self._channel) and not self.ended.done()
            self._changed()
        elif method == CONNECTION_CLOSE:
            self.end(LinkFault.of_connection(*close_reason(frame, commands.Connection.Close), self.address))

    def _channel_closed(self, frame: bytes) -> None:
        """Stop writing at once: frames for a channel that is gone would make the broker close the connection."""
        code, text = close_reason(frame, commands.Channel.Close)
        self.confirms.closed(code, text)
        self.end(LinkFault.of_publish(code, text, self.address, self.exchange))

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write what waits, a whole batch of frames at a time, until the transport asks for a pause."""
        self._scheduled = False
        while not self._paused:
            if self._rest is not None:
                piece = next(self._rest, None)
                if piece is None:
                    self._rest = None
                else:
                    self._send(piece)
            elif self._waiting:
                self._send(self._batch())
            else:
                return

    def _batch(self) -> bytes:
        """Return the frames of the next messages; ends with one whose body takes more than one frame."""
        parts: list[bytes] = []
        frames, waiting, size = self._frames, self._waiting, 0
        while waiting and size < _BATCH:
            message, answer = waiting.popleft()
            if answer.done():
                continue
            body = message.body
            try:
                head, routing_key = frames.head(message)
            except (ValueError, struct.error) as error:
                answer.set_exception(Unacceptable(f"AMQP cannot hold the message: {error}"))
                continue
            self.confirms.sent(answer, message.receipt, routing_key, len(body))
            parts.append(head)
            if len(body) > frames.payload_max:
                self._rest = frames.body(body)
                break
            if body:
                parts += (frames.body_start(len(body)), body, END)
            size += len(head) + len(body)
        return b"".join(parts)

    def _forget_given_up(self) -> None:
        """Let go of the oldest messages that nobody waits for: a broker that hangs must not fill the memory."""
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()

    def _tell_idle(self) -> None:
        if self._idle is not None and not self.in_flight:
            self._idle.set()
