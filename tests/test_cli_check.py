"""`webhookd check` of what is not on this machine: one line each, in bounded time, without a secret or a traceback."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import script
from harness import Daemon, free_port
from sts import StandIn
from test_jwks import ED, entry

SECRET = "hunter2"
"""In every URL, and in no line."""


def findings(folder: Path, *arguments: str, status: int) -> dict[str, str]:
    """Run `check --json`, and return what it says by name, in its order; what is wrong begins with `FAIL `."""
    begun = time.monotonic()
    done = script(folder, "check", "--json", *arguments)
    assert time.monotonic() - begun < 15
    assert done.err == ""
    assert done.status == status, done.out
    assert SECRET not in done.out
    documents = [json.loads(line) for line in done.out.splitlines()]
    return {d["check"]: ("" if d["ok"] else "FAIL ") + d["detail"] for d in documents}


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def named(url: str) -> str:
    """Return the URL with a user and a password."""
    return url.replace("://", f"://me:{SECRET}@")


def test_sts_and_key_set(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.key_set = {"keys": [entry(ED, "one")]}
    flags = ["--sts-url", named(stand_in.url), "--jwks-url", named(stand_in.jwks_url)]
    found = findings(tmp_path, *flags, status=0)
    assert [*found] == ["settings", "state directory", "store", "broker", "keys", "plugins", "jwks", "sts"]
    assert found["keys"] == "none in files: others are asked, see below"
    assert found["jwks"] == f"{stand_in.jwks_url}, keys: 1"
    assert found["sts"] == f"{stand_in.url} refuses a token that nobody issued, as it should"
    stand_in.fault = "html"
    found = findings(tmp_path, *flags, status=1)
    assert found["jwks"].startswith(f"FAIL jwks_url: {stand_in.jwks_url} gives no key set: ")
    assert found["sts"].startswith(f"FAIL sts_url: the STS at {stand_in.url} does not answer: ")
    stand_in.fault = "silent"
    begun = time.monotonic()
    found = findings(tmp_path, *flags, status=1)
    assert time.monotonic() - begun < 10
    assert [name for name, detail in found.items() if detail.startswith("FAIL")] == ["jwks", "sts"]


def test_files_that_a_probe_needs(tmp_path: Path) -> None:
    nowhere = f"https://127.0.0.1:{free_port()}"
    found = findings(tmp_path, "--sts-url", nowhere, "--sts-cafile", "gone", status=1)
    assert found["sts"] == f"FAIL sts_cafile: {tmp_path}/gone cannot be read: No such file or directory"
    found = findings(tmp_path, "--jwks-url", nowhere, "--jwt-algorithms", "HS256", status=1)
    assert found["jwks"].startswith("FAIL jwt_algorithms names none ")


def test_a_daemon_that_hangs_is_told_soon(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        found = findings(daemon.folder, *daemon.command()[2:], status=1)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert found["broker"].endswith("control.sock: the daemon does not answer")
    assert found["state directory"].endswith("a daemon runs there")
