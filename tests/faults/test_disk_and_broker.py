"""The disk fails while the broker is away: 503 in good time for what cannot be kept, and what was kept is published."""

from pathlib import Path

import pytest
from disks import disk
from faults.conftest import Begin
from harness import need, until

pytestmark = pytest.mark.timeout(900)
LATEST = 6.0
"""How long an answer may take on a failing disk, in seconds."""


def test_full_and_drained_while_full(scenario: Begin, tmp_path: Path) -> None:
    """Nobody makes room: what is published makes its own."""
    with disk(tmp_path / "small", "16m") as small:
        state = {"state_dir": str(small.path / "state"), "spool_max_bytes": "8MiB"}
        run = scenario("disk: full, and drained so", proxied=True, wrapper=small.wrapper, **state)
        run.daemon.state_dir = small.outside / "state"
        with run.fault():
            run.proxy.refuse()
            run.wait_for("spooled", 100)
            small.fill()
            run.traffic.wait_for("503", 20)
            assert "unready" in run.reasons()
            run.proxy.heal()
        run.live_again()
        small.filler.unlink()
        run.end(duplicates=True, latest=LATEST)
        run.close()


def test_slow(scenario: Begin, tmp_path: Path) -> None:
    """Each fsync takes 200 ms: many deliveries share one, and what the broker confirms waits for none."""
    strace = [need("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    inject = ["-e", "inject=fdatasync:delay_enter=200000"]
    run = scenario("disk: 200 ms for each fsync", proxied=True, wrapper=[*strace, *inject])
    for _ in range(2):
        with run.fault():
            run.proxy.refuse()
            run.wait_for("spooled", 100)
            run.proxy.heal()
        run.live_again()
    run.end(duplicates=True, latest=LATEST)


def test_spool_full(scenario: Begin) -> None:
    run = scenario("disk: spool at its limit", proxied=True, rate=0, spool_max_bytes="2MiB")
    with run.fault():
        run.proxy.refuse()
        run.traffic.wait_for("503", 50)
        until(lambda: "spool" in run.reasons())
        run.proxy.heal()
    run.live_again()
    run.end(duplicates=True)
