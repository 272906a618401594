"""Loads a server with deliveries, by wrk or by the sender of our own, and says what became of them.

wrk makes every load without a pause: it costs a sixth of what a sender in Python does, on the same cores as the daemon.
What wrk cannot, `sender` does: deliveries at a fixed rate whose latency counts from when they were due (`Load.rate`), and
a machine without wrk, which is all that the tests ask for.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import need

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Load:
    """Deliveries of one body: by `senders` connections without a pause, or `rate` a second whatever the answers."""

    port: int
    paths: tuple[str, ...]
    """The hooks that get them, in turn."""
    headers: dict[str, str]
    body: bytes
    senders: int
    seconds: float
    rate: float | None = None
    close: bool = False
    """Whether each delivery comes on a connection of its own."""


@dataclass(frozen=True)
class Fate:
    """What became of a load; latencies in ms."""

    answered: int
    refused: int
    """Of `answered`: those that were not 2xx."""
    failed: int
    seconds: float
    p50: float
    p99: float
    p999: float

    @property
    def accepted(self) -> int:
        return self.answered - self.refused


def deliver(load: Load, *, wrk: bool = True) -> Fate:
    """Do it and return what became of it."""
    if wrk and load.rate is None:
        return _by_wrk(load)
    spec = {**asdict(load), "body": load.body.decode()}
    command = [sys.executable, str(HERE / "sender.py")]
    done = subprocess.run(command, input=json.dumps(spec), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Fate(**json.loads(done.stdout))


def _by_wrk(load: Load) -> Fate:
    headers = [f"{name}: {value}" for name, value in load.headers.items()]
    headers += ["Connection: close"] if load.close else []
    with tempfile.NamedTemporaryFile() as body, tempfile.NamedTemporaryFile("w") as paths:
        body.write(load.body)
        body.flush()
        paths.writelines(f"{path}\n" for path in load.paths)
        paths.flush()
        command = [need("wrk"), "--threads=1", f"--connections={load.senders}", f"--duration={round(load.seconds)}s"]
        command += ["--timeout=20s", f"--script={HERE / 'post.lua'}", f"http://127.0.0.1:{load.port}", "--"]
        done = subprocess.run([*command, paths.name, body.name, *headers], capture_output=True, text=True, check=False)
    return figures(done.stdout + done.stderr)


def figures(output: str) -> Fate:
    """Read what post.lua told."""
    line = re.search(r"FIGURES (.*)", output)
    assert line, output
    found = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line[1])}
    return Fate(
        answered=found["answered"],
        refused=found["refused"],
        failed=found["failed"],
        seconds=found["us"] / 1e6,
        p50=found["p50"] / 1000,
        p99=found["p99"] / 1000,
        p999=found["p999"] / 1000,
    )
