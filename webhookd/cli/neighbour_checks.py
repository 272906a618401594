"""What `webhookd check` asks the daemon's neighbours, all at once: each within a few seconds, and nothing stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from webhookd.cli.finding import Faulty, Finding
from webhookd.errors import ConfigurationError, StoreError
from webhookd.forms import etcd_url
from webhookd.settings import Settings

PATIENCE = 5.0
"""How long, in seconds, a neighbour has."""


async def neighbours(settings: Settings) -> tuple[list[Finding], list[Finding], list[Finding], list[Finding]]:
    """Return what came of asking the store, the broker, the issuer of keys and the STS; no such neighbour, nothing."""
    return await asyncio.gather(store(settings), broker(settings), jwks(settings), sts(settings))


async def store(settings: Settings) -> list[Finding]:
    """Look whether each etcd does for the hooks, and whether they are members of one cluster."""
    if settings.store.startswith("sqlite:"):
        return []
    from webhookd.adapters.etcd_probe import probe  # noqa: PLC0415 - see check
    from webhookd.neighbours import etcd_access  # noqa: PLC0415

    endpoints, prefix = etcd_url(settings.store)
    clusters: dict[int, str] = {}

    async def one(endpoint: str) -> str:
        hooks, cluster = await probe(endpoint, prefix, etcd_access(settings))
        clusters.setdefault(cluster, endpoint)
        first, *_ = clusters
        if cluster != first:
            raise Faulty(f"etcd at {endpoint} is of another cluster than {clusters[first]}: name members of one")
        return f"etcd at {endpoint}, hooks: {hooks}"

    return await asyncio.gather(*(_found("store", partial(one, endpoint)) for endpoint in endpoints))


async def broker(settings: Settings) -> list[Finding]:
    """Look at each broker: its exchange, whether this user may publish there, and whether it returns messages."""
    if settings.broker == "spool:":
        return []
    from webhookd.adapters.amqp_probe import probe  # noqa: PLC0415 - see check
    from webhookd.outlet import broker_access  # noqa: PLC0415

    try:
        return [Finding(*told) for told in await probe(broker_access(settings), settings.exchange)]
    except ConfigurationError as error:
        return [Finding("broker", ok=False, detail=str(error))]


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
    except (ConfigurationError, StoreError, Faulty) as error:
        return Finding(name, ok=False, detail=str(error))
    except TimeoutError:
        return Finding(name, ok=False, detail=f"no answer within {PATIENCE:g} s")
