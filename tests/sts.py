"""An STS and an issuer of key sets, over HTTP, which say what a test wants said, and misbehave in every way known."""

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

CHECK_TOKEN = "/sts/oauth/check_token"
JSON = b"Content-Type: application/json\r\n"
REDIRECTED = "/redirected"


def reply(body: bytes, status: str = "200 OK", headers: bytes = JSON) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), headers, len(body), body)


GOOD = b'{"tenantId": 42, "keys": []}'
"""Good for an STS and for an issuer of keys: what is wrong with an answer is not its body then."""
BARE = b"HTTP/1.1 200 OK\r\n" + JSON
ANSWERS = {
    "500": reply(GOOD, "500 Internal Server Error"),
    "404": reply(GOOD, "404 Not Found"),
    "429": reply(GOOD, "429 Too Many Requests"),
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "html": reply(b"<html><body>42</body></html>", headers=b"Content-Type: text/html\r\n"),
    "empty": reply(b""),
    "no JSON": reply(b'{"tenantId": 42, "keys": []'),
    "array": reply(b'[{"tenantId": 42, "keys": []}]'),
    "string": reply(b'"42"'),
    "number": reply(b"42"),
    "null": reply(b"null"),
    "no UTF-8": reply(b'{"tenantId": "\xff", "keys": [\xff]}'),
    "deep": reply(b'{"tenantId": 42, "keys": ' + b"[" * 30_000),
    "huge": reply(GOOD + b" " * 300_000),
    "huge, of no length": BARE + b"\r\n" + GOOD + b" " * 300_000,
    "huge, in chunks": BARE + b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n%s\r\n" % (b" " * 0x8000) * 12,
    "huge head": BARE + b"X-Filler: a\r\n" * 3000 + b"Content-Length: 28\r\n\r\n" + GOOD,
    "gzip": reply(b"\x1f\x8b\x08\x00" + bytes(40), headers=JSON + b"Content-Encoding: gzip\r\n"),
    "too short": BARE + b"Content-Length: 99\r\n\r\n" + GOOD,
    "too long": BARE + b"Content-Length: 5\r\n\r\n" + GOOD,
    "two lengths": BARE + b"Content-Length: 28\r\nContent-Length: 29\r\n\r\n" + GOOD,
    "no length": BARE + b"Content-Length: many\r\n\r\n" + GOOD,
    "broken chunk": BARE + b"Transfer-Encoding: chunked\r\n\r\n1c\r\n" + GOOD[:9],
    "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "noise": bytes(range(256)) * 200,
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
    "nothing": b"",
}
"""Answers that are none, each sent at once and followed by the end of the connection."""


class StandIn:
    """Listens on 127.0.0.1, in a thread of its own. Set its attributes while it runs."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.documents: dict[str, Any] = {}
        """What the STS says about a token; it refuses every other one with `refusal`."""
        self.refusal = "401 Unauthorized"
        self.key_set: Any = {"keys": []}
        self.fault: str | None = None
        """One of ANSWERS, or `silent`, `dripping`, `reset`, `reset halfway`, `redirect`."""
        self.asked: list[str] = []
        """The tokens that the STS was asked about."""
        self.fetched = 0
        """How often somebody came for the key set."""
        self.redirected = 0
        self.heads: list[str] = []
        """The first line and headers of every request."""
        self.at_once = 0
        """The most questions that were open at a time."""
        self._open = 0
        self.never = asyncio.Event()
        self._go_on = asyncio.Event()
        self._go_on.set()
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(*tls)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"{'http' if self._context is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys.json"

    def up(self) -> None:
        """Listen, on the port that it had before."""
        started = asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self._context, backlog=256)
        self._server = asyncio.run_coroutine_threadsafe(_awaited(started), self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]

    def down(self) -> None:
        """Refuse connections."""
        self.go_on()
        if self._server is not None:
            self._loop.call_soon_threadsafe(self._server.close)
            asyncio.run_coroutine_threadsafe(self._server.wait_closed(), self._loop).result(10)
        self._server = None

    def hold(self) -> None:
        """Take questions and keep their answers back."""
        self._loop.call_soon_threadsafe(self._go_on.clear)

    def go_on(self) -> None:
        """Answer again, what was kept back too."""
        self._loop.call_soon_threadsafe(self._go_on.set)

    async def _finish(self) -> None:
        mine = asyncio.current_task()
        for task in (tasks := [task for task in asyncio.all_tasks() if task is not mine]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self._open += 1
            self.at_once = max(self.at_once, self._open)
            try:
                await self._answer(head, writer)
            finally:
                self._open -= 1
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        said = self._said(head)
        await self._go_on.wait()
        fault = self.fault  # of another thread: it may change at any time
        if fault in HABITS:
            await HABITS[fault](self, writer, said)
        else:
            writer.write(ANSWERS[fault] if fault else said)
            await writer.drain()

    def _said(self, head: str) -> bytes:
        """Note what is asked for, and return what a healthy server says to it."""
        self.heads.append(head)
        target = urlsplit(head.split(" ")[1])
        if target.path == CHECK_TOKEN:
            assert parse_qs(target.query).keys() == {"token"}
            token = unquote(target.query.removeprefix("token="))
            self.asked.append(token)
            if token in self.documents:
                return reply(json.dumps(self.documents[token]).encode())
            return reply(b'{"error": "invalid_token"}', self.refusal)
        if target.path == REDIRECTED:
            self.redirected += 1
            return reply(GOOD)
        self.fetched += 1
        return reply(json.dumps(self.key_set).encode())


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for something to come to pass, without holding up the event loop."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


async def _awaited(server: Awaitable[asyncio.Server]) -> asyncio.Server:
    return await server


async def _silent(stand_in: StandIn, writer: asyncio.StreamWriter, said: bytes) -> None:
    await stand_in.never.wait()


async def _dripping(stand_in: StandIn, writer: asyncio.StreamWriter, said: bytes) -> None:
    for byte in reply(GOOD + b" " * 60_000):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.005)


async def _reset(stand_in: StandIn, writer: asyncio.StreamWriter, said: bytes) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _reset_halfway(stand_in: StandIn, writer: asyncio.StreamWriter, said: bytes) -> None:
    writer.write(said[:-1])
    await writer.drain()
    await asyncio.sleep(0.05)
    await _reset(stand_in, writer, said)


async def _redirect(stand_in: StandIn, writer: asyncio.StreamWriter, said: bytes) -> None:
    there = f"Location: {stand_in.url}{REDIRECTED}\r\n".encode()
    writer.write(reply(GOOD, "302 Found", JSON + there))
    await writer.drain()


HABITS: dict[str | None, Callable[[StandIn, asyncio.StreamWriter, bytes], Awaitable[None]]] = {
    "silent": _silent,
    "dripping": _dripping,
    "reset": _reset,
    "reset halfway": _reset_halfway,
    "redirect": _redirect,
}
FAULTS = sorted({*ANSWERS, *map(str, HABITS)})
ENDLESS = {"silent", "dripping"}
"""Those that only a deadline ends."""
