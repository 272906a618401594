"""Remembers what the broker has refused for itself: which messages, and from which size on it takes none."""

from __future__ import annotations

import math

from webhookd.errors import Unacceptable
from webhookd.model import Message

REMEMBERED = 10_000
"""Messages of which a first refusal is remembered; of the others one more is."""


class Refusals:
    """A message is to be set aside when it was refused twice, and untried when it is as large as one that was."""

    def __init__(self) -> None:
        self.limit: float = math.inf
        """The broker takes no body of so many bytes or more."""
        self._refused: dict[str, None] = {}

    def note(self, message: Message, error: Unacceptable) -> bool:
        """Note that the broker has refused a message; return whether it had done so before."""
        if message.receipt not in self._refused:
            self._refused[message.receipt] = None
            if len(self._refused) > REMEMBERED:
                del self._refused[next(iter(self._refused))]
            return False
        if error.limit is not None:
            self.limit = min(self.limit, error.limit)
        return True

    def forget_limit(self) -> None:
        """Let large messages be tried again: the broker may have been told to take them."""
        self.limit = math.inf
