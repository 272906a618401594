"""What runs out is told to those whom it concerns, and is no trouble any more once there is some again."""

import contextlib
import os
import resource
import socket
import subprocess
import time
from pathlib import Path

from harness import Daemon, need, request
from traffic import Traffic, check_nothing_is_lost, hooks_of, kept


def test_a_full_spool_refuses_everybody_and_evicts_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, spool_max_bytes="1MiB") as daemon:
        hooks = hooks_of(daemon, 3, tenants=3)
        with Traffic(daemon.port, hooks, "full", very_large=0) as traffic:
            traffic.wait_for("503", 50)
        assert set(traffic.fates()) == {"204", "503"}
        refusals = [daemon.deliver(hook, b'{"number": 0, "pad": "%s"}' % (b"x" * 30_000)) for hook in hooks]
        assert [refusal.status for refusal in refusals] == [503] * 3
        assert all(int(refusal.headers["Retry-After"]) > 0 for refusal in refusals)
        messages = list(kept(daemon.state_dir))
        check_nothing_is_lost(traffic, messages)
        assert len(messages) == traffic.fates()["204"]
        size = sum(part.stat().st_size for part in daemon.state_dir.glob("spool.db*") if part.suffix != ".db-shm")
        assert size <= 1 << 20
        done = daemon.run("spool", "drop", "--all", "--yes", "--state-dir", str(daemon.state_dir))
        assert done.returncode == 0, done.stderr
        assert [daemon.deliver(hook, b'{"number": 0}').status for hook in hooks] == [204] * 3


def test_a_tenant_over_its_share_is_refused_alone(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, spool_max_bytes="4MiB", tenant_share="0.3")
    with daemon:
        greedy, modest = daemon.hook(tenant="greedy"), daemon.hook(tenant="modest")
        with Traffic(daemon.port, [greedy], "share", very_large=0) as traffic:
            traffic.wait_for("503", 20)
        refusal = daemon.deliver(greedy, b'{"pad": "%s"}' % (b"x" * 50_000))
        assert refusal.status == 503
        assert "tenant" in refusal.json["detail"]
        assert refusal.headers["Retry-After"]
        assert request(daemon.admin_port, "GET", "/readyz").status == 200
        for _ in range(10):
            assert daemon.deliver(modest, b'{"number": 0, "pad": "%s"}' % (b"x" * 50_000)).status == 204
        daemon.stop()
        daemon.start()
        assert daemon.deliver(greedy, b'{"pad": "%s"}' % (b"x" * 50_000)).status == 503
        assert daemon.deliver(modest, b'{"number": 1, "pad": "%s"}' % (b"x" * 50_000)).status == 204


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_more_connections_than_descriptors_are_survived(tmp_path: Path) -> None:
    """What is open goes on, what waits neither spins nor floods the log, and all is well once they are gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    with Daemon(tmp_path, wrapper=[need("prlimit"), "--nofile=128:128"]) as daemon, contextlib.ExitStack() as stack:
        hooks = hooks_of(daemon, 2)
        with Traffic(daemon.port, hooks, "open", very_large=0) as traffic:
            traffic.wait_for("204", 50)
            crowd = [socket.create_connection(("127.0.0.1", daemon.port), 5) for _ in range(500)]
            for one in crowd:
                stack.callback(one.close)
            time.sleep(0.3)
            traffic.wait_for("204", 50)
        lines, used = daemon.log.count("\n"), cpu_seconds(daemon.pid)
        time.sleep(1)
        assert cpu_seconds(daemon.pid) - used < 0.5
        assert daemon.log.count("\n") - lines < 20
        stack.close()
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                if daemon.deliver(hooks[0], b'{"number": 1000000}', timeout=2).status == 204:
                    break
            assert time.monotonic() < until
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log
    check_nothing_is_lost(traffic, [message for message in kept(daemon.state_dir) if message.number < 1_000_000])


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    daemon = Daemon(tmp_path, log_deliveries="all")
    daemon.log_path.touch()  # there is none
    try:
        daemon.process = subprocess.Popen(
            daemon.command(), stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=daemon.environ, cwd=tmp_path
        )
        os.close(writer)
        daemon.wait_ready()
        with Traffic(daemon.port, hooks_of(daemon, 4), "unread", very_large=0) as traffic:
            traffic.wait_for("204", 1000, 30)  # some 300 bytes of log each: far more than a pipe holds
        assert set(traffic.fates()) == {"204"}
        assert daemon.stop(timeout=15) == 0
    finally:
        daemon.stop()
        os.close(reader)
    check_nothing_is_lost(traffic, list(kept(daemon.state_dir)))
