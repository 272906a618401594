"""A receiver of OpenTelemetry traces (OTLP/HTTP) that keeps what it is sent."""

import asyncio
import socket
import threading
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets


def facts(pairs: list[KeyValue]) -> dict[str, Any]:
    """Return attributes as a dict."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class TraceHandler(web.RequestHandler):
    def initialize(self, receiver: "Receiver") -> None:
        self.receiver = receiver

    def post(self) -> None:
        if self.receiver.silent:
            self.set_status(503)
            return
        assert self.request.headers["Content-Type"] == "application/x-protobuf"
        self.receiver.take(ExportTraceServiceRequest.FromString(self.request.body))
        self.set_header("Content-Type", "application/x-protobuf")


class Receiver:
    """Listens on loopback, on an event loop in a thread of its own."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.silent = False
        """Whether to answer 503."""
        self._sockets: list[socket.socket] = bind_sockets(0, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._sockets[0].getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            self.resources.append(facts(group.resource.attributes))
            for scope in group.scope_spans:
                self.spans += scope.spans

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = HTTPServer(web.Application([("/v1/traces", TraceHandler, {"receiver": self})]))

        async def listen() -> None:
            server.add_sockets(self._sockets)

        self._loop.run_until_complete(listen())
        self._loop.run_forever()
        server.stop()
        self._loop.run_until_complete(server.close_all_connections())
        self._loop.close()
