"""Tells open pages what is delivered to their hooks: once for all pages of a hook, and within a bound of time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
from tornado import template

from webhookd.console import views
from webhookd.hooks import HookTable
from webhookd.model import Hook, Record
from webhookd.records import Records

GATHER = 0.1
"""Seconds for which what comes is gathered: a busy hook's deliveries are told together."""
MOST_AT_ONCE = 25
"""How many deliveries are told together; of more the last ones."""
REST = 9
"""How many times as long as a telling took nobody is told anything: the event loop is there for deliveries."""

Told = Callable[[str | None], None]
"""Takes a document as JSON; None where the hook is gone."""


@dataclass(slots=True)
class _Watched:
    """A hook that pages show, and what they have not been told yet."""

    pages: list[Told] = field(default_factory=list)
    heard: deque[Record] = field(default_factory=lambda: deque(maxlen=MOST_AT_ONCE))
    count: int = 0
    stop: Callable[[], None] = lambda: None


class Feed:
    """What is delivered to the hooks that somebody watches; used on the event loop only."""

    def __init__(self, records: Records, table: HookTable, root: str) -> None:
        """Take what is remembered, and the path that the console is under."""
        self._records = records
        self._table = table
        self._root = root
        self._row = template.Loader(str(Path(__file__).parent / "templates")).load("row.html")
        self._watched: dict[str, _Watched] = {}
        self._due: dict[str, float] = {}
        """When what was heard of a hook is to be told, by its id, soonest first; in the event loop's time."""
        self._rested = 0.0
        self._turn: asyncio.TimerHandle | None = None
        table.on_gone(self._gone)

    def watch(self, hook: Hook, told: Told) -> Callable[[], None]:
        """Have `told` called with the new rows of the hook's page as they come; returns what ends it."""
        watched = self._watched.get(hook.id)
        if watched is None:
            watched = self._watched[hook.id] = _Watched()
            watched.stop = self._records.listen(hook.token, partial(self._hear, hook.id, watched))
        watched.pages.append(told)

        def stop() -> None:
            watched.pages.remove(told)
            if not watched.pages:
                watched.stop()
                del self._watched[hook.id]

        return stop

    def _gone(self, hook_id: str | None) -> None:
        for each in list(self._watched) if hook_id is None else [hook_id]:
            watched = self._watched.get(each)
            if watched is not None and self._table.by_id(each) is None:
                for told in tuple(watched.pages):
                    told(None)

    def _hear(self, hook_id: str, watched: _Watched, record: Record) -> None:
        """Gather; this is called on the path of a delivery."""
        watched.heard.append(record)
        watched.count += 1
        if hook_id not in self._due:
            self._due[hook_id] = asyncio.get_running_loop().time() + GATHER
            self._plan()

    def _plan(self) -> None:
        if self._turn is None and self._due:
            soonest = next(iter(self._due.values()))
            self._turn = asyncio.get_running_loop().call_at(max(soonest, self._rested), self._tell_one)

    def _tell_one(self) -> None:
        """Tell the pages of one hook: of many hooks each has its turn, and the event loop others in between."""
        loop, started = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        hook_id = next(iter(self._due))
        del self._due[hook_id]
        try:
            if (watched := self._watched.get(hook_id)) is not None:
                self._tell(hook_id, watched)
        finally:
            ended = loop.time()
            self._rested = ended + REST * (ended - started)
            self._turn = None
            self._plan()

    def _tell(self, hook_id: str, watched: _Watched) -> None:
        heard, count = list(watched.heard), watched.count
        watched.heard.clear()
        watched.count = 0
        hook = self._table.by_id(hook_id)
        text = None if hook is None else self._document(hook, heard, count)
        for told in tuple(watched.pages):
            told(text)

    def _document(self, hook: Hook, heard: list[Record], count: int) -> str:
        rows = [{"outcome": record.outcome, "html": self._html(hook, record)} for record in heard]
        spark = views.hour(self._records.outcomes(hook.token), self._records.per_hook)
        return msgspec.json.encode({"rows": rows, "count": count, "spark": spark}).decode()

    def _html(self, hook: Hook, record: Record) -> str:
        return self._row.generate(hook=hook, record=record, fresh=True, root=self._root, views=views).decode()
