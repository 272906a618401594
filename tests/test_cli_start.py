"""Starts as people do them: `webhookd dev` for a newcomer, `serve` and its refusals, `check` before and beside it."""

import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
from commands import call, clean_environ, fill, running, script
from harness import KEY, WEBHOOKD, Daemon, free_port, request, until

from webhookd.adapters.spool import SpoolStats
from webhookd.cli.dev import Guide, _command, _relative
from webhookd.control_client import ControlError, DaemonSpool
from webhookd.model import Message
from webhookd.settings import Settings
from webhookd.statedir import StateDir

pytestmark = pytest.mark.usefixtures("elsewhere")


# --- dev -------------------------------------------------------------------------------------------------------------


class Dev:
    """A running `webhookd dev`, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.text += line

    def ready(self) -> "Dev":
        until(lambda: "show up here:" in self.text or self.process.poll() is not None)
        assert self.process.poll() is None
        return self

    def line(self, pattern: str) -> str:
        (found,) = re.findall(rf"^  ({pattern})$", self.text, re.MULTILINE)
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@contextmanager
def dev(folder: Path, *arguments: str, **environ: str) -> Iterator[Dev]:
    ports = [] if "--listen" in arguments else ["--listen", f"127.0.0.1:{free_port()}"]
    ports += [] if "--admin-listen" in arguments else ["--admin-listen", f"127.0.0.1:{free_port()}"]
    with running(folder, "dev", *ports, *arguments, **environ) as process:
        yield Dev(process)


def pasted(line: str, folder: Path) -> str:
    """Run a line in bash, as somebody pastes it, and return what it prints."""
    path = f"{Path(WEBHOOKD).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=clean_environ(PATH=path),
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["folder", "a folder with 'quotes' and $HOME"])
def test_the_first_minute_of_a_newcomer(tmp_path, name):
    """Each line that is printed works as pasted; deliveries show up; the next start finds everything again."""
    folder = tmp_path / name
    folder.mkdir()
    with dev(folder) as first:
        first.ready()
        url = re.search(r"deliveries, config API +(\S+)", first.text)[1]
        admin = re.search(r"livez, readyz, metrics +(\S+)", first.text)[1]
        assert request(int(admin.rpartition(":")[2]), "GET", "/readyz").status == 200
        curl = first.line("curl .*")
        answer = pasted(curl, folder)
        assert answer.startswith("HTTP/1.1 204 ")
        receipt = re.search(r"X-Webhookd-Receipt: (\S+)", answer)[1]
        until(lambda: receipt in first.text)
        assert re.search(
            rf"^\d\d:\d\d:\d\d  accepted  tenant 1  demo  hello  30 bytes  receipt {receipt}$", first.text, re.MULTILINE
        )
        shown = script(folder, "tail")
        assert receipt in shown.out
        assert '{"message": "Hello, webhookd"}' in shown.out
        pasted(f"timeout --preserve-status -s INT 2 {first.line('.* tail --follow')} | grep -q {receipt}", folder)
        created = pasted(first.line(".* hooks create .*"), folder)
        assert "github" in created
        token = first.line(r"eyJ[\w.-]+")
        assert jwt.decode(token, options={"verify_signature": False})["tenantId"] == 1
        assert len(script(folder, "hooks", "list", "--json", "--token", token, "--url", url).documents) == 2
        hook = first.line(r"http://\S+/wh/\S+")
        assert first.stop() == 0
    port = hook.split("/")[2]
    with dev(folder, "--listen", port) as second:
        second.ready()
        assert second.line(r"http://\S+/wh/\S+") == hook
        assert second.line(r"eyJ[\w.-]+") != token
        assert pasted(curl, folder).startswith("HTTP/1.1 204 ")
        refused = script(folder, "hooks", "list", "--token", token, "--url", url)
        assert refused.line.startswith("401 ")
        assert second.stop() == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "webhookd-data").iterdir()} == {0o600}
    assert not (folder / "webhookd-data" / "dev.key").exists()


def test_the_link_to_the_console_signs_in_once(tmp_path):
    with dev(tmp_path) as newcomer:
        newcomer.ready()
        link = urlsplit(newcomer.line(r"http://\S+/console/enter\S+"))
        path = f"{link.path}?{link.query}"
        ahead = request(link.port, "GET", path, headers={"Sec-Purpose": "prefetch"})
        assert (ahead.status, ahead.headers["Set-Cookie"]) == (404, None)
        entered = request(link.port, "GET", path)
        assert (entered.status, entered.headers["Location"]) == (303, "/console/hooks")
        cookie = entered.headers["Set-Cookie"].partition(";")[0]
        assert b"demo" in request(link.port, "GET", "/console/hooks", headers={"Cookie": cookie}).body
        again = request(link.port, "GET", path)
        assert (again.status, again.headers["Set-Cookie"]) == (403, None)
        assert b"was used already" in again.body


def test_the_link_to_the_console_is_for_this_machine_alone(tmp_path):
    with dev(tmp_path, "--admin-listen", f"0.0.0.0:{free_port()}") as newcomer:
        newcomer.ready()
        assert "/console\n" in newcomer.text
        assert "/console/enter" not in newcomer.text


def test_dev_without_an_admin_listener_in_plain_text_where_it_is_no_terminal(tmp_path):
    with dev(tmp_path, "--admin-listen", "") as plain:
        plain.ready()
        assert "\x1b" not in plain.text
        assert "livez, readyz, metrics   nowhere" in plain.text
        assert plain.stop() == 0
        assert plain.process.stderr is not None
        assert plain.process.stderr.read() == ""


def test_dev_takes_the_flags_of_serve_and_the_environment(tmp_path):
    (tmp_path / "jwt.key").write_text(KEY)
    (tmp_path / "w.toml").write_text('jwt_issuer = "me"\njwt_audience = "you"\njwt_tenant_claim = "org"\n')
    more = ["--config", "w.toml", "--tenant", "acme", "--state-dir", "a place", "--public-url", "https://hooks.example"]
    with dev(tmp_path, *more, WEBHOOKD_JWT_SECRET_FILE="jwt.key") as running_dev:
        running_dev.ready()
        claims = jwt.decode(running_dev.line(r"eyJ[\w.-]+"), KEY, ["HS256"], audience="you", issuer="me")
        assert claims["org"] == "acme"
        assert "hooks and messages in    'a place'" in running_dev.text
        assert pasted(running_dev.line("curl .*"), tmp_path).startswith("HTTP/1.1 204 ")
        assert running_dev.line(".* tail --follow .*").endswith(" tail --follow --state-dir 'a place'")
        assert '{"message": "Hello, webhookd"}' in script(tmp_path, "tail", "--state-dir", "a place").out


def test_dev_on_a_unix_socket(tmp_path):
    path = tmp_path / "a socket"
    with dev(tmp_path, "--listen", f"unix:{path}") as running_dev:
        running_dev.ready()
        assert pasted(running_dev.line("curl .*"), tmp_path).startswith("HTTP/1.1 204 ")
        assert "github" in pasted(running_dev.line(".* hooks create .*"), tmp_path)


@pytest.mark.parametrize(("listen", "reached"), [("0.0.0.0", "127.0.0.1"), ("[::]", r"\[::1\]")])
def test_dev_that_listens_everywhere_says_how_it_is_reached_from_here(tmp_path, listen, reached):
    with dev(tmp_path, "--listen", f"{listen}:{free_port()}") as running_dev:
        running_dev.ready()
        line = running_dev.line("curl .*")
        assert re.search(rf" http://{reached}:\d+/wh/", line)
        assert pasted(line, tmp_path).startswith("HTTP/1.1 204 ")


def test_dev_reads_no_settings_of_the_machine(tmp_path, monkeypatch):
    """A newcomer's try has nothing to do with the daemon that runs on the machine."""
    seen = []
    monkeypatch.setattr("webhookd.daemon.serve", lambda settings, **_: seen.append(settings) or 0)
    monkeypatch.setattr("webhookd.settings.DEFAULT_CONFIG", tmp_path / "w.toml")
    (tmp_path / "w.toml").write_text('log_level = "error"\nexchange = "of the machine"\n')
    assert call("dev").status == 0
    assert call("dev", "--config", "w.toml").status == 0
    assert call("dev", "--log-level", "debug").status == 0
    assert [s.log_level for s in seen] == ["warning", "error", "debug"]
    assert [s.exchange for s in seen] == ["events-to-enrich", "of the machine", "events-to-enrich"]
    keys = [s.jwt_secret_file.read_bytes() for s in seen]
    assert len(set(keys)) == 3
    assert {len(key) for key in keys} == {64}


