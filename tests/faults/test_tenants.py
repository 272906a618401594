"""One tenant at its worst beside a quiet one, which is served as if it were alone."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
from faults.conftest import Begin
from faults.scenario import Scenario

pytestmark = pytest.mark.timeout(300)
FEW = {"senders": 2, "tenants": 1, "rate": 5.0}
"""The deliveries that account is kept of."""
SECONDS = 8.0
MIB = 1 << 20
TESTS = Path(__file__).parents[1]


class Flood:
    """Another tenant that posts to a hook of its own from a process of its own, for SECONDS."""

    def __init__(self, run: Scenario, tenant: str, connections: int, size: int, pause: float = 0.0) -> None:
        hook = run.daemon.hook(event="flood", tenant=tenant)
        command = [sys.executable, str(TESTS / "faults" / "flood.py")]
        command += [str(run.daemon.port), urlsplit(hook["hookUrl"]).path]
        command += [str(connections), str(size), str(SECONDS), str(pause)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TESTS)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            process.kill()

    def result(self) -> tuple[dict[str, int], float]:
        """Return how many were answered how, and the 99th percentile of the answers' seconds."""
        out, _ = self._process.communicate()
        assert self._process.returncode == 0
        told = json.loads(out)
        return told["fates"], statistics.quantiles(told["seconds"], n=100)[98]


def quiet(run: Scenario) -> Flood:
    """Have a tenant make 30 deliveries a second."""
    return Flood(run, "quiet", connections=6, size=2000, pause=0.2)


def beside(run: Scenario, connections: int, size: int) -> None:
    """Let the quiet tenant be alone for a while, then not; what its 99th percentile does is told, not judged."""
    with quiet(run) as alone:
        fates, p99_alone = alone.result()
        assert fates.keys() == {"204"}
    with run.fault(), Flood(run, "loud", connections, size) as loud, quiet(run) as along:
        fates, p99 = along.result()
        answered, _ = loud.result()
    run.live_again()
    remark = f"quiet p99 {p99_alone * 1000:.0f} ms alone, {p99 * 1000:.0f} ms beside; loud {answered}"
    run.end(remark, duplicates=True)
    assert fates.keys() == run.traffic.fates().keys() == {"204"}
    assert answered["204"] > 0


def test_one_at_a_hundred_times_the_rate(scenario: Begin) -> None:
    beside(scenario("tenants: one at 100 times another's rate", **FEW), connections=32, size=2000)


def test_one_with_the_largest_bodies(scenario: Begin) -> None:
    beside(scenario("tenants: one sends 25 MiB bodies", **FEW), connections=4, size=25 * MIB - 100)
