"""What the daemon needs from the world: a store of hooks and a publisher of messages.

The obligations above each method are tested over every adapter, by `tests/test_hook_stores.py` and
`tests/test_publishers.py`.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from asyncio import Future
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from webhookd.model import Hook, Message


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every hook there is at `revision`: what is not in it does not exist.

    `set_aside` says of hooks whose record cannot be read, by id, why. `checked` is the `time.monotonic()` at which
    this was known to be all: `inf` for a store that nobody else writes to, `-inf` for what is remembered of one that
    cannot be reached.
    """

    hooks: tuple[Hook, ...]
    revision: int
    set_aside: Mapping[str, str] = field(default_factory=dict)
    checked: float = math.inf


@dataclass(frozen=True, slots=True)
class Deleted:
    """The hook whose id is `token` is gone as of `revision`, and all of its tokens with it."""

    token: str
    revision: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """The record of the hook whose id is `token` cannot be read as of `revision`, and why."""

    token: str
    revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """All that the store held at `at` (`time.monotonic()`) has been told."""

    at: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The store cannot be followed now, and why; what was told of it stands until there is news."""

    reason: str


Change = Snapshot | Hook | Deleted | SetAside | Checked | Lost
Durable = Literal["confirmed", "spooled"]
"""Where a message is safe: with the broker, which confirmed it, or on this machine's disk."""
LinkState = Literal["up", "blocked", "down"]


class HookStore(Protocol):
    """Where hooks live. Revisions grow with every write, over all hooks; they start above 0."""

    async def put(self, hook: Hook) -> Hook:
        """Write `hook` if the store holds it at `hook.revision` (0: holds none for its key); return it as written.

        It is held by `hook.id`, which stays when its token is replaced: of two writes over one revision, one wins.
        It comes back with its new revision. The first hook of a tenant fixes the tenant's apiToken: every later new
        hook comes back with that one, whatever it came with, even after all of the tenant's hooks are gone. Raises
        `Conflict` with what the store holds for the key (or None), `StoreError` when it cannot be reached or written.
        """

    async def delete(self, hook_id: str) -> int:
        """Delete the hook with this id if it is there, and return the revision as of which it is gone.

        Deleting what is not there is no error. Raises `StoreError` when the store cannot be reached or written.
        """

    def changes(self) -> AsyncGenerator[Change, None]:
        """Yield a `Snapshot`, then each change after it, in order, none missing; after any gap another `Snapshot`.

        A store that others write to too is `Checked` every few seconds, and `Lost` while it cannot be followed. Never
        ends by itself: what disturbs it is its own business. One consumer at a time.
        """

    async def close(self) -> None:
        """Let go of everything; nothing may be called after it."""


class Answer(Protocol):
    """Who is to be told what became of a message, once, on the event loop; an `asyncio.Future` is one."""

    def done(self) -> bool:
        """Whether it has been told, or does not want to be told any more."""

    def set_result(self, durable: Durable, /) -> None:
        """Know that the message is durable, and where."""

    def set_exception(self, error: BaseException, /) -> None:
        """Know that it is not, or that nobody can say."""


class Publisher(Protocol):
    """A durable place for messages."""

    @abstractmethod
    def send(self, message: Message, answer: Answer) -> None:
        """Make a message durable (a confirm, a commit that fsynced), and tell `answer` so, unless that is done by then.

        It is told `Unpublished`, or `ShareExceeded` when only this tenant is out of room. It is always told, maybe
        before the call returns, and the call never blocks; messages of one hook become durable in the order of the
        calls.
        """

    def publish(self, message: Message) -> Future[Durable]:
        """Do what `send` does, and return the future that is told."""
        answer: Future[Durable] = asyncio.get_running_loop().create_future()
        self.send(message, answer)
        return answer

    @abstractmethod
    async def close(self) -> None:
        """Finish what is in flight, then let go; publishing after it fails with `Unpublished`."""


class Link(Publisher, Protocol):
    """One connection to the broker, which comes back by itself whenever it is lost.

    An answer is never told before `send` returns: `NotSent` soon after it while the link is not up, and otherwise the
    subclass of `Unpublished` that says what became of the message. A link sets no deadline: whoever sends does, by
    being `done`, and says so to `give_up`. Two messages with one receipt may be in flight at a time, and each gets its
    own answer.
    """

    def give_up(self, answer: Answer) -> None:
        """Know that `answer`, which is done now, waits no more: a message that was not sent yet never is."""

    @property
    @abstractmethod
    def state(self) -> LinkState:
        """`up`: publishing makes sense; `blocked`: the broker reads nothing (an alarm); `down`: no connection."""

    @property
    @abstractmethod
    def fault(self) -> str | None:
        """Why the link is not up, in words for an operator, without secrets; None while it is up."""

    @abstractmethod
    def on_change(self, changed: Callable[[], None]) -> None:
        """Have `changed` called on the event loop after each change of `state`."""
