"""How the daemon is: readiness in words, gauges for /metrics, and a pulse that shows whether the event loop turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric

from webhookd.adapters.spool import Spool, State
from webhookd.adapters.spool_layout import PAGE, Sizes
from webhookd.hooks import HookTable
from webhookd.http_admin import Readiness
from webhookd.limits import Budget
from webhookd.metrics import Histogram, gauge, gauges
from webhookd.outlet import Outlet

FILLING = 0.8
"""From this part of its limit on the spool is called filling."""
PULSE = 0.25
"""Seconds between two beats of the pulse."""
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Pulse:
    """Beats on the event loop, and measures how late each beat comes."""

    def __init__(self, *on_beat: Callable[[], None]) -> None:
        self._on_beat = on_beat
        self._last = 0.0
        self._lags = Histogram(
            "webhookd_event_loop_lag_seconds", "How late the event loop was to what was due.", LAG_BUCKETS
        )

    def also(self, action: Callable[[], None]) -> None:
        """Have `action` called at each beat too."""
        self._on_beat = (*self._on_beat, action)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = time.perf_counter() + PULSE
            await asyncio.sleep(PULSE)
            self._last = max(0.0, time.perf_counter() - due)
            self._lags.observe(self._last)
            for action in self._on_beat:
                action()

    def collect(self) -> Iterator[Metric]:
        """Yield the lag, and what the loop has to do, in Prometheus form."""
        yield gauge("webhookd_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
        yield gauge("webhookd_event_loop_lag_last_seconds", "How late the last beat of the event loop was.", self._last)
        yield self._lags.collect()


@dataclass(slots=True)
class Vitals:
    """Looks at the parts of a running daemon."""

    table: HookTable
    budget: Budget
    spool: Spool
    outlet: Outlet
    stopping: Callable[[], bool]
    keys_missing: Callable[[], bool]
    store_fault: str | None = None
    """Why the hooks in memory no longer follow the store; None while they do."""

    def readiness(self) -> Readiness:
        """Say whether deliveries can be taken, and what is wrong."""
        return Readiness(tuple(self._unready()), tuple(self._degraded()))

    def _unready(self) -> Iterator[str]:
        if self.stopping():
            yield "stopping"
        if not self.table.loaded:
            yield "hooks never loaded"
        if self.outlet.state != "up":
            yield from self._closed_spool()

    def _closed_spool(self) -> Iterator[str]:
        stats = self.spool.stats
        if stats.failing is not None:
            yield f"spool failing: {stats.failing}"
        elif stats.full:
            yield "spool full"

    def _degraded(self) -> Iterator[str]:
        for state, words in (("down", "broker down"), ("blocked", "broker blocked")):
            if self.outlet.state == state:
                yield f"{words}: {self.outlet.fault}"
        if self.outlet.state == "up":
            yield from self._closed_spool()
        if self.store_fault is not None:
            yield f"store down: {self.store_fault}"
        if self.table.set_aside:
            yield f"set aside: {len(self.table.set_aside)} hooks"
        if self.keys_missing():
            yield "jwks: never loaded"
        yield from self._degraded_spool()

    def _degraded_spool(self) -> Iterator[str]:
        stats = self.spool.stats
        usable = Sizes.of(stats.max_bytes).pages_max * PAGE  # the rest is the WAL's
        if not stats.full and stats.used > FILLING * usable:
            yield f"spool filling: {stats.used} of {usable} bytes"
        if stats.damaged:
            yield f"spool damaged: {', '.join(stats.damaged)} put aside"
        for state, words in ((State.UNROUTABLE, "unroutable"), (State.SET_ASIDE, "set aside")):
            if stats.messages.get(state):
                yield f"{words}: {stats.messages[state]} messages"

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges in Prometheus form."""
        stats = self.spool.stats
        yield gauge("webhookd_hooks", "Hooks in memory.", len(self.table))
        yield gauge("webhookd_hooks_current", "1 while the hooks are known to be current.", float(self.table.current))
        yield gauge("webhookd_hooks_set_aside", "Hooks whose record cannot be read.", float(len(self.table.set_aside)))
        yield gauge("webhookd_tenants", "Tenants that have hooks.", self.table.tenants)
        yield gauge("webhookd_in_flight_deliveries", "Deliveries in work.", self.budget.deliveries)
        yield gauge("webhookd_in_flight_bytes", "Bytes of deliveries in work.", self.budget.bytes)
        counts = [(state.value, float(stats.messages.get(state, 0))) for state in State]
        yield gauges("webhookd_spool_messages", "Messages in the spool, by state.", "state", counts)
        yield gauge("webhookd_spool_bytes", "Size of the spool's database and log on disk.", stats.bytes)
        yield gauge("webhookd_spool_max_bytes", "What the spool may grow to.", stats.max_bytes)
        oldest = stats.oldest_received_at
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        yield gauge("webhookd_spool_oldest_age_seconds", "Age of the oldest message that waits for the broker.", age)
