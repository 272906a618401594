"""Which path of the console is whose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
from tornado import web

from webhookd.console.console import ROOT, Console
from webhookd.console.delivery_pages import DeliveryPage, HookPage, Replay, ReplayRefused, SamplePage
from webhookd.console.feed import Feed
from webhookd.console.hook_pages import DeleteHook, EditHook, HookList, NewHook, RotateHook, Start
from webhookd.console.hosts import Hosts
from webhookd.console.live import HookLive, OverviewLive
from webhookd.console.overview import Overview
from webhookd.console.pages import Asset, Guard, Missing
from webhookd.console.session import Sessions
from webhookd.console.sign_in import Enter, SignIn, SignOut
from webhookd.console.trend import Trend
from webhookd.explainer import Explainer
from webhookd.http_admin import Readiness
from webhookd.replay import Replayer
from webhookd.settings import Settings
from webhookd.tenant_hooks import TenantHooks

HERE = Path(__file__).parent
HOOK = f"{ROOT}/hooks/([0-9a-f]{{40}})"
PATHS: tuple[tuple[str, type[Guard]], ...] = (
    (f"{ROOT}/?", Start),
    (f"{ROOT}/sign-in", SignIn),
    (f"{ROOT}/enter", Enter),
    (f"{ROOT}/sign-out", SignOut),
    (f"{ROOT}/hooks", HookList),
    (f"{ROOT}/hooks/new", NewHook),
    (HOOK, HookPage),
    (f"{HOOK}/edit", EditHook),
    (f"{HOOK}/rotate", RotateHook),
    (f"{HOOK}/delete", DeleteHook),
    (f"{HOOK}/sample", SamplePage),
    (f"{HOOK}/live", HookLive),
    (f"{HOOK}/deliveries/([0-9a-f-]{{36}})", DeliveryPage),
    (f"{HOOK}/deliveries/([0-9a-f-]{{36}})/replay", Replay),
    (f"{HOOK}/replay", ReplayRefused),
    (f"{ROOT}/overview", Overview),
    (f"{ROOT}/overview/live", OverviewLive),
)
PING = 20
"""Seconds between two pings of a WebSocket; one that does not answer is closed."""
MAX_MESSAGE = 1024

log = structlog.get_logger(__name__)


def console_of(
    settings: Settings,
    service: TenantHooks,
    replayer: Replayer,
    readiness: Callable[[], Readiness],
    trend: Trend,
    listen_url: str,
) -> Console:
    """Return the console of a daemon that takes deliveries at `listen_url`."""
    intake = replayer.intake
    records = intake.records
    return Console(
        service=service,
        intake=intake,
        replayer=replayer,
        trend=trend,
        readiness=readiness,
        hosts=Hosts(settings.console_hosts or (), settings.admin_listen),
        sessions=Sessions(service.bearer),
        broker=settings.broker != "spool:",
        store=settings.store.partition(":")[0],
        listen_url=listen_url,
        explainer=None
        if records is None
        else Explainer(records, service.datasources, service.schemas, settings.max_body),
        feed=None if records is None else Feed(records, service.table, ROOT),
    )


def console_app(console: Console) -> web.Application:
    """Return the application of everything under /console."""
    given = {"console": console}
    return web.Application(
        [(path, handler, given) for path, handler in PATHS],
        default_handler_class=Missing,
        default_handler_args=given,
        log_function=_log,
        template_path=str(HERE / "templates"),
        static_path=str(HERE / "static"),
        static_url_prefix=f"{ROOT}/static/",
        static_handler_class=Asset,
        static_handler_args=dict(given),
        websocket_ping_interval=PING,
        websocket_ping_timeout=PING,
        websocket_max_message_size=MAX_MESSAGE,
    )


def _log(handler: web.RequestHandler) -> None:
    """Log what changes something: what was done by whom, never the tokens in its path."""
    session = getattr(handler, "session", None)
    if handler.request.method == "POST" and session is not None:
        log.info(
            "console request",
            page=type(handler).__name__,
            status=handler.get_status(),
            tenant=session.caller.tenant,
            duration=round(handler.request.request_time(), 6),
        )
