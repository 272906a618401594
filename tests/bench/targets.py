"""What webhookd is meant to reach, beside what was measured."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.cases import ENFORCED, FASTIFY, GO, SIGNED, SPOOL, TORNADO, UNRECORDED, WEBHOOKD
from bench.report import Rounds, grid, median, ratio

Measured = Callable[[Rounds], float]


@dataclass(frozen=True)
class Target:
    """A bound on one figure of one case: `most` or `least`, whichever is given."""

    case: str
    what: str
    measured: Measured
    most: float | None = None
    least: float | None = None

    def row(self, rounds: Rounds) -> list[str]:
        found = self.measured(rounds)
        met = (self.most is None or found <= self.most) and (self.least is None or found >= self.least)
        bound = f"at most {self.most:,g}" if self.most is not None else f"at least {self.least:,g}"
        return [
            self.case,
            self.what,
            bound,
            f"{found:,.2f}" if found < 100 else f"{found:,.0f}",
            "yes" if met else "no",
        ]


def cpu(name: str = WEBHOOKD) -> Measured:
    return lambda rounds: median(rounds[name], "cpu")


def more_cpu(name: str, than: str) -> Measured:
    """Return the median of the differences within each round."""
    return lambda rounds: statistics.median(
        mine.cpu - its.cpu for mine, its in zip(rounds[name], rounds[than], strict=True)
    )


def share(other: str, figure: str = "cpu") -> Measured:
    return lambda rounds: ratio(rounds, figure, WEBHOOKD, other)


def of(figure: str, name: str = WEBHOOKD) -> Measured:
    return lambda rounds: median(rounds[name], figure)


QUORUM = "2 KB, 256 senders, quorum queue"
CLASSIC = "2 KB, 64 senders, classic queue"
LARGER = "10 KB, 64 senders, classic queue"
NEW = "2 KB, 64 senders, quorum queue, a new connection for each delivery"
OPEN = "2 KB, open loop, 1,000 a second, quorum queue"
KEPT = "2 KB, 64 senders, the spool as the broker"
TARGETS = (
    Target(QUORUM, "CPU µs", cpu(), most=25),
    Target(QUORUM, "CPU, of Fastify's", share(FASTIFY), most=0.45),
    Target(QUORUM, "CPU, of Go's", share(GO), most=0.45),
    Target(QUORUM, "deliveries/s, of Fastify's", share(FASTIFY, "rate"), least=1.3),
    Target(QUORUM, "deliveries/s, of Go's", share(GO, "rate"), least=1.3),
    Target(QUORUM, "signed: more CPU µs", more_cpu(SIGNED, WEBHOOKD), most=8),
    Target(QUORUM, "records of deliveries: more CPU µs", more_cpu(WEBHOOKD, UNRECORDED), most=2),
    Target(QUORUM, "RSS MB at full load", of("rss"), most=100),
    Target(CLASSIC, "CPU µs", cpu(), most=35),
    Target(CLASSIC, "signed: more CPU µs", more_cpu(SIGNED, WEBHOOKD), most=8),
    Target(LARGER, "CPU, of tornado.web + aio-pika's", share(TORNADO), most=0.14),
    Target(LARGER, "signed and `enforce`: more CPU µs", more_cpu(ENFORCED, WEBHOOKD), most=50),
    Target(NEW, "CPU, of Fastify's", share(FASTIFY), most=0.6),
    Target(OPEN, "p50 ms", of("p50"), most=1),
    Target(OPEN, "p99 ms", of("p99"), most=8),
    Target(KEPT, "CPU µs", cpu(SPOOL), most=80),
    Target(KEPT, "deliveries/s", of("rate", SPOOL), least=8000),
)


def table(everything: Mapping[str, Rounds]) -> str:
    """Return the targets of the cases that were measured."""
    rows = [target.row(everything[target.case]) for target in TARGETS if target.case in everything]
    return grid(["case", "figure", "target", "measured", "met"], rows)
