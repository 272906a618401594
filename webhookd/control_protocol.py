"""What a command may ask about spool and hooks, and how a spool answers: the same for a daemon's and for one's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from webhookd.adapters.spool_layout import Entry, State
from webhookd.forms import MAX_SOCKET_PATH
from webhookd.model import Hook

if TYPE_CHECKING:
    from webhookd.adapters.spool import Spool

PAGE_BYTES = 8 * 1024 * 1024
"""How many bytes of bodies one answer has at most, but for a single larger one."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are asked for, and for how many seconds to wait where there is none."""

    after: int = 0
    limit: int = 500
    tenant: str | None = None
    states: list[State] | None = None
    bodies: bool = False
    wait: float = 0.0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The next entries that are wanted, in order.

    `after` is the place behind which the next page begins, where there is no entry too: what others have is passed by.
    `newest` is the place of the newest message at the time of the question.
    """

    entries: list[Entry]
    after: int
    newest: int


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages to retry or drop: those that all of the given hold for; `older_than` is in seconds."""

    states: list[State] | None = None
    older_than: float | None = None
    receipts: list[str] | None = None


class Adopting(msgspec.Struct, frozen=True, kw_only=True):
    """Which hooks to take in, or only to look at."""

    hooks: list[Hook]
    dry_run: bool


async def page_of(spool: Spool, wanted: Wanted) -> Page:
    """Return the next page, once there is an entry or `wanted.wait` is over. Raises `SpoolError`."""
    deadline = time.monotonic() + wanted.wait
    after = wanted.after
    while True:
        newest = await spool.newest()
        entries = await spool.entries(
            after=after,
            limit=wanted.limit,
            max_bytes=PAGE_BYTES,
            tenant=wanted.tenant,
            states=wanted.states,
            bodies=wanted.bodies,
        )
        if entries:
            return Page(entries=entries, after=entries[-1].seq, newest=newest)
        after = max(after, newest)
        left = deadline - time.monotonic()
        if left <= 0 or not await spool.wait_append(after, left):
            return Page(entries=[], after=after, newest=newest)


@contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """Give a name of `path` that fits into a socket address (108 bytes), however long the path is."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
