"""Every 204 has an fsync before it: seen from outside, by the system calls of the daemon."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import Daemon, need

DELIVERIES = 20
CALL = re.compile(
    r"^(?P<pid>\d+) (?P<at>\d+\.\d+) (?:(?P<call>\w+)\((?P<rest>.*)|<\.\.\. (?P<resumed>\w+) resumed>(?P<tail>.*))$"
)
SYNCS = ("fsync", "fdatasync")

CARELESS = """
import sys
from webhookd.adapters import spool_schema
kept = spool_schema.connect
def careless(*arguments):
    db = kept(*arguments)
    db.execute("PRAGMA synchronous = OFF")
    return db
from webhookd.adapters import spool_db
spool_db.connect = careless
del sys.argv[0]
from webhookd.__main__ import main
sys.exit(main())
"""


def unsynced(trace: Path) -> list[float]:
    """Return the times of the 204s that no fsync precedes which began after their request was read.

    The daemon serves one sender here: between the read of a delivery and its answer there must be a whole fsync.
    """
    read_at: float | None = None
    synced = False
    begun: dict[str, bool] = {}
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        call, text = match["call"] or match["resumed"], match["rest"] or match["tail"]
        if "POST /wh/" in text:
            read_at, synced = float(match["at"]), False
        if call in SYNCS:
            if match["call"]:
                begun[match["pid"]] = read_at is not None
            if "unfinished" not in text and begun.pop(match["pid"], False) and text.rstrip().endswith("= 0"):
                synced = True
        if "HTTP/1.1 204" in text:
            if not synced:
                found.append(float(match["at"]))
            read_at, synced = None, False
    return found


def run(folder: Path, command: list[str]) -> list[float]:
    trace = folder / "trace"
    calls = "trace=fsync,fdatasync,read,recvfrom,recvmsg,write,sendto,sendmsg"
    wrapper = [need("strace"), "-f", "-ttt", "-s", "200", "-e", calls, "-o", str(trace), *command]
    daemon = Daemon(folder, wrapper=wrapper)
    daemon.start(60)
    hook = daemon.hook()
    for _ in range(DELIVERIES):
        assert daemon.deliver(hook, b"{}").status == 204
        time.sleep(0.01)
    # strace does not hand signals on: the daemon is its child
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", *children], check=True)
    daemon.stop(60)
    assert trace.read_text(errors="replace").count("HTTP/1.1 204") >= DELIVERIES
    return unsynced(trace)


def test_every_204_has_an_fsync_before_it(tmp_path):
    assert run(tmp_path, []) == []


def test_the_checker_finds_a_daemon_that_does_not_sync(tmp_path):
    script = tmp_path / "careless.py"
    script.write_text(CARELESS)
    assert len(run(tmp_path, [sys.executable, str(script)])) == DELIVERIES


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        (['1 1.0 recvfrom(9, "POST /wh/a", 9) = 9', "2 1.1 fdatasync(5) = 0", '1 1.2 sendto(9, "HTTP/1.1 204"'], 0),
        (["2 0.9 fdatasync(5) = 0", '1 1.0 recvfrom(9, "POST /wh/a", 9) = 9', '1 1.2 sendto(9, "HTTP/1.1 204"'], 1),
        (
            [
                "2 0.9 fdatasync(5 <unfinished ...>",
                '1 1.0 recvfrom(9, "POST /wh/a", 9) = 9',
                "2 1.1 <... fdatasync resumed>) = 0",
                '1 1.2 sendto(9, "HTTP/1.1 204"',
            ],
            1,
        ),
        (['1 1.0 recvfrom(9, "POST /wh/a", 9) = 9', "2 1.1 fsync(5) = -1 EIO", '1 1.2 sendto(9, "HTTP/1.1 204"'], 1),
    ],
)
def test_how_the_checker_reads(tmp_path, lines, count):
    (tmp_path / "trace").write_text("\n".join(lines))
    assert len(unsynced(tmp_path / "trace")) == count
