"""One run of following the hooks in etcd: all there are at one revision, then each change after it, all checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog

from webhookd.adapters.etcd_client import CALL_TIMEOUT, EtcdClient
from webhookd.adapters.etcd_keys import Keys, end_of
from webhookd.adapters.etcd_rpc import rpc
from webhookd.errors import StoreError
from webhookd.model import Hook
from webhookd.ports import Change, Checked, Deleted, SetAside, Snapshot

PAGE = 5000
"""How many hooks are read at a time. For each page etcd counts all that are left: small ones cost more than large."""
BREATH = 500
"""After how many hooks of a page the event loop turns: deliveries go on meanwhile."""
PROBE = 3.0
"""Seconds between two probes."""
SILENT = 2.0
"""How long, in seconds, a watch may take to tell of what a probe knows of."""

log = structlog.get_logger(__name__)


class Following:
    """Follows the store until something disturbs it, which is a StoreError; what comes next begins with all hooks.

    A watch alone is not to be trusted: one that begins at a revision that the store has not reached (it was wiped, or
    restored from a backup) tells nothing for ever, and so does one on a connection that hangs. So a probe asks for the
    last revision written by webhookd and looks whether the watch has come that far.
    """

    def __init__(self, client: EtcdClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._news: asyncio.Queue[Change | BaseException] = asyncio.Queue()
        self._cluster = 0
        self._newest = 0
        """The newest revision that the store was seen at."""
        self._told = 0
        """The revision up to which everything is in the queue."""
        self._told_more = asyncio.Event()

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Yield a Snapshot, then what `HookStore.changes` promises but `Lost`."""
        snapshot = await self._load()
        keys = self._keys.all
        request = rpc.WatchCreateRequest(key=keys, range_end=end_of(keys), start_revision=snapshot.revision + 1)
        async with self._client.watch(request) as responses, aclosing(responses):
            await self._begin(responses)
            yield snapshot
            tasks = [asyncio.create_task(self._read(responses)), asyncio.create_task(self._probe())]
            for task in tasks:
                task.add_done_callback(self._ended)
            try:
                while True:
                    news = await self._news.get()
                    if isinstance(news, BaseException):
                        raise news
                    yield news
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self) -> Snapshot:
        at = time.monotonic()
        hooks: list[Hook] = []
        tenants: dict[str, Hook] = {}
        set_aside: dict[str, str] = {}
        foreign, revision = 0, 0
        key, end = self._keys.hooks, end_of(self._keys.hooks)
        while key:
            page = await self._client.range(rpc.RangeRequest(key=key, range_end=end, limit=PAGE, revision=revision))
            if not revision:
                self._cluster, revision = page.header.cluster_id, page.header.revision
            for number, pair in enumerate(page.kvs, 1):
                if number % BREATH == 0:
                    await asyncio.sleep(0)
                match self._keys.read(pair):
                    case Hook() as hook:
                        hooks.append(hook.stored(hook.revision, tenants.setdefault(hook.tenant, hook)))
                    case SetAside(token=hook_id, reason=reason):
                        set_aside[hook_id] = reason
                    case None:
                        foreign += 1
            key = page.kvs[-1].key + b"\0" if page.more else b""
        if foreign:
            log.warning("keys of etcd that are none of webhookd's are passed over", count=foreign)
        self._newest = self._told = revision
        return Snapshot(tuple(hooks), revision, set_aside, checked=at)

    async def _begin(self, responses: AsyncGenerator[Any, None]) -> None:
        """Return once the watch is there."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                self._take(await anext(responses))
        except TimeoutError:
            raise self._client.fault(f"no watch within {CALL_TIMEOUT:g} s") from None

    async def _read(self, responses: AsyncGenerator[Any, None]) -> None:
        async for response in responses:
            self._take(response)

    def _take(self, response: Any) -> None:
        if response.canceled or response.watch_id < 0 or response.compact_revision:
            why = response.cancel_reason or (
                f"compacted up to {response.compact_revision}" if response.compact_revision else "permission denied"
            )
            raise self._client.fault(f"the watch was refused: {why}")
        for event in response.events:
            self._tell(event)
        if response.events:
            self._told = response.events[-1].kv.mod_revision
            self._newest = max(self._newest, self._told)
            self._told_more.set()

    def _tell(self, event: Any) -> None:
        pair = event.kv
        if not pair.key.startswith(self._keys.hooks):
            return
        if event.type == rpc.Event.EventType.DELETE:
            hook_id = self._keys.token(pair.key)
            change: Change | None = Deleted(hook_id, pair.mod_revision) if hook_id else None
        else:
            change = self._keys.read(pair)
        if change is not None:
            self._news.put_nowait(change)
        else:
            log.warning("keys of etcd that are none of webhookd's are passed over", count=1)

    async def _probe(self) -> None:
        while True:
            at, newest = time.monotonic(), self._newest  # the watch may tell of newer ones before the answer is here
            answer = await self._client.range(rpc.RangeRequest(key=self._keys.revision))
            header = answer.header
            if header.cluster_id != self._cluster:
                raise self._client.fault("it is another cluster than before")
            if header.revision < newest:
                raise self._client.fault(f"its revision went back from {newest} to {header.revision}")
            self._newest = max(self._newest, header.revision)
            await self._until_told(answer.kvs[0].mod_revision if answer.kvs else 0)
            self._news.put_nowait(Checked(at))
            await asyncio.sleep(PROBE)

    async def _until_told(self, revision: int) -> None:
        try:
            async with asyncio.timeout(SILENT):
                while self._told < revision:
                    self._told_more.clear()
                    await self._told_more.wait()
        except TimeoutError:
            raise self._client.fault("the watch tells nothing of what was written") from None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._news.put_nowait(task.exception() or StoreError("the watch ended"))
