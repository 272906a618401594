"""What bounds the connections of one server: how many, and how long each may take; one timer for all of them."""

from __future__ import annotations

import asyncio
import math
import resource
from collections.abc import Callable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations in seconds, sizes in bytes."""

    idle: float = 60.0
    """How long a connection may wait for its next request."""
    head: float = 10.0
    """How long a head may take, from its first byte to its last."""
    body_grace: float = 10.0
    """From when on a body must keep up with `body_rate`."""
    body_rate: int = 16 * 1024
    """The least bytes per second, on average, of a body that takes longer than `body_grace`."""
    body: float = 300.0
    """How long any body may take."""
    drain: float = 30.0
    """How long the rest of a refused body is thrown away, so that a sender that writes on still reads its answer."""
    linger: float = 2.0
    """How long a connection that is at its end stays half open, so that its last answer is read, not reset."""
    write: float = 30.0
    """How long a client may leave its answers unread."""
    connections: int = 10_000
    """How many connections there may be."""
    spare: float = 5.0
    """How long a connection must have been idle to make room for a new one where there are too many."""
    tick: float = 0.5
    """How often deadlines are looked at: that much later than theirs they may be kept."""


NEVER = math.inf
IDLE, HEAD, BODY, WORK, DRAIN, WRITE, LINGER = range(7)
"""What a connection is at, and so what its deadline means: plain numbers, since they change with every request."""


class Timed(Protocol):
    """What has a deadline."""

    phase: int
    deadline: float

    def expire(self, now: float) -> None:
        """Do what is to be done where `deadline` has passed."""

    def close(self) -> None:
        """Close once everything is written."""

    def abort(self) -> None:
        """Close now, whatever is left."""


class Watch:
    """Every connection of a server and the time; `now` and `idle_until` are as of the last tick."""

    def __init__(self, limits: Limits, on_tick: Callable[[], None]) -> None:
        self.limits = limits
        self.most = min(limits.connections, _descriptors())
        self.connections: set[Timed] = set()
        self._waiting: set[Callable[[], None]] = set()
        self._on_tick = on_tick
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.now = self._loop.time()
        self.idle_until = self.now + limits.idle
        self._tick()

    def full(self, on_room: Callable[[], None]) -> bool:
        """Whether there is no room for one more connection; for a later one, the longest idle ones are then closed.

        `on_room` is called, once, when there is room again.
        """
        if len(self.connections) < self.most:
            return False
        self._waiting.add(on_room)
        self._make_room()
        return True

    def _make_room(self) -> None:
        latest = self.now + self.limits.idle - self.limits.spare
        idle = (one for one in self.connections if one.phase == IDLE and one.deadline < latest)
        for one in nsmallest(max(1, self.most // 32), idle, key=lambda one: one.deadline):
            one.close()

    def gone(self, one: Timed) -> None:
        """Take note that a connection is closed."""
        self.connections.discard(one)
        if self._waiting:
            waiting, self._waiting = self._waiting, set()
            for on_room in waiting:
                on_room()
        if not self.connections:
            self._empty.set()

    async def empty(self) -> None:
        """Return once there is no connection."""
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    def stop(self) -> None:
        """Look at no deadline any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self.limits.tick, self._tick)
        self.now = now = self._loop.time()
        self.idle_until = now + self.limits.idle
        self._on_tick()
        for one in [one for one in self.connections if one.deadline < now]:
            one.expire(now)
        if self._waiting:
            self._make_room()


def _descriptors() -> int:
    """Return how many of the descriptors that this process may have are for connections."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    return max(16, soft - max(64, soft // 16))
