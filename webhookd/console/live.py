"""WebSockets: a hook's deliveries and the daemon's figures, as they come, to nobody who may not see them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec
from tornado import websocket

from webhookd.console import remedies, views
from webhookd.console.console import Console
from webhookd.console.hosts import same_origin
from webhookd.console.pages import COOKIE, Guard
from webhookd.console.trend import Second
from webhookd.errors import Overloaded, Rejected, TokensUnavailable, Unauthenticated
from webhookd.model import Hook, Record

MOST_SOCKETS = 500
"""How many there may be at a time, all browsers together."""
GATHER = 0.1
"""Seconds for which what comes is gathered: a busy hook's deliveries are told together."""
MOST_AT_ONCE = 25
"""How many deliveries are told together; of more the last ones."""
MOST_UNREAD = 30
"""How many messages a browser may leave unread before it is let go."""
RECHECK = 30.0
"""Seconds between two looks at whether the session still lives."""
SIGNED_OUT = 4401
"""What a socket is closed with when its session has ended; the codes from 4000 are for such use (RFC 6455, 7.4.2)."""


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
        if len(self.console.sockets) >= MOST_SOCKETS:
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

    def tell(self, document: object) -> None:
        """Send; a browser that does not read is let go."""
        if self._unread >= MOST_UNREAD:
            self.close(1008)
            return
        try:
            sent = self.write_message(msgspec.json.encode(document).decode())
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

    def open(self, token: str) -> None:
        """Begin to listen."""
        records = self.console.intake.records
        if records is None:
            self.close(1000)
            return
        self._heard: deque[Record] = deque(maxlen=MOST_AT_ONCE)
        self._count = 0
        self._due: asyncio.TimerHandle | None = None
        self.begin(records.listen(token, self._hear))

    def _hear(self, record: Record) -> None:
        """Gather; this is called on the path of a delivery."""
        self._heard.append(record)
        self._count += 1
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHER, self._flush)

    def _flush(self) -> None:
        self._due = None
        heard, count = list(self._heard), self._count
        self._heard.clear()
        self._count = 0
        if self.console.service.table.get(self.hook.token) is None:
            self.close(1000)
            return
        records = self.console.intake.records
        kept = [] if records is None else records.of(self.hook.token, limit=records.per_hook)
        rows = [{"outcome": record.outcome, "html": self._row(record)} for record in heard]
        self.tell({"rows": rows, "count": count, "spark": views.hour(kept, records.per_hook if records else 0)})

    def _row(self, record: Record) -> str:
        return self.render_string("row.html", hook=self.hook, record=record, fresh=True).decode()


class OverviewLive(Live):
    """`/console/overview/live`: what there is of the last ten minutes, then each second."""

    NEEDS_SESSION = False

    def open(self) -> None:
        """Tell what is remembered, and begin to listen."""
        trend = self.console.trend
        seconds = trend.seconds()
        names = list(seconds[-1]) if seconds else []
        columns = {name: [_short(second[name]) for second in seconds] for name in names}
        self.tell({"columns": columns, **self._state()})
        self.begin(trend.listen(self._hear))

    def _hear(self, second: Second) -> None:
        self.tell({"second": {name: _short(value) for name, value in second.items()}, **self._state()})

    def _state(self) -> Mapping[str, object]:
        readiness = self.console.readiness()
        return {
            "status": readiness.status,
            "faults": remedies.of_faults(readiness),
            "refusals": remedies.of_refusals(self.console.trend.refusals()),
        }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
