"""What fault scenarios share: a broker that they may disturb, and the table of what became of each."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.checker import Row
from faults.scenario import Scenario
from servers import RabbitMQ

Begin = Callable[..., Scenario]


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Return how often a scenario strikes."""
    count: int = request.config.getoption("--rounds")
    return count


@pytest.fixture
def pause(request: pytest.FixtureRequest) -> float:
    """Return how long a server hangs, in seconds."""
    seconds: float = request.config.getoption("--pause")
    return seconds


@pytest.fixture(scope="session")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with RabbitMQ(tmp_path_factory.mktemp("disturbed")) as node:
        yield node


@pytest.fixture
def broker(disturbed: RabbitMQ) -> Iterator[RabbitMQ]:
    """Return a RabbitMQ that may be disturbed; it is well again afterwards, whatever was done to it."""
    yield disturbed
    if disturbed.running:
        disturbed.resume()
        with contextlib.suppress(AssertionError):
            for resource in ("memory", "disk"):
                disturbed.alarm(resource, on=False)
            return
        disturbed.kill()
    disturbed.start()


@pytest.fixture
def scenario(
    tmp_path: Path, broker: RabbitMQ, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Begin]:
    """Return what begins a scenario: by its name, with the options of `Scenario`."""
    numbers = itertools.count()
    seed = request.config.getoption("--seed")

    def record(row: Row) -> None:
        record_property("row", row)
        print(f"\n{Row.HEAD}\n{row}")

    with contextlib.ExitStack() as stack:

        def begin(name: str, **options: Any) -> Scenario:
            folder = tmp_path / str(next(numbers))
            return stack.enter_context(Scenario(name, folder, broker, record, seed=f"{seed}/{name}", **options))

        yield begin


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what became of each scenario."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [value for report in reports for name, value in report.user_properties if name == "row"]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(Row.HEAD)
        for row in dict.fromkeys(map(str, rows)):
            terminalreporter.write_line(row)
