"""One tenant at its worst beside a quiet one, which is served as if it were alone."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from faults.conftest import Begin
from faults.scenario import Scenario
from traffic import Delivery

pytestmark = pytest.mark.timeout(300)
QUIET = {"senders": 6, "tenants": 1, "rate": 5.0}
"""A tenant with 30 deliveries a second."""
SECONDS = 8.0
MIB = 1 << 20
TESTS = Path(__file__).parents[1]


@contextmanager
def flood(run: Scenario, connections: int, size: int) -> Iterator[dict[str, int]]:
    """Have another tenant post to a hook of its own; what it was answered is there afterwards."""
    hook = run.daemon.hook(event="flood", tenant="loud")
    command = [sys.executable, str(TESTS / "faults" / "flood.py"), str(run.daemon.port), urlsplit(hook["hookUrl"]).path]
    command += [str(connections), str(size), str(SECONDS)]
    answered: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TESTS)}) as process:
        yield answered
        out, _ = process.communicate()
    assert process.returncode == 0
    answered |= json.loads(out)


def p99(deliveries: list[Delivery]) -> float:
    return statistics.quantiles([one.seconds for one in deliveries], n=100)[98]


def beside(run: Scenario, connections: int, size: int) -> None:
    """Let the quiet tenant be alone for a while, then not; what its 99th percentile does is told, not judged."""
    began = time.monotonic()
    time.sleep(SECONDS)
    with run.fault(), flood(run, connections, size) as loud:
        middle = time.monotonic()
        time.sleep(SECONDS)
        ended = time.monotonic()
    alone = [one for one in run.traffic.deliveries if began <= one.began < middle]
    along = [one for one in run.traffic.deliveries if middle <= one.began < ended]
    run.live_again()
    remark = f"quiet p99 {p99(alone) * 1000:.0f} ms alone, {p99(along) * 1000:.0f} ms beside; loud {loud}"
    run.end(remark, duplicates=True)
    assert run.traffic.fates().keys() == {"204"}
    assert loud["204"] > 0


def test_one_at_a_hundred_times_the_rate(scenario: Begin) -> None:
    beside(scenario("tenants: one at 100 times another's rate", **QUIET), connections=32, size=2000)


def test_one_with_the_largest_bodies(scenario: Begin) -> None:
    beside(scenario("tenants: one sends 25 MiB bodies", **QUIET), connections=4, size=25 * MIB - 100)
