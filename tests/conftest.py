"""Fixtures that every test may use: an event loop of ours for pytest-tornado, a real daemon, and real servers for it."""

import asyncio
import contextlib
import itertools
import os
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Daemon
from hypothesis import HealthCheck, settings
from servers import Etcd, RabbitMQ
from tornado.platform.asyncio import AsyncIOLoop

# how fast examples are drawn depends on what else the machine does
settings.register_profile("webhookd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("webhookd")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make faults` ask for more than the suite has time for."""
    parser.addoption("--kills", type=int, default=20, help="how many times tests/faults kills the daemon (default: 20)")
    parser.addoption("--rounds", type=int, default=1, help="how often a fault scenario strikes (default: 1)")
    parser.addoption("--pause", type=float, default=6, help="how long servers hang, in seconds (default: 6)")
    parser.addoption("--outage", type=float, default=8, help="how long the broker is away, in seconds (default: 8)")
    parser.addoption(
        "--mixed", type=float, default=10, help="how long faults of all kinds go on, in seconds (default: 10)"
    )
    parser.addoption("--seed", type=int, default=1, help="what tests/faults draws its moments from (default: 1)")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """Return how many times to kill the daemon."""
    count: int = request.config.getoption("--kills")
    return count


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """Return what to draw moments from."""
    return random.Random(request.config.getoption("--seed"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a folder of its own, without settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WEBHOOKD_")]:
        monkeypatch.delenv(name)
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def io_loop() -> Iterator[AsyncIOLoop]:
    """Stand in for pytest-tornado's own, which uses what Tornado has deprecated."""
    aloop = asyncio.new_event_loop()
    asyncio.set_event_loop(aloop)
    loop = AsyncIOLoop(asyncio_loop=aloop, make_current=False)
    yield loop
    pending = asyncio.all_tasks(aloop)
    for task in pending:
        task.cancel()
    if pending:
        aloop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    aloop.run_until_complete(aloop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close(all_fds=True)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Run `webhookd serve` on free ports, its embedded store and spool, and an HS256 key."""
    with Daemon(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run one daemon for a whole test file: for tests that do not disturb it."""
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """Run one RabbitMQ for all tests that do not disturb it; each uses vhosts of its own."""
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run one etcd for all tests that do not disturb it; each uses a prefix of its own."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> str:
    """Return the AMQP URL of a vhost that is new."""
    return rabbitmq.url(rabbitmq.vhost())


@pytest.fixture
def etcd_prefix(etcd: Etcd) -> str:
    """Return the URL of a store that holds nothing yet."""
    return etcd.url(f"/test/{uuid.uuid4().hex}")


@pytest.fixture
def own_rabbitmq(tmp_path: Path) -> Iterator[Callable[..., RabbitMQ]]:
    """Return what starts a RabbitMQ for one test alone, which may do with it what it likes."""
    numbers = itertools.count()
    with contextlib.ExitStack() as running:
        yield lambda **options: running.enter_context(RabbitMQ(tmp_path / f"rabbitmq{next(numbers)}", **options))


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Callable[..., Etcd]]:
    """Return what starts an etcd for one test alone, which may do with it what it likes."""
    numbers = itertools.count()
    with contextlib.ExitStack() as running:
        yield lambda *arguments, **options: running.enter_context(
            Etcd(tmp_path / f"etcd{next(numbers)}", *arguments, **options)
        )
