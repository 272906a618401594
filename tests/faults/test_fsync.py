"""Every 204 has an fsync of the spool before it: seen by strace, which also sees a daemon that leaves it out."""

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Daemon, need
from traffic import Traffic, check_nothing_is_lost, hooks_of, kept

CALLS = "trace=fsync,fdatasync,recvfrom,sendto,read,write,writev,sendmsg,close"
CALL = re.compile(r"(?P<pid>\d+) +(?P<time>[\d.]+) (?P<call>\w+)\((?P<rest>.*)")
RESUMED = re.compile(r"(?P<pid>\d+) +(?P<time>[\d.]+) <\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)")
FILE = re.compile(r"(?P<fd>\d+)<(?P<name>[^>]*(?:->[^>]*)?)>")
RESULT = re.compile(r"= (-?\d+)(?: .*)?$")
SECONDS = re.compile(r" <([\d.]+)>$")

UNSYNCED = """
import sqlite3, sys

class Unsynced(sqlite3.Connection):
    def execute(self, statement, *values):
        if statement.lower().startswith("pragma synchronous"):
            statement = "PRAGMA synchronous = {mode}"
        return super().execute(statement, *values)

connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, factory=Unsynced, **options)
from webhookd.__main__ import main
sys.argv.pop(0)
main()
"""
"""A daemon that forgets the fsync: what the checker below must see."""


@dataclass
class Call:
    """One system call: when it began and ended, on which file, with which data and result."""

    name: str
    began: float
    ended: float
    fd: str
    file: str
    data: str
    result: int


def calls(trace: str) -> Iterator[Call]:
    """Read what `strace -f -ttt -T -yy` wrote."""
    begun: dict[tuple[str, str], tuple[float, str]] = {}
    for line in trace.splitlines():
        if resumed := RESUMED.match(line):
            found = begun.pop((resumed["pid"], resumed["call"]), None)
            if found is None:
                continue
            began, rest = found[0], found[1] + resumed["rest"]
        elif not (match := CALL.match(line)):
            continue  # a signal, an exit
        elif match["rest"].endswith("<unfinished ...>"):
            begun[match["pid"], match["call"]] = float(match["time"]), match["rest"].removesuffix("<unfinished ...>")
            continue
        else:
            resumed = match
            began, rest = float(match["time"]), match["rest"]
        seconds, file = SECONDS.search(rest), FILE.match(rest)
        result = RESULT.search(rest[: seconds.start()] if seconds else rest)
        if seconds and file and result:
            ended = began + float(seconds[1])
            yield Call(resumed["call"], began, ended, file["fd"], file["name"], rest[file.end() :], int(result[1]))


def unsynced_answers(trace: str) -> tuple[int, int]:
    """Return how many answers 204 there are, and before how many of them no fsync began after its request was read."""
    read: dict[str, float] = {}
    synced: list[tuple[float, float]] = []
    answers = without = 0
    for call in sorted(calls(trace), key=lambda call: call.ended):
        if call.name in {"fsync", "fdatasync"} and call.file.endswith("/spool.db-wal") and call.result == 0:
            synced.append((call.began, call.ended))
        elif call.name in {"recvfrom", "read"} and call.file.startswith("TCP") and call.result > 0:
            read[call.fd] = call.ended
        elif "HTTP/1.1 204" in call.data:
            answers += 1
            request = read[call.fd]
            without += not any(request <= began and ended <= call.began for began, ended in synced[-50:])
    return answers, without


def whole(trace: Path) -> str:
    """Return what strace wrote, once it has seen the end of the daemon."""
    for _ in range(1000):
        text = trace.read_text()
        if text.endswith("+++ exited with 0 +++\n"):
            return text
        time.sleep(0.01)
    raise AssertionError(text[-500:])


