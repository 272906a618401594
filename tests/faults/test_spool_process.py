"""The spool in a process that is killed, or whose disk fails: what was durable is there, what was not was said."""

import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from disks import on_disk_of_its_own
from faults.spool_process import message
from harness import need

TESTS = Path(__file__).parents[1]
SCRIPT = TESTS / "faults" / "spool_process.py"
ENVIRON = {**os.environ, "PYTHONPATH": str(TESTS)}


def process(mode: str, path: Path, *arguments: str, wrapper: Sequence[str] = ()) -> dict[str, Any]:
    """Run the script, and return what it saw."""
    command = [*wrapper, sys.executable, str(SCRIPT), mode, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=ENVIRON)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def receipt(number: int) -> str:
    return message(number).receipt


def stored(path: Path) -> dict[str, str]:
    """Return receipt -> SHA-256 of the body, by another connection and no code of the spool's."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {}
        for name, blob, size in db.execute("SELECT receipt, blob, bytes FROM message").fetchall():
            body = b"".join(
                data for (data,) in db.execute("SELECT data FROM body WHERE id >> 16 = ? ORDER BY id", (blob,))
            )
            assert len(body) == size
            found[name] = hashlib.sha256(body).hexdigest()
        return found


@pytest.mark.timeout(900)
def test_kill_9_with_confirms_and_marks_beside_it(tmp_path, kills):
    """A tenth of the kills that the daemon gets; each is counted only if something was in flight."""
    path = tmp_path / "spool.db"
    rng = random.Random(20_241)
    begun: set[int] = set()
    durable: set[int] = set()
    confirmed: set[int] = set()
    counted = first = 0
    while counted < kills // 10:
        command = [sys.executable, str(SCRIPT), "load", str(path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRON) as child:
            assert child.stdout is not None
            head = child.stdout.readline()
            time.sleep(rng.uniform(0, 0.4))
            child.kill()
            lines = (head + child.stdout.read()).decode().splitlines()
        says = [(line[0], int(line.split()[1])) for line in lines if line[2:]]
        assert all(word != "f" for word, _ in says), lines[-5:]
        now_begun = {number for word, number in says if word == "b"}
        now_durable = {number for word, number in says if word == "d"}
        counted += bool(now_durable) and bool(now_begun - now_durable)
        begun |= now_begun
        durable |= now_durable
        confirmed |= {number for word, number in says if word == "c"}
        first = max(begun) + 1
        there = stored(path)
        lost = [number for number in durable - confirmed if receipt(number) not in there]
        assert lost == []
        assert there.keys() <= {receipt(number) for number in begun}
    expected = {receipt(n): hashlib.sha256(message(n).body).hexdigest() for n in begun if receipt(n) in there}
    assert there == expected
    assert len(durable) > counted * 20
    assert confirmed


def inject(*effects: str) -> list[str]:
    injections = [f"--inject=fsync,fdatasync:{effect}" for effect in effects]
    return [need("strace"), "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", *injections]


def test_an_fsync_that_fails_is_a_refusal_and_is_recovered_from(tmp_path):
    """Of the writer's thread the calls 20 to 27 fail, among them those with which it tries to begin anew."""
    path = tmp_path / "spool.db"
    seen = process("eio", path, wrapper=inject("error=EIO:when=20..27"))
    outcomes = seen["outcomes"]
    refused = [number for number, outcome in enumerate(outcomes) if outcome != "durable"]
    assert refused
    assert all("I/O error" in outcomes[number] for number in refused)
    assert outcomes[0] == "durable"
    assert outcomes[-5:] == ["durable"] * 5
    assert refused == list(range(refused[0], refused[-1] + 1))
    assert seen["failing"] is None
    durable = {receipt_of(number) for number, outcome in enumerate(outcomes) if outcome == "durable"}
    there = stored(path).keys()
    assert durable <= there
    assert len(there - durable) <= 1  # of the commit whose fsync failed, nobody knows


def receipt_of(number: int) -> str:
    from test_publishers import a_message

    return a_message(number).receipt


def test_a_slow_fsync_does_not_hold_the_loop(tmp_path):
    seen = process("slow", tmp_path / "spool.db", wrapper=inject("delay_enter=150000"))
    assert seen["seconds"] > 0.15
    assert seen["seconds"] < 5  # two hundred messages share a few fsyncs
    assert seen["worst lag"] < 0.1


def test_a_full_disk_refuses_clearly_drains_restarts_and_recovers(tmp_path):
    folder = tmp_path / "disk"
    seen = process("full", folder / "spool.db", wrapper=on_disk_of_its_own(folder, "size=24m"))
    assert seen["before"] == ["durable"] * 60
    assert set(seen["full"]) == {"durable", "disk full"} or set(seen["full"]) == {"disk full"}
    assert seen["full"][-1] == "disk full"
    assert seen["failing"] == "disk full"
    assert seen["large"] == "disk full"
    taken = [*range(60), *(100 + n for n, outcome in enumerate(seen["full"]) if outcome == "durable")]
    assert seen["there"] == [receipt_of(number) for number in taken]
    assert (seen["marked"], seen["retried"], seen["confirmed"]) == (40, 40, 20)
    assert seen["after restart"] == ["disk full", "disk full"]
    assert seen["confirmed after restart"] == 10
    assert seen["without any room"] == ["disk full", "disk full"]
    assert seen["confirmed without any room"] == 5
    assert seen["left"] == [receipt_of(number) for number in taken[35:]]
    assert seen["recovered in"] < 2
    assert seen["failing at last"] is None
    assert seen["reserve"] == 4 << 20


def test_a_full_disk_is_drained_to_the_last_message(tmp_path):
    """Though somebody takes every byte that is given back."""
    folder = tmp_path / "disk"
    seen = process("drained", folder / "spool.db", wrapper=on_disk_of_its_own(folder, "size=20m"))
    assert seen["count"] > 1000
    assert seen["left"] == 0
    assert seen["errors"] == []
    assert seen["gone"] >= seen["count"]
