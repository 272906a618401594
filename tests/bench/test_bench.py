"""The bench itself, for a moment each: that figures come out, and that no delivery can be lost without being missed."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import pytest
from bench import flame, growth, memory, payloads, plot, proc, report, targets
from bench.cases import CASES, ENFORCED, SIGNED, SPOOL, TORNADO, WEBHOOKD
from bench.compare import Broker, run
from bench.growth import AXES
from bench.load import Load, deliver, figures
from bench.measure import Case, Figures, measure
from bench.queues import Queue
from bench.subjects import Subject

from webhookd.registry import load as load_plugins

ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull"


@pytest.fixture
def broker(rabbitmq, vhost) -> Broker:
    return Broker(vhost, rabbitmq.pid)


def cases() -> Iterator[Case]:
    yield Case("all of webhookd", (WEBHOOKD, SIGNED, ENFORCED), size=10240, senders=8)
    yield Case("a baseline", (TORNADO,), senders=8, queue="classic", close=True)
    yield Case("the spool", (SPOOL,), senders=8)
    yield Case("an open loop", (WEBHOOKD,), senders=8, rate=200)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_each_kind_of_case_gives_figures_and_loses_nothing(case, tmp_path, broker):
    found = run(case, tmp_path, broker, 1, 0.5, wrk=False)
    assert list(found) == list(case.subjects)
    for (its,) in found.values():
        assert (its.refused, its.failed) == (0, 0)
        assert its.accepted == 100 if case.rate else its.accepted > 0
        assert min(its.rate, its.cpu, its.rss, its.p50) > 0
        assert its.p50 <= its.p99 <= its.p999
    assert case.name in report.table(case, found)


@contextmanager
def answering(answer: Callable[[int], bytes]) -> Iterator[int]:
    """Serve, on one connection after the other, what `answer` says to each request by its number; b"" hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    numbers = iter(range(1_000_000))

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                while connection.recv(65536):
                    said = answer(next(numbers))
                    if not said:
                        break
                    connection.sendall(said)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def load(port: int, *, rate: float | None = None, seconds: float = 0.3, close: bool = False) -> Load:
    return Load(port, ("/wh/a/b",), payloads.HEADERS, b"{}", senders=1, seconds=seconds, rate=rate, close=close)


def test_a_server_that_keeps_nothing_is_found_out(broker):
    queue = Queue(broker.url, "classic")
    with answering(lambda _: ACCEPTED) as port:
        liar = Subject("a liar", os.getpid(), port, ("/wh/a/b",))
        with pytest.raises(AssertionError, match="a liar lost"):
            measure(liar, Case("lies", ("a liar",), senders=1), 0.2, queue, broker.pid, wrk=False, patience=1)


def test_what_is_refused_or_fails_is_counted_as_that():
    with answering(lambda number: REFUSED if number % 2 else ACCEPTED) as port:
        fate = deliver(load(port, rate=100), wrk=False)
    assert (fate.answered, fate.refused, fate.failed, fate.accepted) == (30, 15, 0, 15)
    with answering(lambda number: b"" if number % 2 else ACCEPTED) as port:
        fate = deliver(load(port, rate=100), wrk=False)
    assert (fate.answered, fate.refused, fate.failed) == (15, 0, 15)


def test_a_stall_is_the_latency_of_all_that_were_due_meanwhile():
    def stalls_once(number: int) -> bytes:
        time.sleep(0.4 if number == 10 else 0)
        return ACCEPTED

    with answering(stalls_once) as port:
        fate = deliver(load(port, rate=100, seconds=0.5), wrk=False)
    assert fate.answered == 50
    assert fate.p999 > 390
    assert fate.p50 > 100, "only the delivery that stalled was late: the others were held back"


def test_what_wrk_says_is_read():
    said = "Running 5s test\nFIGURES answered=1000 us=5000000 refused=3 failed=2 p50=1500 p99=20000 p999=30100\n"
    fate = figures(said)
    assert (fate.answered, fate.accepted, fate.failed, fate.seconds) == (1000, 997, 2, 5.0)
    assert (fate.p50, fate.p99, fate.p999) == (1.5, 20.0, 30.1)


@pytest.mark.parametrize("size", [100, 1600, 2048, 10240, 1 << 20])
def test_bodies_have_their_size_and_are_pushes(size):
    body = payloads.push(size)
    assert len(body) == size
    plugins = load_plugins()
    github = plugins.get("github")
    headers = payloads.headers(body, signed=True)
    assert github.sign(body, payloads.SECRET, 0)["X-Hub-Signature-256"] == headers["X-Hub-Signature-256"]
    assert "X-Hub-Signature-256" not in payloads.headers(body, signed=False)


BURN = """
import os, sys, time
child = os.fork()
if not child:
    while time.process_time() < 0.2: pass
    print("burnt", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.waitpid(child, 0)
print("over", flush=True)
sys.stdin.readline()
"""


