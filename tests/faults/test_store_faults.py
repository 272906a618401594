"""Whatever befalls etcd, deliveries to known hooks go on; and once it is well, so are the hooks in memory."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faults.conftest import Begin
from faults.proxy import Proxy
from faults.scenario import Scenario
from harness import PATIENCE, Daemon, until
from servers import Etcd

pytestmark = pytest.mark.timeout(900)
PREFIX = "/test/faults"
UNKNOWN = {"hookUrl": f"http://x/wh/00000000-0000-4000-8000-000000000000/{'0' * 40}"}
OwnEtcd = Callable[..., Etcd]
numbers = itertools.count()


@contextmanager
def another_node(folder: Path, store: str, **flags: str) -> Iterator[Daemon]:
    """Run a second daemon on the same etcd, by which tenants change their hooks."""
    folder.mkdir()
    with Daemon(folder, store=store, **flags) as other:
        yield other


def create(daemon: Daemon, timeout: float = PATIENCE) -> dict[str, Any]:
    """Create a hook that is new, as soon as the store lets it."""
    document = {"datasource": "generic", "event": f"extra-{next(numbers)}"}
    deadline = time.monotonic() + timeout
    while (answer := daemon.config("POST", document=document, tenant="t9")).status != 200:
        assert answer.status == 503, answer.body
        assert time.monotonic() < deadline, daemon.log[-3000:]
        time.sleep(0.1)
    hook: dict[str, Any] = answer.json
    return hook


def delete(daemon: Daemon, hook: dict[str, Any]) -> None:
    until(lambda: daemon.config("DELETE", f"/wh/config/{hook['token']}", tenant="t9").status in {204, 404})


def status(daemon: Daemon, hook: dict[str, Any]) -> int:
    return daemon.deliver(hook, b'{"number": 0}').status


def follows(daemon: Daemon, other: Daemon) -> None:
    """Assert that what is changed through the other node arrives at this one."""
    hook = create(other)
    until(lambda: status(daemon, hook) == 204)
    delete(other, hook)
    until(lambda: status(daemon, hook) == 404)


def only_taken(run: Scenario) -> None:
    assert run.traffic.fates().keys() == {"204"}, run.traffic.fates()


def test_killed(scenario: Begin, own_etcd: OwnEtcd, rounds: int, tmp_path: Path) -> None:
    etcd = own_etcd()
    run = scenario("etcd: kill -9", store=etcd.url(PREFIX))
    with another_node(tmp_path / "other", etcd.url(PREFIX)) as other:
        for _ in range(rounds):
            with run.fault():
                etcd.kill()
                until(lambda: "store down" in run.reasons())
                assert run.daemon.config("POST", document={"datasource": "generic", "event": "new"}).status == 503
                etcd.start()
            follows(run.daemon, other)
            until(lambda: run.reasons() == "ok")
    run.end()
    only_taken(run)


def test_stopped_and_the_daemon_started_meanwhile(
    scenario: Begin, own_etcd: OwnEtcd, rounds: int, tmp_path: Path
) -> None:
    """The snapshot in its state directory has the hooks; whether there are new ones it cannot know."""
    etcd = own_etcd()
    run = scenario("etcd: SIGTERM, daemon restarted without it", store=etcd.url(PREFIX))
    with another_node(tmp_path / "other", etcd.url(PREFIX)) as other:
        for _ in range(rounds):
            with run.fault():
                etcd.stop()
                assert run.daemon.stop() == 0
                run.daemon.start()
                run.traffic.wait_for("204", 50)
                until(lambda: status(run.daemon, UNKNOWN) == 503)
                etcd.start()
            follows(run.daemon, other)
            until(lambda: status(run.daemon, UNKNOWN) == 404)
    run.end()
    assert not run.traffic.fates().keys() & {"404", "500"}


def test_hangs(scenario: Begin, own_etcd: OwnEtcd, rounds: int, pause: float, tmp_path: Path) -> None:
    etcd = own_etcd()
    run = scenario("etcd: SIGSTOP", store=etcd.url(PREFIX))
    with another_node(tmp_path / "other", etcd.url(PREFIX)) as other:
        for _ in range(rounds):
            with run.fault():
                etcd.pause()
                time.sleep(pause)
                until(lambda: "store down" in run.reasons())
                etcd.resume()
            follows(run.daemon, other)
    run.end()
    only_taken(run)


def while_cut_off(
    run: Scenario, proxy: Proxy, other: Daemon, cut: Callable[[], None], meanwhile: Callable[[], None]
) -> None:
    """Have hooks come and go by the other node while this one is cut off from etcd: it sees that afterwards."""
    old = create(other)
    until(lambda: status(run.daemon, old) == 204)
    with run.fault():
        cut()
        new = create(other)
        delete(other, old)
        meanwhile()
        proxy.heal()
    until(lambda: status(run.daemon, new) == 204)
    until(lambda: status(run.daemon, old) == 404)


def test_cut_off(scenario: Begin, own_etcd: OwnEtcd, rounds: int, tmp_path: Path) -> None:
    etcd = own_etcd()
    with Proxy(etcd.port) as proxy:
        run = scenario("etcd: black hole", store=etcd.url(PREFIX, port=proxy.port))
        with another_node(tmp_path / "other", etcd.url(PREFIX)) as other:
            for _ in range(rounds):
                while_cut_off(run, proxy, other, proxy.blackhole, lambda: until(lambda: "store down" in run.reasons()))
        run.end()
        only_taken(run)
        run.close()


def test_compacted_while_cut_off(scenario: Begin, own_etcd: OwnEtcd, rounds: int, tmp_path: Path) -> None:
    etcd = own_etcd()

    def compact() -> None:
        (member,) = json.loads(etcd.ctl("endpoint", "status", "-w", "json"))
        etcd.ctl("compact", str(member["Status"]["header"]["revision"]))

    with Proxy(etcd.port) as proxy:
        run = scenario("etcd: compacted while cut off", store=etcd.url(PREFIX, port=proxy.port))
        with another_node(tmp_path / "other", etcd.url(PREFIX)) as other:
            for _ in range(rounds):
                while_cut_off(run, proxy, other, proxy.refuse, compact)
        run.end()
        only_taken(run)
        run.close()


def test_wiped(scenario: Begin, own_etcd: OwnEtcd, tmp_path: Path) -> None:
    """Its revision begins anew: a watch from the old one would be silent for ever."""
    etcd = own_etcd()
    run = scenario("etcd: comes back empty", store=etcd.url(PREFIX))
    with another_node(tmp_path / "other", etcd.url(PREFIX)) as other:
        with run.fault():
            etcd.kill()
            etcd.wipe()
            etcd.start()
        follows(run.daemon, other)
        until(lambda: status(run.daemon, run.traffic.hooks[0]) == 404)
    run.end()
    assert run.traffic.fates().keys() <= {"204", "404", "503"}


def with_users(etcd: Etcd, folder: Path) -> dict[str, str]:
    """Have etcd ask who is there, and return the settings of a daemon that may use its own prefix alone."""
    for command in (
        "user add root:root",
        "user grant-role root root",
        "role add hooks",
        f"role grant-permission hooks readwrite --prefix=true {PREFIX}/",
        f"user add webhookd:{etcd.folder.name}",
        "user grant-role webhookd hooks",
        "auth enable",
    ):
        etcd.ctl(*command.split())
    etcd.ctl_tls.append("--user=root:root")
    password = folder / "etcd.password"
    password.write_text(etcd.folder.name)
    return {"store": etcd.url(PREFIX), "store_user": "webhookd", "store_password_file": str(password)}


def test_permission_denied(scenario: Begin, own_etcd: OwnEtcd, rounds: int, tmp_path: Path) -> None:
    etcd = own_etcd()
    flags = with_users(etcd, tmp_path)
    run = scenario("etcd: permission denied", **flags)
    with another_node(tmp_path / "other", **flags) as other:
        for _ in range(rounds):
            with run.fault():
                etcd.ctl("role", "revoke-permission", "hooks", "--prefix=true", f"{PREFIX}/")
                until(lambda: "store down" in run.reasons())
                etcd.ctl("role", "grant-permission", "hooks", "readwrite", "--prefix=true", f"{PREFIX}/")
            follows(run.daemon, other)
    run.end()
    only_taken(run)


def test_token_expired(scenario: Begin, own_etcd: OwnEtcd, rounds: int, tmp_path: Path) -> None:
    """A token lives for 2 s without use, and none outlives a restart of etcd."""
    etcd = own_etcd("--auth-token-ttl=2")
    flags = with_users(etcd, tmp_path)
    run = scenario("etcd: token expired", **flags)
    with another_node(tmp_path / "other", **flags) as other:
        for _ in range(rounds):
            with run.fault():
                time.sleep(6)
            follows(run.daemon, other)
            with run.fault():
                etcd.kill()
                etcd.start()
            follows(run.daemon, other)
    run.end()
    only_taken(run)
