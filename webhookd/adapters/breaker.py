"""Knows when a link to the broker has gone silent, so that only the first messages wait for it in vain."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)


class Breaker:
    """One link as its answers show it: `open` while it is silent, and nothing but a probe should wait for it.

    It opens when a message had no answer until its deadline, and no other had one since it was sent: that one queue
    takes long is no silence. Any answer closes it, a refusal too.
    """

    def __init__(self, name: str) -> None:
        self.open = False
        self.answers = 0
        """How many answers the link has given; whoever counts one closes an open breaker."""
        self._name = name

    def close(self) -> None:
        """Know that the link answers again."""
        log.info("broker answers again", link=self._name)
        self.open = False

    def missed(self, answers: int) -> bool:
        """Note a missed deadline of a message sent after that many `answers`; return whether the breaker opens."""
        if self.open or answers != self.answers:
            return False
        log.error("broker does not answer: deliveries go to the spool", link=self._name)
        self.open = True
        return True

    def reset(self) -> None:
        """Begin anew: the link has another connection."""
        self.open = False
