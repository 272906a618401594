"""Faults of all kinds one after the other, for as long as you like, without a pause to recover in between."""

import random
import time
from collections.abc import Callable

import pytest
from faults.conftest import Begin
from faults.scenario import Scenario

Strike = Callable[[Scenario, random.Random], None]


def broker_killed(run: Scenario, moments: random.Random) -> None:
    run.broker.kill()
    time.sleep(moments.uniform(0, 2))
    run.broker.start()


def broker_hangs(run: Scenario, moments: random.Random) -> None:
    run.broker.pause()
    time.sleep(moments.uniform(0.5, 8))
    run.broker.resume()


def alarm(run: Scenario, moments: random.Random) -> None:
    resource = moments.choice(["memory", "disk"])
    run.broker.alarm(resource, on=True)
    time.sleep(moments.uniform(0.2, 3))
    run.broker.alarm(resource, on=False)


def daemon_killed(run: Scenario, moments: random.Random) -> None:
    run.daemon.kill()
    run.daemon.start()


def daemon_stopped(run: Scenario, moments: random.Random) -> None:
    assert run.daemon.stop() == 0
    run.daemon.start()


def reset(run: Scenario, moments: random.Random) -> None:
    run.proxy.reset()


def cut(run: Scenario, moments: random.Random) -> None:
    run.proxy.cut_after(moments.randrange(1, 200_000))
    time.sleep(moments.uniform(0.5, 2))
    run.proxy.heal()


def ack_lost(run: Scenario, moments: random.Random) -> None:
    run.proxy.cut_at_answer()
    time.sleep(moments.uniform(0.2, 1))
    run.proxy.heal()


def network(run: Scenario, moments: random.Random) -> None:
    proxy = run.proxy
    faults: list[Callable[[], object]] = [
        proxy.blackhole,
        proxy.refuse,
        proxy.half_close,
        lambda: proxy.drop("up"),
        lambda: proxy.drop("down"),
        lambda: proxy.stall("down"),
        lambda: proxy.throttle(5000),
        lambda: proxy.delay(1),
    ]
    moments.choice(faults)()
    time.sleep(moments.uniform(0.5, 8))
    proxy.heal()


STRIKES: list[Strike] = [
    broker_killed,
    broker_hangs,
    alarm,
    daemon_killed,
    daemon_stopped,
    reset,
    cut,
    ack_lost,
    network,
]


@pytest.mark.timeout(7200)
def test_mixed(scenario: Begin, request: pytest.FixtureRequest, moments: random.Random) -> None:
    seconds: float = request.config.getoption("--mixed")
    run = scenario(f"mixed: {seconds:g} s of faults", proxied=True, very_large=0.003)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for strike in moments.sample(STRIKES, len(STRIKES)):
            if time.monotonic() < until:
                with run.fault():
                    strike(run, moments)
                time.sleep(moments.uniform(0, 3))
    run.live_again()
    run.end(duplicates=True)
