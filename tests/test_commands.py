"""The command line against a real daemon, by its console script."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import jwt
import pytest
from harness import KEY, WEBHOOKD, Daemon, free_port, mint, until

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def run(daemon: Daemon, *arguments: str, status: int = 0, **environ: str) -> str:
    done = daemon.run(*arguments, WEBHOOKD_TOKEN=mint(), WEBHOOKD_URL=f"http://127.0.0.1:{daemon.port}", **environ)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def state(daemon: Daemon) -> tuple[str, str]:
    return ("--state-dir", str(daemon.state_dir))


def test_hooks(daemon):
    made = json.loads(run(daemon, "hooks", "create", "github", "push", "--secret", "a long secret", "--json"))
    assert made["signed"] is True
    assert made["token"] in run(daemon, "hooks", "list")
    assert json.loads(run(daemon, "hooks", "show", made["token"], "--json")) == made
    assert made["hookUrl"] in run(daemon, "hooks", "show", made["token"])
    (daemon.folder / "secret").write_text("another secret\n")
    changed = run(daemon, "hooks", "create", "github", "push", "--secret-file", str(daemon.folder / "secret"), "--json")
    assert json.loads(changed)["token"] == made["token"]
    assert "datasource" in run(daemon, "hooks", "create", "git hub", "push", status=1)
    assert "404" in run(daemon, "hooks", "show", "0" * 40, status=1)
    run(
        daemon,
        "hooks",
        "delete",
        made["token"],
        *(["--yes"] if "--yes" in run(daemon, "hooks", "delete", "--help") else []),
    )
    assert made["token"] not in run(daemon, "hooks", "list")
    assert "401" in daemon.run("hooks", "list", "--url", f"http://127.0.0.1:{daemon.port}", "--token", "x").stderr
    assert (
        "nothing listens"
        in daemon.run("hooks", "list", "--url", f"http://127.0.0.1:{free_port()}", "--token", "x").stderr
    )


def test_token(daemon):
    minted = run(daemon, "token", "--tenant", "42", "--key-file", "jwt.key", "--ttl", "10m").strip()
    claims = jwt.decode(minted, KEY, ["HS256"])
    assert claims["tenantId"] == 42
    assert claims["exp"] - claims["iat"] == 600
    assert "key-file" in run(daemon, "token", "--tenant", "42", "--key-file", "missing", status=2)


@pytest.mark.parametrize(
    ("datasource", "event", "secret"),
    [
        ("github", "push", "a long secret"),
        ("circleci", "job-completed", "a long secret"),
        ("dockerhub", "push", None),
        ("mine", "x", WHSEC),
    ],
)
def test_send(shared_daemon, datasource, event, secret):
    fields = {} if secret is None else {"secret": secret}
    hook = shared_daemon.hook(datasource, event, tenant=f"send-{datasource}", **fields)
    signed = [] if secret is None else ["--secret", secret]
    assert "204" in run(shared_daemon, "send", datasource, event, hook["hookUrl"], *signed)
    if secret is not None:
        assert "401" in run(shared_daemon, "send", datasource, event, hook["hookUrl"], status=1)
    assert "404" in run(shared_daemon, "send", datasource, event, hook["hookUrl"] + "x", status=1)


def test_tail_and_spool_beside_a_daemon_and_without_one(daemon):
    hook = daemon.hook("mine", "thing", tsField="a.b")
    other = daemon.hook("mine", "thing", tenant=7)
    daemon.deliver(hook, '{"x":"é\x7f"}'.encode())
    daemon.deliver(other, b'{"x":"' + b"y" * 3000 + b'"}')

    def look() -> list[str]:
        lines = [json.loads(line) for line in run(daemon, "tail", "--json", *state(daemon)).splitlines()]
        assert [line["body"] for line in lines] == ['{"x":"é\x7f"}', '{"x":"' + "y" * 3000 + '"}']
        assert lines[0]["headers"]["tsField"] == "a.b"
        assert set(lines[0]) == {
            "receipt",
            "routingKey",
            "tenant",
            "datasource",
            "event",
            "receivedAt",
            "headers",
            "body",
        }
        assert len(run(daemon, "tail", "--json", "--tenant", "7", *state(daemon)).splitlines()) == 1
        text = run(daemon, "tail", *state(daemon))
        assert "event.42.mine.thing" in text
        assert "\x7f" not in text
        listed = [json.loads(line) for line in run(daemon, "spool", "list", "--json", *state(daemon)).splitlines()]
        keys = {"receipt", "tenant", "datasource", "event", "state", "attempts", "receivedAt", "bytes", "reason"}
        assert all(set(line) == keys for line in listed)
        assert [line["state"] for line in listed] == ["kept", "kept"]
        assert "kept" in run(daemon, "spool", "list", *state(daemon))
        status = json.loads(run(daemon, "spool", "status", "--json", *state(daemon)))
        assert status["messages"]["kept"] == 2
        assert "kept" in run(daemon, "spool", "status", *state(daemon))
        assert run(daemon, "spool", "retry", *state(daemon)).startswith("retried 0")
        return [line["receipt"] for line in lines]

    receipts = look()
    assert daemon.stop() == 0
    assert look() == receipts
    assert "--yes" in run(daemon, "spool", "drop", "--all", *state(daemon), status=2)
    assert run(daemon, "spool", "drop", "--yes", *state(daemon), status=2)
    assert run(daemon, "spool", "drop", "--older-than", "soon", "--yes", *state(daemon), status=2)
    assert run(daemon, "spool", "drop", "--older-than", "1h", "--yes", *state(daemon)) == "dropped 0 messages\n"
    assert run(daemon, "spool", "drop", receipts[0], "--yes", *state(daemon)) == "dropped 1 message\n"
    daemon.start()
    assert run(daemon, "spool", "drop", "--all", "--yes", *state(daemon)) == "dropped 1 message\n"
    assert "no state directory" in run(daemon, "tail", "--state-dir", "/nowhere/at/all", status=1)
    head = subprocess.run(
        f"{WEBHOOKD} tail --state-dir {daemon.state_dir} | head -0",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert head.stderr == ""


def test_tail_follows_through_a_restart(daemon):
    hook = daemon.hook()
    with (daemon.folder / "out").open("wb") as out:
        tail = subprocess.Popen([WEBHOOKD, "tail", "--follow", "--json", *state(daemon)], stdout=out, stderr=out)
    try:
        daemon.deliver(hook, b'{"n":1}')
        seen = daemon.folder / "out"
        until(lambda: '{\\"n\\":1}' in seen.read_text())
        assert daemon.stop() == 0
        time.sleep(1)
        daemon.start()
        daemon.deliver(hook, b'{"n":2}')
        until(lambda: '{\\"n\\":2}' in seen.read_text())
        assert len(seen.read_text().splitlines()) == 2
    finally:
        tail.send_signal(signal.SIGINT)
        tail.wait(10)


def test_plugins(daemon):
    assert re.search(r"github .*yes", run(daemon, "plugins", "list"))
    names = [json.loads(line)["name"] for line in run(daemon, "plugins", "list", "--json").splitlines()]
    assert names == ["circleci", "dockerhub", "github"]
    assert "repository.pushed_at" in run(daemon, "plugins", "show", "github")
    assert "github" in run(daemon, "plugins", "show", "githbu", status=1)


def test_check(daemon):
    flags = ("--jwt-secret-file", "jwt.key", *state(daemon))
    daemon.deliver(daemon.hook(), b"{}")
    text = run(daemon, "check", *flags)
    assert "FAIL" not in text
    found = [json.loads(line) for line in run(daemon, "check", "--json", *flags).splitlines()]
    assert all(line["ok"] for line in found)
    daemon.stop()
    assert "FAIL" not in run(daemon, "check", *flags)
    daemon.state_dir.chmod(0o755)
    done = daemon.run("check", "--jwt-secret-file", "missing", *state(daemon))
    assert done.returncode == 1
    assert done.stdout.count("FAIL") >= 2
    daemon.state_dir.chmod(0o700)
    assert daemon.run("check", "--max-body", "x").returncode == 1


def test_typos_are_one_line_with_a_suggestion(daemon):
    for arguments, environ, words in [
        (("serev",), {}, "serve"),
        (("serve", "--lisen", "x"), {}, "--listen"),
        (("serve",), {"WEBHOOKD_MAX_BDOY": "1"}, "max_body"),
        (("serve", "--max-body", "12 apples"), {}, "max_body"),
    ]:
        done = daemon.run(*arguments, **environ)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert words.lower() in done.stderr.lower()


def test_help_everywhere(daemon):
    for command in (
        (),
        ("serve",),
        ("dev",),
        ("check",),
        ("hooks",),
        ("hooks", "create"),
        ("token",),
        ("send",),
        ("tail",),
        ("spool",),
        ("plugins",),
    ):
        assert "Usage:" in run(daemon, *command, "--help")
    assert run(daemon, "--version").startswith("webhookd 0.")


def test_dev_is_a_nice_minute(tmp_path):
    listen, admin = free_port(), free_port()
    command = [WEBHOOKD, "dev", "--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}"]
    tokens = []
    said = tmp_path / "out"
    for _ in range(2):  # a rerun in the same folder finds the hook again
        with said.open("wb") as out:
            dev = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path)
        try:
            until(lambda: "curl" in said.read_text())
            time.sleep(0.2)
            (line,) = [text.strip() for text in said.read_text().splitlines() if text.strip().startswith("curl ")]
            sent = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
            assert "204 No Content" in sent.stdout
            until(lambda: "accepted" in said.read_text())
            (create,) = [text.strip() for text in said.read_text().splitlines() if "hooks create" in text]
            path = {"PATH": f"{Path(WEBHOOKD).parent}:/usr/bin:/bin"}
            made = subprocess.run(
                ["bash", "-c", create], capture_output=True, text=True, check=False, cwd=tmp_path, env=path
            )
            assert made.returncode == 0, made.stderr
            tokens.append(re.search(r"/wh/\S+", line)[0])
            shown = subprocess.run([WEBHOOKD, "tail"], capture_output=True, text=True, check=False, cwd=tmp_path)
            assert "Hello, webhookd" in shown.stdout
        finally:
            dev.send_signal(signal.SIGINT)
            assert dev.wait(20) == 0
    assert tokens[0] == tokens[1]
