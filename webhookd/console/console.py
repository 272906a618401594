"""Everything that the console's pages are made from and act through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from webhookd.console.feed import Feed
from webhookd.console.hosts import Hosts, without_port
from webhookd.console.session import Attempts, Invitations, Session, Sessions
from webhookd.console.trend import Trend
from webhookd.explainer import Explainer
from webhookd.http_admin import Readiness
from webhookd.http_intake import Intake
from webhookd.replay import Replayer
from webhookd.tenant_hooks import TenantHooks

ROOT = "/console"
SIGNED_OUT = 4401
"""What a socket is closed with when its session has ended; the codes from 4000 are for such use (RFC 6455, 7.4.2)."""


class Socket(Protocol):
    """An open WebSocket, and whose it is; None where nobody is signed in."""

    session: Session | None

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Close it."""


@dataclass(slots=True)
class Console:
    """What the pages are made from and act through."""

    service: TenantHooks
    intake: Intake
    replayer: Replayer
    trend: Trend
    readiness: Callable[[], Readiness]
    hosts: Hosts
    sessions: Sessions
    broker: bool
    """Whether there is one, or the spool alone."""
    store: str
    """Of which kind it is: the scheme of its URL."""
    explainer: Explainer | None
    """None where no deliveries are remembered."""
    feed: Feed | None
    """As above."""
    listen_url: str = ""
    """Where deliveries are taken, as the daemon has bound it."""
    attempts: Attempts = field(default_factory=Attempts)
    invitations: Invitations = field(default_factory=Invitations)
    sockets: set[Socket] = field(default_factory=set)
    """Every open WebSocket."""

    def invite(self, token: str) -> str:
        """Return the path of a link that signs in with a bearer token, once."""
        return f"{ROOT}/enter?code={self.invitations.make(token)}"

    def end(self, session: Session) -> None:
        """End a session, and whatever is open in it."""
        self.sessions.close(session)
        for socket in [socket for socket in self.sockets if socket.session is session]:
            socket.close(SIGNED_OUT)

    def close(self) -> None:
        """Let go of every WebSocket: the daemon stops."""
        for socket in list(self.sockets):
            socket.close(1001, "the daemon stops")

    def hook_base(self, tenant: str, host: str) -> str | None:
        """Return what the URL of a new hook begins with, for a page that was asked of `host`; None if nobody can say.

        That is `public_url`, else what the tenant's newest hook begins with (a gateway may have named it), else the
        address that deliveries are taken at.
        """
        if self.service.public_url is not None:
            return self.service.public_url.rstrip("/")
        hooks = self.service.table.of_tenant(tenant)
        if hooks:
            return hooks[-1].base_url
        if not self.listen_url.startswith("http://"):
            return None
        parts = urlsplit(self.listen_url)
        if parts.hostname in ("0.0.0.0", "::"):  # noqa: S104 - it is compared
            return f"http://{without_port(host)}:{parts.port}"
        return self.listen_url
