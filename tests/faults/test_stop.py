"""SIGTERM at random moments under load: every delivery answered or never begun, and nothing answered 204 lost."""

import os
import random
import signal
import time

import pytest
from faults.load import Senders, assert_nothing_lost
from harness import Daemon


@pytest.mark.timeout(600)
def test_sigterm_at_random_moments(tmp_path, request, kills):
    moments = random.Random(request.config.getoption("--seed"))
    daemon = Daemon(tmp_path, log_deliveries="none")
    daemon.start()
    hook = daemon.hook()
    accepted: dict[str, str] = {}
    for _ in range(max(10, kills // 3)):
        with Senders(daemon, hook) as senders:
            time.sleep(moments.uniform(0.01, 0.3))
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.stop() == 0
        accepted |= senders.accepted
        assert set(senders.statuses) <= {204, 503}
        daemon.start()
    assert accepted
    assert_nothing_lost(daemon, accepted)
    assert daemon.stop() == 0
