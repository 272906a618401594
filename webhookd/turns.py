"""One place, and tenants take turns at it: who asks for much waits behind who asks for little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Line:
    """One tenant's line: how many are in it, and whether its first one has gone on to where the tenants wait."""

    length: int = 0
    first: asyncio.Lock = field(default_factory=asyncio.Lock)


class Turns:
    """Who has the place and who waits for it; used on the event loop only. It is false while nobody does."""

    def __init__(self) -> None:
        self._place = asyncio.Lock()
        self._lines: dict[str, _Line] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """Have the place, once it is the turn of `tenant` and of who asks in its name, until the block ends."""
        line = self._lines.setdefault(tenant, _Line())
        line.length += 1
        try:
            async with line.first, self._place:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[tenant]
