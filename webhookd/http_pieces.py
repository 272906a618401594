"""The body of one request while it comes, in pieces."""

from __future__ import annotations

import io


class Pieces:
    """Takes pieces, and gives them as one."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._buffer: io.BytesIO | None = None

    def add(self, piece: bytes) -> None:
        """Take the next one."""
        if self._buffer is None:
            # grown in place, and handed out without a copy: pieces to be joined would be in memory a second time
            self._buffer = io.BytesIO()
            self._buffer.write(self._first)
            self._first = b""
        self._buffer.write(piece)

    def whole(self) -> bytes:
        """Return all that has come."""
        return self._first if self._buffer is None else self._buffer.getvalue()
