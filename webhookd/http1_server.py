"""Serves HTTP/1.1 on listening sockets, and stops without cutting an answer off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from tornado import httputil

from webhookd.http1 import Connection
from webhookd.http1_accept import Acceptor
from webhookd.http1_delegate import Delegated
from webhookd.http1_head import Head
from webhookd.http1_limits import HEAD, IDLE, Limits, Watch
from webhookd.http1_shared import Claim, Receiver, Shared

DRAIN_LIMIT = 32 * 1024 * 1024


class Taker(Protocol):
    """Who takes some requests before the delegate is asked, as `Shared` says."""

    claims: Mapping[bytes, Claim | None]

    def take(self, connection: Connection, head: Head, claim: Claim, body: bytes | None) -> Receiver:
        """Take a request."""


class Server:
    """Feeds `delegate` with the requests that `taker` does not claim."""

    def __init__(
        self,
        delegate: httputil.HTTPServerConnectionDelegate,
        taker: Taker | None = None,
        *,
        drain_limit: int = DRAIN_LIMIT,
        limits: Limits | None = None,
    ) -> None:
        taker = taker or _Nobody()
        self.shared: Shared[Connection] = Shared(
            taker.claims, taker.take, lambda connection, head: Delegated(connection, head, delegate), drain_limit
        )
        self._limits = limits or Limits()
        self._acceptors: list[Acceptor] = []
        self._watch: Watch | None = None

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return 0 if self._watch is None else len(self._watch.connections)

    def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on `sockets`, which are bound."""
        shared, watch = self.shared, Watch(self._limits, self.shared.accepted.refresh)
        self._watch = watch
        self._acceptors = [Acceptor(one, watch, lambda: Connection(shared, watch)) for one in sockets]

    def stop(self) -> None:
        """Accept nothing new; each connection is closed with its next answer."""
        self.shared.stopping = True
        for one in self._acceptors:
            one.close()
        self._acceptors = []

    async def close(self, grace: float) -> None:
        """Close what is idle at once, what is not within `grace` seconds, the rest then."""
        self.stop()
        watch = self._watch
        if watch is None:
            return
        for one in list(watch.connections):
            if one.phase in (IDLE, HEAD):
                one.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watch.empty(), grace)
        for one in list(watch.connections):
            one.abort()
        watch.stop()


class _NoClaims(dict[bytes, Claim | None]):
    def __missing__(self, target: bytes) -> None:
        return None


class _Nobody:
    """Takes nothing."""

    claims: Mapping[bytes, Claim | None] = _NoClaims()

    def take(self, connection: Connection, head: Head, claim: Claim, body: bytes | None) -> Receiver:
        del connection, head, claim, body
        raise AssertionError("nothing is claimed")
