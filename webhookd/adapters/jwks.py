"""The keys that an issuer of tokens publishes at a URL, kept as new as they may be without asking often."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import structlog

from webhookd.adapters.fetch import Fetcher, Place, Unanswered
from webhookd.auth import Key
from webhookd.errors import ConfigurationError, TokensUnavailable
from webhookd.jwk import read_key_set

MAX_KEY_SET = 256 * 1024
"""The largest key set, in bytes, that is read."""
EVERY = 300.0
"""Seconds after which a key set is fetched again, whether somebody misses a key or not."""
APART = 30.0
"""Seconds between the beginnings of two fetches at the least, whoever asks for them."""
_OK = 200

log = structlog.get_logger(__name__)


class Jwks:
    """The `PublishedKeys` at one URL. Fetches them from the moment it is made, in the background.

    Keys stay valid until another set was read, however long the issuer is away; that set replaces the old one whole, so
    that a key which was withdrawn is gone. A fetch that failed is repeated after `apart` seconds, one that did not
    after `every`. Has to be made on the event loop.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        algorithms: tuple[str, ...],
        *,
        every: float = EVERY,
        apart: float = APART,
    ) -> None:
        self.algorithms = algorithms
        self.keys: tuple[Key, ...] = ()
        self.loaded = False
        self.fetches = {"ok": 0, "failed": 0}
        """How many fetches there were, by what came of them."""
        self._fetcher = Fetcher(Place.of(url), tls, most=MAX_KEY_SET)
        self._every = every
        self._apart = apart
        self._fault: str | None = None
        self._loop = asyncio.get_running_loop()
        self._begin()

    async def renew(self) -> None:
        """As `PublishedKeys` promises: waits for the fetch in work, or for a new one where `apart` allows it."""
        if self._fetching.done() and self._loop.time() >= self._begun + self._apart:
            self._begin()
        await asyncio.shield(self._fetching)
        if not self.loaded:
            raise TokensUnavailable("the keys of bearer tokens cannot be fetched now; repeating the request is safe")

    async def close(self) -> None:
        """Fetch no more."""
        self._fetching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._fetching
        self._next.cancel()

    def _begin(self) -> None:
        self._begun = self._loop.time()
        self._next = self._loop.call_later(self._every, self._begin)
        self._fetching = self._loop.create_task(self._fetch())

    async def _fetch(self) -> None:
        url = self._fetcher.place.url
        try:
            keys = await _key_set(self._fetcher, self.algorithms)
        except Unanswered as error:
            self.fetches["failed"] += 1
            self._next.cancel()
            self._next = self._loop.call_at(self._begun + self._apart, self._begin)
            if self._fault is None:
                log.error("the key set cannot be fetched", jwks_url=url, reason=str(error), keys_kept=len(self.keys))
            self._fault = str(error)
            return
        self.fetches["ok"] += 1
        if self._fault is not None or [key.kid for key in keys] != [key.kid for key in self.keys]:
            log.info("key set fetched", jwks_url=url, keys=len(keys))
        if not keys:
            log.warning("the key set holds no key that bearer tokens may be signed with", jwks_url=url)
        self.keys, self.loaded, self._fault = keys, True, None


async def probe(url: str, tls: ssl.SSLContext, algorithms: tuple[str, ...]) -> str:
    """Fetch the key set once and say in a line how many keys it holds; raises `ConfigurationError` where it holds none.

    `algorithms` are those of `published_algorithms`. Where it cannot be fetched, the error says why.
    """
    fetcher = Fetcher(Place.of(url), tls, most=MAX_KEY_SET)
    where = fetcher.place.url
    try:
        keys = await _key_set(fetcher, algorithms)
    except Unanswered as error:
        raise ConfigurationError(f"jwks_url: {where} gives no key set: {error}") from None
    if not keys:
        raise ConfigurationError(f"jwks_url: the key set of {where} holds no key for {', '.join(algorithms)}")
    return f"{where}, keys: {len(keys)}"


async def _key_set(fetcher: Fetcher, algorithms: tuple[str, ...]) -> tuple[Key, ...]:
    answer = await fetcher.get()
    if answer.status != _OK:
        raise Unanswered(f"the answer has status {answer.status}")
    try:
        return await asyncio.to_thread(read_key_set, answer.body, algorithms)
    except ValueError as error:
        raise Unanswered(str(error)) from None
