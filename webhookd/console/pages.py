"""What every page of the console does before it shows anything: host, origin, session and form token, in that order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

import structlog
from tornado import web

from webhookd.console import views
from webhookd.console.console import ROOT, Console
from webhookd.console.hosts import same_origin
from webhookd.console.session import Session
from webhookd.errors import NotFound, Rejected, Stopping, StoreUnavailable
from webhookd.http_problem import http_date, reason_phrase
from webhookd.model import Hook
from webhookd.tenant_hooks import STORE_AWAY
from webhookd.version import __version__

COOKIE = "webhookd_console"
SAFE = ("GET", "HEAD")
"""The methods that change nothing (RFC 9110, section 9.2.1)."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # with `no-referrer` browsers would send `Origin: null` with our own forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

log = structlog.get_logger(__name__)


class WrongHost(Rejected):
    """The console was asked for under a name that it does not answer to (RFC 9110, section 15.5.20)."""

    status = 421
    title = "Not the console's name"
    reason = "console_host"


class WrongOrigin(Rejected):
    """A form or WebSocket came from a page of another origin, or from no page of the console at all."""

    status = 403
    title = "Not from this console"
    reason = "console_origin"


class OldForm(Rejected):
    """A form came without the token of its session."""

    status = 403
    title = "This form is out of date"
    reason = "console_form"


class Guard(web.RequestHandler):
    """What all that the console serves has in common: its headers, and the host that it must be asked of."""

    console: Console
    session: Session | None = None

    def initialize(self, console: Console) -> None:
        """Take what `Application` hands over."""
        self.console = console

    def set_default_headers(self) -> None:
        """Forbid everything that no page here needs."""
        self.clear_header("Server")
        self.set_header("Date", http_date())
        self.set_header("Cache-Control", "no-store")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Have no ETag: pages are not kept."""

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002 - Tornado's
        """Take any bytes for text: what is none matches nothing."""
        return value.decode("utf-8", "replace")

    def check_host(self) -> None:
        """Raise `WrongHost` unless the request is meant for the console."""
        if not self.console.hosts.known(self.request.host):
            raise WrongHost("the console does not answer to this host name; name it in the setting console_hosts")

    def check_origin_header(self) -> None:
        """Raise `WrongOrigin` unless a page of this very host and port asks."""
        if not same_origin(self.request.headers.get("Origin"), self.request.host):
            raise WrongOrigin(
                "the request comes from a page of another host (by its Origin header), or a proxy in front changes"
                " the Host header; open the console by its own address and try again"
            )

    def check_xsrf_cookie(self) -> None:
        """Leave Tornado's own check out: the token of a form is the session's."""

    def get_template_namespace(self) -> dict[str, Any]:
        """Give templates, and the rows that are told later, what all of them need."""
        return super().get_template_namespace() | {"root": ROOT, "views": views}

    def own_hook(self, token: str) -> Hook:
        """Return the caller's hook; another tenant's is as little there as a missing one."""
        hook = self.console.service.table.get(token)
        if hook is None or self.session is None or hook.tenant != self.session.caller.tenant:
            raise NotFound("there is no such hook")
        return hook

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:  # noqa: ARG002 - Tornado's
        """Log what is a bug; Tornado's own line would quote the request, and with it the tokens in its URL."""
        if not isinstance(value, Rejected | web.HTTPError | asyncio.CancelledError):
            log.error("a page of the console failed by a bug", exc_info=value, page=type(self).__name__)


class Page(Guard):
    """A page: found out who asks, and that a form is one of ours, before any method runs."""

    OPEN: ClassVar[bool] = False
    """Whether it is shown to those who are not signed in."""

    async def prepare(self) -> None:
        """Refuse, or send to the sign-in page, or go on."""
        self.check_host()
        safe = self.request.method in SAFE
        if not safe:
            self.check_origin_header()
        self.session = await self.console.sessions.find(self.get_cookie(COOKIE))
        if self.session is None:
            if not self.OPEN:
                self.redirect(sign_in_path(self.request.path if safe else ""), status=303)
        elif not safe and not self.session.accepts(self.get_body_argument("csrf", "")):
            raise OldForm("it was opened before you signed in, or elsewhere; open the page again and repeat it")

    @property
    def me(self) -> Session:
        """The session of a page that is not OPEN: `prepare` has seen to it."""
        assert self.session is not None  # noqa: S101 - for the type checker
        return self.session

    def need_store(self) -> None:
        """Raise `StoreUnavailable` while hooks cannot be changed."""
        if not self.console.service.table.following:
            raise StoreUnavailable(STORE_AWAY)

    def go(self, path: str, done: str = "") -> None:
        """Show another page next, with the message `done` of `views.DONE` on it."""
        self.redirect(f"{ROOT}{path}" + (f"?{urlencode({'done': done})}" if done else ""), status=303)

    def get_template_namespace(self) -> dict[str, Any]:
        """Give templates what all of them need."""
        done = self.get_query_argument("done", "")
        return super().get_template_namespace() | {
            "version": __version__,
            "session": self.session,
            "done": views.DONE.get(done),
            "failed": done.endswith("-refused"),
            "store_away": not self.console.service.table.following,
        }

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Show what went wrong in words; of a bug nothing but that it is in the log."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, asyncio.CancelledError):
            error = Stopping("the daemon is stopping; try again in a moment")
        if isinstance(error, Rejected):
            status, title, detail, headers = error.status, error.title, error.detail, error.headers
        else:
            bug = not isinstance(error, web.HTTPError)
            detail = "The daemon's log has the cause." if bug else ""
            status, title, headers = status_code, reason_phrase(status_code), {}
        self._show_error(status, title, detail, headers)

    def _show_error(self, status: int, title: str, detail: str, headers: Mapping[str, str]) -> None:
        self.set_status(status)
        for name, value in headers.items():
            if name != "WWW-Authenticate":  # it would have the browser ask for a password
                self.set_header(name, value)
        self.finish(self.render_string("error.html", title=title, detail=detail, status=status))


class Missing(Page):
    """Everything that is not there."""

    OPEN = True

    def get(self) -> None:
        """Refuse."""
        raise NotFound("there is no such page")

    post = get


class Asset(Guard, web.StaticFileHandler):
    """Scripts, styles and pictures: the same for everybody."""

    def initialize(self, path: str, console: Console) -> None:  # type: ignore[override]
        """Take what `Application` hands over."""
        Guard.initialize(self, console)
        web.StaticFileHandler.initialize(self, path)

    def prepare(self) -> None:
        """Refuse a host that is not the console's, and what cannot be the name of a file."""
        self.check_host()
        if "\0" in self.path_args[0]:
            raise web.HTTPError(NotFound.status)

    def compute_etag(self) -> str | None:  # type: ignore[override]
        """Return the hash of the file."""
        return web.StaticFileHandler.compute_etag(self)

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - Tornado's
        """Have it asked for again each time; 304 is all that costs."""
        self.set_header("Cache-Control", "no-cache")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say no more than the status does."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        self.set_status(error.status if isinstance(error, Rejected) else status_code)
        self.finish()


_NEXT = re.compile(rf"{ROOT}/(?:hooks|overview)[A-Za-z0-9/_-]*")


def sign_in_path(after: str) -> str:
    """Return the sign-in page that leads to the page `after`."""
    return f"{ROOT}/sign-in" + (f"?{urlencode({'next': after})}" if _NEXT.fullmatch(after) else "")


def next_path(given: str) -> str:
    """Return where to go after the sign-in: to what was asked for if it is a page here, else to the hooks."""
    return given if _NEXT.fullmatch(given) else f"{ROOT}/hooks"
