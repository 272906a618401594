"""Where memory might swell: `make memory`, or `make memory ARGS=--quick`. Ends with 1 where a bound is broken.

64 senders of 25 MiB each, a burst of 10,000 connections, a million hooks, and minutes at full load.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench import many, payloads, proc, report
from bench.compare import machine
from bench.growth import with_hooks
from bench.load import Load, deliver
from bench.queues import Queue
from bench.subjects import AS_INSTALLED, webhookd
from harness import Daemon
from servers import MANY_CORES, Etcd, RabbitMQ

MIB = 1 << 20
IN_FLIGHT = 256 * MIB
"""The default of `max_in_flight_bytes`."""
BESIDE = 200 * MIB
KEPT = 10_000
"""How many messages the queue holds while minutes of full load go through it."""


@dataclass(frozen=True)
class Row:
    """What was measured, and what it may be at most: MB, or whatever `what` counts."""

    what: str
    measured: float
    most: float | None = None
    remark: str = ""

    @property
    def broken(self) -> bool:
        return self.most is not None and self.measured > self.most


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    seconds: float
    """How long the large bodies come."""
    senders: int
    size: int
    connections: int
    hooks: int
    minutes: float


FULL = Amounts(seconds=10, senders=64, size=25 * MIB, connections=10_000, hooks=1_000_000, minutes=10)
QUICK = Amounts(seconds=3, senders=64, size=25 * MIB, connections=2_000, hooks=100_000, minutes=0.25)


def large_bodies(amounts: Amounts, folder: Path, broker: str, *, signed: bool) -> Iterator[Row]:
    """Let many senders of large bodies come at once: most are refused, since they would not fit."""
    secret = {"secret": payloads.SECRET} if signed else {}
    with webhookd("webhookd", folder, broker, **secret) as subject:
        load = subject.load(payloads.push(amounts.size), amounts.senders, amounts.seconds, rate=None, close=False)
        proc.forget_peak(subject.pid)
        fate = deliver(load, wrk=False)
        assert fate.answered, fate
        remark = f"{fate.accepted:,} accepted, {fate.refused:,} refused, {fate.failed:,} closed without an answer"
        what = f"{amounts.senders} senders of {amounts.size // MIB} MiB{', signed' if signed else ''}: peak MB"
        yield Row(what, proc.peak(subject.pid), (IN_FLIGHT + BESIDE) / 1e6, remark)


def burst(amounts: Amounts, folder: Path, broker: str) -> Iterator[Row]:
    """Let very many connections come at once."""
    with webhookd("webhookd", folder, broker) as subject:
        proc.forget_peak(subject.pid)
        command = [sys.executable, "-m", "bench.burst", str(subject.port), subject.paths[0], str(amounts.connections)]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr
        fates = json.loads(done.stdout)
        remark = ", ".join(f"{count:,} {fate}" for fate, count in sorted(fates.items()))
        yield Row(
            f"{amounts.connections:,} connections at once: peak MB",
            proc.peak(subject.pid),
            subject.idle + BESIDE / 1e6,
            remark,
        )
        yield Row("of these, deliveries that hang", fates.get("hang", 0), 0)


def hooks(amounts: Amounts, folder: Path, per_tenant: int) -> Iterator[Row]:
    """Hold very many hooks: 600 MB for a million, the daemon itself included."""
    with with_hooks(amounts.hooks, folder, "spool:", per_tenant=per_tenant) as subject:
        each = f"{per_tenant} a tenant" if per_tenant > 1 else "one a tenant"
        most = 70 + 530 * amounts.hooks / 1e6
        remark = f"peak while they are read: {proc.peak(subject.pid):,.1f}"
        yield Row(f"{amounts.hooks:,} hooks, {each}: MB", subject.idle, most, remark)


@dataclass(frozen=True)
class Sample:
    """What a daemon has at a moment."""

    rss: float
    fds: float
    threads: float
    tasks: float


def sample(daemon: Daemon) -> Sample:
    tasks = daemon.metrics()["webhookd_tasks"]
    return Sample(proc.rss(daemon.pid), proc.fds(daemon.pid), proc.threads(daemon.pid), tasks)


def steady(amounts: Amounts, folder: Path, broker: str, *, wrk: bool = True) -> Iterator[Row]:
    """Load a daemon fully for minutes, into a queue that lets go of what is old."""
    queue = Queue(broker, "quorum", most=KEPT)
    folder.mkdir(parents=True)
    samples: list[Sample] = []
    with Daemon(folder, environ=AS_INSTALLED, broker=broker) as daemon, ThreadPoolExecutor(1) as pool:
        paths = (urlsplit(daemon.hook("github", "push")["hookUrl"]).path,)
        yield Row("idle: MB", proc.rss(daemon.pid), 70)
        seconds = amounts.minutes * 60
        load = Load(daemon.port, paths, payloads.HEADERS, payloads.push(2048), 256 if wrk else 16, seconds)
        loading = pool.submit(deliver, load, wrk=wrk)
        while not loading.done():
            samples.append(sample(daemon))
            wait([loading], timeout=max(0.1, seconds / 100))
        fate, metrics = loading.result(), daemon.metrics()
        answered = sum(metrics[f'webhookd_deliveries_total{{outcome="{word}"}}'] for word in ("confirmed", "spooled"))
        assert answered >= fate.accepted > 0, f"{fate} where the daemon accepted {answered}"
    queue.empty()
    yield Row("at full load: MB", max(one.rss for one in samples), 100, f"{fate.accepted:,} deliveries")
    yield from growing(samples, amounts.minutes)


def with_etcd(amounts: Amounts, folder: Path, broker: str, *, wrk: bool = True) -> Iterator[Row]:
    """Load a daemon whose hooks are in etcd: its client is a library of its own size."""
    queue = Queue(broker, "quorum", most=KEPT)
    with Etcd(folder / "etcd") as etcd, webhookd("webhookd", folder, broker, flags={"store": etcd.url()}) as subject:
        yield Row("hooks in etcd, idle: MB", subject.idle, 90)
        senders = 256 if wrk else 16
        fate = deliver(subject.load(payloads.push(2048), senders, amounts.seconds, rate=None, close=False), wrk=wrk)
        yield Row("hooks in etcd, at full load: MB", proc.rss(subject.pid), 120, f"{fate.accepted:,} deliveries")
    queue.empty()


def growing(samples: Sequence[Sample], minutes: float) -> Iterator[Row]:
    """Compare the last third with the one before it: the first is for warming up."""
    third = len(samples) // 3
    for what, percent in (("rss", 0), ("fds", 5), ("threads", 5), ("tasks", 5)):
        before, after = (
            statistics.median(getattr(one, what) for one in part) for part in (samples[third:-third], samples[-third:])
        )
        named = "MB" if what == "rss" else what
        most = 5 + before * percent / 100  # connections come and go
        yield Row(f"{minutes:g} minutes at full load: more {named}", after - before, most, f"{before:,.1f} before")


def rows(amounts: Amounts, folder: Path, broker: str) -> Iterator[Row]:
    """Measure everything, one after the other."""
    yield from steady(amounts, folder / "steady", broker)
    yield from with_etcd(amounts, folder / "with-etcd", broker)
    queue = Queue(broker, "classic")
    for signed in (False, True):
        yield from large_bodies(amounts, folder / f"large-{signed}", broker, signed=signed)
        queue.empty()
    yield from burst(amounts, folder / "burst", broker)
    for per_tenant in (many.PER_TENANT, 1):
        yield from hooks(amounts, folder / f"hooks-{per_tenant}", per_tenant)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute, 2,000 connections, 100,000 hooks")
    parser.add_argument(
        "--minutes", type=float, default=FULL.minutes, help="how long the full load lasts (default: 10)"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    given = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the daemon's too, as its unit has it
    amounts = QUICK if given.quick else replace(FULL, minutes=given.minutes)
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="webhookd-memory-") as name:
        folder = Path(name)
        with RabbitMQ(folder / "rabbitmq", erlang=MANY_CORES) as node:
            for row in rows(amounts, folder, node.url()):
                found.append(row)
                print(row, file=sys.stderr, flush=True)
    text = table(found)
    print(text)
    report.keep("memory", f"{machine('')}\n\n{text}", found, write=given.write)
    return int(any(row.broken for row in found))


def table(found: Sequence[Row]) -> str:
    """Return the rows as a table."""
    lines = [
        [row.what, f"{row.measured:,.1f}", "" if row.most is None else f"{row.most:,.0f}", row.remark] for row in found
    ]
    return report.grid(["what", "measured", "at most", ""], lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
