"""Daemons behind nginx, set up as docs/clusters.md has it, are restarted one after the other, and no sender sees it."""

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from documents import DOCS, blocks
from harness import Answer, Daemon, request, until
from processes import Server, listening

((_, CONFIGURATION),) = blocks((DOCS / "clusters.md").read_text(), "nginx")
NGINX = "/usr/sbin/nginx"
"""Where Debian has it, which is in the path of root alone."""
BODY = b'{"from": "behind a load balancer"}'


class Nginx(Server):
    """The load balancer of the documents, without TLS, before daemons on loopback."""

    def __init__(self, folder: Path, daemons: list[Daemon]) -> None:
        super().__init__(folder)
        servers = re.findall(r"server 10\.0\.0\.\d+:8080 .*;", CONFIGURATION)
        assert len(servers) >= len(daemons)
        site = CONFIGURATION
        for number, documented in enumerate(servers):
            ours = (
                documented.replace(urlsplit(f"//{documented.split()[1]}").netloc, f"127.0.0.1:{daemons[number].port}")
                if number < len(daemons)
                else ""
            )
            site = site.replace(documented, ours)
        assert "listen 443 ssl;" in site
        site = site.replace("listen 443 ssl;", f"listen 127.0.0.1:{self.port};")
        temporary = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
            f"events {{ worker_connections 256; }}\nhttp {{\n    access_log off;\n{temporary}{site}}}\n"
        )

    def command(self) -> list[str]:
        return [NGINX, "-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", "nginx.conf"]

    def answers(self) -> bool:
        return listening(self.port)


@dataclass
class Sender:
    """Delivers one after the other on a connection that it keeps, and notes what became of each delivery."""

    port: int
    path: str
    done: threading.Event
    outcomes: list[int | str] = field(default_factory=list)

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.done.is_set():
            try:
                connection.request("POST", self.path, BODY, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                self.outcomes.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                self.outcomes.append(type(error).__name__)
                connection.close()
        connection.close()


@pytest.fixture
def site(tmp_path: Path, etcd_prefix: str) -> Iterator[tuple[Nginx, list[Daemon]]]:
    with contextlib.ExitStack() as running:
        daemons = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            daemons.append(running.enter_context(Daemon(tmp_path / name, store=etcd_prefix)))
        yield running.enter_context(Nginx(tmp_path / "nginx", daemons)), daemons


def accepted(daemon: Daemon) -> int:
    metrics = daemon.metrics()
    return int(sum(v for name, v in metrics.items() if re.match(r'webhookd_deliveries_total\{outcome="spooled"', name)))


def ready(daemon: Daemon) -> Answer:
    return request(daemon.admin_port, "GET", "/readyz")


def test_one_after_the_other_refuses_nobody(site: tuple[Nginx, list[Daemon]]) -> None:
    nginx, daemons = site
    hook: dict[str, Any] = daemons[0].hook()
    until(lambda: all(daemon.deliver(hook, BODY).status == 204 for daemon in daemons))
    done = threading.Event()
    senders = [Sender(nginx.port, urlsplit(hook["hookUrl"]).path, done) for _ in range(4)]
    threads = [threading.Thread(target=sender.run) for sender in senders]
    for thread in threads:
        thread.start()
    try:
        for daemon in daemons * 2:
            before = [len(sender.outcomes) for sender in senders]
            assert daemon.stop() == 0
            until(lambda before=before: all(len(s.outcomes) > n for s, n in zip(senders, before, strict=True)))
            daemon.start()
            assert ready(daemon).status == 200
            until(lambda daemon=daemon: accepted(daemon) > 0)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    outcomes = [outcome for sender in senders for outcome in sender.outcomes]
    assert set(outcomes) == {204}
    # nginx may have tried a delivery anew that a daemon had taken: twice is allowed, never is not
    assert sum(len(daemon.messages()) for daemon in daemons) >= len(outcomes)
