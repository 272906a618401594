"""A full disk and a slow one: 503 in good time, marks and deletions still work, and all is well again by itself."""

import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

from disks import Disk, disk
from harness import PATIENCE, Answer, Daemon, need, request
from traffic import Traffic, check_nothing_is_lost, hooks_of, kept


def readiness(daemon: Daemon) -> tuple[int, str]:
    answer = request(daemon.admin_port, "GET", "/readyz")
    return answer.status, " ".join([answer.json["status"], *answer.json["reasons"]])


def until_taken(daemon: Daemon, hook: dict[str, Any], body: bytes, seconds: float = PATIENCE) -> Answer:
    deadline = time.monotonic() + seconds
    while (answer := daemon.deliver(hook, body)).status != 204:
        assert answer.status == 503
        assert time.monotonic() < deadline, daemon.log[-2000:]
        time.sleep(0.1)
    return answer


class OnDisk(Daemon):
    """A daemon with a state directory on a small disk; it counts as started once it answers, ready or not."""

    def __init__(self, small: Disk, folder: Path, **flags: str) -> None:
        super().__init__(folder, wrapper=small.wrapper, spool_max_bytes="8MiB", **flags)

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while True:
            assert self.process is not None
            assert self.process.poll() is None, self.log[-2000:]
            with contextlib.suppress(OSError):
                readiness(self)
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_full_disk_refuses_and_recovers_and_can_be_cleaned_up(tmp_path: Path) -> None:
    with disk(tmp_path / "state", "12m") as small, OnDisk(small, tmp_path) as daemon:
        hooks = hooks_of(daemon, 4)
        with Traffic(daemon.port, hooks, "full", very_large=0) as traffic:
            traffic.wait_for("204", 50)
            small.fill()
            traffic.wait_for("503", 20)
        assert set(traffic.fates()) == {"204", "503"}
        assert all(one.retry_after for one in traffic.deliveries if one.status == 503)
        assert max(one.seconds for one in traffic.deliveries) < 3
        assert readiness(daemon) == (503, "unready spool failing: disk full")
        assert request(daemon.admin_port, "GET", "/livez").status == 200

        state = ["--state-dir", str(small.outside)]
        messages = list(kept(small.outside))
        check_nothing_is_lost(traffic, messages)
        dropped = {message.receipt for message in messages[::3]}
        done = daemon.run("spool", "drop", "--yes", "--json", *state, *dropped)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"dropped": len(dropped)}
        left = [message.receipt for message in kept(small.outside)]
        assert left == [message.receipt for message in messages if message.receipt not in dropped]

        small.filler.unlink()
        answer = until_taken(daemon, hooks[0], b'{"number": 1000000}')
        assert readiness(daemon)[1] == "ok"
        assert [message.receipt for message in kept(small.outside)] == [*left, answer.headers["X-Webhookd-Receipt"]]


def test_a_start_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    """Killed while the disk was full, its reserve given free and used up by others: all that was taken is there."""
    with disk(tmp_path / "state", "12m") as small:
        daemon = OnDisk(small, tmp_path)
        with daemon:
            hooks = hooks_of(daemon, 4)
            with Traffic(daemon.port, hooks, "start", very_large=0) as traffic:
                traffic.wait_for("204", 50)
                small.fill()
                traffic.wait_for("503", 20)
                small.fill()  # what the reserve has given free too
                daemon.kill()
            small.fill()
            daemon.start()
            assert "disk full" in readiness(daemon)[1]
            assert daemon.deliver(hooks[0], b"{}").status == 503
            small.filler.unlink()
            until_taken(daemon, hooks[0], b'{"number": 1000000}')
            check_nothing_is_lost(traffic, list(kept(small.outside))[:-1])


def test_a_disk_that_fills_and_empties_under_load_loses_nothing(tmp_path: Path) -> None:
    with disk(tmp_path / "state", "16m") as small, OnDisk(small, tmp_path, spool_retention="1h") as daemon:
        with Traffic(daemon.port, hooks_of(daemon, 4), "tide", very_large=0) as traffic:
            for leave in (0, 100_000, 1_000_000, 0):
                traffic.wait_for("204", 30)
                small.fill(leave)
                traffic.wait_for("503", 10)
                small.filler.unlink()
        assert set(traffic.fates()) == {"204", "503"}
        check_nothing_is_lost(traffic, list(kept(small.outside)))


def test_a_slow_disk_does_not_hold_the_loop_and_work_stays_bounded(tmp_path: Path) -> None:
    """Each fsync takes 200 ms; at most 16 deliveries are in work, the 17th is told to come back."""
    strace = [need("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-P", str(tmp_path / "state" / "spool.db-wal")]
    inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=200000"]
    with Daemon(tmp_path, wrapper=[*strace, *inject], max_in_flight="16") as daemon:
        waits = []
        with Traffic(daemon.port, hooks_of(daemon, 24, tenants=1), "slow", very_large=0) as traffic:
            traffic.wait_for("204", 10)
            for _ in range(40):
                began = time.monotonic()
                assert request(daemon.admin_port, "GET", "/livez").status == 200
                waits.append(time.monotonic() - began)
                time.sleep(0.02)
            traffic.wait_for("204", 10)
            traffic.wait_for("503", 5)
        assert set(traffic.fates()) == {"204", "503"}
        taken = [one.seconds for one in traffic.deliveries if one.status == 204]
        refused = [one.seconds for one in traffic.deliveries if one.status == 503]
        print(f"livez {max(waits):.3f} s at most; 204 after {statistics.median(taken):.3f} s, 503 {max(refused):.3f} s")
        assert min(taken) > 0.2
        assert max(taken) < 3
        assert statistics.quantiles(waits, n=10)[-1] < 0.1
        assert statistics.median(refused) < 0.1
        assert daemon.metrics()["webhookd_in_flight_deliveries"] == 0
    check_nothing_is_lost(traffic, list(kept(daemon.state_dir)))
