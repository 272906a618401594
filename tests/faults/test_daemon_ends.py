"""However the daemon ends beside a real broker, what it answered 204 is in the queue or in the spool."""

import random
import time

import pytest
from faults.conftest import Begin

pytestmark = pytest.mark.timeout(3600)


def few(kills: int) -> int:
    """Return how often to end the daemon: a restart beside a broker takes its time."""
    return max(3, kills // 10)


def test_killed(scenario: Begin, kills: int, moments: random.Random) -> None:
    run = scenario("daemon: kill -9", very_large=0.01, rate=0)
    for _ in range(few(kills)):
        run.traffic.wait_for("204", 20)
        time.sleep(moments.uniform(0, 0.2))
        with run.fault():
            run.daemon.kill()
            run.daemon.start()
    run.end(duplicates=True)


def test_stopped(scenario: Begin, kills: int, moments: random.Random) -> None:
    """Nothing is published twice: it waits for what is in flight, or leaves it in the spool."""
    run = scenario("daemon: SIGTERM", rate=0)
    for _ in range(few(kills)):
        run.traffic.wait_for("204", 20)
        time.sleep(moments.uniform(0, 0.2))
        with run.fault():
            assert run.daemon.stop() == 0
            run.daemon.start()
    run.end()


def test_killed_while_the_spool_drains(scenario: Begin, rounds: int, moments: random.Random) -> None:
    run = scenario("daemon: kill -9 while its spool drains", proxied=True, rate=0)
    for _ in range(4 * rounds):
        with run.fault():
            run.proxy.refuse()
            run.wait_for("spooled", 500)
            run.proxy.heal()
            time.sleep(moments.uniform(0, 3))
            run.daemon.kill()
            run.daemon.start()
        run.traffic.wait_for("204", 20)
    run.end(duplicates=True)


def test_killed_while_the_broker_is_away(scenario: Begin, rounds: int) -> None:
    """What the spool holds is published by the next daemon, before what came after it."""
    run = scenario("daemon: kill -9 without a broker", proxied=True)
    for _ in range(2 * rounds):
        with run.fault():
            run.proxy.refuse()
            run.wait_for("spooled", 100)
            run.daemon.kill()
            run.daemon.start()
            run.wait_for("spooled", 100)
            run.proxy.heal()
        run.live_again()
    run.end(duplicates=True)
