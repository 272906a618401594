"""One HTTP/1.1 connection (RFC 9112) of a server, read by llhttp: one request at a time, answered in their order."""

from __future__ import annotations

from webhookd import http1_answer
from webhookd.http1_answering import Answering
from webhookd.http1_chunks import Chunks
from webhookd.http1_head import MAX_HEAD, Head, Refused, check_incomplete
from webhookd.http1_limits import HEAD, IDLE, LINGER, NEVER, WORK
from webhookd.http1_shared import Claim

HEAD_END = b"\r\n\r\n"


class Connection(Answering):
    """Reads requests and hands each to its receiver; answers with `accepted` or `reply`, or piece by piece."""

    # --- reading --------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything."""
        super().connection_lost(exc)
        self._reader.let_go()

    def data_received(self, data: bytes) -> None:
        """Handle as much of what was received as can be now, and keep the rest."""
        if self.phase == LINGER:
            return
        if self._backlog:
            data = self._backlog + data
            self._backlog = b""
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

    def go_on(self) -> None:
        """Handle what was held back."""
        if self._holds or self._pumping or self.phase == LINGER:
            return
        self.transport.resume_reading()
        data, self._backlog = self._backlog, b""
        if data:
            self.data_received(data)
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
        head = self._reader.head(data[:end])
        claim = self.shared.claims[head.target]
        length = head.length
        if claim is None or length is None or length > len(data) - end or head.expects:
            self._begin(head, claim)
            return data[end:]
        stop = end + length
        self._take_whole(head, claim, data[end:stop])
        return data[stop:]

    def _take_whole(self, head: Head, claim: Claim, body: bytes) -> None:
        """Hand on a delivery that is there as a whole: what most of them are."""
        reader = self._reader
        if body:
            reader.body(body)
            reader.parts.clear()
        self._head = head
        self._blank = self._answered = self._started = False
        self._keep_alive = head.keep_alive
        self.phase = WORK
        self.deadline = NEVER
        receiver = self.shared.take(self, head, claim, body)
        if not self._answered:
            self._receiver = receiver

    def _begin(self, head: Head, claim: Claim | None) -> None:
        """Hand a request to its receiver."""
        self._head = head
        self._blank = self._started = self._answered = False
        self._keep_alive = head.keep_alive
        self.phase, self.deadline = WORK, NEVER
        length = head.length
        self._chunks = Chunks() if length is None else None
        self._left = length or 0
        shared = self.shared
        receiver = shared.delegate(self, head) if claim is None else shared.take(self, head, claim, None)
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
        if self._rest is not None:
            self._rest.part(part)
        self._drain_left -= len(part)
        if self._drain_left < 0:
            self.linger()

    def _ended(self) -> None:
        if self._head is None:
            return  # the connection is at its end
        if self._answered:
            rest, self._rest = self._rest, None
            if rest is not None:
                rest.end()
            self._settle()
        elif self._receiver is not None:
            self.phase, self.deadline = WORK, NEVER
            self._receiver.end()

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

    def hold(self) -> None:
        """Hand nothing on until as many calls of `release`."""
        self._holds += 1

    def release(self) -> None:
        """Go on."""
        self._holds -= 1
        self.go_on()
