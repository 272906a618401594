"""A TCP proxy that does to its connections what networks do, switched while they are in use."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self

from faults.connections import Pair, Way
from harness import free_port

CHUNK = 1 << 16
LINE = 64
"""How many chunks may be on their way in one direction: a delay is not a throttle."""

Direction = Literal["up", "down"]
"""`up` is from the client to the server, `down` is back."""


class Proxy:
    """Stands at `port` for the server at `target`, from entering to leaving; faults are its methods, `heal` ends all.

    What is called returns once it is so. It runs in a thread of its own.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.accepted = 0
        """How many connections there have been."""
        self.cuts = 0
        """How many connections the proxy has cut."""
        self._pairs: set[Pair] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- faults ------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Pass everything on again; connections that have lost something are reset."""
        self._run(self._heal())

    def delay(self, seconds: float) -> None:
        """Hold every byte back for so long, in each direction."""
        self._set(delay=seconds)

    def throttle(self, rate: float) -> None:
        """Let no more than `rate` bytes per second pass in each direction."""
        self._set(rate=rate)

    def blackhole(self) -> None:
        """Pass nothing on and say nothing, new connections included, as a firewall that drops packets."""
        self._call(lambda: (self.up.open.clear(), self.down.open.clear()))

    def stall(self, direction: Direction) -> None:
        """Pass nothing on in one direction; what is sent waits."""
        self._call(self._way(direction).open.clear)

    def drop(self, direction: Direction) -> None:
        """Take what comes in one direction and lose it."""
        self._call(lambda: setattr(self._way(direction), "dropping", True))

    def reset(self) -> int:
        """Reset the connections there are (RST to both sides), and return how many."""
        return self._call(self._cut_all)

    def half_close(self) -> None:
        """Tell the clients that the server has ended, and go on taking what they send."""
        self._call(self._half_close)

    def refuse(self) -> None:
        """Reset the connections there are, and refuse new ones until healed."""
        self._run(self._refuse())

    def cut_after(self, count: int, direction: Direction = "up") -> None:
        """Cut all connections after `count` more bytes: the receiver of these sees exactly them, and the end."""
        self._call(lambda: setattr(self._way(direction), "budget", count))

    def cut_at_answer(self, larger_than: int = 8) -> None:
        """Lose the server's next words, and cut: it has done what it was asked, and its client cannot know.

        An AMQP heartbeat has 8 bytes, and is no answer.
        """
        self._call(lambda: setattr(self.down, "cut_at", larger_than))

    @property
    def armed(self) -> bool:
        """Whether a cut that was asked for is still to come."""
        return any(way.budget is not None or way.cut_at is not None for way in (self.up, self.down))

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._pairs)

    # --- within the thread -------------------------------------------------------------------------------------------

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def _call(self, action: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return action()

        return self._run(call())

    def _set(self, **rules: float) -> None:
        for name, value in rules.items():
            self._call(lambda name=name, value=value: [setattr(way, name, value) for way in (self.up, self.down)])

    def _way(self, direction: Direction) -> Way:
        return self.up if direction == "up" else self.down

    async def _begin(self) -> None:
        self.up, self.down = Way(), Way()
        self.up.heal()
        self.down.heal()
        await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=CHUNK)

    async def _end(self) -> None:
        await self._refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut_all()

    async def _heal(self) -> None:
        for pair in [pair for pair in self._pairs if pair.broken]:
            pair.cut()
        self.up.heal()
        self.down.heal()
        if self._server is None:
            await self._listen()

    def _cut_all(self) -> int:
        links = list(self._pairs)
        self.cuts += len(links)
        for pair in links:
            pair.cut()
        return len(links)

    def _half_close(self) -> None:
        for pair in self._pairs:
            pair.broken = True
            self.down.dropping = True
            pair.client.write_eof()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        pair: Pair | None = None
        try:
            await self.up.open.wait()
            back, there = await asyncio.open_connection("127.0.0.1", self.target, limit=CHUNK)
            pair = Pair(writer, there)
            self._pairs.add(pair)
            await asyncio.gather(self._pump(pair, reader, there, self.up), self._pump(pair, back, writer, self.down))
        except OSError:
            if pair is None:
                Pair(writer, writer).cut()
        except asyncio.CancelledError:
            pass  # the proxy ends
        finally:
            self._tasks.discard(task)
            if pair is not None:
                self._pairs.discard(pair)
                pair.server.close()
            writer.close()

    async def _pump(self, pair: Pair, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: Way) -> None:
        """Take what comes one way until it ends, and hand it on."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(LINE)
        writing = self._loop.create_task(self._write(line, target, way))
        try:
            while True:
                await way.open.wait()
                data = await source.read(CHUNK)
                await way.open.wait()  # it may have been closed while this was read
                data = self._lose(pair, data, way)
                if data is None:
                    continue
                await line.put((self._loop.time() + way.delay, data))
                if not data:
                    break
            await writing
        except OSError:
            pair.cut()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _lose(self, pair: Pair, data: bytes, way: Way) -> bytes | None:
        """Return what is left to hand on, after what is lost; None where that is nothing."""
        if way.cut_at is not None and len(data) > way.cut_at:
            way.cut_at = None
            way.dropped += len(data)
            self._cut_all()
            raise ConnectionResetError
        if data and way.dropping:
            way.dropped += len(data)
            pair.broken = True
            return None
        return data

    async def _write(self, line: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter, way: Way) -> None:
        while True:
            due, data = await line.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if not data:
                with contextlib.suppress(OSError):
                    target.write_eof()
                return
            if way.budget is not None and len(data) >= way.budget:
                data, way.budget = data[: way.budget], None
                target.write(data)
                await self._end_after(target)
                return
            if way.budget is not None:
                way.budget -= len(data)
            await self._send(data, target, way)

    async def _end_after(self, target: asyncio.StreamWriter) -> None:
        """Let `target` have what was written to it, and then its end, before all is cut."""
        with contextlib.suppress(OSError):
            await target.drain()
            target.write_eof()
        self._cut_all_but(target)

    def _cut_all_but(self, target: asyncio.StreamWriter) -> None:
        for pair in list(self._pairs):
            if target in (pair.client, pair.server):
                pair.broken = True
                other = pair.client if target is pair.server else pair.server
                other.transport.abort()
                target.close()
                self.cuts += 1
            else:
                self.cuts += 1
                pair.cut()

    async def _send(self, data: bytes, target: asyncio.StreamWriter, way: Way) -> None:
        """Write in pieces, so that a rate that is set meanwhile counts at once."""
        while data:
            size = len(data) if way.rate == math.inf else max(1, int(way.rate / 20))
            piece, data = data[:size], data[size:]
            target.write(piece)
            await target.drain()
            way.passed += len(piece)
            if way.rate != math.inf:
                await asyncio.sleep(len(piece) / way.rate)
