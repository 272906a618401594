"""How much of the spool's write-ahead log is in use, measured in the log itself: SQLite tells only whom it may call.

Layout of the file: https://www.sqlite.org/walformat.html, sections 1.1 and 1.2.
"""

from __future__ import annotations

import os
from pathlib import Path

from webhookd.adapters.spool_disk import allocate, file_size
from webhookd.adapters.spool_layout import FRAME, WAL_HEADER, Sizes

SALTS_OF_LOG = 16
"""Where the log's header has its two salts, which are others each time that the log begins anew."""
SALTS_OF_FRAME = 8
"""Where a frame's header repeats them."""
SALTS = 8


class Wal:
    """The log of the one connection that writes; frames are counted that are not in the database yet.

    It is kept open: counting needs no new descriptor, and the file that it is can be told from another of its name.
    """

    def __init__(self, database: Path, sizes: Sizes) -> None:
        self.path = database.with_name(f"{database.name}-wal")
        self.frames = 0
        """Of what was committed, as of the last `measure`."""
        self._sizes = sizes
        self._descriptor = -1
        self._salts = b""
        self._written_back = b""

    def open(self) -> None:
        """Open the log, which is there; raises OSError."""
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def used(self) -> int:
        """Bytes of the log that hold what is not written back."""
        return self.frames * FRAME

    @property
    def room(self) -> int:
        """Pages that may be written before the log is larger than it may be."""
        return self._sizes.wal_frames - self.frames

    @property
    def inode(self) -> int:
        """What tells the file from others."""
        return os.fstat(self._descriptor).st_ino

    def begin_anew(self) -> None:
        """Note that all of it is written back: the next commit starts at its beginning, with other salts."""
        self.frames = 0
        self._written_back = self._salts

    def measure(self) -> None:
        """Count the frames behind a commit; raises OSError where the log cannot be read.

        Those of the log as it is now come first, and only they have its salts.
        """
        salts = os.pread(self._descriptor, SALTS, SALTS_OF_LOG)
        if salts == self._written_back or not any(salts):
            return  # nothing was written since, or ever
        low = self.frames if salts == self._salts else 0
        high = max(low, (os.fstat(self._descriptor).st_size - WAL_HEADER) // FRAME)
        while low < high:
            middle = (low + high) // 2
            if os.pread(self._descriptor, SALTS, WAL_HEADER + middle * FRAME + SALTS_OF_FRAME) == salts:
                low = middle + 1
            else:
                high = middle
        self._salts, self.frames = salts, low

    def allocate(self) -> bool:
        """Take the room of the largest log, so that no commit needs any; False where the disk has none."""
        return self.size() >= self._sizes.wal_max or allocate(self.path, self._sizes.wal_max)

    def size(self) -> int:
        """Return the bytes on disk."""
        return file_size(self.path)
