"""The servers that tests run against are real, keep what they should over a restart, and forget it when wiped."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from certificates import Certificates
from harness import free_port, until
from processes import listening
from servers import Etcd, RabbitMQ


@pytest.mark.timeout(240)
def test_rabbitmq_stops_starts_is_killed_and_wiped(own_rabbitmq: Callable[..., RabbitMQ]) -> None:
    node = own_rabbitmq()
    name = node.vhost()
    node.user("writer", "pw", name, write="^events$")
    assert "writer\t^$\t^events$\t^$" in node.ctl("list_permissions", "-p", name)
    for resource in ("memory", "disk"):
        node.alarm(resource, on=True)
        node.alarm(resource, on=False)
    node.kill()
    assert not listening(node.port)
    node.start()
    assert name in node.ctl("list_vhosts")
    node.stop()
    node.wipe()
    node.start()
    assert name not in node.ctl("list_vhosts")


def test_rabbitmq_speaks_tls(own_rabbitmq: Callable[..., RabbitMQ], tmp_path: Path) -> None:
    node = own_rabbitmq(certificates=Certificates(tmp_path / "certificates"))
    assert listening(node.tls_port)
    assert node.tls_url("a/b") == f"amqps://guest:guest@127.0.0.1:{node.tls_port}/a%2Fb"


def test_vhosts_are_each_new(rabbitmq: RabbitMQ) -> None:
    first, second = rabbitmq.vhost(), rabbitmq.vhost()
    assert first != second
    assert {first, second} <= set(rabbitmq.ctl("list_vhosts").split())


def test_etcd_stops_starts_is_killed_and_wiped(own_etcd: Callable[..., Etcd]) -> None:
    member = own_etcd()
    member.ctl("put", "/a", "there")
    member.kill()
    member.start()
    assert "there" in member.ctl("get", "/a")
    member.pause()
    assert not member.answers()
    member.resume()
    until(member.answers)
    member.stop()
    assert member.process is not None
    assert member.process.returncode in {0, -signal.SIGTERM}
    member.wipe()
    member.start()
    assert "there" not in member.ctl("get", "/a")


def test_etcd_of_three_goes_on_with_two(tmp_path: Path) -> None:
    members = Etcd.cluster(tmp_path, 3)
    try:
        members[0].kill()
        until(members[1].answers)  # it may have been the leader
        members[1].ctl("put", "/a", "there")
        assert "there" in members[2].ctl("get", "/a")
    finally:
        for member in members:
            member.close()


def test_etcd_wants_certificates(own_etcd: Callable[..., Etcd], tmp_path: Path) -> None:
    member = own_etcd(certificates=Certificates(tmp_path / "certificates"))
    member.ctl("put", "/a", "there")
    member.ctl_tls = member.ctl_tls[:1]
    assert not member.answers()


def test_a_port_is_given_once_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = "import harness, random; harness.PORTS = random.Random(1); print(*[harness.free_port() for _ in range(9)])"
    given: list[int] = []
    for _ in range(2):
        monkeypatch.setattr(harness, "PORTS", random.Random(1))
        given += [free_port() for _ in range(9)]
    environ = {**os.environ, "PYTHONPATH": str(Path(harness.__file__).parent)}
    given += map(int, subprocess.check_output([sys.executable, "-c", draw], env=environ, text=True).split())
    assert len(given) == len(set(given)) == 27
