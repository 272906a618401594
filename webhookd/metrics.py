"""Every metric, by name, in one place: plain counters on the hot path, put into Prometheus form when scraped."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from webhookd.model import OUTCOMES as RECORDED
from webhookd.version import __version__

OUTCOMES = ("confirmed", "spooled", "ignored", "refused")
"""What first came of a delivery. Answered 204 = confirmed + spooled + ignored."""
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the duration histogram, in seconds."""

Samples = Callable[[], Iterable[Metric]]


class Histogram:
    """A Prometheus histogram without labels whose `observe` costs a bisection and two additions."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Metric:
        """Return it in Prometheus form."""
        total, cumulated = 0, []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            cumulated.append((bound, float(total)))
        return HistogramMetricFamily(self._name, self._documentation, buckets=cumulated, sum_value=self._sum)


class DeliveryMetrics:
    """Counts deliveries where they are answered."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.refusals: Counter[str] = Counter()
        self.replays: dict[str, int] = dict.fromkeys(RECORDED, 0)
        self.received_bytes = 0
        self._durations = Histogram(
            "webhookd_delivery_duration_seconds", "From a delivery's header to its 204.", BUCKETS
        )

    def accepted(self, outcome: str, size: int, seconds: float) -> None:
        """Count a delivery answered 204: its outcome, body bytes and time from its header to its answer."""
        self.outcomes[outcome] += 1
        self.received_bytes += size
        self._durations.observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refused delivery by the reason of its `Rejected`."""
        self.outcomes["refused"] += 1
        self.refusals[reason] += 1

    def replayed(self, outcome: str) -> None:
        """Count a replay by what became of it: none is a delivery that was answered."""
        self.replays[outcome] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the counters in Prometheus form."""
        deliveries = CounterMetricFamily(
            "webhookd_deliveries", "Deliveries answered, by first outcome.", labels=["outcome"]
        )
        for outcome, count in self.outcomes.items():
            deliveries.add_metric([outcome], count)
        yield deliveries
        refusals = CounterMetricFamily("webhookd_refusals", "Deliveries refused, by reason.", labels=["reason"])
        for reason, count in sorted(self.refusals.items()):
            refusals.add_metric([reason], count)
        yield refusals
        replays = CounterMetricFamily("webhookd_replays", "Deliveries replayed, by outcome.", labels=["outcome"])
        for outcome, count in self.replays.items():
            replays.add_metric([outcome], count)
        yield replays
        yield CounterMetricFamily(
            "webhookd_accepted_body_bytes", "Bytes of the bodies of accepted deliveries.", value=self.received_bytes
        )
        yield self._durations.collect()


def gauge(name: str, documentation: str, value: float) -> Metric:
    """Return one gauge without labels."""
    return GaugeMetricFamily(name, documentation, value=value)


def gauges(name: str, documentation: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a gauge with one label."""
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for text, value in values:
        family.add_metric([text], value)
    return family


class _Collector:
    """What prometheus_client asks at each scrape."""

    def __init__(self, sources: Iterable[Samples]) -> None:
        self._sources = list(sources)

    def collect(self) -> Iterator[Metric]:
        for source in self._sources:
            yield from source()

    def describe(self) -> Iterable[Any]:
        return ()  # asked at registration: nothing is known to be there before the first scrape


class Exposition:
    """The text of /metrics, of the given sources and of this process."""

    def __init__(self, *sources: Samples) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(_Collector([*sources, _build]))
        self._registry = registry

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _build() -> Iterator[Metric]:
    yield gauges("webhookd_build_info", "The version that runs.", "version", [(__version__, 1)])