def test_dev_goes_on_where_its_hook_cannot_be_made(tmp_path):
    """A key that is none for HS256 tokens: the daemon runs, and the line says why there is no hook."""
    (tmp_path / "jwt.key").write_text(KEY)
    (tmp_path / "w.toml").write_text('jwt_algorithms = ["HS512"]\njwt_secret_file = "jwt.key"')
    with dev(tmp_path, "--config", "w.toml") as running_dev:
        assert running_dev.process.stderr is not None
        told = running_dev.process.stderr.readline()
        while "webhookd: " not in told:
            told = running_dev.process.stderr.readline()
        assert told.startswith("webhookd: it runs, but the hook to try it with cannot be created: 401 ")
        assert running_dev.stop() == 0


def test_dev_goes_on_where_nobody_reads_what_it_prints(monkeypatch):
    def full(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("webhookd.cli.dev.show", full)
    message = Message(
        receipt="r", hook="h", tenant="1", datasource="d", event="e", received_at=0, headers={}, body=b"{}"
    )
    Guide(Settings(), "1").accepted(message)


def test_how_the_command_is_called_from_another_terminal(tmp_path, monkeypatch):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    own = tmp_path / ".venv" / "bin" / "webhookd"
    own.touch(mode=0o755)
    monkeypatch.setattr("sys.argv", [str(own)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert _command() == ".venv/bin/webhookd"
    monkeypatch.setenv("PATH", str(own.parent))
    assert _command() == "webhookd"
    assert _relative(Path("/etc/x")) == "/etc/x"


# --- starts that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "dev"])
@pytest.mark.parametrize("key", ["listen", "admin_listen"])
def test_a_port_in_use_is_one_line_and_status_1(tmp_path, command, key):
    (tmp_path / "jwt.key").write_text(KEY)
    flags = {"listen": f"127.0.0.1:{free_port()}", "admin_listen": f"127.0.0.1:{free_port()}"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags[key] = f"127.0.0.1:{taken.getsockname()[1]}"
        given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        done = script(tmp_path, command, "--jwt-secret-file", "jwt.key", *given)
    assert done.status == 1
    assert f"cannot listen on {flags[key]}: Address already in use; free it, or set {key} to another" in done.line


def test_a_second_daemon_is_one_line_and_status_1(daemon):
    (daemon.folder / "more").mkdir()
    other = Daemon(daemon.folder / "more", state_dir=str(daemon.state_dir))
    done = script(daemon.folder, *other.command()[1:])
    assert done.status == 1
    assert f"state directory {daemon.state_dir} is in use by pid {daemon.pid}: stop that daemon or" in done.line
    assert daemon.deliver(daemon.hook(), b"{}").status == 204


def test_a_state_directory_that_cannot_be_made_is_one_line_and_status_2(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "jwt.key").write_text(KEY)
    for command in ("serve", "dev"):
        done = script(tmp_path, command, "--jwt-secret-file", "jwt.key", "--state-dir", "file/state")
        assert done.status == 2
        assert "file" in done.line
        assert "state_dir" in done.line


def test_serve_runs_the_daemon_with_the_settings(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("webhookd.daemon.serve", lambda settings, **_: seen.append(settings) or 0)
    assert call("serve", "--jwt-secret-file", "k", "--max-body", "1MiB").status == 0
    assert (seen[0].max_body, seen[0].jwt_secret_file) == (1 << 20, tmp_path / "k")


# --- check -----------------------------------------------------------------------------------------------------------


def findings(*arguments: str, status: int) -> dict[str, str]:
    """Run `check`, and return what it says by name; what is wrong begins with `FAIL `."""
    (Path.cwd() / "jwt.key").write_text(KEY)
    done = call("check", "--json", "--jwt-secret-file", "jwt.key", *arguments)
    assert done.status == status, done.out
    return {d["check"]: ("" if d["ok"] else "FAIL ") + d["detail"] for d in done.documents}


def test_check_before_the_first_start(tmp_path):
    found = findings(status=0)
    assert [*found] == ["settings", "state directory", "store", "broker", "keys", "plugins"]
    place = tmp_path / "webhookd-data"
    assert found == {
        "settings": "all keys are known and their values allowed",
        "state directory": f"{place} is not there yet; the daemon makes it",
        "store": f"{place}/hooks.db is not there yet; the daemon makes it",
        "broker": f"spool: {place}/spool.db is not there yet; the daemon makes it",
        "keys": "bearer tokens by HS256, HS384, HS512",
        "plugins": found["plugins"],
    }
    assert {"github", "circleci", "dockerhub"} <= set(found["plugins"].removeprefix("datasources ").split(", "))
    assert [path.name for path in tmp_path.iterdir()] == ["jwt.key"]


def test_check_beside_a_daemon_and_without_one(daemon):
    daemon.deliver(daemon.hook(), b"{}")
    flags = [arg for arg in daemon.command()[2:] if "port" not in arg]
    beside = script(daemon.folder, "check", *flags)
    assert (beside.status, beside.err) == (0, "")
    assert [line.split()[0] for line in beside.out.splitlines()] == ["ok"] * 6
    state = daemon.state_dir
    assert f"ok    state directory  {state}; a daemon runs there\n" in beside.out
    assert f"ok    store            {state}/hooks.db, hooks: 1\n" in beside.out
    assert f"ok    broker           spool: {state}/spool.db, messages: 1\n" in beside.out
    assert daemon.deliver(daemon.hook(), b"{}").status == 204
    daemon.stop()
    without = script(daemon.folder, "check", *flags)
    assert (without.status, without.err) == (0, "")
    assert f"{state}; no daemon runs there\n" in without.out
    assert f"{state}/spool.db, messages: 2\n" in without.out
    daemon.start()
    assert len(daemon.messages()) == 2


def test_check_of_bad_settings_is_one_failure(tmp_path):
    (tmp_path / "w.toml").write_text("max_boddy = 1")
    done = script(tmp_path, "check", "--config", "w.toml")
    assert (done.status, done.err) == (1, "")
    assert done.out == "FAIL  settings         'max_boddy' in the file w.toml is no setting; did you mean max_body?\n"
    assert findings("--broker", "amqp://me:hunter2@a?", status=1)["settings"].startswith(
        "FAIL broker: 'amqp://***@a?' (by the flag --broker) is not allowed; allowed is spool: or amqp://"
    )


def test_check_of_keys_and_plugins(tmp_path):
    assert findings("--jwt-secret-file", "gone", status=1)["keys"] == (
        f"FAIL jwt_secret_file: {tmp_path}/gone cannot be read: No such file or directory"
    )
    assert findings("--jwt-secret-file", "", status=1)["keys"].startswith("FAIL no bearer token can be checked: set ")
    found = findings("--plugins-dir", "gone", status=1)
    assert (
        found["plugins"]
        == f"FAIL plugins_dir: {tmp_path}/gone cannot be read (No such file or directory); name a readable folder"
    )
    (tmp_path / "bad.py").write_text(
        "import webhookd\n\nclass Bad(webhookd.Datasource):\n    name = title = 'bad'\n"
        "    events = {'e': webhookd.EventType(schema={'type': 'strange'})}\n\n"
        "@webhookd.hookimpl\ndef register_datasources():\n    return [Bad()]\n"
    )
    assert "bad" in findings("--plugins-dir", ".", status=1)["plugins"]
    assert findings("--load-plugins", "github", status=0)["plugins"] == "datasources github"


def test_check_warns_of_a_short_key_beside_its_data(tmp_path):
    (tmp_path / "short.key").write_text("short")
    done = script(tmp_path, "check", "--json", "--jwt-secret-file", "short.key")
    assert done.status == 0
    assert len(done.documents) == 6
    assert "jwt_secret_file is short" in done.err


def test_check_of_the_state_directory(tmp_path):
    (tmp_path / "file").touch()
    assert findings("--state-dir", "file", status=1)["state directory"] == (
        f"FAIL {tmp_path}/file is no folder that this user can write to: change its owner, or set state_dir"
    )
    assert findings("--state-dir", "file/below", status=1)["state directory"] == (
        f"FAIL {tmp_path}/file/below cannot be made: {tmp_path}/file is no folder that this user can write to; set state_dir"
    )
    (tmp_path / "wide").mkdir(mode=0o755)
    assert findings("--state-dir", "wide", status=1)["state directory"] == (
        f"FAIL {tmp_path}/wide can be reached by group or others: run `chmod go= {tmp_path}/wide`"
    )


def test_check_of_what_this_user_may_not_see(tmp_path, monkeypatch):
    exists = Path.exists

    def forbidden(self):
        if self.name == "hidden":
            raise PermissionError(13, "Permission denied", str(self))  # root, as which tests may run, is never refused
        return exists(self)

    monkeypatch.setattr(Path, "exists", forbidden)
    assert findings("--state-dir", "hidden", status=1)["state directory"] == (
        f"FAIL {tmp_path}/hidden: Permission denied; run this as the daemon's user, or see to its permissions"
    )


def test_check_of_the_store(tmp_path):
    (tmp_path / "webhookd-data").mkdir(mode=0o700)
    assert findings("--store", f"sqlite://{tmp_path}/gone/hooks.db", status=1)["store"] == (
        f"FAIL the folder {tmp_path}/gone is not there: make it, or set store"
    )
    (tmp_path / "text.db").write_text("this is no database, and long enough for SQLite to see that" * 10)
    told = findings("--store", f"sqlite://{tmp_path}/text.db", status=1)["store"]
    assert told == (
        f"FAIL {tmp_path}/text.db cannot be read (file is not a database): see to its disk, or put a backup in its place"
    )
    with closing(sqlite3.connect(tmp_path / "new.db")) as db:
        db.execute("PRAGMA user_version = 99")
    assert findings("--store", f"sqlite://{tmp_path}/new.db", status=1)["store"] == (
        f"FAIL {tmp_path}/new.db was written by another version of webhookd (its format is 99): use that one"
    )


def test_check_of_the_spool(tmp_path, monkeypatch):
    state = tmp_path / "webhookd-data"
    fill(state, [1])
    assert findings(status=0)["broker"] == f"spool: {state}/spool.db, messages: 1"
    for name in ("spool.db.corrupt-20240501T120000", "spool.db.corrupt-20240501T120000-wal"):
        (state / name).touch(mode=0o600)
    assert findings(status=1)["broker"] == (
        "FAIL spool: spool.db.corrupt-20240501T120000 could not be read and was put aside:"
        " save what is in it, or remove it"
    )
    for fields, told in (
        ({"failing": "disk full"}, "it takes no message (disk full): see to its disk"),
        ({"full": True}, "it is full: make room, raise spool_max_bytes, or lower spool_retention"),
    ):
        stats = SpoolStats(messages={}, bytes=1, used=1, max_bytes=1, **fields)
        monkeypatch.setattr(DaemonSpool, "stats", lambda self, stats=stats: stats)
        found = findings(status=1)
        assert found["broker"] == f"FAIL spool: {told}"
        assert found["state directory"] == f"{state}; a daemon runs there"

    def deaf(self):
        raise ControlError("the daemon does not answer")

    monkeypatch.setattr(DaemonSpool, "stats", deaf)
    assert findings(status=1)["broker"] == "FAIL spool: the daemon does not answer"


def test_check_changes_nothing(tmp_path):
    """It works while another has the directory, and leaves no trace in it."""
    state = tmp_path / "webhookd-data"
    fill(state, [1])
    with StateDir.claim(state):
        before = {path.name: path.stat().st_mtime_ns for path in state.iterdir()}
        assert findings(status=0)["broker"].endswith("messages: 1")
        assert {path.name: path.stat().st_mtime_ns for path in state.iterdir()} == before
