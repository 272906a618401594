"""Whatever the network does between the daemon and its broker, nothing is lost and no answer is late."""

import random
from collections.abc import Callable

import pytest
from faults.conftest import Begin
from faults.proxy import Proxy
from harness import until

pytestmark = pytest.mark.timeout(900)

LASTING: dict[str, Callable[[Proxy], object]] = {
    "2 s of delay": lambda proxy: proxy.delay(2),
    "throttled to 2 kB/s": lambda proxy: proxy.throttle(2000),
    "black hole": lambda proxy: proxy.blackhole(),
    "half-closed": lambda proxy: proxy.half_close(),
    "refused": lambda proxy: proxy.refuse(),
    "what is sent is dropped": lambda proxy: proxy.drop("up"),
    "what comes back is dropped": lambda proxy: proxy.drop("down"),
    "what is sent is stalled": lambda proxy: proxy.stall("up"),
    "what comes back is stalled": lambda proxy: proxy.stall("down"),
}
"""Faults that go on until the proxy is healed, and have deliveries go to the spool."""


@pytest.mark.parametrize("kind", LASTING)
def test_lasting_fault(scenario: Begin, rounds: int, kind: str) -> None:
    run = scenario(f"network: {kind}", proxied=True)
    for _ in range(rounds):
        with run.fault():
            LASTING[kind](run.proxy)
            run.wait_for("spooled", 200)
            run.proxy.heal()
        run.live_again()
        until(lambda: run.reasons() == "ok")
    run.end(duplicates=True)


def test_slow_network(scenario: Begin, rounds: int) -> None:
    """200 ms each way are no fault: the broker's confirms come in time."""
    run = scenario("network: 200 ms of delay", proxied=True)
    for _ in range(rounds):
        with run.fault():
            run.proxy.delay(0.2)
            run.wait_for("confirmed", 100)
            run.proxy.heal()
    run.end(duplicates=True)


def test_connections_reset(scenario: Begin, rounds: int) -> None:
    run = scenario("network: connections reset", proxied=True)
    for _ in range(5 * rounds):
        with run.fault():
            assert run.proxy.reset()
        run.live_again()
    run.end(duplicates=True)


def test_cut_between_publish_and_ack(scenario: Begin, rounds: int) -> None:
    """The broker has them, and the daemon cannot know: they come twice, and are told apart by nothing but the fault."""
    run = scenario("network: cut between publish and ack", proxied=True)
    for _ in range(5 * rounds):
        with run.fault():
            run.proxy.cut_at_answer()
            until(lambda: not run.proxy.armed)
        run.live_again()
    account = run.end(duplicates=True)
    assert sum(account.duplicates().values()) >= rounds


def test_cut_in_the_middle_of_a_message(scenario: Begin, rounds: int, moments: random.Random) -> None:
    run = scenario("network: cut after n bytes", proxied=True, very_large=0.01)
    for _ in range(8 * rounds):
        with run.fault():
            run.proxy.cut_after(moments.choice([1, 7, 300, 5000, 100_000, 1_000_000]) + moments.randrange(300))
            until(lambda: not run.proxy.armed)
        run.live_again()
    run.end(duplicates=True)
