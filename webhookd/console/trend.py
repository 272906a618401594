"""What the daemon's metrics were in each of the last ten minutes' seconds: the figures of /metrics, as they move."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from webhookd.metrics import Samples

KEPT = 600
"""How many seconds are remembered."""
EVERY = 1.0
"""Seconds between two looks at the metrics."""

Values = Mapping[str, float]
Second = Mapping[str, float | None]
DURATIONS = "webhookd_delivery_duration_seconds_bucket"

RATES = {
    "accepted": ("webhookd_deliveries_total|confirmed", "webhookd_deliveries_total|spooled"),
    "ignored": ("webhookd_deliveries_total|ignored",),
    "refused": ("webhookd_deliveries_total|refused",),
    "drained": ("webhookd_drained_total",),
}
"""What is shown as so many a second, and the counters that it is the sum of."""
LEVELS = {
    "inFlight": ("webhookd_in_flight_deliveries",),
    "lag": ("webhookd_event_loop_lag_last_seconds",),
    "hooks": ("webhookd_hooks",),
    "tenants": ("webhookd_tenants",),
    "waiting": ("webhookd_spool_messages|waiting", "webhookd_spool_messages|unroutable"),
    "kept": ("webhookd_spool_messages|kept",),
    "setAside": ("webhookd_spool_messages|set aside",),
    "spoolBytes": ("webhookd_spool_bytes",),
    "spoolMax": ("webhookd_spool_max_bytes",),
    "oldest": ("webhookd_spool_oldest_age_seconds",),
    "unconfirmed": ("webhookd_broker_waiting",),
    "brokerUp": ("webhookd_broker_up",),
    "current": ("webhookd_hooks_current",),
}
"""What is shown as it stands, and the gauges that it is the sum of."""
REFUSALS = "webhookd_refusals_total"


class Trend:
    """Looks at the metrics once a second, remembers, and tells whoever listens."""

    def __init__(self, *sources: Samples, now: Callable[[], float] = time.time) -> None:
        self._sources = sources
        self._now = now
        self._due = 0.0
        self._at = 0.0
        self._values: Values | None = None
        self._seconds: deque[Second] = deque(maxlen=KEPT)
        self._refused: deque[Counter[str]] = deque(maxlen=KEPT)
        self._refusals: list[tuple[str, int]] | None = None
        """What was made of them for whoever asked first since the last second."""
        self._listeners: list[Callable[[Second], None]] = []

    def beat(self) -> None:
        """Take a look, if it is time to; called often, on the event loop."""
        now = self._now()
        if now < self._due <= now + EVERY:
            return
        self._due = now + EVERY
        values = dict(_flat(self._sources))
        if self._values is not None:
            self._take(now, now - self._at, self._values, values)
        self._values, self._at = values, now

    def seconds(self) -> Sequence[Second]:
        """Return what is remembered, oldest first."""
        return list(self._seconds)

    def refusals(self) -> list[tuple[str, int]]:
        """Return how many deliveries were refused in what is remembered, by reason, most first."""
        if self._refusals is None:
            self._refusals = sum(self._refused, Counter[str]()).most_common()
        return self._refusals

    def listen(self, heard: Callable[[Second], None]) -> Callable[[], None]:
        """Have `heard` called with each second as it passes; returns what ends that."""
        self._listeners.append(heard)
        return lambda: self._listeners.remove(heard)

    def _take(self, now: float, passed: float, before: Values, after: Values) -> None:
        second: dict[str, float | None] = {"at": now}
        for name, counters in RATES.items():
            grown = sum(after.get(each, 0.0) - before.get(each, 0.0) for each in counters)
            second[name] = max(0.0, grown) / passed if passed > 0 else 0.0
        for name, gauges in LEVELS.items():
            second[name] = sum(after.get(each, 0.0) for each in gauges)
        grown_buckets = _grown(DURATIONS, before, after)
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            second[name] = quantile(part, grown_buckets)
        self._seconds.append(second)
        self._refused.append(Counter({word: round(count) for word, count in _grown(REFUSALS, before, after) if count}))
        self._refusals = None
        for heard in list(self._listeners):
            heard(second)


def quantile(part: float, buckets: Sequence[tuple[str, float]]) -> float | None:
    """Return below which value `part` of all lie, in a histogram's (upper bound, count so far) pairs; None if empty.

    Inside a bucket values are taken to be spread evenly, as Prometheus' histogram_quantile does.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    wanted, low, below = part * total, 0.0, 0.0
    for bound, count in buckets:
        high = float(bound)
        if count >= wanted:
            return low if math.isinf(high) else low + (high - low) * (wanted - below) / (count - below)
        low, below = high, count
    return low


def _grown(family: str, before: Values, after: Values) -> list[tuple[str, float]]:
    prefix = f"{family}|"
    names = [name for name in after if name.startswith(prefix)]
    return [(name.removeprefix(prefix), after[name] - before.get(name, 0.0)) for name in names]


def _flat(sources: Sequence[Samples]) -> Iterator[tuple[str, float]]:
    """Yield every sample by its name and the value of its label: no metric of the daemon's has more than one."""
    for source in sources:
        for family in source():
            for sample in family.samples:
                yield "|".join((sample.name, *sample.labels.values())), sample.value
