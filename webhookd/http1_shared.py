"""What the connections of one server share, and who takes the requests that they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from webhookd import http1_answer
from webhookd.http1_head import Head

C = TypeVar("C")
"""The connection itself, which knows what is here."""


class Receiver(Protocol):
    """Who takes the body of a request and answers it through its connection, at any time, once."""

    def part(self, chunk: bytes) -> None:
        """Take the next bytes of the body; not called once the request is answered."""

    def end(self) -> None:
        """Take note that the body is complete; not called once the request is answered."""

    def closed(self) -> None:
        """Take note that the connection is closed, or about to be, and the request not answered."""


class Shared(Generic[C]):
    """What the connections of one server share.

    `take` is asked first who takes a request, then `delegate`, which takes all the rest. `drain_limit`: how many bytes
    of a refused body are thrown away, so that the connection can go on.
    """

    def __init__(
        self,
        take: Callable[[C, Head], Receiver | None],
        delegate: Callable[[C, Head], Receiver],
        drain_limit: int,
    ) -> None:
        self.take = take
        self.delegate = delegate
        self.drain_limit = drain_limit
        self.accepted = http1_answer.Accepted()
        self.stopping = False
        """Whether each answer is to be the last one of its connection."""
