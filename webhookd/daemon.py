"""Wires everything together, tells systemd, and stops without leaving anything half done."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import structlog
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from webhookd import logs, sdnotify
from webhookd.adapters.spool import Spool
from webhookd.adoption import Adoption
from webhookd.allocator import map_large_blocks
from webhookd.bearer import TokenChecks
from webhookd.console.app import console_app, console_of
from webhookd.console.console import Console
from webhookd.console.trend import Trend
from webhookd.control import control_app
from webhookd.control_protocol import short_socket_path
from webhookd.examiner import Examiner, Plugins
from webhookd.following import following
from webhookd.hooks import HookTable
from webhookd.http1_server import Server
from webhookd.http_admin import admin_app
from webhookd.http_api import tenant_api
from webhookd.http_front import Front
from webhookd.http_intake import Intake
from webhookd.ingest import Ingest
from webhookd.limits import Budget
from webhookd.listeners import Listener, PatientSocket, inherited, listen
from webhookd.metrics import DeliveryMetrics, Exposition
from webhookd.model import Message
from webhookd.neighbours import hook_store
from webhookd.outlet import Outlet
from webhookd.record_keeping import remembered
from webhookd.registry import load
from webhookd.replay import Replayer
from webhookd.schema import Schemas
from webhookd.settings import Settings
from webhookd.statedir import StateDir
from webhookd.tenant_hooks import TenantHooks
from webhookd.tracing import traced
from webhookd.version import __version__
from webhookd.vitals import PULSE, Pulse, Vitals

IDLE_TIMEOUT = 60.0
BODY_TIMEOUT = 60.0
MAX_ADMIN_BODY = 1024 * 1024
"""The largest body, in bytes, that the admin listener takes: a form of the console."""
CLOSING = 1.0
"""Seconds that connections have, once what is in work is answered, to have their answers on the way."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a running daemon can be reached."""

    url: str
    admin_url: str | None
    console: Console | None = None


Ready = Callable[[Bound], Awaitable[None]]
Accepted = Callable[[Message], None]


def serve(
    settings: Settings, *, ready: Ready | None = None, accepted: Accepted | None = None, colours: bool = True
) -> int:
    """Run the daemon until SIGTERM or SIGINT, and return its exit status.

    `ready` is awaited once everything listens, `accepted` is called for each accepted delivery. The log has
    colours on a terminal if `colours`. Raises `ConfigurationError` or `StartError`, each with one line that says what
    to do.
    """
    handler = logs.configure(settings.log_level, settings.log_format, colours=colours)
    map_large_blocks()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings, ready, accepted))
    finally:
        handler.finish()
    return 0


