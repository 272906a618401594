"""Runs the real daemon as its users do, and speaks to it over real sockets."""

import contextlib
import fcntl
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import jwt

WEBHOOKD = str(Path(sys.executable).with_name("webhookd"))
PORTS = random.SystemRandom()
MIN_CANARY = 16
"""Bodies shorter than this may be in a log by chance."""
PATIENCE = 60.0
"""How long something may take that comes to pass in a moment, in seconds: machines are busy."""
KEY = "a throw-away key of at least 32 bytes for the tests"


GIVEN: set[int] = set()
"""The ports that this process has been given."""
RESERVED = os.open(Path(tempfile.gettempdir()) / f"webhookd-tests-{os.getuid()}.ports", os.O_RDWR | os.O_CREAT, 0o600)
"""A file of which a process locks a byte for each of its ports, until it ends."""


def free_port() -> int:
    """Return a port that nobody listens on, below those that the kernel gives to clients; it is given to nobody else.

    A client that tries again and again to reach a port among these, while nobody listens there, is one day given that
    very port, and connects to itself: the server can then not start. And a port that a server is yet to listen on, or
    will again, is free for all that one can see: so it is never given again, in this process or another one of tests.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = PORTS.randrange(min(10_000, ephemeral - 1000), ephemeral)
        if port in GIVEN:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            fcntl.lockf(RESERVED, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            GIVEN.add(port)
            probe.bind(("127.0.0.1", port))
            return port


def mint(tenant: Any = 42, *, key: str = KEY, ttl: float = 3600, algorithm: str = "HS256", **claims: Any) -> str:
    body = {"tenantId": tenant, "exp": int(time.time() + ttl), **claims}
    return jwt.encode({k: v for k, v in body.items() if v is not None}, key, algorithm)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = PATIENCE,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


class Daemon:
    """One `webhookd serve`. Flags are those of the command line, by key: `max_body="1MiB"`."""

    def __init__(
        self, folder: Path, *, wrapper: Sequence[str] = (), environ: Mapping[str, str] | None = None, **flags: str
    ) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.log_path = folder / "webhookd.log"
        self.port = free_port()
        self.admin_port = free_port()
        key_file = folder / "jwt.key"
        key_file.write_text(KEY + "\n")
        self.flags = {
            "listen": f"127.0.0.1:{self.port}",
            "admin_listen": f"127.0.0.1:{self.admin_port}",
            "state_dir": str(self.state_dir),
            "jwt_secret_file": str(key_file),
            **flags,
        }
        self.wrapper = list(wrapper)
        # PYTHONUNBUFFERED hides what is kept back; whoever runs the daemon may not have it
        kept = {k: v for k, v in os.environ.items() if not k.startswith("WEBHOOKD_") and k != "PYTHONUNBUFFERED"}
        self.environ = kept | dict(environ or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.canaries = {KEY}
        """What must never be in the log: keys, tokens, secrets and bodies."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            if self.process is not None:
                self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def command(self) -> list[str]:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in self.flags.items()]
        return [*self.wrapper, WEBHOOKD, "serve", *flags]

    def start(self, timeout: float = PATIENCE) -> None:
        self.launch()
        self.wait_ready(timeout)

    def launch(self) -> None:
        """Start it without waiting for it to be ready."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environ, cwd=self.folder
            )

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        assert self.process is not None
        deadline = time.monotonic() + timeout
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"webhookd ended with {self.process.returncode}:\n{self.log}")
            try:
                if request(self.admin_port, "GET", "/readyz", timeout=5).status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"webhookd is not ready:\n{self.log}")
            time.sleep(0.02)

    def stop(self, timeout: float = 30) -> int:
        """End it by SIGTERM and return its exit status; a daemon that has ended already keeps its own."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.check_log()
        return status

    def check_log(self) -> None:
        """Assert that the log names no key, token, secret or body: asked of every daemon of the suite."""
        log = self.log
        assert not [word for word in self.canaries if word in log], "a canary is in the log"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def config(
        self,
        method: str,
        path: str = "/wh/config",
        document: Any = None,
        *,
        tenant: Any = 42,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Speak to the config API as `tenant`."""
        body = None if document is None else json.dumps(document).encode()
        bearer = mint(tenant)
        self.canaries.add(bearer)
        given = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json", **(headers or {})}
        return request(self.port, method, path, body, given)

    def hook(
        self, datasource: str = "generic", event: str = "test", *, tenant: Any = 42, **fields: Any
    ) -> dict[str, Any]:
        """Create a hook and return its details."""
        answer = self.config("POST", document={"datasource": datasource, "event": event, **fields}, tenant=tenant)
        assert answer.status == 200, answer.body
        details: dict[str, Any] = answer.json
        self.canaries |= {details["token"], details["apiToken"], fields.get("secret") or KEY}
        return details

    def deliver(
        self, hook: Mapping[str, Any], body: bytes, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Answer:
        """POST one delivery to the hook, on a connection of its own."""
        if len(body) >= MIN_CANARY:
            self.canaries.add(body[:100].decode("latin-1"))
        path = urlsplit(hook["hookUrl"]).path
        return request(
            self.port, "POST", path, body, {"Content-Type": "application/json", **(headers or {})}, **options
        )

    def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics by its name with labels, as written there."""
        text = request(self.admin_port, "GET", "/metrics").body.decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def run(self, *arguments: str, timeout: float = PATIENCE, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run another `webhookd` command in the daemon's folder."""
        return subprocess.run(
            [WEBHOOKD, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.environ, **environ},
            cwd=self.folder,
            check=False,
        )

    def messages(self) -> list[dict[str, Any]]:
        """Return every accepted message, oldest first, as `webhookd tail --json` shows it."""
        done = self.run("tail", "--json", "--state-dir", str(self.state_dir))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def until(condition: Callable[[], Any], timeout: float = PATIENCE, pause: float = 0.02) -> Any:
    """Wait for something to come to pass, and return it; look again after each `pause`, in seconds."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(pause)
    return found


def need(program: str) -> str:
    """Return the path of a program that the tests need; `make test` installs it."""
    path = shutil.which(program)
    assert path, f"{program} is missing: `make test` installs it"
    return path
