"""What `webhookd check` asks the daemon's neighbours, all at once: each within a few seconds, and nothing stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from webhookd.cli.finding import Finding
from webhookd.errors import ConfigurationError
from webhookd.settings import Settings

PATIENCE = 5.0
"""How long, in seconds, a neighbour has."""


async def neighbours(settings: Settings) -> list[Finding]:
    """Ask every neighbour that the settings name, and return what came of it, in the order in which it is shown."""
    asked = await asyncio.gather(jwks(settings), sts(settings))
    return [finding for findings in asked for finding in findings]


async def sts(settings: Settings) -> list[Finding]:
    """Ask the STS about a token that nobody issued."""
    from webhookd.adapters.fetch import trust  # noqa: PLC0415 - see check
    from webhookd.adapters.sts import probe  # noqa: PLC0415

    if (url := settings.sts_url) is None:
        return []
    return [await _found("sts", lambda: probe(url, trust(settings.sts_cafile, "sts_cafile")))]


async def jwks(settings: Settings) -> list[Finding]:
    """Fetch the key set."""
    from webhookd.adapters.fetch import trust  # noqa: PLC0415 - see check
    from webhookd.adapters.jwks import probe  # noqa: PLC0415
    from webhookd.auth import published_algorithms  # noqa: PLC0415

    if (url := settings.jwks_url) is None:
        return []
    algorithms = settings.jwt_algorithms
    return [await _found("jwks", lambda: probe(url, trust(None, "jwks_url"), published_algorithms(algorithms)))]


async def _found(name: str, probe: Callable[[], Awaitable[str]]) -> Finding:
    try:
        async with asyncio.timeout(PATIENCE):
            return Finding(name, ok=True, detail=await probe())
    except ConfigurationError as error:
        return Finding(name, ok=False, detail=str(error))
    except TimeoutError:
        return Finding(name, ok=False, detail=f"no answer within {PATIENCE:g} s")