async def _run(settings: Settings, ready: Ready | None, accepted: Accepted | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        daemon = await Daemon.build(settings, stack, accepted)
        bound = daemon.listen(stack)
        sdnotify.notify("READY=1")
        log.info(
            "webhookd is ready",
            version=__version__,
            pid=os.getpid(),
            listen=bound.url,
            admin_listen=bound.admin_url,
            store=settings.shown("store"),
            broker=settings.shown("broker"),
            hooks=len(daemon.table),
        )
        if ready is not None:
            await ready(bound)
        await stop.wait()
        await daemon.stop()
    log.info("webhookd has stopped")


class Daemon:
    """The parts of a running daemon. `build` is their only constructor; what it opens, the given stack closes."""

    def __init__(
        self,
        settings: Settings,
        statedir: StateDir,
        table: HookTable,
        spool: Spool,
        front: Front,
        vitals: Vitals,
        tokens: TokenChecks,
        service: TenantHooks,
        replayer: Replayer,
    ) -> None:
        self.settings = settings
        self.statedir = statedir
        self.table = table
        self.spool = spool
        self.front = front
        self.vitals = vitals
        self.tokens = tokens
        self.service = service
        self.replayer = replayer
        self.console: Console | None = None
        self._private: list[HTTPServer] = []
        self._public = Server(front, front, drain_limit=front.intake.drain_limit)

    @classmethod
    async def build(cls, settings: Settings, stack: contextlib.AsyncExitStack, accepted: Accepted | None) -> Daemon:
        """Open everything but the listeners."""
        registry = load(settings.plugins_dir, settings.load_plugins)
        schemas = Schemas(registry)
        tokens = TokenChecks.open(settings, stack)
        statedir = stack.enter_context(StateDir.claim(settings.state_dir))
        table = HookTable()
        share = _share(settings, table)
        spool = await _spool(settings, statedir, share, stack)
        outlet = await Outlet.open(settings, spool, stack)
        store = hook_store(settings, statedir)
        stack.push_async_callback(store.close)
        examiner = Examiner(_plugins(settings), settings.publish_timeout)
        stack.push_async_callback(examiner.close)
        records = await stack.enter_async_context(remembered(settings, statedir, table, registry))
        intake = Intake(
            ingest=Ingest(table, registry, schemas, settings.max_body),
            publisher=outlet.publisher,
            examiner=examiner,
            budget=Budget(settings.max_in_flight, settings.max_in_flight_bytes, share, settings.tenant_share),
            metrics=DeliveryMetrics(),
            refusals=logs.RefusalLog(log, time.monotonic),
            log_accepted=settings.log_deliveries == "all",
            log_refused=settings.log_deliveries != "none",
            on_accepted=accepted,
            records=records if settings.records_per_hook else None,
        )
        vitals = Vitals(table, intake.budget, spool, outlet, lambda: intake.stopping, tokens.keys_missing)
        await stack.enter_async_context(following(store, table, vitals))
        service = TenantHooks(
            store, table, registry, schemas, tokens.bearer, settings.secret_grace, settings.public_url
        )
        spans = traced(settings.otel_endpoint, intake, stack)
        replayer = spans.replayer(records, intake, spool.body_of if settings.broker == "spool:" else None)
        app = tenant_api(settings, service, replayer, registry, schemas)
        front = Front(intake, app, spans.work)
        return cls(settings, statedir, table, spool, front, vitals, tokens, service, replayer)

    def listen(self, stack: contextlib.AsyncExitStack) -> Bound:
        """Bind the listeners and serve on them."""
        pulse = Pulse(self.front.intake.refusals.flush, _watchdog())
        beating = asyncio.get_running_loop().create_task(pulse.run())
        stack.callback(beating.cancel)
        given = sdnotify.inherited_sockets()
        public = inherited(given) if given else listen(self.settings.listen, "listen")
        stack.callback(public.close)
        admin: Listener | None = None
        if self.settings.admin_listen:
            admin = listen(self.settings.admin_listen, "admin_listen")
            stack.callback(admin.close)
            self._serve(self._admin_app(pulse, public.url), admin.sockets, MAX_ADMIN_BODY)
        adoption = Adoption(self.service.store, self.table)
        self._serve(control_app(self.spool, adoption), [_control_socket(self.statedir.control_socket, stack)])
        self._public.serve(public.sockets)
        return Bound(public.url, None if admin is None else admin.url, self.console)

    def _admin_app(self, pulse: Pulse, listen_url: str) -> web.Application:
        intake, vitals, settings = self.front.intake, self.vitals, self.settings
        sources = (intake.metrics.collect, vitals.collect, vitals.outlet.collect, self.tokens.collect, pulse.collect)
        if settings.console:
            self.console = console_of(
                settings, self.service, self.replayer, vitals.readiness, Trend(*sources), listen_url
            )
            pulse.also(self.console.trend.beat)
        return admin_app(
            vitals.readiness, Exposition(*sources), None if self.console is None else console_app(self.console)
        )

    async def stop(self) -> None:
        """Accept nothing new, answer what is in work within `stop_timeout`, then let go of every connection."""
        sdnotify.notify("STOPPING=1")
        intake = self.front.intake
        log.info("webhookd is stopping", in_flight=len(intake.open))
        self._public.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(intake.finish(), self.settings.stop_timeout)
        if intake.open:
            log.warning("deliveries left unanswered: stop_timeout has passed", count=len(intake.open))
        await self._public.close(CLOSING)
        if self.console is not None:
            self.console.close()
        for server in reversed(self._private):
            server.stop()
            await server.close_all_connections()

    def _serve(self, app: web.Application, sockets: list[socket.socket], max_body: int | None = None) -> None:
        server = HTTPServer(
            app, idle_connection_timeout=IDLE_TIMEOUT, body_timeout=BODY_TIMEOUT, max_body_size=max_body
        )
        server.add_sockets([PatientSocket.of(one) for one in sockets])
        self._private.append(server)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop, which costs less, where it is installed; None for Python's own."""
    try:
        import uvloop  # noqa: PLC0415 - it need not be there
    except ImportError:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


def _share(settings: Settings, table: HookTable) -> Callable[[], float]:
    def share() -> float:
        return settings.tenant_share if table.tenants > 1 else 1.0

    return share


async def _spool(
    settings: Settings, statedir: StateDir, share: Callable[[], float], stack: contextlib.AsyncExitStack
) -> Spool:
    spool = await Spool.open(
        statedir.spool_db,
        max_bytes=settings.spool_max_bytes,
        retention=settings.spool_retention,
        keep=settings.broker == "spool:",
        share=share,
    )
    stack.push_async_callback(spool.close)
    return spool


def _plugins(settings: Settings) -> Plugins:
    return Plugins(str(settings.plugins_dir) if settings.plugins_dir else None, settings.load_plugins)


def _control_socket(path: Path, stack: contextlib.AsyncExitStack) -> socket.socket:
    with short_socket_path(path) as short:
        control = bind_unix_socket(short, 0o600)
    stack.callback(path.unlink, missing_ok=True)
    return control


def _watchdog() -> Callable[[], None]:
    """Return what feeds systemd's watchdog from a beat of the event loop."""
    interval = sdnotify.watchdog_interval()
    due = time.monotonic()

    def feed() -> None:
        nonlocal due
        if interval is not None and time.monotonic() >= due:
            due = time.monotonic() + interval - PULSE
            sdnotify.notify("WATCHDOG=1")

    return feed