def traced(folder: Path, *program: str) -> tuple[int, int]:
    """Run a daemon under load and strace; return what `unsynced_answers` does."""
    trace = folder / "trace"
    strace = [need("strace"), "-D", "-f", "-ttt", "-T", "-yy", "-s", "24", "-e", CALLS, "-o", str(trace)]
    daemon = Daemon(folder, wrapper=[*strace, *program])
    with daemon:
        with Traffic(daemon.port, hooks_of(daemon, 6), very_large=0) as traffic:
            traffic.wait_for("204", 200, 60)
        assert set(traffic.fates()) == {"204"}
    check_nothing_is_lost(traffic, list(kept(daemon.state_dir)))
    answers, without = unsynced_answers(whole(trace))
    assert answers == traffic.fates()["204"]
    return answers, without


def test_every_204_has_an_fsync_between_its_request_and_its_answer(tmp_path: Path) -> None:
    answers, without = traced(tmp_path)
    assert answers >= 200
    assert without == 0


@pytest.mark.parametrize("mode", ["OFF", "NORMAL"])
def test_a_daemon_without_the_fsync_is_found_out(tmp_path: Path, mode: str) -> None:
    answers, without = traced(tmp_path, sys.executable, "-c", UNSYNCED.format(mode=mode))
    assert without > answers / 2  # now and then a checkpoint syncs, and covers one by chance


READ = '1 1.0 recvfrom(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "POST /wh/a"..., 99, 0) = 9 <0.1>'
SYNC = "2 {at} fdatasync(5</x/spool.db-wal>) = {result} <0.1>"
ANSWER = '1 2.0 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "HTTP/1.1 204 No Content"..., 99) = 99 <0.1>'


@pytest.mark.parametrize(
    ("lines", "without"),
    [
        ([READ, SYNC.format(at=1.2, result="0"), ANSWER], 0),
        ([SYNC.format(at=0.5, result="0"), READ, ANSWER], 1),
        ([SYNC.format(at=1.05, result="0"), READ, ANSWER], 1),
        ([READ, SYNC.format(at=1.95, result="0"), ANSWER], 1),
        ([READ, SYNC.format(at=1.2, result="-1 EIO (Input/output error)"), ANSWER], 1),
        ([READ, SYNC.format(at=1.2, result="0").replace("-wal", ""), ANSWER], 1),
        ([READ, SYNC.format(at=1.2, result="0").replace("spool", "hooks"), ANSWER], 1),
        ([READ, "2 1.2 fdatasync(5</x/spool.db-wal> <unfinished ...>", "2 1.6 <... fdatasync resumed>) = 0 <0.4>", ANSWER], 0),
        ([READ, "2 1.2 fdatasync(5</x/spool.db-wal> <unfinished ...>", ANSWER, "2 2.1 <... fdatasync resumed>) = 0 <0.9>"], 1),
    ],
)  # fmt: skip
def test_how_the_checker_reads(lines: list[str], without: int) -> None:
    assert unsynced_answers("\n".join(lines)) == (1, without)


@pytest.mark.parametrize("path", ["-wal", ""])
def test_a_commit_whose_fsync_failed_is_refused_and_not_believed_later(tmp_path: Path, path: str) -> None:
    """The disk says EIO, once for the log and for the database: 503, the file is opened anew, and all goes on."""
    state = tmp_path / "state" / f"spool.db{path}"
    strace = [need("strace"), "-D", "-f", "-qq", "-o", str(tmp_path / "trace"), "-P", str(state)]
    inject = ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync:error=EIO:when=6..400+13"]
    flags = {"spool_max_bytes": "1MiB"} if not path else {}
    daemon = Daemon(tmp_path, wrapper=[*strace, *inject], **flags)
    with daemon:
        with Traffic(daemon.port, hooks_of(daemon, 4), very_large=0) as traffic:
            traffic.wait_for("503", 3, 30)
            traffic.wait_for("204", 20, 30)
        daemon.kill()
        daemon.wrapper = []
        daemon.start()
    assert set(traffic.fates()) <= {"204", "503"}
    assert "(INJECTED)" in (tmp_path / "trace").read_text()
    assert "disk I/O error" in daemon.log
    check_nothing_is_lost(traffic, list(kept(daemon.state_dir)))
