"""kill -9 under load, again and again: nothing that was answered 204 is lost, nothing half written is left."""

import random
import time
from pathlib import Path

import pytest
from harness import Daemon
from traffic import Traffic, check_nothing_is_lost, hooks_of, kept

SENDERS = 8


@pytest.mark.timeout(1800)
def test_nothing_answered_is_lost_by_kills_at_random_moments(
    tmp_path: Path, kills: int, moments: random.Random
) -> None:
    """A kill counts when it cut off a delivery that was in work."""
    daemon = Daemon(tmp_path)
    counted = idle = 0
    with daemon, Traffic(daemon.port, hooks_of(daemon, SENDERS), "kills", very_large=0.01) as traffic:
        while counted < kills:
            traffic.wait_for("204", 1)
            time.sleep(moments.uniform(0, 0.1) if moments.random() < 0.8 else moments.uniform(0.4, 0.8))
            before = traffic.fates()["cut"]
            daemon.kill()
            time.sleep(0.02)  # until the senders have noticed
            hit = traffic.fates()["cut"] > before
            counted += hit
            idle += not hit
            daemon.start()
    messages = list(kept(daemon.state_dir))
    fates = traffic.fates()
    print(f"{counted} kills in work, {idle} beside it; {fates}; {len(messages)} messages in the spool")
    assert idle <= kills
    assert set(fates) <= {"204", "503", "cut", "refused", "broken"}
    assert fates["204"] > kills * SENDERS
    assert sum(message.size > 1 << 20 for message in messages) >= max(1, kills // 50), "no large body came through"
    check_nothing_is_lost(traffic, messages)
    assert "damaged" not in daemon.log
    assert "Traceback" not in daemon.log
