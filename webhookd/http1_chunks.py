"""Where a chunked body ends (RFC 9112, section 7.1), and how much of it may be anything but content."""

from __future__ import annotations

import re

MAX_LINE = 1024
"""The longest line with the size of a chunk and its extensions, or of a trailer field, in bytes."""
MAX_OVERHEAD = 16 * 1024
"""How many bytes of extensions, and of trailer fields, a body may have in all."""
FREE_CHUNKS = 10_000
"""So many chunks may be of any size; beyond, they must hold `LEAST_CHUNK` bytes on average."""
LEAST_CHUNK = 4

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[^\r\n\0]*)?\r\n")


class Chunks:
    """Follows the framing of one body, so that what comes behind it is left alone. llhttp reads the content.

    `fault`: what comes next is malformed, or more than is borne.
    """

    __slots__ = ("_chunks", "_content", "_left", "_line", "_overhead", "_trailer", "complete", "fault")

    def __init__(self) -> None:
        self.complete = False
        self.fault = False
        self._left = 0
        self._line = b""
        self._trailer = False
        self._overhead = 0
        self._chunks = 0
        self._content = 0

    def take(self, data: bytes) -> int:
        """Return how many bytes of `data` belong to the body and are well framed."""
        at = 0
        while at < len(data) and not self.complete:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at, at + MAX_LINE)
            line = data[at : end + 1] if end >= 0 else data[at : at + MAX_LINE]
            self._line += line
            self.fault = len(self._line) > MAX_LINE or (end < 0 and len(line) == MAX_LINE)
            if end >= 0 and not self.fault:
                self._take_line()
            if self.fault:
                break
            at += len(line)
        return at

    def _take_line(self) -> None:
        line, self._line = self._line, b""
        if self._trailer:
            self._overhead += len(line)
            self.complete = line == b"\r\n"
            self.fault = not line.endswith(b"\r\n") or self._overhead > MAX_OVERHEAD
            return
        size = _SIZE.fullmatch(line)
        if size is None:
            self.fault = True
            return
        self._overhead += len(size[2] or b"")
        length = int(size[1], 16)
        self._chunks += 1
        self._content += length
        self._trailer = not length
        self._left = length and length + 2
        spare = self._chunks - FREE_CHUNKS
        self.fault = self._overhead > MAX_OVERHEAD or spare * LEAST_CHUNK > self._content
