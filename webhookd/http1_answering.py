"""The answering half of a connection: what is written, and what becomes of the connection then."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from webhookd import http1_answer
from webhookd.http1_chunks import Chunks
from webhookd.http1_head import Head, Reader
from webhookd.http1_limits import DRAIN, IDLE, NEVER, WORK, WRITE, Watch
from webhookd.http1_rest import Rest
from webhookd.http1_shared import Receiver, Shared
from webhookd.http1_wire import Wire

NO_CONTENT = 204


class Answering(Wire):
    """Answers a request at once with `accepted` or `reply`, or in pieces between `start` and `done`."""

    _rest: Rest | None = None
    """What keeps the rest of a body that was answered before it had come, if anything does."""

    def __init__(self, shared: Shared[Any], watch: Watch) -> None:
        super().__init__(watch)
        self.shared = shared
        self._reader = Reader()
        self._head: Head | None = None
        self._receiver: Receiver | None = None
        self._chunks: Chunks | None = None
        self._left = 0
        """How many bytes of a body whose length was told are missing."""
        self._drain_left = 0
        self._started = False
        """Whether an answer has begun."""
        self._answered = False
        self._keep_alive = True
        self._backlog = b""
        """What was received and waits: the beginning of a head, or what follows a request that is in work."""
        self._holds = 0
        """How many things are waited for: nothing is handed on meanwhile."""
        self._pumping = False
        self._blank = False

    @abstractmethod
    def go_on(self) -> None:
        """Handle what was held back."""

    def accepted(self, receipt: str | None) -> None:
        """Answer 204."""
        if self._answered:
            return
        head, shared = self._head, self.shared
        answer = shared.accepted.whole(receipt)
        if head is None or not self._keep_alive or not head.minor or shared.stopping or not self._reader.complete:
            self._reply(answer[:-2], b"")
            return
        # the same in short
        self.transport.write(answer)
        self._answered = True
        self._receiver = self._head = None
        if self.phase != WRITE:
            self.phase = IDLE
            self.deadline = self.watch.idle_until
        if (self._backlog or self.eof) and not self._pumping:
            self.go_on()

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Answer, with Date and Content-Length besides `headers`."""
        if self._head is not None and not self._answered:
            length = None if status == NO_CONTENT else len(body)  # RFC 9110, section 8.6
            self._reply(http1_answer.head(status, headers, length), b"" if self._head.method == "HEAD" else body)

    def _reply(self, head: bytes, body: bytes) -> None:
        self.transport.write(head + self.head_end() + body)
        self.done()

    def head_end(self, *, close: bool = False) -> bytes:
        """Return the end of the head of an answer; `close`: it is to be the last one of the connection."""
        head = self._head
        if head is None:
            return b""
        # nobody waits for the rest of a body that was asked about first, or that is too long to be worth reading
        if not self._reader.complete and (head.expects or (head.length or 0) > self.shared.drain_limit):
            close = True
        if close or self.shared.stopping:
            self._keep_alive = False
        return http1_answer.end(head.minor, keep_alive=self._keep_alive)

    def start(self, data: bytes) -> None:
        """Begin an answer that is written in pieces."""
        self._started = True
        self.transport.write(data)
        if not self._reader.complete:
            self._drain()

    def done(self) -> None:
        """Take note that the answer is written; the connection goes on once the request is read, too."""
        if self._answered or self._head is None:
            return
        self._answered = True
        self._receiver = None
        if self._reader.complete:
            self._settle()
        elif self._head.expects or self._started:
            self.linger()
        else:
            self._drain()

    def keep_rest(self, most: int, taken: Callable[[bytes | None], None]) -> None:
        """Have `taken` told, once and maybe at once, what is still to come of the body of a request that is answered.

        It is told None where that is more than `most` bytes, or does not come, or cannot be kept.
        """
        if self._reader.complete:
            taken(b"")
        elif self.phase == DRAIN and self._left <= most:
            self._rest = Rest(self.shared.room, most, taken)
        else:
            taken(None)

    def _drain(self) -> None:
        self._drain_left = self.shared.drain_limit
        self.phase, self.deadline = DRAIN, self.watch.now + self.watch.limits.drain

    def _settle(self) -> None:
        """Go on with the next request, or close."""
        self._head = None
        if not self._keep_alive:
            if self._backlog or self._pumping:
                self.linger()  # what comes behind may be on its way
            else:
                self.close()
            return
        if self.phase != WRITE:
            self.phase, self.deadline = IDLE, self.watch.idle_until
        if not self._pumping and (self._backlog or self.eof):
            self.go_on()

    def in_work(self) -> bool:
        """Whether a request is read as a whole, and not answered."""
        return self._head is not None and self._reader.complete

    def abandon(self) -> None:
        """Let go of the request, and tell its receiver."""
        receiver, self._receiver = self._receiver, None
        rest, self._rest = self._rest, None
        self._head, self._backlog, self._answered = None, b"", True
        if receiver is not None:
            receiver.closed()
        if rest is not None:
            rest.closed()

    def rest(self) -> None:
        """Set `phase` and `deadline` to what the connection is at."""
        if self._head is None:
            self.phase, self.deadline = IDLE, self.watch.idle_until
        elif self._reader.complete:
            self.phase, self.deadline = WORK, NEVER
        elif self._started or self._answered:
            self._drain()
        else:
            self.expect_body()
