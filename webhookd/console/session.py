"""Who is signed in: sessions in memory that live no longer than their bearer token does."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from webhookd.auth import Caller
from webhookd.datasource import same
from webhookd.errors import Forbidden, Unauthenticated

LIFETIME = 12 * 3600.0
"""How long a session lasts at the most, in seconds; a token without an end is good for no longer either."""
MOST_SESSIONS = 1000
"""How many there are at a time; the one that was used least recently makes room."""
MOST_OF_TENANT = 100
"""How many one tenant has at a time: over that its own make room, not those of others."""
INVITATION = 3600.0
"""How long a sign-in link is good for, in seconds, if nobody follows it."""
BURST = 10
PAUSE = 6.0
"""How often one peer may fail to sign in: so many times at once, then once in so many seconds."""
MOST_PEERS = 10_000


class Tokens(Protocol):
    """Whoever can say whose bearer token it is (`auth.Bearer`)."""

    async def caller(self, authorization: list[str], now: float) -> Caller:
        """Return the caller; raises `Unauthenticated`, `Forbidden` or `TokensUnavailable`."""


@dataclass(slots=True)
class Session:
    """One browser that is signed in. The token stays here; the browser knows neither it nor how to make another."""

    caller: Caller
    until: float
    """When it ends at the latest, in seconds since the epoch."""
    token: str = field(repr=False)
    csrf: str = field(repr=False)
    """What each form must send back: another site cannot read it."""
    digest: bytes = field(repr=False)

    def accepts(self, csrf: str) -> bool:
        """Say whether a form came from a page of this session."""
        return same(csrf, self.csrf)


class Sessions:
    """Every session by the hash of its cookie, so that nothing in memory could be sent as one."""

    def __init__(self, bearer: Tokens, now: Callable[[], float] = time.time) -> None:
        self._bearer = bearer
        self._now = now
        self._open: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, token: str) -> tuple[str, Session]:
        """Return the cookie of a new session, and the session.

        Raises `Unauthenticated`, `Forbidden` or `TokensUnavailable`, as the config API does for the same token.
        """
        now = self._now()
        caller = await self._bearer.caller([f"Bearer {token}"], now)
        cookie = secrets.token_urlsafe(32)
        session = Session(caller, now + LIFETIME, token, secrets.token_urlsafe(32), _digest(cookie))
        self._make_room(caller.tenant)
        self._open[session.digest] = session
        return cookie, session

    async def find(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie; None where there is none, or its token is no longer good.

        The token is checked each time: it may have expired, been revoked, or its key been replaced. Raises
        `TokensUnavailable` where that cannot be told now; the session stays.
        """
        session = self._open.get(_digest(cookie)) if cookie else None
        return session if session is not None and await self.alive(session) else None

    async def alive(self, session: Session) -> bool:
        """Say whether the session goes on; one that does not is closed. Raises as `find` does."""
        if session.until <= self._now() or not await self._still_good(session):
            self.close(session)
        if self._open.pop(session.digest, None) is not session:
            return False  # closed, perhaps while the question was asked
        self._open[session.digest] = session  # the one used last stands last: `_make_room` takes the first
        return True

    def close(self, session: Session) -> None:
        """End the session."""
        self._open.pop(session.digest, None)

    async def _still_good(self, session: Session) -> bool:
        try:
            caller = await self._bearer.caller([f"Bearer {session.token}"], self._now())
        except (Unauthenticated, Forbidden):
            return False
        return caller == session.caller

    def _make_room(self, tenant: str) -> None:
        if len(self._open) >= MOST_SESSIONS:
            now = self._now()
            for session in [each for each in self._open.values() if each.until <= now]:
                self.close(session)
        own = [each for each in self._open.values() if each.caller.tenant == tenant]
        if len(own) >= MOST_OF_TENANT:
            self.close(own[0])
        elif len(self._open) >= MOST_SESSIONS:
            self.close(next(iter(self._open.values())))


class Invitations:
    """Links that sign in once, made by the process itself for whoever started it (`webhookd dev`)."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._open: dict[bytes, tuple[float, str]] = {}

    def make(self, token: str) -> str:
        """Return the code of a new link for a bearer token."""
        code = secrets.token_urlsafe(24)
        self._open[_digest(code)] = (self._now() + INVITATION, token)
        return code

    def take(self, code: str) -> str | None:
        """Return the bearer token that a code stands for, once; None for one that is used up, too old, or none."""
        until, token = self._open.pop(_digest(code), (0.0, ""))
        return token if until > self._now() else None


class Attempts:
    """How often each peer may fail to sign in; the generic cell rate algorithm, so that a peer costs one number."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._due: dict[str, float] = {}

    def wait(self, peer: str) -> float:
        """Return for how many seconds `peer` has to wait before it may try; 0 where it may now."""
        return max(0.0, self._due.get(peer, 0.0) - self._now() - (BURST - 1) * PAUSE)

    def failed(self, peer: str) -> None:
        """Count a failure."""
        now = self._now()
        if len(self._due) >= MOST_PEERS:
            self._due = {each: due for each, due in self._due.items() if due > now}
        while len(self._due) >= MOST_PEERS:
            self._due.pop(next(iter(self._due)))
        self._due[peer] = max(self._due.get(peer, 0.0), now) + PAUSE


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
