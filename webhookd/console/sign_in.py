"""Signing in with a bearer token, or once with a link, and out again."""

from __future__ import annotations

import math

import structlog

from webhookd.console.console import ROOT
from webhookd.console.hosts import over_https
from webhookd.console.pages import COOKIE, Page, next_path
from webhookd.console.session import Session
from webhookd.errors import Forbidden, NotFound, Rejected, TokensUnavailable, Unauthenticated

log = structlog.get_logger(__name__)


class TooManyAttempts(Rejected):
    """Too many sign-ins from one address have failed (RFC 6585, section 4)."""

    status = 429
    title = "Too many attempts"
    reason = "console_attempts"


class Entrance(Page):
    """What both ways in have in common."""

    OPEN = True

    def ask(self, after: str, fault: str = "", status: int = 200) -> None:
        """Show the form, with what was wrong before."""
        self.set_status(status)
        self.render("sign_in.html", next=after, fault=fault)

    async def sign_in(self, token: str, *, https: bool | None = None) -> None:
        """Open a session and give the browser its cookie; raises the refusals of the config API."""
        attempts, peer = self.console.attempts, self.request.remote_ip or ""
        wait = attempts.wait(peer)
        if wait:
            self.set_header("Retry-After", str(math.ceil(wait)))
            raise TooManyAttempts(f"try again in {math.ceil(wait)} seconds")
        try:
            cookie, session = await self.console.sessions.open(token)
        except (Unauthenticated, Forbidden) as error:
            attempts.failed(peer)
            log.warning("console sign-in refused", peer=peer, reason=error.reason, detail=error.detail)
            raise
        self._replace(session)
        secure = over_https(self.request.headers.get("Origin")) if https is None else https
        self.set_cookie(COOKIE, cookie, path=ROOT, httponly=True, samesite="Strict", secure=secure)
        log.info("console sign-in", tenant=session.caller.tenant, peer=peer)

    def _replace(self, session: Session) -> None:
        if self.session is not None:
            self.console.end(self.session)
        self.session = session


class SignIn(Entrance):
    """`/console/sign-in`: asks for a bearer token."""

    def get(self) -> None:
        """Show the form, or go on where that was done already."""
        after = next_path(self.get_query_argument("next", ""))
        if self.session is not None:
            self.redirect(after, status=303)
        else:
            self.ask(after)

    async def post(self) -> None:
        """Sign in, or say why not."""
        after = next_path(self.get_body_argument("next", ""))
        token = self.get_body_argument("token", "").strip()
        token = token[7:].strip() if token[:7].lower() == "bearer " else token
        if not token:
            self.ask(after, "Paste a bearer token.", 400)
            return
        try:
            await self.sign_in(token)
        except (Unauthenticated, Forbidden, TokensUnavailable, TooManyAttempts) as error:
            self.ask(after, f"{error.title}: {error.detail}.", error.status)
        else:
            self.redirect(after, status=303)


class Enter(Entrance):
    """`/console/enter?code=...`: the link that `webhookd dev` prints; it works once."""

    async def get(self) -> None:
        """Sign in, unless the browser only looks ahead."""
        if "prefetch" in self.request.headers.get("Sec-Purpose", self.request.headers.get("Purpose", "")):
            raise NotFound("this link is for people")
        token = self.console.invitations.take(self.get_query_argument("code", ""))
        if token is None:
            self.ask(next_path(""), "This link was used already, or is too old. Paste the bearer token.", 403)
            return
        await self.sign_in(token, https=False)  # it is printed for this machine's loopback, without TLS
        self.redirect(f"{ROOT}/hooks", status=303)


class SignOut(Page):
    """`/console/sign-out`."""

    def post(self) -> None:
        """End the session and let the browser forget it."""
        self.console.end(self.me)
        self.clear_cookie(COOKIE, path=ROOT, httponly=True, samesite="Strict")
        log.info("console sign-out", tenant=self.me.caller.tenant)
        self.redirect(f"{ROOT}/sign-in", status=303)
