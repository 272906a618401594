"""Whatever befalls the broker, deliveries go on being taken, and all that was taken reaches the queue."""

import time

import pytest
from faults.collector import EXCHANGE, declare, delete_exchange, unbind
from faults.conftest import Begin
from faults.scenario import PASSWORD, USER
from harness import until
from servers import RabbitMQ

pytestmark = pytest.mark.timeout(900)


def test_killed(scenario: Begin, broker: RabbitMQ, rounds: int) -> None:
    run = scenario("broker: kill -9", very_large=0.003)
    for _ in range(rounds):
        with run.fault():
            broker.kill()
            run.wait_for("spooled")
            assert "broker down" in run.reasons()
            broker.start()
        run.live_again()
        until(lambda: run.reasons() == "ok")
    run.end(duplicates=True)


def test_stopped_and_started(scenario: Begin, broker: RabbitMQ, rounds: int) -> None:
    run = scenario("broker: SIGTERM, started again")
    for _ in range(rounds):
        with run.fault():
            broker.stop()
            run.wait_for("spooled")
            broker.start()
        run.live_again()
    run.end(duplicates=True)


def test_hangs(scenario: Begin, broker: RabbitMQ, rounds: int, pause: float) -> None:
    run = scenario("broker: SIGSTOP")
    for _ in range(rounds):
        with run.fault():
            broker.pause()
            run.wait_for("spooled")
            time.sleep(pause)
            broker.resume()
        run.live_again()
    run.end(duplicates=True)


@pytest.mark.parametrize("resource", ["memory", "disk"])
def test_alarm(scenario: Begin, broker: RabbitMQ, rounds: int, resource: str) -> None:
    run = scenario(f"broker: {resource} alarm")
    for _ in range(rounds):
        with run.fault():
            broker.alarm(resource, on=True)
            run.wait_for("spooled")
            assert "broker blocked" in run.reasons()
            broker.alarm(resource, on=False)
        run.live_again()
        until(lambda: run.reasons() == "ok")
    run.end(duplicates=True)


def test_exchange_deleted(scenario: Begin, rounds: int) -> None:
    """The daemon declares it again; that the queue is bound again is its consumers' work."""
    run = scenario("broker: exchange deleted")
    for _ in range(rounds):
        with run.fault():
            delete_exchange(run.url)
            run.wait_for("spooled")
            until(lambda: EXCHANGE in run.broker.ctl("list_exchanges", "-p", run.vhost, "name"))
            declare(run.url)
        run.live_again()
    run.end(duplicates=True)


def test_queue_unbound(scenario: Begin, rounds: int) -> None:
    run = scenario("broker: queue unbound")
    for _ in range(rounds):
        with run.fault():
            unbind(run.url)
            run.wait_for("spooled")
            until(lambda: "unroutable" in run.reasons())
            declare(run.url)
        run.live_again()
        until(lambda: run.reasons() == "ok")
    run.end()


def test_queue_full(scenario: Begin, rounds: int) -> None:
    """It is told by a nack, for each message."""
    run = scenario(
        "broker: queue full, reject-publish", queue_arguments={"x-max-length": 30, "x-overflow": "reject-publish"}
    )
    for _ in range(rounds):
        with run.fault():
            run.collector.hold()
            run.wait_for("spooled")
            run.collector.release()
        run.live_again()
    run.end(duplicates=True)  # what a busy machine answers after the deadline was taken all the same


def test_permissions_revoked(scenario: Begin, broker: RabbitMQ, rounds: int) -> None:
    run = scenario("broker: permission to write revoked")
    for _ in range(rounds):
        with run.fault():
            broker.allow(USER, run.vhost, write="")
            # open channels remember what they may
            broker.ctl("close_all_connections", "--vhost", run.vhost, "a permission has been revoked")
            run.wait_for("spooled")
            assert "broker down" in run.reasons()
            broker.allow(USER, run.vhost)
        run.live_again()
        until(lambda: run.reasons() == "ok")
    run.end(duplicates=True)


def test_comes_back_empty(scenario: Begin, broker: RabbitMQ, rounds: int) -> None:
    """What it had confirmed has been consumed before: a broker that loses its disk loses what is on it."""
    run = scenario("broker: comes back empty")
    for _ in range(rounds):
        with run.fault():
            broker.alarm("memory", on=True)
            run.wait_for("spooled")
            until(lambda: time.monotonic() - run.collector.last > 1)
            broker.kill()
            broker.wipe()
            broker.start()
            broker.vhost(run.vhost)
            broker.user(USER, PASSWORD, run.vhost, ".*", ".*", ".*")
            declare(run.url)
        run.live_again()
    run.end(duplicates=True)


def test_down_when_the_daemon_starts(scenario: Begin, broker: RabbitMQ, rounds: int) -> None:
    run = scenario("broker: down when the daemon starts")
    for _ in range(rounds):
        with run.fault():
            broker.kill()
            run.daemon.stop()
            run.daemon.start()
            run.wait_for("spooled")
            assert "broker down" in run.reasons()
            broker.start()
        run.live_again()
    run.end(duplicates=True)
