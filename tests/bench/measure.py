"""One load on one subject, and what it cost; a delivery that was answered 2xx and is nowhere stops everything."""

from dataclasses import dataclass

from bench import payloads, proc
from bench.load import Load, deliver
from bench.queues import Queue
from bench.subjects import Subject


@dataclass(frozen=True)
class Case:
    """What is asked of each of its subjects."""

    name: str
    subjects: tuple[str, ...]
    size: int = 2048
    senders: int = 64
    queue: str = "quorum"
    rate: float | None = None
    close: bool = False


@dataclass(frozen=True)
class Figures:
    """Deliveries a second, latencies in ms, CPU in us a delivery, memory in MB."""

    rate: float
    p50: float
    p99: float
    p999: float
    cpu: float
    broker_cpu: float
    rss: float
    refused: int
    failed: int
    accepted: int


def load_of(subject: Subject, case: Case, seconds: float) -> Load:
    """Return what `case` asks of `subject`."""
    return subject.load(payloads.push(case.size), case.senders, seconds, rate=case.rate, close=case.close)


def measure(
    subject: Subject, case: Case, seconds: float, queue: Queue, broker: int, *, wrk: bool = True, patience: float = 20
) -> Figures:
    """Load `subject` as `case` says; `broker` is the pid of the broker's node, `patience` what it has to show all, in seconds."""
    load = load_of(subject, case, seconds)
    queue.settle(patience=0)
    queue.empty()
    held = subject.kept() if subject.kept else 0
    before, broker_before = proc.cpu(subject.pid), proc.cpu(broker)
    fate = deliver(load, wrk=wrk)
    used, broker_used, resident = (
        proc.cpu(subject.pid) - before,
        proc.cpu(broker) - broker_before,
        proc.rss(subject.pid),
    )
    assert fate.accepted, f"{subject.name} accepted nothing: {fate}"
    found = subject.kept() - held if subject.kept else queue.settle(fate.accepted, patience)
    assert found >= fate.accepted, f"{subject.name} lost {fate.accepted - found} of {fate.accepted} deliveries"
    each = 1e6 / fate.accepted
    return Figures(
        fate.accepted / fate.seconds,
        fate.p50,
        fate.p99,
        fate.p999,
        used * each,
        broker_used * each,
        resident,
        fate.refused,
        fate.failed,
        fate.accepted,
    )
