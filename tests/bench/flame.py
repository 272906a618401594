"""Draws where a loaded daemon spends its time, as a flame graph: `make profile`. It lands in build/bench/profile.svg.

py-spy looks at the daemon from outside, so that what is measured is what runs in production. It needs leave to trace
another process: root, or kernel.yama.ptrace_scope = 0.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import report
from bench.compare import Broker
from bench.load import deliver
from bench.measure import Case, load_of
from bench.queues import Queue
from bench.subjects import STARTS
from servers import MANY_CORES, RabbitMQ

RATE = 500
"""Samples a second."""
BEFORE = 1.0
"""Seconds of load before the first sample, and after the last."""


def draw(case: Case, subject: str, folder: Path, broker: Broker, seconds: int, to: Path, *, wrk: bool = True) -> str:
    """Put the flame graph of `subject` under the load of `case` into `to`; return what py-spy says."""
    queue = Queue(broker.url, case.queue)
    to.parent.mkdir(parents=True, exist_ok=True)
    with STARTS[subject](folder, broker.url) as running, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(deliver, load_of(running, case, seconds + 2 * BEFORE), wrk=wrk)
        time.sleep(BEFORE)
        command = [str(Path(sys.executable).with_name("py-spy")), "record", f"--pid={running.pid}", f"--output={to}"]
        command += [f"--duration={seconds}", f"--rate={RATE}", "--threads"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        loading.result()
    queue.empty()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr + done.stdout


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three seconds")
    parser.add_argument("--seconds", type=int, default=15, help="how long to look (default: 15)")
    parser.add_argument("--subject", default="webhookd", help="or 'webhookd, signed, enforce', 'webhookd, spool:'")
    parser.add_argument("--size", type=int, default=2048, help="the size of a body (default: 2048)")
    parser.add_argument("--senders", type=int, default=256, help="how many connections (default: 256)")
    parser.add_argument("--output", type=Path, default=report.BUILT / "profile.svg", help="where to put it")
    given = parser.parse_args(arguments)
    case = Case("profile", (given.subject,), size=given.size, senders=given.senders)
    with tempfile.TemporaryDirectory(prefix="webhookd-profile-") as name:
        folder = Path(name)
        with RabbitMQ(folder / "rabbitmq", erlang=MANY_CORES) as node:
            broker = Broker(node.url(), node.pid)
            draw(case, given.subject, folder / "daemon", broker, 3 if given.quick else given.seconds, given.output)
    print(given.output)


if __name__ == "__main__":
    main(sys.argv[1:])
