"""What became of each message that was sent on one channel in confirm mode: every answer is told exactly once."""

from __future__ import annotations

import re
import struct

from pamqp import commands
from pamqp.header import ContentHeader

from webhookd.adapters.amqp_fault import PRECONDITION_FAILED
from webhookd.adapters.amqp_frames import (
    BASIC_ACK,
    BASIC_NACK,
    BASIC_RETURN,
    BODY,
    HEADER,
    METHOD,
    OVERHEAD,
    FrameError,
    parse,
)
from webhookd.errors import Nacked, OutcomeUnknown, Unacceptable, Unpublished, Unroutable
from webhookd.ports import Answer

TOO_LARGE = re.compile(r"message size (\d+) is larger than .*?max size (\d+)")
"""How RabbitMQ says that a message is over its `max_message_size`."""

Sent = tuple[Answer, str, str, int]
"""The answer to a message in flight, its receipt, its routing key, and the bytes of its body."""

_answer = struct.Struct(">QB").unpack_from
_ANSWER_BYTES = OVERHEAD + 4 + 9


class Confirms:
    """The messages in flight on one channel, by delivery tag. Does no I/O: it is told what was sent and received."""

    def __init__(self) -> None:
        self._sent: dict[int, Sent] = {}
        self._returned: set[int] = set()
        """The tags whose messages came back: their answers are told, their confirms are still to come."""
        self._first = 1
        """All tags below are answered; some of those above may be."""
        self._last = 0
        self._return: commands.Basic.Return | None = None
        """The message that comes back, while its content is arriving."""
        self._receipt: str | None = None
        self._missing = 0
        self.confirmed = 0
        """How many messages the broker has confirmed."""

    @property
    def in_flight(self) -> int:
        """How many messages the broker has still to answer for."""
        return len(self._sent) + len(self._returned)

    def sent(self, answer: Answer, receipt: str, routing_key: str, size: int) -> None:
        """Take note of a message: the next delivery tag is its own."""
        self._last += 1
        self._sent[self._last] = (answer, receipt, routing_key, size)

    def received(self, frame: bytes) -> bool:
        """Settle what a frame of this channel answers; return whether it was for us.

        Raises FrameError for what a broker may not send.
        """
        method = frame[7:11] if frame[0] == METHOD else b""
        if self._return is not None:
            self._content(self._return, frame)
        elif method in (BASIC_ACK, BASIC_NACK):
            self._answer(frame, None if method == BASIC_ACK else "basic.nack")
        elif method == BASIC_RETURN:
            self._return = parse(frame, commands.Basic.Return)
            self._receipt = None
        elif not method:
            raise FrameError("content that belongs to nothing")
        else:
            return False
        return True

    def lost(self, reason: str) -> None:
        """Settle all that is in flight: nobody will answer for it."""
        sent, self._sent = self._sent, {}
        self._returned.clear()
        for answer, *_ in sent.values():
            _fail(answer, OutcomeUnknown(reason))

    def closed(self, code: int, text: str) -> None:
        """Settle all that is in flight on a channel that the broker closed: at most one message is to blame."""
        too_large = TOO_LARGE.search(text) if code == PRECONDITION_FAILED else None
        if too_large:
            size, limit = map(int, too_large.groups())
            guilty = next((answer for answer, _, _, held in self._sent.values() if held == size), None)
            if guilty is not None:
                _fail(guilty, Unacceptable(f"the broker takes no message over {limit} bytes", limit + 1))
        elif code == PRECONDITION_FAILED and len(self._sent) == 1:
            ((guilty, *_),) = self._sent.values()
            _fail(guilty, Unacceptable(f"the broker refuses the message: {text}"))
        self.lost(f"the broker closed the channel: {code} {text}")

    def _answer(self, frame: bytes, refusal: str | None) -> None:
        if len(frame) != _ANSWER_BYTES:
            raise FrameError("a confirm of the wrong length")
        tag, bits = _answer(frame, 11)
        if bits & 1:
            self._answer_up_to(tag, refusal)
        elif (sent := self._sent.pop(tag, None)) is not None:
            self._settle(sent[0], refusal)
        elif tag in self._returned:
            self._returned.discard(tag)
        else:
            raise FrameError(f"a confirm of the delivery tag {tag}, which is not in flight")
        while self._first <= self._last and self._first not in self._sent and self._first not in self._returned:
            self._first += 1

    def _answer_up_to(self, tag: int, refusal: str | None) -> None:
        """Settle all tags up to `tag`; 0 stands for all (AMQP 0-9-1, basic.ack)."""
        if tag and tag not in self._sent and tag not in self._returned:
            raise FrameError(f"a confirm up to the delivery tag {tag}, which is not in flight")
        after = (tag or self._last) + 1
        pop, settle = self._sent.pop, self._settle
        for number in range(self._first, after):
            if (sent := pop(number, None)) is not None:
                settle(sent[0], refusal)
            else:
                self._returned.discard(number)
        self._first = after

    def _settle(self, answer: Answer, refusal: str | None) -> None:
        if refusal is None:
            self.confirmed += 1
            if not answer.done():
                answer.set_result("confirmed")
        else:
            _fail(answer, Nacked(f"the broker could not take charge of the message ({refusal})"))

    def _content(self, returned: commands.Basic.Return, frame: bytes) -> None:
        """Read on in the message that comes back: its content header, then its body, which nobody needs."""
        if frame[0] == HEADER and self._receipt is None:
            header = parse(frame, ContentHeader)
            self._receipt = header.properties.message_id or ""
            self._missing = header.body_size
        elif frame[0] == BODY and self._receipt is not None:
            self._missing -= len(frame) - OVERHEAD
        else:
            raise FrameError("something else than the content of a message that comes back")
        if self._missing <= 0:
            self._came_back(returned, self._receipt)
            self._return = self._receipt = None

    def _came_back(self, returned: commands.Basic.Return, receipt: str) -> None:
        """Settle the oldest message that it can be: they come back in the order in which they were published.

        Whether it was this one or a later one with the same receipt and routing key makes no difference: they are one
        message.
        """
        wanted = (receipt, returned.routing_key)
        tag = next((tag for tag, (_, *held, _) in self._sent.items() if tuple(held) == wanted), None)
        if tag is None:
            raise FrameError("a message comes back that is not in flight")
        answer, *_ = self._sent.pop(tag)
        self._returned.add(tag)
        _fail(answer, Unroutable(f"no queue takes the message: {returned.reply_code} {returned.reply_text}"))


def _fail(answer: Answer, error: Unpublished) -> None:
    if not answer.done():
        answer.set_exception(error)
