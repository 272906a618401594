"""Completion as one who presses the tab key has it: in real shells, and with a real daemon behind it."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest
from commands import call, clean_environ, fill, mark, script
from harness import WEBHOOKD, Daemon, mint, need

from webhookd.adapters.spool import State
from webhookd.cli.completion import SHELLS

pytestmark = pytest.mark.usefixtures("elsewhere")

BASH = """
source <(webhookd completion bash)
complete -p webhookd >/dev/null || exit 9
COMP_WORDS=(webhookd "$@") COMP_CWORD=$#
_webhookd_completion webhookd
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = """
webhookd completion fish | source
complete -C "webhookd $argv"
"""


def environ(**more: str) -> dict[str, str]:
    """Return the environment of a shell that finds `webhookd`."""
    return clean_environ(PATH=f"{Path(WEBHOOKD).parent}:{os.environ['PATH']}", TERM="xterm", **more)


def bash(*words: str, **more: str) -> list[str]:
    """Return what bash offers for the last of `words`."""
    command = [need("bash"), "--norc", "-c", BASH, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environ(**more), check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_commands_options_and_values():
    assert bash("sp") == ["spool"]
    assert bash("hooks", "cr") == ["create"]
    assert {"list", "status", "retry", "drop"} <= set(bash("spool", ""))
    assert bash("hooks", "create", "--valid") == ["--validation"]
    assert bash("hooks", "create", "--validation", "") == ["off", "report", "enforce"]
    assert bash("completion", "f") == ["fish"]


def test_bash_offers_datasources_and_their_events(tmp_path):
    assert bash("hooks", "create", "git") == ["github"]
    assert bash("hooks", "create", "github", "pul") == [
        "pull_request",
        "pull_request_review",
        "pull_request_review_comment",
        "pull_request_review_thread",
    ]
    assert bash("send", "circleci", "") == [
        "job-completed",
        "notify-1.x",
        "ping",
        "workflow-completed",
    ]
    assert bash("plugins", "show", "d") == ["dockerhub"]
    assert bash("plugins", "show", "--plugins-dir", str(tmp_path / "gone"), "") == []


def test_fish_offers_the_same():
    def fish(line: str) -> list[str]:
        command = [need("fish"), "--no-config", "-c", FISH, line]
        done = subprocess.run(command, capture_output=True, text=True, env=environ(), check=True, timeout=30)
        return [offer.split("\t")[0] for offer in done.stdout.splitlines()]

    assert fish("sp") == ["spool"]
    assert fish("hooks create github pus") == ["push"]


def test_zsh_completes_on_the_line(tmp_path):
    """Zsh has no way to ask for its completions but to type."""
    ours, theirs = pty.openpty()
    (tmp_path / ".zshrc").write_text(
        "autoload -U compinit; compinit -D; eval \"$(webhookd completion zsh)\"; PS1='ready> '\n"
    )
    shell = subprocess.Popen(
        [need("zsh"), "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environ(ZDOTDIR=str(tmp_path)),
        start_new_session=True,
        cwd=tmp_path,
    )
    os.close(theirs)
    seen = b""

    def reads(expected: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 30
        while expected not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 65536)
        seen = b""

    try:
        reads(b"ready> ")
        os.write(ours, b"webhookd plu\t")
        reads(b"gins")
        os.write(ours, b"sh\t")
        reads(b"ow")
        os.write(ours, b"dock\t")
        reads(b"erhub")
    finally:
        os.close(ours)
        shell.kill()
        shell.wait()


def test_tokens_come_from_the_config_api(shared_daemon: Daemon):
    hook = shared_daemon.hook("github", "push", tenant="completing")
    more = {"WEBHOOKD_URL": f"http://127.0.0.1:{shared_daemon.port}", "WEBHOOKD_TOKEN": mint("completing")}
    assert bash("hooks", "show", "", **more) == [hook["token"]]
    assert bash("hooks", "delete", hook["token"][:5], **more) == [hook["token"]]
    assert bash("hooks", "show", "x", **more) == []
    assert bash("why", "", **more) == [hook["token"]]


@pytest.mark.parametrize("token", ["", "wrong"])
def test_what_cannot_be_asked_is_not_offered_and_no_error(shared_daemon, token):
    more = {"WEBHOOKD_URL": f"http://127.0.0.1:{shared_daemon.port}", "WEBHOOKD_TOKEN": token}
    assert bash("hooks", "show", "", **more) == []


def test_receipts_come_from_a_running_daemon(tmp_path):
    daemon = Daemon(tmp_path)
    receipts = fill(daemon.state_dir, range(3), keep=False)
    mark(daemon.state_dir, receipts[:1], State.SET_ASIDE, "too large")
    where = ["--state-dir", str(daemon.state_dir)]
    assert bash("spool", "retry", *where, "") == []
    with daemon:
        assert bash("spool", "retry", *where, "") == receipts[:1]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_for_its_shell_and_for_webhookd(shell, tmp_path):
    done = call("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert f"_WEBHOOKD_COMPLETE={shell}_complete" in done.out
    assert script(tmp_path, "completion", shell, WEBHOOKD_MAX_BODDY="1").out == done.out


def test_another_shell_is_a_mistake():
    done = call("completion", "csh")
    assert done.status == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in done.line
