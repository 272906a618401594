"""What the connections of one server share, and who takes the requests that they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from webhookd import http1_answer
from webhookd.http1_head import Head
from webhookd.http1_rest import Room

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


Claim = tuple[str, str]
"""What the target of a delivery names: apiToken and token."""


class Shared(Generic[C]):
    """What the connections of one server share.

    `claims` has what the target of each request claims, None for one that is no delivery. What is claimed `take` gets,
    with the body where it is there already: then neither `part` nor `end` is called. `delegate` takes all the rest.
    `drain_limit`: how many bytes of a refused body are thrown away, so that the connection can go on.
    """

    def __init__(
        self,
        claims: Mapping[bytes, Claim | None],
        take: Callable[[C, Head, Claim, bytes | None], Receiver],
        delegate: Callable[[C, Head], Receiver],
        drain_limit: int,
    ) -> None:
        self.claims = claims
        self.take = take
        self.delegate = delegate
        self.drain_limit = drain_limit
        self.accepted = http1_answer.Accepted()
        self.room = Room()
        self.stopping = False
        """Whether each answer is to be the last one of its connection."""
