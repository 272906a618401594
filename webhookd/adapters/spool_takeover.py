"""Takes what is readable of a damaged spool over into the one that was begun after it, in the background."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog

from webhookd.adapters.spool_disk import damaged_files, salvaged
from webhookd.adapters.spool_layout import State
from webhookd.adapters.spool_salvage import Salvage, Salvaged
from webhookd.errors import Unpublished
from webhookd.model import Message
from webhookd.ports import Durable

RETRY = 1.0
"""Seconds after which messages that were refused are offered again."""
Put = Callable[[Message, State], asyncio.Future[Durable]]
"""Has a message written in a state, as Spool.publish does."""
log = structlog.get_logger(__name__)


class Takeover:
    """One file after the other, a few messages at a time. A crash on the way has them taken over again."""

    def __init__(self, database: Path, put: Put, changed: Callable[[], None]) -> None:
        self._database = database
        self._put = put
        self._changed = changed
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin, if there is anything to take over and nothing under way."""
        if (self._task is None or self._task.done()) and self._waiting() and not self._closing.is_set():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End after what is being read now."""
        self._closing.set()
        if self._task is not None:
            await self._task

    def _waiting(self) -> list[Path]:
        asides = [self._database.with_name(name) for name in damaged_files(self._database)]
        return [aside for aside in asides if not salvaged(aside).exists()]

    async def _run(self) -> None:
        try:
            while (files := self._waiting()) and not self._closing.is_set():
                await self._take_over(files[0])
        except OSError as error:
            log.warning("a damaged spool cannot be looked into", reason=str(error))

    async def _take_over(self, aside: Path) -> None:
        salvage = Salvage(aside)
        messages = 0
        try:
            while not self._closing.is_set():
                batch = await asyncio.to_thread(salvage.next_batch)
                if not batch:
                    await asyncio.to_thread(salvaged(aside).touch, 0o600)
                    log.warning(
                        "what is readable of a damaged spool was taken over",
                        file=aside.name,
                        messages=messages,
                        unreadable=salvage.unreadable,
                    )
                    return
                messages += await self._write(batch)
        finally:
            await asyncio.to_thread(salvage.close)

    async def _write(self, batch: Salvaged) -> int:
        """Have messages written, in order, however long there is no room for them; return how many were."""
        left = batch
        while left and not self._closing.is_set():
            outcomes = await asyncio.gather(*(self._put(*one) for one in left), return_exceptions=True)
            refused = [one for one, outcome in zip(left, outcomes, strict=True) if isinstance(outcome, Unpublished)]
            if len(refused) < len(left):
                self._changed()
            left = refused
            if left:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), RETRY)
        return len(batch) - len(left)
