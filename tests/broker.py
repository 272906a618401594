"""A broker that says what a test has it say, in AMQP 0-9-1: for orders of frames that RabbitMQ sends once in a year."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import pamqp.frame
from pamqp import body, commands, header, heartbeat


@dataclass
class Published:
    tag: int
    method: commands.Basic.Publish
    properties: commands.Basic.Properties
    body: bytes
    frames: list[int]
    """The sizes of the frames that its body came in."""


class Broker:
    """Takes every connection, finds every exchange, and answers no publish by itself."""

    def __init__(self, *, frame_max: int = 131072) -> None:
        self.frame_max = frame_max
        self.connections = 0
        self.heartbeats = 0
        self.goodbyes = 0
        """How many connections were closed politely."""
        self.channel = 0
        self.published: list[Published] = []
        """Of the newest connection."""
        self.client_properties: dict[str, Any] = {}
        self.answers: dict[type, Callable[[Any], Any]] = {
            commands.Exchange.Declare: lambda _: commands.Exchange.DeclareOk()
        }
        """What is said to a method instead of the usual."""
        self._news = asyncio.Condition()
        self._reads = asyncio.Event()
        self._reads.set()
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(condition)

    async def has(self, count: int) -> list[Published]:
        """Wait for so many messages."""
        await self.until(lambda: len(self.published) >= count)
        return self.published

    def send(self, *frames: Any, channel: int | None = None) -> None:
        """Say something, on the channel of the publishes where nothing else is said."""
        where = self.channel if channel is None else channel
        self.raw(b"".join(pamqp.frame.marshal(frame, where) for frame in frames))

    def raw(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.send(commands.Basic.Ack(tag, multiple))

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        self.send(commands.Basic.Nack(tag, multiple))

    def give_back(self, message: Published, *, ends: int | None = None) -> None:
        """Return a message that no queue takes; its body ends after `ends` bytes, where that is given."""
        size = len(message.body)
        self.send(
            commands.Basic.Return(312, "NO_ROUTE", message.method.exchange, message.method.routing_key),
            header.ContentHeader(0, size, message.properties),
        )
        data = message.body[:ends]
        for at in range(0, len(data), 1000):
            self.send(body.ContentBody(data[at : at + 1000]))

    def stop_reading(self) -> None:
        """Take nothing more from the network."""
        self._reads.clear()

    def say_no_more(self) -> None:
        """Close this direction of the connection, and leave the other open."""
        assert self._writer is not None
        self._writer.write_eof()

    def drop(self) -> None:
        assert self._writer is not None
        self._writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writer = writer
        self.connections += 1
        self.published = []
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._talk(reader)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _talk(self, reader: asyncio.StreamReader) -> None:
        assert await reader.readexactly(8) == b"AMQP\x00\x00\x09\x01"
        capabilities = {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True}
        self.send(commands.Connection.Start(0, 9, {"capabilities": capabilities, "product": "a script"}), channel=0)
        pending: Published | None = None
        missing = 0
        while await self._reads.wait():
            start = await reader.readexactly(7)
            size = int.from_bytes(start[3:7], "big")
            assert size + 8 <= self.frame_max, "a frame over frame_max"
            _, channel, frame = pamqp.frame.unmarshal(start + await reader.readexactly(size + 1))
            if isinstance(frame, commands.Basic.Publish):
                pending = Published(len(self.published) + 1, frame, commands.Basic.Properties(), b"", [])
                self.channel = channel
            elif isinstance(frame, header.ContentHeader):
                assert pending is not None
                pending.properties, missing = frame.properties, frame.body_size
            elif isinstance(frame, body.ContentBody):
                assert pending is not None
                pending.body += frame.value
                pending.frames.append(size)
                missing -= len(frame.value)
            else:
                self._answer(channel, frame)
            if pending is not None and not missing and not isinstance(frame, commands.Basic.Publish):
                self.published.append(pending)
                pending = None
            async with self._news:
                self._news.notify_all()

    def _answer(self, channel: int, frame: Any) -> None:
        if isinstance(frame, heartbeat.Heartbeat):
            self.heartbeats += 1
            return
        if isinstance(frame, commands.Connection.Close):
            self.goodbyes += 1
        if isinstance(frame, commands.Connection.StartOk):
            self.client_properties = dict(frame.client_properties)
        if isinstance(frame, commands.Confirm.Select):
            self.channel = channel
        usual = {
            commands.Connection.StartOk: lambda _: commands.Connection.Tune(2047, self.frame_max, 60),
            commands.Connection.Open: lambda _: commands.Connection.OpenOk(),
            commands.Connection.Close: lambda _: commands.Connection.CloseOk(),
            commands.Channel.Open: lambda _: commands.Channel.OpenOk(),
            commands.Channel.Close: lambda _: commands.Channel.CloseOk(),
            commands.Confirm.Select: lambda _: commands.Confirm.SelectOk(),
        }
        answer = {**usual, **self.answers}.get(type(frame))
        said = answer(frame) if answer else None
        if said is not None:
            self.send(said, channel=channel)
