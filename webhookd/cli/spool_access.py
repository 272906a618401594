"""The spool of a state directory, whoever has it: the running daemon, or nobody, and then this command itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from webhookd.cli.output import Failure, colours, say
from webhookd.control_client import ControlError, DaemonSpool, NoDaemonError
from webhookd.control_protocol import Condition, Page, Wanted, page_of
from webhookd.errors import StateDirInUse
from webhookd.forms import CENTURY
from webhookd.settings import Settings
from webhookd.statedir import CONTROL_SOCKET, SPOOL_DB, StateDir

if TYPE_CHECKING:
    from webhookd.adapters.spool import Spool
    from webhookd.adapters.spool_layout import SpoolStats

WAIT = 20.0
"""How long, in seconds, one question for the next message waits."""
RETRY = 0.2
"""How long, in seconds, to wait before a daemon that is away is asked again."""
PATIENCE = 3.0
"""How long, in seconds, a directory may be owned by a process that does not answer yet: a daemon that starts."""


class SpoolAccess(Protocol):
    """What commands do with a spool."""

    def stats(self) -> SpoolStats:
        """Return its numbers."""

    def page(self, wanted: Wanted) -> Page:
        """Return the next entries that are wanted."""

    def retry(self, condition: Condition) -> int:
        """Let set aside and unroutable messages wait again, all or those with a receipt given; return how many."""

    def drop(self, condition: Condition) -> int:
        """Delete the messages that all of the given conditions hold for; return how many."""


class OwnSpool:
    """A spool that no daemon has, opened by this command."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], spool: Spool) -> None:
        self._run = run
        self._spool = spool

    def stats(self) -> SpoolStats:
        """Return its numbers."""
        return self._spool.stats

    def page(self, wanted: Wanted) -> Page:
        """Return the next entries that are wanted; nothing new comes, so that there is no wait."""
        page: Page = self._run(page_of(self._spool, msgspec.structs.replace(wanted, wait=0.0)))
        return page

    def retry(self, condition: Condition) -> int:
        """Let set aside and unroutable messages wait again, all or those with a receipt given; return how many."""
        return int(self._run(self._spool.retry(condition.receipts)))

    def drop(self, condition: Condition) -> int:
        """Delete the messages that all of the given conditions hold for; return how many."""
        dropping = self._spool.drop(
            states=condition.states, older_than=condition.older_than, receipts=condition.receipts
        )
        return int(self._run(dropping))


@contextmanager
def open_spool(settings: Settings) -> Iterator[SpoolAccess]:
    """Give access to the spool of `state_dir`: of the daemon that has it, else opened here.

    Raises Failure, StateDirInUse or ConfigurationError where it cannot be had.
    """
    refuse_no_directory(settings.state_dir)
    with ExitStack() as stack:
        try:
            yield _opened(settings, stack)
        except NoDaemonError:
            raise Failure("the daemon has just stopped: try again") from None
        except ControlError as error:
            raise Failure(str(error)) from None


def pages(spool: SpoolAccess, wanted: Wanted) -> Iterator[Page]:
    """Yield what is there now, page by page: a spool that grows faster than it is read has an end, too."""
    page = spool.page(wanted)
    newest = page.newest
    while page.entries:
        yield page
        if page.after >= newest:
            return
        page = spool.page(msgspec.structs.replace(wanted, after=page.after))


def follow(settings: Settings, wanted: Wanted) -> Iterator[Page]:
    """Yield what is there and what is to come, for ever, through restarts of the daemon too.

    The directory is never claimed but at first: a daemon that starts has to find it free.
    """
    after = wanted.after
    refuse_no_directory(settings.state_dir)
    if (settings.state_dir / SPOOL_DB).exists():
        with open_spool(settings) as spool:
            for page in pages(spool, wanted):
                yield page
                after = page.after
    daemon = DaemonSpool(settings.state_dir / CONTROL_SOCKET)
    told = ""
    while True:
        try:
            page = daemon.page(msgspec.structs.replace(wanted, after=after, wait=WAIT))
        except NoDaemonError:
            time.sleep(RETRY)
        except ControlError as error:
            if str(error) != told:
                say(told := str(error))
            time.sleep(RETRY)
        else:
            yield page
            after = page.after


def refuse_no_directory(path: Path) -> None:
    """Raise Failure where there is no state directory, or none that this user can reach."""
    try:
        there = path.is_dir()
    except PermissionError:
        raise Failure(f"{path} is not for this user: run this as the daemon's user or root") from None
    if not there:
        raise Failure(f"there is no state directory {path}: name the daemon's with --state-dir or --config")


def _opened(settings: Settings, stack: ExitStack) -> SpoolAccess:
    """Return the daemon's spool, or our own, which `stack` closes."""
    deadline = time.monotonic() + PATIENCE
    while True:
        daemon = DaemonSpool(settings.state_dir / CONTROL_SOCKET)
        try:
            daemon.stats()
        except NoDaemonError:
            pass
        else:
            return daemon
        try:
            return _own(settings, stack)
        except StateDirInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY)


def _own(settings: Settings, stack: ExitStack) -> OwnSpool:
    """Open the spool in this process. Nothing expires meanwhile: only the daemon's own settings say what may."""
    if not (settings.state_dir / SPOOL_DB).exists():
        raise Failure(f"there is no spool in {settings.state_dir}: name the daemon's state directory with --state-dir")
    from webhookd import logs  # noqa: PLC0415 - only now is it needed
    from webhookd.adapters.spool import Spool, SpoolError  # noqa: PLC0415 - see above

    owner = settings.state_dir.stat()
    state_dir = stack.enter_context(StateDir.claim(settings.state_dir))
    stack.callback(give_back, state_dir.path, owner)
    stack.callback(logs.configure("warning", "auto", colours=colours()).finish)
    runner = stack.enter_context(asyncio.Runner())
    opening = Spool.open(state_dir.spool_db, max_bytes=settings.spool_max_bytes, retention=CENTURY, keep=True)
    spool = runner.run(opening)

    def run(asked: Coroutine[Any, Any, Any]) -> Any:
        try:
            return runner.run(asked)
        except SpoolError as error:
            raise Failure(str(error)) from None

    stack.callback(lambda: runner.run(spool.close()))
    return OwnSpool(run, spool)


def give_back(path: Path, owner: os.stat_result) -> None:
    """Let the daemon's user have what root has made: the daemon could not open it else."""
    if os.geteuid() == 0 != owner.st_uid:
        for entry in path.iterdir():
            if entry.stat().st_uid == 0:
                os.chown(entry, owner.st_uid, owner.st_gid)
