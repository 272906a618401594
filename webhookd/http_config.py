"""Tenants manage their hooks: /wh/config and /wh/datasources."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import structlog
from tornado import httputil, web

from webhookd import config
from webhookd.auth import Caller
from webhookd.body import check_content_type
from webhookd.errors import (
    BodyTooLarge,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Rejected,
    Stopping,
    StoreUnavailable,
)
from webhookd.http_problem import PROBLEM_TYPE, bug, http_date, problem, problem_body, reason_phrase
from webhookd.http_reply import Exchange
from webhookd.model import Hook
from webhookd.rotation import read_rotation
from webhookd.tenant_hooks import NO_HOOK, STORE_AWAY, TenantHooks

MAX_CONFIG_BODY = 64 * 1024
"""The largest body, in bytes, that the config API takes."""
DRAIN_LIMIT = 32 * 1024 * 1024
AT_A_TIME = 100
"""How many hooks are put into words before the event loop does other things."""
Route = tuple[str, type[web.RequestHandler], dict[str, Any]]
"""The pattern of a path, its handler, and what that is handed."""

log = structlog.get_logger(__name__)


class ConfigHandler(web.RequestHandler):
    """What the handlers of the config API share: methods, bearer tokens, problem+json."""

    ALLOW: ClassVar[tuple[str, ...]] = ()
    caller: Caller

    def initialize(self, service: TenantHooks) -> None:
        """Take what `Application` hands over."""
        self.service = service

    async def prepare(self) -> None:
        """Refuse a method that is not there, before the token is looked at; then find out who calls."""
        if self.request.method not in self.ALLOW:
            raise MethodNotAllowed(self.ALLOW)
        authorization = self.request.headers.get_list("Authorization")
        self.caller = await self.service.bearer.caller(authorization, time.time())

    def set_default_headers(self) -> None:
        """Say nothing of the server's make."""
        self.clear_header("Server")
        self.set_header("Date", http_date())

    def compute_etag(self) -> None:
        """Have no ETag: answers are small, and nothing may tell two 404 apart."""

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002 - Tornado's
        """Take any bytes for a token: what is none is not there."""
        return value.decode("latin-1")

    def own_hook(self, token: str) -> Hook:
        """Return the caller's hook; another tenant's is as little there as a missing one."""
        hook = self.service.table.get(token)
        if hook is None or hook.tenant != self.caller.tenant:
            raise NotFound(NO_HOOK)
        return hook

    def write_json(self, document: object) -> None:
        """Answer 200 with `document`."""
        self.set_header("Content-Type", "application/json")
        self.write(msgspec.json.encode(document))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with a problem, whatever it was."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, asyncio.CancelledError):  # what it waited for was given up: nobody else cancels a request
            error = Stopping("the daemon is stopping; repeating the request is safe")
        if isinstance(error, Rejected):
            status, headers, body = problem(error)
        elif isinstance(error, web.HTTPError) and status_code == MethodNotAllowed.status:
            status, headers, body = problem(MethodNotAllowed(self.ALLOW) if self.ALLOW else NotFound("nothing here"))
        elif isinstance(error, web.HTTPError):
            phrase = reason_phrase(status_code)
            status, headers, body = status_code, {"Content-Type": PROBLEM_TYPE}, problem_body(status_code, phrase, "")
        else:
            status, headers, body = bug()
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.finish(body)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:  # noqa: ARG002 - Tornado's
        """Log what is a bug; Tornado's own line would quote the request, and with it the tokens in its URL."""
        if not isinstance(value, Rejected | web.HTTPError | asyncio.CancelledError):
            log.error("a request failed by a bug", exc_info=value, method=self.request.method)


class StoredHandler(ConfigHandler):
    """What is about the hooks in the store: what is in memory may be an hour old while it cannot be followed."""

    async def prepare(self) -> None:
        """Refuse while the store is away."""
        await super().prepare()
        if not self.service.table.following:
            raise StoreUnavailable(STORE_AWAY)


