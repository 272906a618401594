"""Links without a broker, that answer as a test tells them to."""

import asyncio
from collections.abc import Callable

from webhookd.errors import NotSent, OutcomeUnknown
from webhookd.model import Message
from webhookd.ports import Answer, Link, LinkState


class ScriptedLink(Link):
    """A Link whose broker is the test: `waiting` is what it has to answer, oldest first.

    With `judge`, each message is answered at once (the next time the loop turns): by the exception that it returns, by
    a confirm where it returns None.
    """

    def __init__(self, judge: Callable[[Message], Exception | None] | None = None) -> None:
        self.judge = judge
        self.waiting: list[tuple[Message, Answer]] = []
        self.published: list[Message] = []
        """Everything that was sent, in order."""
        self.taken: list[Message] = []
        """Everything that was confirmed, in order."""
        self._state: LinkState = "up"
        self._changed: list[Callable[[], None]] = []

    @property
    def state(self) -> LinkState:
        return self._state

    @property
    def fault(self) -> str | None:
        return None if self._state == "up" else "scripted"

    def on_change(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    def send(self, message: Message, answer: Answer) -> None:
        if self._state != "up":
            asyncio.get_running_loop().call_soon(answer.set_exception, NotSent("the link is not up"))
            return
        self.published.append(message)
        self.waiting.append((message, answer))
        if self.judge is not None:
            asyncio.get_running_loop().call_soon(self.answer_all)

    async def close(self) -> None:
        self.become("down")

    def become(self, state: LinkState) -> None:
        """Change the state; what waits on a link that goes down is of unknown outcome."""
        if state == self._state:
            return
        self._state = state
        if state == "down":
            lost, self.waiting = self.waiting, []
            for _, future in lost:
                if not future.done():
                    future.set_exception(OutcomeUnknown("the connection was lost"))
        for changed in self._changed:
            changed()

    def answer(self, refusal: Exception | None = None, index: int = 0) -> Message:
        """Confirm, or refuse, one of the messages that wait; one that nobody waits for any more is consumed too."""
        message, future = self.waiting.pop(index)
        if refusal is None:
            self.taken.append(message)
        if not future.done():
            if refusal is None:
                future.set_result("confirmed")
            else:
                future.set_exception(refusal)
        return message

    def answer_all(self) -> None:
        """Answer everything that waits as `judge` says."""
        assert self.judge is not None
        while self.waiting and self._state == "up":
            self.answer(self.judge(self.waiting[0][0]))

    def play(self, judge: Callable[[Message], Exception | None] | None) -> None:
        """Answer like this from now on, and at once what waits."""
        self.judge = judge
        if judge is not None:
            self.answer_all()
