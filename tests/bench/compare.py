"""Compares webhookd with other servers on this machine: `make bench`, or `make bench ARGS=--quick`.

All servers of a case are up together and are loaded one after the other, in another order each round: what else the
machine does then meets all of them, and what is claimed is the ratio of figures of one round.
"""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import report, targets
from bench.cases import CASES
from bench.load import deliver
from bench.measure import Case, load_of, measure
from bench.queues import Queue
from bench.subjects import STARTS
from servers import MANY_CORES, RabbitMQ

WARM_UP = 1.0


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ: where it is, and the process whose CPU time counts."""

    url: str
    pid: int


def run(case: Case, folder: Path, broker: Broker, rounds: int, seconds: float, *, wrk: bool = True) -> report.Rounds:
    """Measure every subject of a case `rounds` times."""
    found: report.Rounds = {name: [] for name in case.subjects}
    queue = Queue(broker.url, case.queue)
    with contextlib.ExitStack() as running:
        subjects = [
            running.enter_context(STARTS[name](folder / str(number), broker.url))
            for number, name in enumerate(case.subjects)
        ]
        for subject in subjects:
            deliver(load_of(subject, case, min(seconds, WARM_UP)), wrk=wrk)
        for number in range(rounds):
            turn = number % len(subjects)
            for subject in subjects[turn:] + subjects[:turn]:
                figures = measure(subject, case, seconds, queue, broker.pid, wrk=wrk)
                found[subject.name].append(figures)
                print(f"  {subject.name}: {figures.rate:,.0f}/s, {figures.cpu:.1f} us", file=sys.stderr, flush=True)
    queue.empty()
    return found


def machine(how: str) -> str:
    """Say where and how it was measured."""
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}{how}; {os.cpu_count()} cores of {model.strip()},"
        f" Python {platform.python_version()}, load average {os.getloadavg()[1]:.1f}."
    )


def medians(rounds: int, seconds: float) -> str:
    """Say what the figures are of."""
    return f": {rounds} rounds of {seconds:g} s, medians" if rounds > 1 else f": one round of {seconds:g} s"


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s")
    parser.add_argument("--rounds", type=int, default=5, help="how often each load is measured (default: 5)")
    parser.add_argument("--seconds", type=int, default=5, help="how long each load lasts (default: 5)")
    parser.add_argument("--only", default="", help="only the cases with this text in their names")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    given = parser.parse_args(arguments)
    if given.quick:
        given.rounds, given.seconds = 1, 2
    return given


def main(arguments: Sequence[str]) -> None:
    given = parsed(arguments)
    begun = time.monotonic()
    tables, everything = [], {}
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as name:
        folder = Path(name)
        with RabbitMQ(folder / "rabbitmq", erlang=MANY_CORES) as node:
            broker = Broker(node.url(), node.pid)
            for number, case in enumerate(case for case in CASES if given.only in case.name):
                found = run(case, folder / str(number), broker, given.rounds, given.seconds)
                everything[case.name] = found
                tables.append(report.table(case, found))
                print(tables[-1] + "\n", flush=True)
    goals = targets.table(everything)
    print(goals)
    text = "\n\n".join([machine(medians(given.rounds, given.seconds)), goals, *tables])
    report.keep("deliveries", text, everything, write=given.write)
    print(f"\n{time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