class HooksHandler(StoredHandler):
    """`/wh/config`: create, update, list."""

    ALLOW = ("GET", "POST")

    async def get(self) -> None:
        """List the caller's hooks, some at a time: of many each has its turn, and the event loop others in between."""
        hooks, shown = self.service.table.of_tenant(self.caller.tenant), []
        for start in range(0, len(hooks), AT_A_TIME):
            shown += [msgspec.json.encode(config.details(hook)) for hook in hooks[start : start + AT_A_TIME]]
            await asyncio.sleep(0)
        self.set_header("Content-Type", "application/json")
        self.write(b"[" + b",".join(shown) + b"]")

    async def post(self) -> None:
        """Create or update a hook."""
        check_content_type(self.request.headers.get("Content-Type"))
        service = self.service
        origins = self.request.headers.get_list(config.ORIGIN_HEADER)
        wish, given = config.read_wish(self.request.body, origins, service.datasources, service.schemas)
        hook = await service.put(self.caller, wish, given, self._own_url())
        self.write_json(config.details(hook))

    def _own_url(self) -> str:
        """Return the base URL of a hook for which none was asked."""
        if self.service.public_url is not None:
            return self.service.public_url.rstrip("/")
        if config.parse_host(self.request.host) is None:
            raise InvalidInput(
                "the Host header is no host", [{"field": "Host", "message": "must be host or host:port"}]
            )
        return f"{self.request.protocol}://{self.request.host}"


class HookHandler(StoredHandler):
    """`/wh/config/<token>`: show, ask for, delete."""

    ALLOW = ("GET", "HEAD", "DELETE")

    def get(self, token: str) -> None:
        """Show one hook."""
        self.write_json(config.details(self.own_hook(token)))

    def head(self, token: str) -> None:
        """Say whether the hook is there."""
        self.own_hook(token)

    async def delete(self, token: str) -> None:
        """Delete the hook."""
        await self.service.delete(self.own_hook(token))
        self.set_status(204)


class RotateHandler(StoredHandler):
    """`/wh/config/<token>/rotate`: another token."""

    ALLOW = ("POST",)

    async def post(self, token: str) -> None:
        """Replace the token."""
        if self.request.body:
            check_content_type(self.request.headers.get("Content-Type"))
        immediately = read_rotation(self.request.body)
        hook = await self.service.rotate(self.own_hook(token), token, immediately=immediately)
        self.write_json(config.details(hook))


class DatasourcesHandler(ConfigHandler):
    """`/wh/datasources`: what is supported."""

    ALLOW = ("GET",)

    def get(self) -> None:
        """List the datasources that have a plugin."""
        self.write_json([self.service.datasources.describe(name) for name in self.service.datasources.known])


class NotFoundHandler(ConfigHandler):
    """Everything else."""

    async def prepare(self) -> None:
        """Refuse, whoever calls."""
        raise NotFound("there is nothing here: see /wh/config and /wh/datasources")


def config_app(service: TenantHooks, more: Sequence[Route] = ()) -> web.Application:
    """Return the application that serves the config API, and `more` beside it."""
    given = {"service": service}
    return web.Application(
        [
            ("/wh/config", HooksHandler, given),
            ("/wh/config/([^/]+)", HookHandler, given),
            ("/wh/config/([^/]+)/rotate", RotateHandler, given),
            ("/wh/datasources", DatasourcesHandler, given),
            *more,
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args=given,
        log_function=_log_request,
    )


def _log_request(handler: web.RequestHandler) -> None:
    """Log a request to the config API: what was done by whom, never the token in its path."""
    caller = getattr(handler, "caller", None)
    log.info(
        "config request",
        method=handler.request.method,
        resource=type(handler).__name__.removesuffix("Handler").lower(),
        status=handler.get_status(),
        tenant=None if caller is None else caller.tenant,
        duration=round(handler.request.request_time(), 6),
    )


class ConfigExchange(Exchange):
    """A request to the config API: bounded, then handed to its application."""

    def __init__(self, connection: httputil.HTTPConnection, inner: httputil.HTTPMessageDelegate) -> None:
        super().__init__(connection, drain_limit=DRAIN_LIMIT)
        self._inner = inner
        self._size = 0

    def begin(self, start_line: httputil.RequestStartLine, headers: httputil.HTTPHeaders, length: int | None) -> None:
        """Refuse what is too large by its own word; hand the rest on."""
        if length is not None and length > MAX_CONFIG_BODY:
            self._too_large()
            return
        if "Content-Type" in headers:
            # Tornado parses forms before any handler runs: it does not know one whose type is not at the beginning
            headers["Content-Type"] = f";{headers['Content-Type']}"
        self._inner.headers_received(start_line, headers)

    def part(self, chunk: bytes) -> None:
        """Hand on, up to the limit."""
        self._size += len(chunk)
        if self._size > MAX_CONFIG_BODY:
            self._too_large()
        else:
            self._inner.data_received(chunk)

    def end(self) -> None:
        """Let the application answer."""
        self._inner.finish()

    def closed(self) -> None:
        """Tell the application."""
        self._inner.on_connection_close()

    def _too_large(self) -> None:
        self.reply_problem(BodyTooLarge(f"the body is over {MAX_CONFIG_BODY} bytes"))
