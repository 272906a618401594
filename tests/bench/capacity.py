"""Measures what one daemon can carry on this machine, with a RabbitMQ of its own, and prints it as a table.

    python tests/bench/capacity.py [--seconds 10] [--hooks 100000]

Deliveries are counted by the CPU time that they cost the daemon, not by the clock: senders and broker run beside it.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiormq

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.many import fill
from harness import Daemon, until
from servers import RabbitMQ
from traffic import Traffic

EXCHANGE = "events-to-enrich"
SENDERS = 16
SIZES = {"2 KiB": 2048, "20 KiB": 20 * 1024}
MIB, GIB = 1 << 20, 1 << 30
Row = tuple[str, str]


async def declare(url: str) -> None:
    """Make the exchange, and the quorum queue that takes everything."""
    async with aiormq.Connection(url) as connection:
        channel = await connection.channel()
        await channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
        await channel.queue_declare("enrich", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.queue_bind("enrich", EXCHANGE, "event.#")


def deliver(daemon: Daemon, size: int, seconds: float) -> tuple[int, float, float]:
    """Deliver for `seconds`; return how many were accepted, the CPU time they took, and the bytes the spool grew by."""
    hooks = [daemon.hook(event=f"e{number}") for number in range(SENDERS)]
    before = daemon.metrics()
    with Traffic(daemon.port, hooks, size=size - 40) as traffic:
        traffic.stopping.wait(seconds)
    fates = traffic.fates()
    assert set(fates) == {"204"}, fates
    after = daemon.metrics()
    used = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    return fates["204"], used, after["webhookd_spool_bytes"] - before["webhookd_spool_bytes"]


@contextmanager
def daemon_of(folder: Path, name: str, **flags: str) -> Iterator[Daemon]:
    (folder / name).mkdir()
    with Daemon(folder / name, tenant_share="1", **flags) as daemon:
        yield daemon


def confirmed(folder: Path, url: str, seconds: float) -> Iterator[Row]:
    for label, size in SIZES.items():
        with daemon_of(folder, f"confirmed-{size}", broker=url) as daemon:
            count, used, _ = deliver(daemon, size, seconds)
            rate = count / used
            assert daemon.metrics()['webhookd_deliveries_total{outcome="confirmed"}'] >= count * 0.99
        yield f"deliveries of {label} in a second of CPU, confirmed by RabbitMQ", f"{rate:,.0f}"


def outage(folder: Path, rabbitmq: RabbitMQ, url: str, seconds: float) -> Iterator[Row]:
    """Deliver to a daemon whose broker is away, then let the broker come back."""
    for label, size in SIZES.items():
        with daemon_of(folder, f"outage-{size}", broker=url, spool_max_bytes="16GiB") as daemon:
            rabbitmq.stop()
            until(lambda: daemon.metrics()["webhookd_broker_up"] == 0)
            count, used, grown = deliver(daemon, size, seconds)
            rabbitmq.start()
            until(lambda: daemon.metrics()["webhookd_broker_up"] == 1, 60)
            start = daemon.metrics()
            waiting = start['webhookd_spool_messages{state="waiting"}']
            until(lambda: daemon.metrics()['webhookd_spool_messages{state="waiting"}'] == 0, 600)
            drained = (daemon.metrics()["process_cpu_seconds_total"] - start["process_cpu_seconds_total"]) / waiting
        yield f"deliveries of {label} in a second of CPU, to the spool", f"{count / used:,.0f}"
        yield f"bytes of the spool for a delivery of {label}", f"{grown / count:,.0f}"
        yield (
            f"spool for a minute without a broker, 100 deliveries of {label} a second",
            f"{grown / count * 6000 / MIB:,.0f} MiB",
        )
        yield f"messages of {label} drained in a second of CPU", f"{1 / drained:,.0f}"


def hooks(folder: Path, count: int) -> Iterator[Row]:
    """Compare the memory of a daemon that has hooks with that of one that has none, after both have worked a little."""

    path = folder / "hooks.db"
    fill(path, count)
    resident = []
    for name, flags in (("none", {}), ("many", {"store": f"sqlite://{path}"})):
        with daemon_of(folder, name, **flags) as daemon:
            daemon.deliver(daemon.hook(), b"{}")
            resident.append(daemon.metrics()["process_resident_memory_bytes"])
    each = (resident[1] - resident[0]) / count
    yield "memory of a daemon without hooks", f"{resident[0] / MIB:.0f} MiB"
    yield f"hooks in a GiB of memory (of {count:,})", f"{GIB / each:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load lasts")
    parser.add_argument("--hooks", type=int, default=100_000, help="how many hooks to load")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capacity-") as name:
        folder = Path(name)
        with RabbitMQ(folder / "rabbitmq") as rabbitmq:
            url = rabbitmq.url()
            asyncio.run(declare(url))
            print("| what | measured |\n|---|---|")
            for rows in (
                confirmed(folder, url, given.seconds),
                outage(folder, rabbitmq, url, given.seconds),
                hooks(folder, given.hooks),
            ):
                for what, figure in rows:
                    print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
