"""WebSockets: a hook's deliveries and the daemon's figures, as they come, to nobody who may not see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

import msgspec
from tornado import websocket

from webhookd.console import remedies
from webhookd.console.console import SIGNED_OUT, Console
from webhookd.console.hosts import same_origin
from webhookd.console.pages import COOKIE, Guard
from webhookd.console.session import Session
from webhookd.console.trend import Second
from webhookd.errors import Overloaded, Rejected, TokensUnavailable, Unauthenticated
from webhookd.model import Hook

MOST_SOCKETS = 500
"""How many there may be at a time, all browsers together."""
MOST_OF_ONE = 100
"""How many of them one tenant may have, and all who are not signed in together."""
MOST_UNREAD = 30
"""How many messages a browser may leave unread before it is let go."""
RECHECK = 30.0
"""Seconds between two looks at whether the session still lives."""


class Live(Guard, websocket.WebSocketHandler):
    """A WebSocket that only tells: who may listen is settled before it opens, and asked again while it is open."""

    NEEDS_SESSION: ClassVar[bool] = True
    _stop: Callable[[], None] | None = None
    _recheck: asyncio.Task[None] | None = None
    _unread = 0

    def initialize(self, console: Console) -> None:
        """Take what `Application` hands over."""
        Guard.initialize(self, console)

    async def prepare(self) -> None:
        """Refuse before the handshake: another host, another origin, no session, too many."""
        self.check_host()
        self.check_origin_header()
        self.session = await self.console.sessions.find(self.get_cookie(COOKIE))
        if self.session is None and self.NEEDS_SESSION:
            raise Unauthenticated("sign in first")
        sockets, whose = self.console.sockets, _tenant(self.session)
        if len(sockets) >= MOST_SOCKETS or sum(_tenant(each.session) == whose for each in sockets) >= MOST_OF_ONE:
            raise Overloaded("too many pages of the console are open")

    def check_origin(self, origin: str) -> bool:
        """Say it again in Tornado's own place."""
        return same_origin(origin, self.request.host)

    def write_error(self, status_code: int, **kwargs: object) -> None:
        """Say no more than the status does."""
        error = kwargs.get("exc_info", (None, None, None))[1]  # type: ignore[index]
        self.set_status(error.status if isinstance(error, Rejected) else status_code)
        self.finish()

    def begin(self, stop: Callable[[], None]) -> None:
        """Take note of an open socket, and of what ends what it listens to."""
        self._stop = stop
        self.console.sockets.add(self)
        if self.session is not None:
            self._recheck = asyncio.get_running_loop().create_task(self._until_signed_out())

    def on_message(self, message: str | bytes) -> None:
        """Close: pages have nothing to say here."""
        del message
        self.close(1008)

    def on_close(self) -> None:
        """Let go of everything."""
        self.console.sockets.discard(self)
        if self._stop is not None:
            self._stop()
        if self._recheck is not None:
            self._recheck.cancel()

    def tell(self, text: str) -> None:
        """Send; a browser that does not read is let go."""
        if self._unread >= MOST_UNREAD:
            self.close(1008)
            return
        try:
            sent = self.write_message(text)
        except websocket.WebSocketClosedError:
            return
        self._unread += 1
        sent.add_done_callback(self._read)

    def _read(self, sent: asyncio.Future[None]) -> None:
        self._unread -= 1
        if not sent.cancelled():
            sent.exception()  # closed meanwhile: `on_close` knows

    async def _until_signed_out(self) -> None:
        assert self.session is not None  # noqa: S101 - for the type checker
        while True:
            await asyncio.sleep(RECHECK)
            try:
                alive = await self.console.sessions.alive(self.session)
            except TokensUnavailable:
                continue  # it cannot be told now; the session stays, as it does for pages
            if not alive:
                self.close(SIGNED_OUT)
                return


class HookLive(Live):
    """`/console/hooks/<token>/live`: each delivery of a hook, as a row of its page."""

    hook: Hook

    async def get(self, token: str) -> None:
        """Open, if the hook is the caller's."""
        self.hook = self.own_hook(token)
        await super().get(token)

    def open(self, token: str) -> None:  # noqa: ARG002 - Tornado's
        """Begin to listen."""
        if self.console.feed is None:
            self.close(1000)
        else:
            self.begin(self.console.feed.watch(self.hook, self._told))

    def _told(self, text: str | None) -> None:
        hook = self.console.service.table.get(self.hook.token)
        if text is None or hook is None or hook.tenant != self.hook.tenant:
            self.close(1000)  # deleted, or this token of it has ended
        else:
            self.tell(text)


class OverviewLive(Live):
    """`/console/overview/live`: what there is of the last ten minutes, then each second."""

    NEEDS_SESSION = False

    def open(self) -> None:
        """Tell what is remembered, and begin to listen."""
        trend = self.console.trend
        seconds = trend.seconds()
        names = list(seconds[-1]) if seconds else []
        columns = {name: [_short(second[name]) for second in seconds] for name in names}
        self.tell(self._text(columns=columns))
        self.begin(trend.listen(self._hear))

    def _hear(self, second: Second) -> None:
        self.tell(self._text(second={name: _short(value) for name, value in second.items()}))

    def _text(self, **figures: object) -> str:
        readiness = self.console.readiness()
        state = {
            "status": readiness.status,
            "faults": remedies.of_faults(readiness),
            "refusals": remedies.of_refusals(self.console.trend.refusals()),
        }
        return msgspec.json.encode(figures | state).decode()


def _tenant(session: Session | None) -> str | None:
    return None if session is None else session.caller.tenant


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
