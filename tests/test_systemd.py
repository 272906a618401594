"""Checks the units with systemd's own tools, and the daemon as systemd runs it: notified, watched, activated, confined."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import blocks, pages
from harness import PATIENCE, WEBHOOKD, Answer, Daemon, free_port, need, request

from webhookd import sdnotify

UNITS = Path(__file__).parents[1] / "systemd"
EXPOSURE_LIMIT = "15"
"""What `systemd-analyze security` may find, in tenths: 1.5."""


# --- the units -------------------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copy the units, with the command of this environment in place of that of a host's installation."""
    folder = tmp_path / "units"
    folder.mkdir()
    for unit in UNITS.iterdir():
        (folder / unit.name).write_text(unit.read_text().replace("/opt/webhookd/bin/webhookd", WEBHOOKD))
    return folder


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "info"},
    )


def test_units_are_without_a_fault(units: Path) -> None:
    done = analyze("verify", "--man=no", str(units / "webhookd.service"), str(units / "webhookd.socket"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_fault_in_a_unit_would_be_seen(units: Path) -> None:
    service = units / "webhookd.service"
    service.write_text(service.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    assert "ProtectClocks" in analyze("verify", "--man=no", str(service)).stderr


CHANGES = [
    (f"webhookd.{body.partition(']')[0].removeprefix('[').lower()}", body)
    for page in pages()
    for _, body in blocks(page.read_text(), "ini")
]


def test_the_documents_advise_changes_of_both_units() -> None:
    assert sorted(unit for unit, _ in CHANGES) == ["webhookd.service", "webhookd.service", "webhookd.socket"]


@pytest.mark.parametrize(("unit", "change"), CHANGES)
def test_changes_that_the_documents_advise_are_without_a_fault(units: Path, unit: str, change: str) -> None:
    (units / f"{unit}.d").mkdir()
    (units / f"{unit}.d" / "override.conf").write_text(change)
    done = analyze("verify", "--man=no", str(units / unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (units / f"{unit}.d" / "override.conf").write_text(change + "Nonsense=1\n")
    assert "Nonsense" in analyze("verify", "--man=no", str(units / unit)).stderr  # so the change was read


def test_service_is_hardly_exposed(units: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", str(units / "webhookd.service"))
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


def test_service_is_one_that_the_daemon_can_live_in() -> None:
    service = directives(UNITS / "webhookd.service")
    assert service["Type"] == ["notify"]
    assert service["StateDirectoryMode"] == ["0700"]
    assert service["LoadCredential"] == ["jwt.key:/etc/webhookd/jwt.key"]
    assert "WEBHOOKD_JWT_SECRET_FILE=%d/jwt.key" in service["Environment"]
    assert int(service["TimeoutStopSec"][0]) > 20  # stop_timeout's default


def directives(unit: Path) -> dict[str, list[str]]:
    """Read the directives of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


# --- sd_notify(3) ----------------------------------------------------------------------------------------------------


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where the daemon is told that its service manager does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(20)
        yield channel


def test_notify_tells_the_service_manager(supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", supervisor.getsockname())
    sdnotify.notify("READY=1\nSTATUS=two hooks")
    assert supervisor.recv(100) == b"READY=1\nSTATUS=two hooks"


def test_notify_knows_abstract_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0webhookd-test-{os.getpid()}")
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@webhookd-test-{os.getpid()}")
        sdnotify.notify("STOPPING=1")
        assert channel.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/at/all", "@", "/" + "x" * 200])
def test_notify_without_anyone_to_tell_does_nothing(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    sdnotify.notify("READY=1")


def test_notify_never_waits_for_a_service_manager_that_does_not_read(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", supervisor.getsockname())
    began = time.monotonic()
    for _ in range(2000):  # more than net.unix.max_dgram_qlen
        sdnotify.notify("WATCHDOG=1")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("allowed", "pid", "interval"),
    [
        ("10000000", None, 5.0),
        ("10000000", "", 5.0),
        ("3000000", "own", 1.5),
        ("3000000", "1", None),
        ("0", None, None),
        ("", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_watchdog_wants_a_sign_twice_as_often_as_it_waits(
    allowed: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", allowed), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert sdnotify.watchdog_interval() == interval


def test_daemon_tells_when_it_is_ready_alive_and_stopping(tmp_path: Path, supervisor: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": supervisor.getsockname(), "WATCHDOG_USEC": "600000"}
    with Daemon(tmp_path, environ=environ) as daemon:
        assert supervisor.recv(1000).splitlines()[0] == b"READY=1"
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        signs = [(supervisor.recv(1000), time.monotonic()) for _ in range(6)]
        assert {text for text, _ in signs} == {b"WATCHDOG=1"}
        gaps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(signs)]
        assert max(gaps) < 0.6, "systemd would have killed the daemon"
        daemon.process.send_signal(signal.SIGTERM)
        last = supervisor.recv(1000)
        while last == b"WATCHDOG=1":
            last = supervisor.recv(1000)
        assert last.splitlines()[0] == b"STOPPING=1"
        assert daemon.stop() == 0


# --- sd_listen_fds(3) ------------------------------------------------------------------------------------------------

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "webhookd.socket", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Does what systemd does between fork and exec of a socket-activated service."""

TELL = """
import json, os, sys
from webhookd import sdnotify
first, second = sdnotify.inherited_sockets(), sdnotify.inherited_sockets()
left = [name for name in os.environ if name.startswith("LISTEN_")]
print(json.dumps([[s.getsockname()[1], s.fileno(), s.getblocking(), s.get_inheritable()] for s in first]))
print(json.dumps([len(second), left]))
for one in first:
    one.close()
"""


def activated(listener: socket.socket, *command: str) -> list[str]:
    return [sys.executable, "-S", "-c", ACTIVATE, str(listener.fileno()), *command]


def test_inherited_sockets_are_taken_once_and_kept_from_children() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        told = subprocess.run(
            activated(listener, sys.executable, "-c", TELL),
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    taken, after = map(json.loads, told.stdout.splitlines())
    assert taken == [[port, 3, False, False]]
    assert after == [0, []]


@pytest.mark.parametrize(
    ("pid", "count"), [("1", "1"), ("", "1"), ("own", "0"), ("own", ""), ("own", "-1"), ("own", "many")]
)
def test_sockets_meant_for_another_process_are_left_alone(
    pid: str, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "own" else pid)
    monkeypatch.setenv("LISTEN_FDS", count)
    assert sdnotify.inherited_sockets() == []
    assert "LISTEN_PID" not in os.environ


@pytest.mark.parametrize(
    ("opened", "complaint"),
    [("socket.socket(type=socket.SOCK_DGRAM)", "ListenStream"), ("open(os.devnull)", "is none")],
)
def test_anything_but_a_listening_socket_stops_the_start_with_a_line(opened: str, complaint: str) -> None:
    program = f"""
import os, socket
from webhookd import errors, sdnotify
given = {opened}
os.dup2(given.fileno(), 3)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}}
try:
    sdnotify.inherited_sockets()
except errors.StartError as error:
    print(error)
given.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert complaint in done.stdout
    assert len(done.stdout.splitlines()) == 1


class ActivatedDaemon(Daemon):
    """One `webhookd serve` on a listening socket that outlives it, as under webhookd.socket."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        super().__init__(folder)
        self.listener = listener
        self.flags["listen"] = f"127.0.0.1:{free_port()}"  # which the inherited socket wins over
        self.port = listener.getsockname()[1]

    def start(self, timeout: float = PATIENCE) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                activated(self.listener, *self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self.folder,
                pass_fds=[self.listener.fileno()],
            )
        self.wait_ready(timeout)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Open what systemd holds for webhookd.socket."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as opened:
        yield opened


def test_inherited_socket_wins_over_listen(tmp_path: Path, listener: socket.socket) -> None:
    with ActivatedDaemon(tmp_path, listener) as daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        host, _, port = daemon.flags["listen"].partition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


def test_connection_made_before_the_daemon_starts_is_answered(tmp_path: Path, listener: socket.socket) -> None:
    answers: list[Answer] = []
    daemon = ActivatedDaemon(tmp_path, listener)
    early = threading.Thread(target=lambda: answers.append(request(daemon.port, "GET", "/wh/config", timeout=30)))
    early.start()
    with daemon:
        early.join(30)
    assert [answer.status for answer in answers] == [401]


def test_restart_refuses_no_connection(tmp_path: Path, listener: socket.socket) -> None:
    """Senders that connect anew for each delivery get an answer to each, through two restarts."""
    outcomes: list[int | str] = []
    done = threading.Event()

    def send(hook: dict[str, str], daemon: Daemon) -> None:
        while not done.is_set():
            try:
                outcomes.append(daemon.deliver(hook, b"{}", timeout=30).status)
            except OSError as error:
                outcomes.append(type(error).__name__)

    with ActivatedDaemon(tmp_path, listener) as daemon:
        hook = daemon.hook()
        senders = [threading.Thread(target=send, args=(hook, daemon)) for _ in range(4)]
        for sender in senders:
            sender.start()
        try:
            for _ in range(2):
                time.sleep(0.3)
                assert daemon.stop() == 0
                before = len(outcomes)
                time.sleep(0.2)  # nobody accepts: connections wait
                assert len(outcomes) <= before + len(senders)
                daemon.start()
            time.sleep(0.3)
        finally:
            done.set()
            for sender in senders:
                sender.join(30)
        kept = len(daemon.messages())
    assert outcomes.count(204) > 20
    # A delivery that met the end of a daemon may be told to come back; none is refused or cut off.
    assert set(outcomes) <= {204, 503}, outcomes
    assert kept == outcomes.count(204)


# --- what the service may do -----------------------------------------------------------------------------------------


def allowed_calls(expressions: list[str]) -> set[str]:
    """Return the system calls that `SystemCallFilter=` leaves, by the sets of this machine's systemd."""
    sets: dict[str, list[str]] = {}
    name = ""
    for line in analyze("syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            name = line.strip()
            sets[name] = []
        elif line.startswith("    ") and not line.startswith("    #"):
            sets[name].append(line.strip())

    def expand(word: str) -> set[str]:
        return set().union(*map(expand, sets[word])) if word.startswith("@") else {word}

    allowed = expand("@default")
    for expression in expressions:
        words = set().union(*map(expand, expression.lstrip("~").split()))
        allowed = allowed - words if expression.startswith("~") else allowed | words
    return allowed


def test_daemon_does_only_what_its_unit_allows(tmp_path: Path) -> None:
    """Traces a start, small and large deliveries, commands beside the daemon and a stop."""
    trace = tmp_path / "trace"
    wrapper = [need("strace"), "-D", "-f", "-qq", "-o", str(trace)]
    with Daemon(tmp_path, wrapper=wrapper) as daemon:
        hook = daemon.hook("github", "push", validation="report")
        signed = daemon.hook(secret="MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw2C")
        assert daemon.deliver(hook, b'{"ref": "x"}').status == 204
        assert (
            daemon.deliver(hook, json.dumps({"ref": "x", "more": ["y" * 99] * 30_000}).encode(), timeout=60).status
            == 204
        )
        assert daemon.deliver(signed, b"{}").status == 401
        assert len(daemon.messages()) == 2
        assert request(daemon.admin_port, "GET", "/metrics").status == 200
        assert daemon.stop() == 0
    service = directives(UNITS / "webhookd.service")
    lines = trace.read_text(errors="replace").splitlines()
    made = {call[1] for line in lines if (call := re.match(r"\d+ +(\w+)\(", line))}
    assert {"execve", "accept4", "fsync", "fdatasync"} & made, "the trace is of the daemon"
    as_root = {"fchown"}  # SQLite gives its files the owner of their database, if it is root: the service is not
    assert made - allowed_calls(service["SystemCallFilter"]) <= (as_root if os.geteuid() == 0 else set())
    assert "webhookd.examiner" in trace.read_text(errors="replace"), "the trace is of the helper process too"
    outside = {path[1] for line in lines if (path := re.search(r'"/proc/([a-z][\w/]*)"', line))} - {"self"}
    outside = {path for path in outside if not path.startswith("self/")}
    assert not outside or "ProcSubset" not in service, f"ProcSubset=pid hides {outside}"
    families = {family[1] for line in lines if (family := re.search(r" socket\((AF_\w+)", line))}
    assert families - set(service["RestrictAddressFamilies"][0].split()) <= {"AF_NETLINK"}  # libc does without it
    executable = [line for line in lines if re.search(r" (mmap|mprotect|pkey_mprotect)\(.*PROT_WRITE\|PROT_EXEC", line)]
    assert executable == [], "MemoryDenyWriteExecute refuses these"


def test_state_directory_may_be_the_link_that_dynamic_users_have(tmp_path: Path) -> None:
    """With DynamicUser, /var/lib/webhookd is a link to /var/lib/private/webhookd."""
    private = tmp_path / "private" / "webhookd"
    private.mkdir(parents=True, mode=0o700)
    (tmp_path / "link").symlink_to(private)
    daemon = Daemon(tmp_path, environ={"STATE_DIRECTORY": str(tmp_path / "link")})
    del daemon.flags["state_dir"]
    with daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        beside = ["--state-dir", str(tmp_path / "link")]
        checked = daemon.run("check", *beside, "--jwt-secret-file", daemon.flags["jwt_secret_file"])
        assert checked.returncode == 0, checked.stdout
        assert "kept         1" in daemon.run("spool", "status", *beside).stdout
    assert (private / "hooks.db").exists()
