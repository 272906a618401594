"""HTTP servers in the test's own event loop, both parsers alike, and raw bytes spoken to them over real sockets."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence

import structlog
from harness import PATIENCE
from tornado import httputil, web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from webhookd.adapters.memory import MemoryPublisher
from webhookd.examiner import Examiner, Plugins
from webhookd.hooks import HookTable
from webhookd.http1_limits import Limits
from webhookd.http1_server import Server
from webhookd.http_front import Front
from webhookd.http_intake import Intake
from webhookd.ingest import Ingest
from webhookd.limits import Budget
from webhookd.logs import RefusalLog
from webhookd.metrics import DeliveryMetrics
from webhookd.model import Hook
from webhookd.ports import Snapshot
from webhookd.registry import load
from webhookd.schema import Schemas

HOOK = Hook(
    token="a" * 40,
    api_token="123e4567-e89b-42d3-a456-426614174000",
    tenant="42",
    datasource="mine",
    event="thing",
    base_url="https://webhook.example.org",
    created_at=0,
)
PATH = f"/wh/{HOOK.api_token}/{HOOK.token}"
MAX_BODY = 100_000
REGISTRY = load(None, None)
SCHEMAS = Schemas(REGISTRY)
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Echo(web.RequestHandler):
    def handle(self) -> None:
        self.set_header("X-Got", f"{self.request.method} {self.request.uri} {self.request.version}")
        self.write(self.request.body)

    get = post = put = delete = head = handle


@web.stream_request_body
class Slowly(web.RequestHandler):
    """Takes a body piece by piece, and no piece before it is done with the last."""

    def initialize(self) -> None:
        self.taken: list[bytes] = []
        self.busy = False

    async def prepare(self) -> None:
        await asyncio.sleep(0)

    async def data_received(self, chunk: bytes) -> None:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0.001)
        self.taken.append(chunk)
        self.busy = False

    def post(self) -> None:
        assert not self.busy
        self.write(b"".join(self.taken))


class Pieces(web.RequestHandler):
    """Answers in pieces, as many and as large as asked for."""

    async def get(self) -> None:
        if length := self.get_argument("length", ""):
            self.set_header("Content-Length", length)
        for _ in range(int(self.get_argument("count"))):
            self.write(b"x" * int(self.get_argument("size")))
            await self.flush()

    def on_connection_close(self) -> None:
        self.application.settings["gone"].set()


class Waiting(web.RequestHandler):
    """Answers when it is told to."""

    async def get(self) -> None:
        self.application.settings["asked"].set()
        await self.application.settings["go"].wait()
        self.write("done")

    def on_connection_close(self) -> None:
        self.application.settings["gone"].set()


class Broken(web.RequestHandler):
    def get(self) -> None:
        raise RuntimeError("as asked for")

    def log_exception(self, *_: object) -> None:
        """Leave it out of the log."""


class World:
    """One hook, everything behind it in memory, and an application beside it."""

    def __init__(self) -> None:
        self.publisher = MemoryPublisher()
        self.table = HookTable()
        self.table.apply(Snapshot((HOOK,), 1))
        self.intake = Intake(
            ingest=Ingest(self.table, REGISTRY, SCHEMAS, MAX_BODY),
            publisher=self.publisher,
            examiner=Examiner(Plugins(None, None), 5),
            budget=Budget(100, 10_000_000, lambda: 1.0),
            metrics=DeliveryMetrics(),
            refusals=RefusalLog(structlog.get_logger(), time.monotonic),
            log_accepted=False,
            log_refused=False,
        )
        self.app = web.Application(
            [("/echo", Echo), ("/slowly", Slowly), ("/pieces", Pieces), ("/waiting", Waiting), ("/broken", Broken)],
            log_function=lambda _: None,
            asked=asyncio.Event(),
            go=asyncio.Event(),
            gone=asyncio.Event(),
        )
        self.front = Front(self.intake, self.app)


KINDS = ("llhttp", "llhttp by delegates", "tornado")


@contextlib.asynccontextmanager
async def serving(
    kind: str, delegate: httputil.HTTPServerConnectionDelegate, limits: Limits | None = None
) -> AsyncIterator[tuple[int, Server | HTTPServer]]:
    """Serve on a port of the loopback, by our own parser or by Tornado's."""
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    if kind == "tornado":
        tornado = HTTPServer(delegate, max_header_size=32 * 1024, max_body_size=1 << 40)
        tornado.add_sockets(sockets)
        try:
            yield port, tornado
        finally:
            tornado.stop()
            await tornado.close_all_connections()
        return
    taker = delegate if kind == "llhttp" and isinstance(delegate, Front) else None
    server = Server(delegate, taker, drain_limit=2 * MAX_BODY, limits=limits)
    server.serve(sockets)
    try:
        yield port, server
    finally:
        await server.close(0.2)


class Client:
    """One connection, spoken to in raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.seen = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, port: int, **options: int) -> AsyncIterator["Client"]:
        client = cls(*await asyncio.open_connection("127.0.0.1", port, **options))
        try:
            yield client
        finally:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def until(self, wanted: Callable[[bytes], object], seconds: float = PATIENCE) -> bytes:
        """Read until `wanted` is content with all that came."""
        async with asyncio.timeout(seconds):
            while not wanted(self.seen):
                data = await self.reader.read(65536)
                assert data, f"closed after {self.seen!r}"
                self.seen += data
        return self.seen

    async def statuses(self, count: int) -> list[int]:
        await self.until(lambda seen: len(STATUS.findall(seen)) >= count and seen.rstrip(b" ") and _whole(seen))
        return [int(status) for status in STATUS.findall(self.seen)]

    async def rest(self, seconds: float = PATIENCE) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(seconds):
            while data := await self.reader.read(65536):
                self.seen += data
        return self.seen


def _whole(seen: bytes) -> bool:
    """Whether the last answer is there with its body."""
    head, separator, body = seen[seen.rfind(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    if b"chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    return bool(separator) and (length is None or len(body) >= int(length[1]))


def post(body: bytes = b"{}", path: str = PATH, *fields: str, version: str = "1.1") -> bytes:
    """Return a good delivery."""
    lines = [f"POST {path} HTTP/{version}", "Host: x", "Content-Type: application/json", *fields]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunked(body: bytes, size: int = 7, *fields: str, path: str = PATH) -> bytes:
    """Return a good delivery in chunks."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *fields]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def statuses(seen: bytes | Sequence[int]) -> list[int]:
    return [int(status) for status in STATUS.findall(bytes(seen))]
