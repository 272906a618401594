"""What bearer tokens are checked with, opened as the settings say: keys from files, keys from a URL, and the STS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, Metric

from webhookd.adapters.fetch import trust
from webhookd.adapters.jwks import Jwks
from webhookd.adapters.sts import Sts
from webhookd.auth import Bearer, published_algorithms
from webhookd.keys import json_web_tokens
from webhookd.metrics import gauge
from webhookd.settings import Settings


@dataclass(frozen=True, slots=True)
class TokenChecks:
    """Who is asked about bearer tokens, and how those who are asked do."""

    bearer: Bearer
    jwks: Jwks | None
    sts: Sts | None

    @classmethod
    def open(cls, settings: Settings, stack: AsyncExitStack) -> TokenChecks:
        """Read the key files; wait for nobody else. What it opens, `stack` closes.

        Raises `ConfigurationError` for a file that does not hold what it should.
        """
        jwks = sts = None
        if settings.jwks_url is not None:
            algorithms = published_algorithms(settings.jwt_algorithms)
            jwks = Jwks(settings.jwks_url, trust(None, "jwks_url"), algorithms)
            stack.push_async_callback(jwks.close)
        if settings.sts_url is not None:
            sts = Sts(settings.sts_url, trust(settings.sts_cafile, "sts_cafile"), settings.sts_cache)
            stack.push_async_callback(sts.close)
        tokens = json_web_tokens(settings, jwks)
        return cls(Bearer(tokens if tokens.keys or jwks else None, sts), jwks, sts)

    def keys_missing(self) -> bool:
        """Say whether keys are published somewhere and were never seen."""
        return self.jwks is not None and not self.jwks.loaded

    def collect(self) -> Iterator[Metric]:
        """Yield the counters in Prometheus form."""
        questions = CounterMetricFamily("webhookd_sts_questions", "Questions to the STS, by result.", labels=["result"])
        for result, count in self.sts.questions.items() if self.sts else ():
            questions.add_metric([result], count)
        yield questions
        fetches = CounterMetricFamily("webhookd_jwks_fetches", "Fetches of the key set, by result.", labels=["result"])
        for result, count in self.jwks.fetches.items() if self.jwks else ():
            fetches.add_metric([result], count)
        yield fetches
        keys = len(self.jwks.keys) if self.jwks else 0
        yield gauge("webhookd_jwks_keys", "Keys of the key set that bearer tokens may be signed with.", keys)
