"""What a delivery costs as work grows: `make growth`, or `make growth ARGS=--quick`. Draws docs/performance.svg.

Along each axis one thing grows and all else stays: 2 KB, 64 senders, one hook of one tenant, a quorum queue. All points of
an axis are up together and measured in turn, round after round.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench import many, plot, proc, report
from bench.compare import WARM_UP, Broker, machine, medians
from bench.load import deliver
from bench.measure import Case, Figures, load_of, measure
from bench.queues import Queue
from bench.subjects import AS_INSTALLED, Subject, webhookd
from harness import Daemon
from servers import MANY_CORES, RabbitMQ

KB, MB = 1 << 10, 1 << 20
FLIGHT = 64 * MB
"""What the senders of large bodies have in work together, so that the daemon's own limits refuse nothing."""
PLOT = report.ROOT / "docs" / "performance.svg"


@dataclass(frozen=True)
class Axis:
    """What grows, and through which values; `most` of them with --quick."""

    title: str
    x: str
    values: tuple[int, ...]
    subject: Callable[[int, Path, str], contextlib.AbstractContextManager[Subject]]
    case: Callable[[int], Case]
    quick: int
    log_y: bool = False


@contextlib.contextmanager
def with_hooks(count: int, folder: Path, broker: str, *, per_tenant: int = many.PER_TENANT) -> Iterator[Subject]:
    """Run a daemon that holds so many hooks, and gets deliveries for up to a thousand of them."""
    folder.mkdir(parents=True)
    many.fill(folder / "hooks.db", count, per_tenant)
    daemon = Daemon(folder, environ=AS_INSTALLED, broker=broker, store=f"sqlite://{folder / 'hooks.db'}")
    daemon.launch()
    try:
        daemon.wait_ready(120)
        paths = many.paths(count, per_tenant)
        yield Subject("webhookd", daemon.pid, daemon.port, paths, idle=proc.rss(daemon.pid))
    finally:
        daemon.stop()


def one(_: int, folder: Path, broker: str) -> contextlib.AbstractContextManager[Subject]:
    return webhookd("webhookd", folder, broker)


def case(_: int = 0, **fields: object) -> Case:
    return replace(Case("webhookd", ("webhookd",)), **fields)


def large(size: int) -> Case:
    return case(size=size, senders=max(2, min(64, FLIGHT // size)), queue="classic")


AXES = (
    Axis("body", "bytes", (KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB, MB, 4 * MB, 25 * MB), one, large, 6, log_y=True),
    Axis("hooks", "hooks", (1, 1000, 10_000, 100_000, 1_000_000), with_hooks, case, 3),
    Axis("senders", "senders", (1, 4, 16, 64, 256, 1000, 2000), one, lambda count: case(senders=count), 6),
    Axis("tenants", "tenants", (1, 10, 100, 1000, 10_000, 100_000), partial(with_hooks, per_tenant=1), case, 4),
)


def run(
    axis: Axis, values: Sequence[int], folder: Path, broker: Broker, rounds: int, seconds: float, *, wrk: bool = True
) -> dict[int, list[Figures]]:
    """Measure every point of an axis `rounds` times."""
    found: dict[int, list[Figures]] = {value: [] for value in values}
    queue = Queue(broker.url, axis.case(1).queue)
    with contextlib.ExitStack() as running:
        shared = running.enter_context(one(0, folder / "one", broker.url)) if axis.subject is one else None
        subjects = {
            value: shared or running.enter_context(axis.subject(value, folder / str(value), broker.url))
            for value in values
        }
        for value, subject in subjects.items():
            deliver(load_of(subject, axis.case(value), min(seconds, WARM_UP)), wrk=wrk)
        for _ in range(rounds):
            for value, subject in subjects.items():
                figures = measure(subject, axis.case(value), seconds, queue, broker.pid, wrk=wrk)
                found[value].append(figures)
                print(f"  {value:,} {axis.x}: {figures.cpu:,.1f} us", file=sys.stderr, flush=True)
    queue.empty()
    return found


def table(axis: Axis, found: dict[int, list[Figures]]) -> str:
    """Return what was measured along an axis."""
    rows = []
    for value, its in found.items():
        cpu, rate, p99, rss = (report.median(its, figure) for figure in ("cpu", "rate", "p99", "rss"))
        unhappy = sum(figures.refused + figures.failed for figures in its)
        rows.append([f"{value:,}", f"{cpu:,.1f}", f"{rate:,.0f}", f"{p99:,.1f}", f"{rss:,.0f}", f"{unhappy:,}"])
    return report.grid([axis.x, "CPU µs", "deliveries/s", "p99 ms", "RSS MB", "not accepted"], rows)


def panel(axis: Axis, found: dict[int, list[Figures]]) -> plot.Panel:
    points = [(value, statistics.median(one.cpu for one in its)) for value, its in found.items()]
    return plot.Panel(f"CPU for a delivery, by {axis.title}", axis.x, "µs", points, axis.log_y)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, and not the farthest points")
    parser.add_argument("--rounds", type=int, default=3, help="how often each point is measured (default: 3)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each load lasts (default: 4)")
    parser.add_argument("--only", default="", help="only the axis of this title")
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/")
    given = parser.parse_args(arguments)
    if given.quick:
        given.rounds, given.seconds = 1, 2
    tables, panels, everything = [], [], {}
    with tempfile.TemporaryDirectory(prefix="webhookd-growth-") as name:
        folder = Path(name)
        with RabbitMQ(folder / "rabbitmq", erlang=MANY_CORES) as node:
            broker = Broker(node.url(), node.pid)
            for axis in (axis for axis in AXES if given.only in axis.title):
                values = axis.values[: axis.quick] if given.quick else axis.values
                found = run(axis, values, folder / axis.title, broker, given.rounds, given.seconds)
                everything[axis.title] = found
                tables.append(table(axis, found))
                panels.append(panel(axis, found))
                print(tables[-1] + "\n", flush=True)
    drawing = plot.drawn(panels)
    report.keep(
        "growth", "\n\n".join([machine(medians(given.rounds, given.seconds)), *tables]), everything, write=given.write
    )
    (report.BUILT / "growth.svg").write_text(drawing)
    if given.write:
        PLOT.write_text(drawing)


if __name__ == "__main__":
    main(sys.argv[1:])
