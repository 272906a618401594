"""Which request goes where: deliveries to their own exchange, everything else to the config API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from tornado import httputil, web

from webhookd.http1 import Connection
from webhookd.http1_head import Head
from webhookd.http1_shared import Claim
from webhookd.http_config import ConfigExchange
from webhookd.http_delivery import DeliveryWork
from webhookd.http_ingest import DeliveryExchange, Work
from webhookd.http_intake import Intake

MOST_ADDRESSES = 10_000
"""How many targets are remembered as read; whether there is such a hook is looked up each time."""
LONGEST_TARGET = 200

_ADDRESS = re.compile(r"/wh/([^/?]+)/([^/?]+)(?:\?.*)?", re.DOTALL)


class Front(httputil.HTTPServerConnectionDelegate):
    """The seam between an HTTP server and webhookd: any server that speaks Tornado's delegate interface fits."""

    def __init__(self, intake: Intake, app: web.Application, work: Work = DeliveryWork) -> None:
        self.intake = intake
        self.work = work
        self.app = app
        self.claims: Mapping[bytes, Claim | None] = Addresses()

    def take(self, connection: Connection, head: Head, address: Claim, body: bytes | None) -> DeliveryWork:
        """Take a delivery the short way, without an object of Tornado's."""
        api_token, token = address
        work = self.work(connection, self.intake, api_token, token)
        if body is None:
            work.begin(head.method, head.fields, head.length)
        else:
            work.whole(head.method, head.fields, body)
        return work

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Return who takes the next request of a connection."""
        return _Dispatch(self, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Take note that a connection is closed: nothing here is kept by connection."""


class Addresses(dict[bytes, Claim | None]):
    """What a request target says of a delivery, None where it is none; the targets of deliveries are remembered."""

    def __missing__(self, target: bytes) -> Claim | None:
        address = delivery_address(target.decode("ascii"))
        if address is not None and len(target) <= LONGEST_TARGET:
            if len(self) >= MOST_ADDRESSES:
                self.clear()
            self[target] = address
        return address


class _Dispatch(httputil.HTTPMessageDelegate):
    """Waits for the head of a request, which names its taker, and hands everything on to that one."""

    def __init__(self, front: Front, server_conn: object, connection: httputil.HTTPConnection) -> None:
        self._front = front
        self._server_conn = server_conn
        self._connection = connection
        self._taker: httputil.HTTPMessageDelegate

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> None:
        assert isinstance(start_line, httputil.RequestStartLine)  # noqa: S101 - for the type checker: a server's
        if not start_line.path.startswith("/"):
            start_line = start_line._replace(path=_origin_form(start_line.path))
        address = delivery_address(start_line.path)
        if address is not None:
            self._taker = DeliveryExchange(self._connection, self._front.intake, *address, self._front.work)
        else:
            inner = self._front.app.start_request(self._server_conn, self._connection)
            self._taker = ConfigExchange(self._connection, inner)
        self._taker.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> None:
        self._taker.data_received(chunk)

    def finish(self) -> None:
        self._taker.finish()

    def on_connection_close(self) -> None:
        self._taker.on_connection_close()


def delivery_address(target: str) -> tuple[str, str] | None:
    """Return apiToken and token of a request target that is a hook's URL, None for any other."""
    found = _ADDRESS.fullmatch(target if target.startswith("/") else _origin_form(target))
    if found is None or found[1] == "config":
        return None
    return found[1], found[2]


def _origin_form(target: str) -> str:
    """Return the path and query of an absolute-form target (RFC 9112, section 3.2.2), other forms as they are."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    if parts.scheme.lower() not in ("http", "https"):
        return target
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
