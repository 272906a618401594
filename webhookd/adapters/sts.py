"""What an opaque bearer token is worth, as the STS says: asked once for each token, and not again for a while."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import structlog

from webhookd.adapters.fetch import Answer, Fetcher, Place, Unanswered
from webhookd.auth import Caller, tenant_of
from webhookd.errors import ConfigurationError, Forbidden, TokensUnavailable, Unauthenticated

CHECK_TOKEN = "/sts/oauth/check_token?token="  # noqa: S105 - a path
NO_TOKEN = "webhookd-check"  # noqa: S105 - it is none
TENANT = "tenantId"
MAX_ANSWER = 64 * 1024
"""The largest answer, in bytes, that is read."""
REFUSALS = (400, 401, 403)
"""What the STS answers about a token that is not good (RFC 6749, section 5.2, and RFC 6750, section 3.1)."""
_GOOD = range(200, 300)
KEEP_REFUSED = 5.0
"""How long, in seconds, an answer that a token is not good is kept."""
KEEP_AT_MOST = 10_000
"""How many answers of each kind are kept; what was not asked about for longest makes room."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the STS said about a token: whose it is, or how its caller is refused."""

    caller: Caller | None = None
    refusal: type[Unauthenticated | Forbidden] = Unauthenticated
    detail: str = ""

    def given(self) -> Caller:
        """Return the caller; raises the refusal, a new one each time."""
        if self.caller is None:
            raise self.refusal(self.detail)
        return self.caller


class Recent:
    """Verdicts of the last `seconds`, at most `most` of them, each under the digest of its token."""

    def __init__(self, seconds: float, most: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: bytes) -> Verdict | None:
        """Return the verdict that is kept; None where there is none, or it is too old."""
        until, verdict = self._kept.get(digest, (0.0, None))
        if verdict is None:
            return None
        if until <= self._clock():
            del self._kept[digest]
            return None
        self._kept.move_to_end(digest)
        return verdict

    def keep(self, digest: bytes, verdict: Verdict) -> None:
        """Keep the verdict, in place of the one least recently asked for where there is no room."""
        self._kept[digest] = (self._clock() + self._seconds, verdict)
        self._kept.move_to_end(digest)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


class Sts:
    """The `OpaqueTokens` of one STS.

    `keep` is how long good answers are kept, in seconds: as long a token may still be taken after it was revoked.
    Tokens are kept by their SHA-256 only. Callers with one token share one question, which goes on when one of them
    leaves. That the STS does not answer is not kept: the next caller asks again.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, keep: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.questions = {"good": 0, "refused": 0, "unanswered": 0}
        """How many questions were put to the STS, by what came of them."""
        self._fetcher = Fetcher(Place.of(url), tls, most=MAX_ANSWER)
        self._good = Recent(keep, KEEP_AT_MOST, clock)
        self._refused = Recent(KEEP_REFUSED, KEEP_AT_MOST, clock)
        self._asking: dict[bytes, asyncio.Task[Verdict | None]] = {}
        self._answers = True

    async def caller(self, token: str) -> Caller:
        """Return whose token this is; raises `Unauthenticated`, `Forbidden` or `TokensUnavailable`."""
        digest = hashlib.sha256(token.encode()).digest()
        verdict = self._good.get(digest) or self._refused.get(digest)
        if verdict is None:
            asking = self._asking.get(digest)
            if asking is None:
                asking = self._asking[digest] = asyncio.get_running_loop().create_task(self._ask(token, digest))
            verdict = await asyncio.shield(asking)
        if verdict is None:
            raise TokensUnavailable(
                "the STS that knows the bearer token does not answer; repeating the request is safe"
            )
        return verdict.given()

    async def close(self) -> None:
        """Ask no more."""
        for asking in list(self._asking.values()):
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

    async def _ask(self, token: str, digest: bytes) -> Verdict | None:
        """Return the verdict, and keep it; None where the STS does not answer."""
        url = self._fetcher.place.url
        try:
            verdict = _read(await self._fetcher.get(CHECK_TOKEN + quote(token, safe="")))
        except Unanswered as error:
            self.questions["unanswered"] += 1
            if self._answers:
                log.error("the STS does not answer", sts_url=url, reason=str(error))
            self._answers = False
            return None
        finally:
            del self._asking[digest]
        if not self._answers:
            log.info("the STS answers again", sts_url=url)
        self._answers = True
        good = verdict.caller is not None
        self.questions["good" if good else "refused"] += 1
        (self._good if good else self._refused).keep(digest, verdict)
        return verdict


def _read(answer: Answer) -> Verdict:
    """Return what an answer says; raises `Unanswered` for one that no STS gives.

    The Content-Type is not looked at: the JSON says what it is.
    """
    if answer.status in REFUSALS:
        return Verdict(detail="the bearer token is not valid: the STS does not know it, or no longer")
    if answer.status not in _GOOD:
        raise Unanswered(f"the answer has status {answer.status}")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise Unanswered("the answer is no JSON") from None
    if not isinstance(document, dict):
        raise Unanswered("the answer is no JSON object")
    try:
        return Verdict(tenant_of(document.get(TENANT)))
    except Forbidden as error:
        return Verdict(refusal=Forbidden, detail=error.detail)


async def probe(url: str, tls: ssl.SSLContext) -> str:
    """Ask the STS about a token that nobody issued, and say in a line that it answers as it should.

    Raises `ConfigurationError` that says why not: no answer, one that no STS gives, or a tenant for that token.
    """
    fetcher = Fetcher(Place.of(url), tls, most=MAX_ANSWER)
    where = fetcher.place.url
    try:
        verdict = _read(await fetcher.get(CHECK_TOKEN + NO_TOKEN))
    except Unanswered as error:
        raise ConfigurationError(f"sts_url: the STS at {where} does not answer: {error}") from None
    if verdict.refusal is not Unauthenticated or verdict.caller is not None:
        raise ConfigurationError(f"sts_url: the STS at {where} takes a token that nobody issued: is it the right URL?")
    return f"{where} refuses a token that nobody issued, as it should"
