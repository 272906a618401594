"""SIGTERM under load: what was taken is kept and answered, what was not is told so or cut off, and the exit is clean."""

import random
import time
from pathlib import Path

import pytest
from harness import Daemon
from traffic import Traffic, check_nothing_is_lost, hooks_of, kept

SENDERS = 8


@pytest.mark.timeout(900)
def test_sigterm_under_load_leaves_nothing_half_done(tmp_path: Path, kills: int, moments: random.Random) -> None:
    """Without a kill nothing is in the spool that its sender was not told of."""
    daemon = Daemon(tmp_path)
    stops = 20 if kills <= 50 else kills // 2
    in_work = 0
    with daemon, Traffic(daemon.port, hooks_of(daemon, SENDERS), "stops", very_large=0.01) as traffic:
        for _ in range(stops):
            traffic.wait_for("204", 1)
            time.sleep(moments.uniform(0, 0.15))
            in_work += traffic.fates()["in flight"] > 0
            began = time.monotonic()
            assert daemon.stop(timeout=15) == 0, daemon.log
            assert time.monotonic() - began < 10
            daemon.start()
    fates = traffic.fates()
    print(f"{stops} stops, {in_work} with deliveries in work: {fates}")
    assert in_work > stops // 2
    assert set(fates) <= {"204", "503", "cut", "refused"}
    refusals = [one for one in traffic.deliveries if one.status == 503]
    assert all(one.retry_after for one in refusals)
    messages = list(kept(daemon.state_dir))
    check_nothing_is_lost(traffic, messages)
    assert {message.receipt for message in messages} == set(traffic.accepted())
    assert "Traceback" not in daemon.log
    assert "left unanswered" not in daemon.log


def test_a_second_daemon_on_one_state_directory_is_refused(tmp_path: Path) -> None:
    with Daemon(tmp_path) as first:
        hook = first.hook()
        answer = first.deliver(hook, b'{"number": 1}')
        assert answer.status == 204
        other = tmp_path / "other"
        other.mkdir()
        second = Daemon(other, state_dir=str(first.state_dir))
        with pytest.raises(AssertionError, match=f"in use by pid {first.pid}") as caught:
            second.start()
        assert "Traceback" not in str(caught.value)
        assert second.process is not None
        assert second.process.returncode in {1, 2}
        assert first.deliver(hook, b'{"number": 2}').status == 204
        first.kill()
        with second:  # a killed one leaves nothing to clean up
            assert second.deliver(hook, b'{"number": 3}').status == 204
    assert [message.number for message in kept(first.state_dir)] == [1, 2, 3]
