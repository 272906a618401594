"""The hooks of all tenants, wherever they are: in etcd, with the running daemon, or in a file that no daemon has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Protocol

from webhookd import logs
from webhookd.adoption import Adoption, Verdict
from webhookd.cli.output import Failure, colours
from webhookd.cli.spool_access import PATIENCE, RETRY, give_back, refuse_no_directory
from webhookd.control_client import ControlError, DaemonHooks, DaemonSpool, NoDaemonError
from webhookd.errors import StateDirInUse, StoreError
from webhookd.forms import sqlite_path
from webhookd.hooks import HookTable
from webhookd.model import Hook
from webhookd.neighbours import etcd_store
from webhookd.ports import HookStore, Lost
from webhookd.settings import Settings
from webhookd.statedir import CONTROL_SOCKET, StateDir

LOADING = 30.0
"""How long, in seconds, a store may take to tell all its hooks."""


class HooksAccess(Protocol):
    """What commands do with the hooks of all tenants."""

    def take_all(self, hooks: Sequence[Hook], *, dry_run: bool) -> list[Verdict]:
        """Take hooks in as they are, or only look at them, and say what became of each."""


class OwnHooks:
    """Hooks that this command reads and writes itself."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], adoption: Adoption) -> None:
        self._run = run
        self._adoption = adoption

    def take_all(self, hooks: Sequence[Hook], *, dry_run: bool) -> list[Verdict]:
        """Take hooks in as they are, or only look at them, and say what became of each."""
        verdicts: list[Verdict] = self._run(self._adoption.take_all(hooks, dry_run=dry_run))
        return verdicts


@contextmanager
def open_hooks(settings: Settings) -> Iterator[HooksAccess]:
    """Give access to the hooks of the store.

    Raises Failure, StateDirInUse or ConfigurationError where it cannot be had.
    """
    with ExitStack() as stack:
        try:
            yield _opened(settings, stack)
        except NoDaemonError:
            raise Failure("the daemon has just stopped: try again") from None
        except (ControlError, StoreError) as error:
            raise Failure(f"{error}; repeating this is safe") from None


def _opened(settings: Settings, stack: ExitStack) -> HooksAccess:
    if not settings.store.startswith("sqlite:"):
        return _own(etcd_store(settings), stack)
    refuse_no_directory(settings.state_dir)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            DaemonSpool(settings.state_dir / CONTROL_SOCKET).stats()
            return DaemonHooks(settings.state_dir / CONTROL_SOCKET)
        except NoDaemonError:
            pass
        try:
            return _file(settings, stack)
        except StateDirInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY)


def _file(settings: Settings, stack: ExitStack) -> HooksAccess:
    """Open the file that no daemon has, and leave it to the daemon's user."""
    from webhookd.adapters.sqlite import SqliteStore  # noqa: PLC0415 - etcd needs nothing of it

    owner = settings.state_dir.stat()
    state_dir = stack.enter_context(StateDir.claim(settings.state_dir))
    stack.callback(give_back, state_dir.path, owner)
    return _own(SqliteStore(sqlite_path(settings.store)), stack)


def _own(store: HookStore, stack: ExitStack) -> OwnHooks:
    stack.callback(logs.configure("warning", "auto", colours=colours()).finish)
    runner = stack.enter_context(asyncio.Runner())
    stack.callback(lambda: runner.run(store.close()))
    table = HookTable()
    following = runner.get_loop().create_task(_follow(store, table))
    stack.callback(lambda: runner.run(_ended(following)))
    runner.run(_loaded(table, following))
    return OwnHooks(runner.run, Adoption(store, table))


async def _follow(store: HookStore, table: HookTable) -> None:
    """Keep `table` current; raises StoreError once the store cannot be followed."""
    async with aclosing(store.changes()) as changes:
        async for change in changes:
            if isinstance(change, Lost):
                raise StoreError(change.reason)
            table.apply(change)


async def _loaded(table: HookTable, following: asyncio.Task[None]) -> None:
    loaded = asyncio.ensure_future(table.first_snapshot())
    await asyncio.wait([loaded, following], timeout=LOADING, return_when=asyncio.FIRST_COMPLETED)
    if following.done():
        await following
    if not loaded.done():
        loaded.cancel()
        raise StoreError("the store does not answer")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
