"""Deliveries over Tornado's delegate interface, for any HTTP server that speaks it."""

from __future__ import annotations

from collections.abc import Callable

from tornado import httputil

from webhookd.http_delivery import DeliveryWork
from webhookd.http_intake import Answers, Intake
from webhookd.http_reply import Exchange

Work = Callable[[Answers, Intake, str, str], DeliveryWork]
"""What takes a request to a hook's URL (apiToken, token): the class itself, or what makes one that does more."""


class DeliveryExchange(Exchange):
    """One request to a hook's URL and its answer."""

    def __init__(
        self,
        connection: httputil.HTTPConnection,
        intake: Intake,
        api_token: str,
        token: str,
        work: Work = DeliveryWork,
    ) -> None:
        super().__init__(connection, drain_limit=intake.drain_limit)
        self._work = work(self, intake, api_token, token)

    def accepted(self, receipt: str | None) -> None:
        """Answer 204."""
        self.reply(204, {} if receipt is None else {"X-Webhookd-Receipt": receipt})

    def keep_rest(self, most: int, taken: Callable[[bytes | None], None]) -> None:
        """As Answers promise; nothing of what comes behind an answer is kept here."""
        del most
        taken(b"" if self._complete else None)

    def begin(self, start_line: httputil.RequestStartLine, headers: httputil.HTTPHeaders, length: int | None) -> None:
        """Decide all that can be decided before the body."""
        given = {name.lower(): ",".join(headers.get_list(name)) for name in headers}
        self._work.begin(start_line.method, given, length)

    def part(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self._work.part(chunk)

    def end(self) -> None:
        """Check the delivery and publish its message."""
        self._work.end()

    def closed(self) -> None:
        """Let go: the sender went away in the middle of the body."""
        self._work.closed()
