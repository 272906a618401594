"""Without a broker for as long as you like, every delivery is taken in good time, and all is drained afterwards."""

import statistics
import time

import pytest
from faults.conftest import Begin
from faults.scenario import DRAIN_TIMEOUT

RATE = 500
SENDERS = 50


@pytest.mark.timeout(7200)
def test_outage(scenario: Begin, request: pytest.FixtureRequest) -> None:
    """How fast a machine's disk is decides about the 99th percentile: it is told, not held against it."""
    seconds: float = request.config.getoption("--outage")
    run = scenario(f"outage: {seconds:g} s at {RATE}/s", proxied=True, senders=SENDERS, rate=RATE / SENDERS, tenants=5)
    with run.fault():
        began = time.monotonic()
        run.proxy.refuse()
        time.sleep(seconds)
        ended = time.monotonic()
        run.proxy.heal()
    waiting = run.in_spool()
    run.live_again(DRAIN_TIMEOUT + seconds)
    drained = time.monotonic() - ended
    first = [one.seconds for one in run.traffic.deliveries if began <= one.began < began + 2]
    later = [one.seconds for one in run.traffic.deliveries if began + 2 <= one.began < ended]
    p99 = statistics.quantiles(later, n=100)[98]
    rate = len(later) / (ended - began - 2)
    remark = f"{rate:.0f}/s, p99 {p99 * 1000:.0f} ms after 2 s ({max(first):.2f} s at most before)"
    run.end(f"{remark}; {waiting} drained in {drained:.1f} s", duplicates=True)
    assert run.traffic.fates().keys() == {"204"}
    assert rate > RATE / 2
