"""The servers that are measured: webhookd in its ways of working, and the baselines that do the same job."""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench import payloads, proc
from bench.load import Load
from harness import Daemon, need
from processes import Server

HERE = Path(__file__).parent
BUILT = Path(os.environ.get("WEBHOOKD_BENCH_BUILT") or HERE.parents[1] / "build" / "bench")
"""Where `make bench` puts what the baselines need."""


AS_INSTALLED = {"PYTHONPATH": str(HERE / "absent")}
"""The environment of a daemon without what only the tests bring: structlog loads rich, 4 MB of it, where that is."""


@dataclass(frozen=True)
class Subject:
    """A server that runs."""

    name: str
    pid: int
    port: int
    paths: tuple[str, ...]
    signed: bool = False
    kept: Callable[[], int] | None = None
    """How many messages it holds itself: of a server whose broker is its own spool."""
    idle: float = 0.0
    """Its resident memory before any delivery, in MB."""

    def load(self, body: bytes, senders: int, seconds: float, *, rate: float | None, close: bool) -> Load:
        headers = payloads.headers(body, signed=self.signed)
        return Load(self.port, self.paths, headers, body, senders, seconds, rate, close)


Start = Callable[[Path, str], AbstractContextManager[Subject]]
"""Starts a subject in a folder of its own, on the broker with this URL."""


@contextmanager
def webhookd(
    name: str, folder: Path, broker: str, *, flags: Mapping[str, str] | None = None, **hook: str
) -> Iterator[Subject]:
    """Run `webhookd serve` with its defaults, everything on: admin listener, metrics, limits, records, the log."""
    folder.mkdir(parents=True, exist_ok=True)
    with Daemon(folder, environ=AS_INSTALLED, broker=broker, **(flags or {})) as daemon:
        details = daemon.hook("github", "push", **hook)
        spool = 'webhookd_spool_messages{state="kept"}'
        yield Subject(
            name,
            daemon.pid,
            daemon.port,
            (urlsplit(details["hookUrl"]).path,),
            signed="secret" in hook,
            kept=(lambda: int(daemon.metrics()[spool])) if broker == "spool:" else None,
            idle=proc.rss(daemon.pid),
        )


class Baseline(Server):
    """One of the servers in `baselines/`: told its port, its broker and its one hook by the environment."""

    def __init__(self, folder: Path, broker: str, command: list[str]) -> None:
        self.token, self.api_token = uuid.uuid4().hex + "0" * 8, str(uuid.uuid4())
        hook = {"apiToken": self.api_token, "tenantId": "42", "datasource": "github", "event": "push"}
        hooks = {self.token: {**hook, "tsField": "head_commit.timestamp"}}
        super().__init__(folder, {"AMQP_URL": broker, "HOOKS": json.dumps(hooks)})
        self.environ["PORT"] = str(self.port)
        self._command = command

    def command(self) -> list[str]:
        return self._command

    def answers(self) -> bool:
        return True


@contextmanager
def baseline(name: str, folder: Path, broker: str, command: list[str]) -> Iterator[Subject]:
    with Baseline(folder, broker, command) as server:
        path = f"/wh/{server.api_token}/{server.token}"
        yield Subject(name, server.pid, server.port, (path,), idle=proc.rss(server.pid))


SIGNED = {"secret": payloads.SECRET}
STARTS: dict[str, Start] = {
    "webhookd": partial(webhookd, "webhookd"),
    "webhookd, no records": partial(webhookd, "webhookd, no records", flags={"records_per_hook": "0"}),
    "webhookd, signed": partial(webhookd, "webhookd, signed", **SIGNED),
    "webhookd, signed, enforce": partial(webhookd, "webhookd, signed, enforce", validation="enforce", **SIGNED),
    "webhookd, spool:": lambda folder, _: webhookd("webhookd, spool:", folder, "spool:"),
    "tornado.web + aio-pika": lambda folder, broker: baseline(
        "tornado.web + aio-pika", folder, broker, [sys.executable, str(HERE / "baselines" / "tornado_aiopika.py")]
    ),
    "Fastify + amqplib": lambda folder, broker: baseline(
        "Fastify + amqplib", folder, broker, [need("node"), str(BUILT / "fastify" / "server.mjs")]
    ),
    "Go + amqp091-go": lambda folder, broker: baseline("Go + amqp091-go", folder, broker, [str(BUILT / "go-server")]),
}
"""How to start each subject, by its name."""
