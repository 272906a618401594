"""Which hooks have messages in the spool, or on their way into it: those of them that come now go behind."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto


class Place(Enum):
    """Where the drain has a line."""

    NOWHERE = auto()
    """None of its messages is known to be on disk yet."""
    READY = auto()
    STALLED = auto()
    DRAINING = auto()


class Line:
    """The messages of one hook that are to be published from the spool, and how the drain stands with them.

    `left` is how many there are, on their way into the spool or in flight to the broker included. It is exact while
    `counted`; otherwise only reading to the end tells.
    """

    __slots__ = (
        "after", "counted", "delay", "fault", "handed", "hold_after", "hook", "large", "left", "pending", "place",
        "rewind", "window",
    )  # fmt: skip

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.left = 0
        self.counted = True
        self.handed = 0
        """How many messages were handed to the spool so far."""
        self.pending = 0
        """How many of them are not on disk yet."""
        self.after = 0
        """The drain has read the spool up to this place."""
        self.rewind = False
        """Messages may have come to be waiting before `after`."""
        self.window = 1
        """How many messages may be in flight at a time."""
        self.delay = 0.0
        """Seconds of the last back-off."""
        self.large = False
        """The next message is too large for the link that drains."""
        self.hold_after = 0.0
        """No delivery is to be held for what is before it until then (`time.monotonic()`)."""
        self.place = Place.NOWHERE
        self.fault: type[Exception] | None = None
        """What stands against publishing the oldest message, None where nothing does."""


class Lines(dict[str, Line]):
    """The lines by hook. A hook that is not in it is live. `emptied` is called with each line that leaves."""

    def __init__(self, emptied: Callable[[Line], None]) -> None:
        super().__init__()
        self._emptied = emptied

    def hand(self, hook: str) -> Line:
        """Count a message that is being handed to the spool."""
        line = self.get(hook)
        if line is None:
            line = self[hook] = Line(hook)
        line.left += 1
        line.handed += 1
        line.pending += 1
        return line

    def found(self, hook: str) -> Line:
        """Return the line of a hook that has messages in the spool: how many is not known."""
        line = self.get(hook)
        if line is None:
            line = self[hook] = Line(hook)
        line.counted = False
        line.rewind = True
        return line

    def stored(self, line: Line, *, taken: bool) -> None:
        """Note that the spool has answered for a message that was handed to it, and whether it has taken it."""
        line.pending -= 1
        if not taken:
            self.gone(line)

    def gone(self, line: Line) -> None:
        """Count a message no more: the broker has it, or nobody will ever publish it."""
        line.left = max(0, line.left - 1)
        self.leave_if_empty(line)

    def exhausted(self, line: Line, left: int) -> None:
        """Note that the spool was read to its end: only `left` messages are there still."""
        line.left = left
        line.counted = True
        self.leave_if_empty(line)

    def leave_if_empty(self, line: Line) -> None:
        """Let the hook be live again once its last message is gone."""
        if line.left == 0 and line.counted and self.get(line.hook) is line:
            del self[line.hook]
            self._emptied(line)
