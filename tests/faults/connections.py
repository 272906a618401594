"""What the fault proxy knows of its connections: what becomes of each direction's bytes, and how both sides are reset."""

import asyncio
import contextlib
import math
import socket
import struct
from dataclasses import dataclass, field

ON_CLOSE_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: the close is a RST."""


@dataclass
class Way:
    """What becomes of the bytes of one direction, and how many there were."""

    delay: float = 0.0
    rate: float = math.inf
    dropping: bool = False
    budget: int | None = None
    """How many bytes still pass before the connections are cut."""
    cut_at: int | None = None
    """The first chunk larger than this is lost, and the connections are cut."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Set unless nothing is read: what is sent then waits, as before a network that loses everything."""
    passed: int = 0
    dropped: int = 0

    def heal(self) -> None:
        self.delay, self.rate, self.dropping, self.budget, self.cut_at = 0.0, math.inf, False, None, None
        self.open.set()


class Pair:
    """One connection of a client with the connection to the server that stands for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.broken = False
        """Whether bytes have been lost in it, or one side was told of an end: it can never be whole again."""

    def cut(self) -> None:
        """Reset both sides."""
        self.broken = True
        for writer in (self.client, self.server):
            connection = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ON_CLOSE_RESET)
            writer.transport.abort()
