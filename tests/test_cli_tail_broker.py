"""`webhookd tail` on RabbitMQ: shows what is published and takes nothing away, and says why where it cannot."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiormq
import pytest
from certificates import Certificates
from commands import clean_environ, script
from harness import WEBHOOKD, free_port, until
from servers import RabbitMQ

EXCHANGE = "events-to-enrich"
GEN = r"^amq\.gen-"
READY = "showing what is published from now on"


def publish(url: str, *messages: tuple[str, bytes, dict[str, Any]], copies: int = 1, confirms: bool = True) -> None:
    """Publish messages (routing key, body, properties) to the exchange, which is made where it is missing."""

    async def publishing() -> None:
        async with aiormq.Connection(url) as connection:
            channel = await connection.channel(publisher_confirms=confirms)
            await channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
            for key, body, properties in messages * copies:
                await channel.basic_publish(
                    body, exchange=EXCHANGE, routing_key=key, properties=aiormq.spec.Basic.Properties(**properties)
                )

    asyncio.run(publishing())


class Tail:
    """A running `webhookd tail`, with what it has shown and said so far in files."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out, self.err = folder / "tail.out", folder / "tail.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [WEBHOOKD, "tail", *arguments], stdout=out, stderr=err, cwd=folder, env=clean_environ()
            )

    def ready(self) -> None:
        until(lambda: READY in self.err.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.err.read_text()

    def shows(self, count: int) -> list[Any]:
        """Wait for `count` lines of JSON, and return them."""
        until(lambda: self.out.read_text().count("\n") >= count)
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@contextmanager
def tailing(folder: Path, *arguments: str) -> Iterator[Tail]:
    tail = Tail(folder, *arguments)
    try:
        tail.ready()
        yield tail
    finally:
        tail.process.kill()
        tail.process.wait()


@pytest.fixture
def exchange(vhost: str) -> str:
    """Return the URL of a vhost that has the exchange."""
    publish(vhost)
    return vhost


def queues(rabbitmq: RabbitMQ, url: str) -> list[str]:
    return rabbitmq.ctl("list_queues", "--vhost", url.rpartition("/")[2], "name", "messages").split("\n")[1:-1]


OURS = ("event.42.github.push", b'{"a": "\xc3\xa9"}', {
    "message_id": "one", "headers": {"receivedAt": 1714564800123, "tsField": "a.b"}
})  # fmt: skip
OTHERS = ("event.7.mine.a.b:c", b"\xff\x1b[2J", {
    "message_id": "two\x1b[2J", "headers": {"receivedAt": 1 << 62, "x": {"y": [1, bytearray(b"\xff"), None]}}
})  # fmt: skip


def test_what_is_published_is_shown_and_not_taken_away(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    """Messages of others than webhookd have any form, and are shown as far as that goes."""
    publish(exchange, OURS)
    with tailing(tmp_path, "--broker", exchange, "--json") as tail:
        publish(exchange, OURS, OTHERS, ("event", b"", {}), ("unseen", b"", {}))
        first, second, third = tail.shows(3)
        assert first == {
            "receipt": "one",
            "routingKey": "event.42.github.push",
            "tenant": "42",
            "datasource": "github",
            "event": "push",
            "receivedAt": 1714564800123,
            "headers": {"receivedAt": 1714564800123, "tsField": "a.b"},
            "body": '{"a": "é"}',
        }
        assert (second["tenant"], second["datasource"], second["event"]) == ("7", "mine", "a.b:c")
        assert second["headers"]["x"] == {"y": [1, "\\xff", None]}
        assert second["receivedAt"] == 0
        assert second["body"] == "\\xff\x1b[2J"
        assert (third["routingKey"], third["tenant"], third["event"], third["body"]) == ("event", "", "", "")
        (queue,) = queues(rabbitmq, exchange)
        assert queue.startswith("amq.gen-")
        assert tail.end() == 0
    until(lambda: queues(rabbitmq, exchange) == [])
    assert tail.err.read_text().count("\n") == 1
    assert "webhookd spool list" in tail.err.read_text()


def test_as_text_of_one_tenant(exchange: str, tmp_path: Path) -> None:
    with tailing(tmp_path, "--broker", exchange, "--tenant", "7", "--follow") as tail:
        publish(exchange, OURS, OTHERS, ("event.77.mine.x", b"", {}), ("event.7.other.y", b"{}", {}))
        until(lambda: "event.7.other.y" in tail.out.read_text())
        shown = tail.out.read_text()
        assert "event.7.mine.a.b:c  5 bytes  two\\x1b[2J" in shown
        assert "event.42." not in shown
        assert "event.77." not in shown
        assert "\x1b[2J" not in shown
        assert tail.end(signal.SIGTERM) == 0
    refused = script(tmp_path, "tail", "--broker", exchange, "--tenant", "#")
    assert (refused.status, "--tenant: #" in refused.line) == (2, True)


def test_it_ends_when_nobody_reads_though_nothing_comes(exchange: str, tmp_path: Path) -> None:
    said = tmp_path / "tail.err"
    with said.open("wb") as err:
        command = [WEBHOOKD, "tail", "--broker", exchange]
        tail = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, env=clean_environ(), cwd=tmp_path)
    with tail:
        until(lambda: READY in said.read_text())
        assert tail.stdout is not None
        tail.stdout.close()
        assert tail.wait(15) == 0
    assert said.read_text().count("\n") == 1


def test_a_lost_connection_is_one_line(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    with tailing(tmp_path, "--broker", exchange) as tail:
        rabbitmq.ctl("close_all_connections", "--vhost", exchange.rpartition("/")[2], "by a test")
        assert tail.process.wait(15) == 1
        assert "the connection or the queue is gone" in tail.err.read_text()
        assert tail.err.read_text().count("\n") == 2


def test_a_queue_that_somebody_deletes_is_one_line(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    name = exchange.rpartition("/")[2]
    with tailing(tmp_path, "--broker", exchange) as tail:
        (queue,) = queues(rabbitmq, exchange)
        rabbitmq.ctl("delete_queue", "--vhost", name, queue.split("\t")[0])
        assert tail.process.wait(15) == 1
        assert tail.err.read_text().count("\n") == 2


def test_a_slow_reader_does_not_fill_the_broker(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    with tailing(tmp_path, "--broker", exchange, "--json") as tail:
        tail.process.send_signal(signal.SIGSTOP)
        publish(exchange, ("event.1.a.b", b"{}", {}), copies=11_000, confirms=False)
        until(lambda: queues(rabbitmq, exchange)[0].endswith("\t10020"), timeout=30)
        tail.process.send_signal(signal.SIGCONT)
        tail.shows(10_020)
        assert tail.end() == 0


REFUSALS = {
    "configure": ({"write": GEN, "read": f"{GEN}|^{EXCHANGE}$"}, r"configure, write and read on \^amq\\.gen-"),
    "write": ({"configure": GEN, "read": f"{GEN}|^{EXCHANGE}$"}, r"configure, write and read on \^amq\\.gen-"),
    "read-queue": ({"configure": GEN, "write": GEN, "read": f"^{EXCHANGE}$"}, r"configure, write and read on \^amq"),
    "read-exchange": ({"configure": GEN, "write": GEN, "read": GEN}, f"lacks a permission: read on {EXCHANGE}"),
}


@pytest.mark.parametrize("lacking", REFUSALS)
def test_a_missing_permission_is_named(rabbitmq: RabbitMQ, exchange: str, tmp_path: Path, lacking: str) -> None:
    permissions, words = REFUSALS[lacking]
    name = exchange.rpartition("/")[2]
    rabbitmq.user(f"tail-{name}", "pass", name, **permissions)
    done = script(tmp_path, "tail", "--broker", rabbitmq.url(name, user=f"tail-{name}", password="pass"))
    assert done.status == 1
    assert re.search(words, done.line)
    assert f"user tail-{name} " in done.line


def test_what_else_stands_against_it_is_one_line(rabbitmq: RabbitMQ, vhost: str, tmp_path: Path) -> None:
    def said(broker: str, *arguments: str) -> str:
        done = script(tmp_path, "tail", "--broker", broker, *arguments)
        assert done.status in (1, 2)
        assert "pass" not in done.line.replace("password", "")
        return done.line

    assert f"no exchange {EXCHANGE}: start the daemon" in said(vhost)
    assert "user guest is refused" in said(rabbitmq.url(password="passe"))
    assert "vhost nowhere: the vhost is not there" in said(rabbitmq.url("nowhere"))
    closed = f"amqp://tail:passe@127.0.0.1:{free_port()}/"
    assert ": Connection refused; " in said(f"{closed},{closed}")
    assert "WRONG_VERSION_NUMBER" in said(f"amqps://tail:passe@127.0.0.1:{rabbitmq.port}/")
    assert "broker_password_file: " in said(vhost, "--broker-password-file", "missing")
    (tmp_path / "junk").write_bytes(b"\xff")
    assert "not UTF-8" in said(vhost, "--broker-password-file", "junk")
    (tmp_path / "junk").write_text("\n")
    assert "is empty" in said(vhost, "--broker-password-file", "junk")
    assert "broker_cafile: " in said("amqps://127.0.0.1:1/", "--broker-cafile", "junk")
    assert "broker_certfile, broker_keyfile: " in said("amqps://127.0.0.1:1/", "--broker-certfile", "junk")


def test_tls_password_file_and_several_brokers(own_rabbitmq: Callable[..., RabbitMQ], tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    node = own_rabbitmq(certificates=certificates)
    publish(node.url())
    (tmp_path / "password").write_text("guest\n")
    certfile, keyfile = certificates.client()
    brokers = f"amqps://127.0.0.1:{free_port()},{node.tls_url(password='wrong')}"
    trusting = ["--broker", brokers, "--broker-cafile", str(certificates.cafile)]
    arguments = [*trusting, "--broker-certfile", str(certfile), "--broker-keyfile", str(keyfile)]
    with tailing(tmp_path, *arguments, "--broker-password-file", "password", "--json") as tail:
        publish(node.url(), OURS)
        assert [line["receipt"] for line in tail.shows(1)] == ["one"]
        assert "CN=client" in node.ctl("list_connections", "peer_cert_subject")
        assert tail.end() == 0
    assert "its certificate is not trusted" in script(tmp_path, "tail", "--broker", brokers).line
