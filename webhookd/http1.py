"""One HTTP/1.1 connection (RFC 9112) of a server, read by llhttp: one request at a time, answered in their order."""

from __future__ import annotations

from collections.abc import Mapping

from webhookd import http1_answer
from webhookd.http1_chunks import Chunks
from webhookd.http1_head import MAX_HEAD, Head, Reader, Refused, check_incomplete
from webhookd.http1_limits import DRAIN, HEAD, IDLE, LINGER, NEVER, WORK, WRITE, Watch
from webhookd.http1_shared import Receiver, Shared
from webhookd.http1_wire import Wire

HEAD_END = b"\r\n\r\n"
NO_CONTENT = 204


class Connection(Wire):
    """Reads requests and hands each to its receiver; answers with `accepted` or `reply`, or piece by piece."""

    def __init__(self, shared: Shared[Connection], watch: Watch) -> None:
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

    # --- reading --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what was received."""
        if self.phase == LINGER:
            return
        if self._backlog:
            data = self._backlog + data
            self._backlog = b""
        self._pump(data)

    def _pump(self, data: bytes) -> None:
        """Handle as much of `data` as can be now, and keep the rest."""
        self._pumping = True
        try:
            while data and self.phase != LINGER:
                if self._head is None and not self._holds:
                    data = self._take_head(data)
                elif self._holds or self._reader.complete:
                    self._backlog = data
                    self.transport.pause_reading()
                    break
                else:
                    data = self._take_body(data)
        except Refused as error:
            self._refuse(error.status)
        except Exception as error:  # noqa: BLE001 - the outermost edge: one connection's bug is none of the others'
            self.fail(error)
        self._pumping = False

    def _go_on(self) -> None:
        """Handle what was held back."""
        if self._holds or self._pumping or self.phase == LINGER:
            return
        self.transport.resume_reading()
        data, self._backlog = self._backlog, b""
        if data:
            self._pump(data)
        if self.eof and self._head is None:
            self.close()

    def _take_head(self, data: bytes) -> bytes:
        """Read a head, if it is there as a whole; return what comes behind it."""
        if not self._blank and data.startswith(b"\r\n"):  # RFC 9112, section 2.2: an empty line before a request
            self._blank = True
            return data[2:]
        end = data.find(HEAD_END, 0, MAX_HEAD)
        if end < 0:
            check_incomplete(data)
            self._backlog = data
            if self.phase == IDLE:
                self.phase, self.deadline = HEAD, self.watch.now + self.watch.limits.head
            return b""
        end += len(HEAD_END)
        self._begin(self._reader.head(data[:end]))
        return data[end:]

    def _begin(self, head: Head) -> None:
        """Hand a request to its receiver."""
        self._head = head
        self._blank = self._started = self._answered = False
        self._keep_alive = head.keep_alive
        self.phase, self.deadline = WORK, NEVER
        length = head.length
        self._chunks = Chunks() if length is None else None
        self._left = length or 0
        shared = self.shared
        receiver = shared.take(self, head) or shared.delegate(self, head)
        if self._answered:
            return
        self._receiver = receiver
        if self._reader.complete:
            receiver.end()
        elif not self._started:
            self.expect_body()
            if head.expects:
                self.transport.write(http1_answer.CONTINUE)
                head.expects = False

    def _take_body(self, data: bytes) -> bytes:
        """Read what of `data` belongs to the body, hand it on, and return what comes behind it."""
        chunks, reader = self._chunks, self._reader
        size = min(self._left, len(data)) if chunks is None else chunks.take(data)
        self._left -= size
        fault: Refused | None = None
        try:
            reader.body(data if size == len(data) else data[:size])
        except Refused as error:
            fault = error
        if chunks is not None and fault is None and (chunks.fault or chunks.complete != reader.complete):
            fault = Refused(400)
        if reader.parts:
            self._hand_on(reader.parts)
        if fault is not None:
            raise fault
        if reader.complete:
            self._ended()
        return data[size:]

    def _hand_on(self, parts: list[bytes]) -> None:
        part = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.received += len(part)
        if self._receiver is not None:
            self._receiver.part(part)
            return
        self._drain_left -= len(part)
        if self._drain_left < 0:
            self.linger()

    def _ended(self) -> None:
        if self._head is None:
            return  # the connection is at its end
        if self._answered:
            self._settle()
        elif self._receiver is not None:
            self.phase, self.deadline = WORK, NEVER
            self._receiver.end()

    # --- answering ------------------------------------------------------------------------------------------------

    def accepted(self, receipt: str | None) -> None:
        """Answer 204."""
        if not self._answered:
            self._reply(self.shared.accepted.head(receipt), b"")

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
            self._go_on()

    # --- at the end -----------------------------------------------------------------------------------------------

    def _refuse(self, status: int) -> None:
        """Answer what the parser refuses, if there is no answer yet, and close."""
        if self.phase == LINGER:
            return
        if self._head is None or not (self._started or self._answered):
            self.transport.write(http1_answer.bare(status))
        self.linger()

    def too_slow(self) -> None:
        """Refuse a head or a body that takes too long."""
        self._refuse(408)

    def broken(self) -> None:
        """Answer what is a bug of ours, if there is no answer yet, and close."""
        self._refuse(500)

    def in_work(self) -> bool:
        """Whether a request is read as a whole, and not answered."""
        return self._head is not None and self._reader.complete

    def abandon(self) -> None:
        """Let go of the request, and tell its receiver."""
        receiver, self._receiver = self._receiver, None
        self._head, self._backlog, self._answered = None, b"", True
        if receiver is not None:
            receiver.closed()

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

    def hold(self) -> None:
        """Hand nothing on until as many calls of `release`."""
        self._holds += 1

    def release(self) -> None:
        """Go on."""
        self._holds -= 1
        self._go_on()
