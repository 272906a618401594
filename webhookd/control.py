"""What commands ask of the running daemon about spool and hooks, as HTTP on a socket that only its user can reach.

Both ends are of one version, so bodies are MessagePack (`msgspec`): bodies of messages cross as they are.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from tornado import web

from webhookd.adapters.spool import Spool, SpoolError
from webhookd.adoption import Adoption
from webhookd.control_protocol import Adopting, Condition, Wanted, page_of
from webhookd.errors import StoreError

MAX_WAIT = 60.0
"""How long, in seconds, a request may wait for the next message."""
STORE_TIMEOUT = 20.0
"""How long, in seconds, the store may take for the hooks of one request."""
TOLD = (SpoolError, StoreError)
"""What says in its own words what is wrong."""


def control_app(spool: Spool, adoption: Adoption | None = None) -> web.Application:
    """Return the application that the daemon serves on its control socket; without `adoption` it takes no hooks in."""
    kinds: dict[str, type[_Handler]] = {"/stats": _Stats, "/entries": _Entries, "/retry": _Retry, "/drop": _Drop}
    if adoption is not None:
        kinds["/adopt"] = _Adopt
    parts = {"spool": spool, "adoption": adoption}
    return web.Application([(path, kind, parts) for path, kind in kinds.items()], log_function=_no_log)


def _no_log(handler: web.RequestHandler) -> None:
    """Say nothing: what commands ask is no traffic."""


class _Handler(web.RequestHandler):
    spool: Spool
    adoption: Adoption

    def initialize(self, spool: Spool, adoption: Adoption) -> None:
        self.spool = spool
        self.adoption = adoption

    def answer(self, document: Any) -> None:
        self.set_header("Content-Type", "application/msgpack")
        self.finish(msgspec.msgpack.encode(document))

    def read(self, kind: type[Any]) -> Any:
        try:
            return msgspec.msgpack.decode(self.request.body, type=kind)
        except msgspec.MsgspecError as error:
            raise web.HTTPError(400) from error

    def write_error(self, status_code: int, **keywords: Any) -> None:
        """Say why in plain words, where the spool or the store has said it."""
        error = keywords.get("exc_info", (None, None))[1]
        self.finish(str(error) if isinstance(error, TOLD) else f"the daemon answered {status_code}")

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Leave what the caller is told out of the log."""
        if not isinstance(value, TOLD):
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


class _Adopt(_Handler):
    async def post(self) -> None:
        adopting: Adopting = self.read(Adopting)
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                verdicts = await self.adoption.take_all(adopting.hooks, dry_run=adopting.dry_run)
        except TimeoutError:
            raise StoreError("the store does not answer in time") from None
        self.answer(verdicts)
