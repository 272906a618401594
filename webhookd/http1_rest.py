"""What comes of a body behind the answer: small enough, it is kept for whoever wants to look at it."""

from __future__ import annotations

from collections.abc import Callable

ROOM = 4 * 1024 * 1024
"""How many bytes of such bodies all connections of a server keep at a time: senders that are refused may be many."""


class Room:
    """How many bytes are left."""

    def __init__(self, left: int = ROOM) -> None:
        self.left = left


class Rest:
    """Tells `taken` once what has come, when the body has ended.

    It tells None where that is over `most` bytes, or more than there is `room` for, or was cut off.
    """

    def __init__(self, room: Room, most: int, taken: Callable[[bytes | None], None]) -> None:
        self._room = room
        self._most = most
        self._taken = taken
        self._parts: list[bytes] = []
        self._size = 0
        self._too_much = False

    def part(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._too_much:
            return
        if self._size + len(data) > self._most or len(data) > self._room.left:
            self._too_much = True
            self._let_go()
            return
        self._room.left -= len(data)
        self._size += len(data)
        self._parts.append(data)

    def end(self) -> None:
        """Take note that the body is complete."""
        whole = None if self._too_much else b"".join(self._parts)
        self._let_go()
        self._taken(whole)

    def closed(self) -> None:
        """Take note that nothing more comes."""
        self._let_go()
        self._taken(None)

    def _let_go(self) -> None:
        self._room.left += self._size
        self._size = 0
        self._parts.clear()
