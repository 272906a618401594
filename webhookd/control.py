"""What commands ask of the running daemon about its spool, as HTTP on a socket that only the daemon's user can reach.

Both ends are of one version, so bodies are MessagePack (`msgspec`): bodies of messages cross as they are.
"""

from __future__ import annotations

from typing import Any

import msgspec
from tornado import web

from webhookd.adapters.spool import Spool, SpoolError
from webhookd.control_protocol import Condition, Wanted, page_of

MAX_WAIT = 60.0
"""How long, in seconds, a request may wait for the next message."""


def control_app(spool: Spool) -> web.Application:
    """Return the application that the daemon serves on its control socket."""
    kinds = {"/stats": _Stats, "/entries": _Entries, "/retry": _Retry, "/drop": _Drop}
    return web.Application([(path, kind, {"spool": spool}) for path, kind in kinds.items()], log_function=_no_log)


def _no_log(handler: web.RequestHandler) -> None:
    """Say nothing: what commands ask is no traffic."""


class _Handler(web.RequestHandler):
    spool: Spool

    def initialize(self, spool: Spool) -> None:
        self.spool = spool

    def answer(self, document: Any) -> None:
        self.set_header("Content-Type", "application/msgpack")
        self.finish(msgspec.msgpack.encode(document))

    def read(self, kind: type[Any]) -> Any:
        try:
            return msgspec.msgpack.decode(self.request.body, type=kind)
        except msgspec.MsgspecError as error:
            raise web.HTTPError(400) from error

    def write_error(self, status_code: int, **keywords: Any) -> None:
        """Say why in plain words, where the spool has said it."""
        error = keywords.get("exc_info", (None, None))[1]
        self.finish(str(error) if isinstance(error, SpoolError) else f"the daemon answered {status_code}")

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Leave what the caller is told out of the log."""
        if not isinstance(value, SpoolError):
            super().log_exception(typ, value, tb)


class _Stats(_Handler):
    def get(self) -> None:
        self.answer(self.spool.stats)


class _Entries(_Handler):
    async def post(self) -> None:
        wanted: Wanted = self.read(Wanted)
        self.answer(await page_of(self.spool, msgspec.structs.replace(wanted, wait=min(wanted.wait, MAX_WAIT))))


class _Retry(_Handler):
    async def post(self) -> None:
        condition: Condition = self.read(Condition)
        self.answer(await self.spool.retry(condition.receipts))


class _Drop(_Handler):
    async def post(self) -> None:
        condition: Condition = self.read(Condition)
        dropped = await self.spool.drop(
            states=condition.states, older_than=condition.older_than, receipts=condition.receipts
        )
        self.answer(dropped)