def test_cpu_time_of_children_counts_while_they_live_and_after():
    command = [sys.executable, "-c", BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for said, descendants in (("burnt\n", 1), ("over\n", 0)):
            assert process.stdout.readline() == said
            assert len(proc.tree(process.pid)) == 1 + descendants
            assert proc.cpu(process.pid) >= 0.19
            process.stdin.write("\n")
            process.stdin.flush()


def some(rate: float, cpu: float) -> Figures:
    return Figures(rate, 1, 2, 3, cpu, 50, 60, 0, 0, 1000)


def test_ratios_are_those_of_a_round():
    rounds = {WEBHOOKD: [some(10, 20), some(40, 10), some(10, 30)], TORNADO: [some(5, 40), some(20, 10), some(5, 90)]}
    assert report.ratio(rounds, "rate", WEBHOOKD, TORNADO) == 2
    assert report.ratio(rounds, "cpu", WEBHOOKD, TORNADO) == 0.5


def test_targets_are_of_cases_that_there_are_and_say_whether_they_are_met():
    names = {case.name: set(case.subjects) for case in CASES}
    for target in targets.TARGETS:
        rounds = {name: [some(9000, 20)] for name in names[target.case]}
        assert target.row(rounds)[-1] in {"yes", "no"}
    lean, fat = ({WEBHOOKD: [some(1, cpu)]} for cpu in (35, 36))
    target = targets.Target("case", "CPU µs", targets.cpu(), most=35)
    assert [target.row(rounds)[-1] for rounds in (lean, fat)] == ["yes", "no"]


def test_a_block_of_the_document_is_replaced():
    document = "before\n<!-- measured: x -->\n\nold\n\n<!-- end: x -->\nafter\n"
    assert report.replaced(document, "x", "new") == document.replace("old", "new")
    with pytest.raises(AssertionError, match="no marks of y"):
        report.replaced(document, "y", "new")


def test_growth_gives_a_figure_for_each_point_and_a_plot(tmp_path, broker):
    axis = next(axis for axis in AXES if axis.title == "tenants")
    found = growth.run(axis, (1, 2000), tmp_path, broker, 1, 0.3, wrk=False)
    assert [its[0].refused + its[0].failed for its in found.values()] == [0, 0]
    assert min(its[0].accepted for its in found.values()) > 0
    assert growth.table(axis, found).splitlines()[-1].startswith("| 2,000 |")
    document = ElementTree.fromstring(plot.drawn([growth.panel(axis, found)] * 3))
    assert len(document.findall(".//{*}circle")) == 6
    assert document.attrib["viewBox"] == "0 0 840 560"


def test_a_plot_places_points_by_their_values():
    panel = plot.Panel("a < b", "x", "y", [(1, 10), (10, 20), (1000, 40)])
    dots = ElementTree.fromstring(plot.drawn([panel])).findall(".//{*}circle")
    xs, ys = ([float(dot.attrib[name]) for dot in dots] for name in ("cx", "cy"))
    assert xs[2] - xs[1] == pytest.approx(2 * (xs[1] - xs[0]), abs=0.2)
    assert ys[1] - ys[2] == pytest.approx(2 * (ys[0] - ys[1]), abs=0.2)
    assert plot.decades(3, 25_000) == [1, 10, 100, 1000, 10_000, 100_000]
    assert plot.decades(1, 1) == [1, 10]
    assert plot.steps(161) == [0, 50, 100, 150, 200]
    assert [plot.short(value) for value in (0.5, 20, 1000, 2_500_000)] == ["0.5", "20", "1k", "2.5M"]


SMALL = memory.Amounts(seconds=0.3, senders=4, size=1 << 20, connections=20, hooks=5000, minutes=0.02)


def test_memory_is_measured_where_it_might_swell(tmp_path, broker):
    found = [
        *memory.large_bodies(SMALL, tmp_path / "large", broker.url, signed=True),
        *memory.burst(SMALL, tmp_path / "burst", broker.url),
        *memory.hooks(SMALL, tmp_path / "hooks", 1),
        *memory.with_etcd(SMALL, tmp_path / "etcd", broker.url, wrk=False),
    ]
    large, burst, hanging, *hooks = found
    assert min(row.measured for row in (large, burst, *hooks)) > 10
    assert large.remark.endswith(" 0 refused, 0 closed without an answer")
    assert burst.remark == "20 204"
    assert (hanging.measured, hanging.broken) == (0, False)
    assert memory.table(found).count("\n") == 1 + len(found)


def test_full_load_is_looked_at_all_the_time(tmp_path, broker):
    idle, full, *growth = memory.steady(SMALL, tmp_path / "steady", broker.url, wrk=False)
    assert full.measured >= idle.measured * 0.9 > 0
    assert [row.what.rpartition(" ")[2] for row in growth] == ["MB", "fds", "threads", "tasks"]


def test_what_grows_is_found_out():
    samples = [memory.Sample(rss=100 + number, fds=20, threads=4, tasks=10) for number in range(30)]
    rss, *others = memory.growing(samples, 1)
    assert (rss.measured, rss.broken) == (10, True)
    assert [row.broken for row in others] == [False] * 3
    assert memory.Row("x", 5, 5).broken is False
    assert memory.Row("x", 5).broken is False


def test_a_hook_of_a_tenant_of_its_own_costs_less_than_600_bytes(tmp_path):
    """The daemon itself, with the caches that it fills once, is in both counts."""
    sizes = []
    for count in (20_000, 100_000):
        with growth.with_hooks(count, tmp_path / str(count), "spool:", per_tenant=1) as subject:
            sizes.append(subject.idle)
    assert 100 < (sizes[1] - sizes[0]) * 1e6 / 80_000 < 600


def test_a_flame_graph_shows_the_daemon(tmp_path, broker):
    case = Case("profile", (SPOOL,), senders=4)
    to = tmp_path / "profile.svg"
    try:
        flame.draw(case, SPOOL, tmp_path / "daemon", broker, 1, to, wrk=False)
    except AssertionError as error:
        if "Permission denied" in str(error) or "Operation not permitted" in str(error):
            pytest.skip("no process may be traced here")
        raise
    drawing = to.read_text()
    assert "<svg" in drawing
    assert "webhookd/daemon.py" in drawing
