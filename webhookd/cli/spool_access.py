"""The spool of a state directory, whoever has it: the running daemon, or nobody, and then this command itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from webhookd.adapters.spool import Spool, SpoolError
from webhookd.cli.output import Failure
from webhookd.control import PAGE_BYTES, Condition, Wanted
from webhookd.control_client import ControlError, DaemonSpool, Entry, NoDaemonError, SpoolStats
from webhookd.errors import ConfigurationError
from webhookd.settings import Settings
from webhookd.statedir import StateDir

PAGE = 500
"""How many entries are asked for at a time."""
WAIT = 20.0
"""How long, in seconds, one question for the next message waits."""
RETRY = 0.5
"""How long, in seconds, to wait before a daemon that is away is asked again."""

T = TypeVar("T")


class SpoolAccess(Protocol):
    """What commands do with a spool."""

    def stats(self) -> SpoolStats:
        """Return its numbers."""

    def entries(self, wanted: Wanted) -> list[Entry]:
        """Return the entries that are asked for, in order."""

    def retry(self, receipts: Collection[str] | None) -> int:
        """Let set aside and unroutable messages wait again; return how many."""

    def drop(self, condition: Condition) -> int:
        """Delete messages; return how many."""


class OwnSpool:
    """A spool that no daemon has, opened by this command."""

    def __init__(self, runner: asyncio.Runner, spool: Spool) -> None:
        self._run: Callable[[Coroutine[Any, Any, Any]], Any] = runner.run
        self._spool = spool

    def stats(self) -> SpoolStats:
        """Return its numbers."""
        return self._spool.stats

    def entries(self, wanted: Wanted) -> list[Entry]:
        """Return the entries that are asked for, in order; nothing new comes, so that there is no wait."""
        entries: list[Entry] = self._run(
            self._spool.entries(
                after=wanted.after,
                limit=wanted.limit,
                max_bytes=PAGE_BYTES,
                tenant=wanted.tenant,
                states=wanted.states,
                bodies=wanted.bodies,
            )
        )
        return entries

    def retry(self, receipts: Collection[str] | None) -> int:
        """Let set aside and unroutable messages wait again; return how many."""
        return int(self._run(self._spool.retry(receipts)))

    def drop(self, condition: Condition) -> int:
        """Delete messages; return how many."""
        dropped = self._spool.drop(
            states=condition.states, older_than=condition.older_than, receipts=condition.receipts
        )
        return int(self._run(dropped))


@contextmanager
def open_spool(settings: Settings) -> Iterator[SpoolAccess]:
    """Give access to the spool of `state_dir`; raises Failure or ConfigurationError where it cannot be had."""
    if not settings.state_dir.is_dir():
        raise Failure(f"there is no state directory {settings.state_dir}: name it with --state-dir")
    try:
        daemon = DaemonSpool(settings.state_dir / "control.sock")
        try:
            daemon.stats()
        except NoDaemonError:
            with _own(settings) as spool:
                yield spool
        else:
            yield daemon
    except NoDaemonError:
        raise Failure("the daemon has just stopped: try again") from None
    except (ControlError, SpoolError) as error:
        raise Failure(str(error)) from None


@contextmanager
def _own(settings: Settings) -> Iterator[OwnSpool]:
    if not (settings.state_dir / "spool.db").exists():
        raise Failure(f"there is no spool in {settings.state_dir}: name the state directory with --state-dir")
    with StateDir.claim(settings.state_dir) as state_dir, asyncio.Runner() as runner:
        opening = Spool.open(
            state_dir.spool_db,
            max_bytes=settings.spool_max_bytes,
            retention=settings.spool_retention,
            keep=settings.broker == "spool:",
        )
        spool = runner.run(opening)
        try:
            yield OwnSpool(runner, spool)
        finally:
            runner.run(spool.close())


def pages(spool: SpoolAccess, wanted: Wanted) -> Iterator[list[Entry]]:
    """Yield all entries that are wanted, page by page."""
    after = wanted.after
    while page := spool.entries(_behind(wanted, after, 0)):
        yield page
        after = page[-1].seq


def follow(settings: Settings, wanted: Wanted) -> Iterator[Entry]:
    """Yield the entries that are there and those to come, for ever: through restarts of the daemon, too."""
    after = wanted.after
    while True:
        try:
            with open_spool(settings) as spool:
                for entry in _newer(spool, wanted, after):
                    after = entry.seq
                    yield entry
        except (Failure, ConfigurationError):
            if not settings.state_dir.is_dir():
                raise  # a typo: no daemon will ever come
        time.sleep(RETRY)


def _newer(spool: SpoolAccess, wanted: Wanted, after: int) -> Iterator[Entry]:
    """Yield what is behind `after`; end where the spool is ours, so that a daemon can have it."""
    while True:
        page = spool.entries(_behind(wanted, after, WAIT))
        yield from page
        if page:
            after = page[-1].seq
        elif isinstance(spool, OwnSpool):
            return


def _behind(wanted: Wanted, after: int, wait: float) -> Wanted:
    return Wanted(after=after, limit=PAGE, tenant=wanted.tenant, states=wanted.states, bodies=wanted.bodies, wait=wait)
