"""The users that docs/rabbitmq-and-etcd.md makes may do what it says, on real servers, and who may do less is told so in words."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from commands import clean_environ, script
from documents import DOCS, blocks
from harness import KEY, Daemon, request, until
from processes import listening
from servers import RABBITMQ_SCRIPTS, Etcd, RabbitMQ
from test_cli_tail_broker import READY, Tail

RECIPES = (DOCS / "rabbitmq-and-etcd.md").read_text().partition("\n## Faults of etcd")[0]
VHOST = "webhooks"


@dataclass
class Site:
    """What is there once the recipes were followed: a RabbitMQ, an etcd with users, and files with passwords."""

    folder: Path
    rabbitmq: RabbitMQ
    etcd: Etcd
    settings: dict[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Return a recipe, its folder and its servers being ours."""
        text = text.replace("/etc/webhookd", str(self.folder))
        text = text.replace(f"@127.0.0.1/{VHOST}", f"@127.0.0.1:{self.rabbitmq.port}/{VHOST}")
        return text.replace("127.0.0.1:2379", f"127.0.0.1:{self.etcd.port}")

    def follow(self) -> None:
        """Run what is to be run, as pasted into one shell, and keep the settings."""
        programs = self.folder / "bin"
        programs.mkdir()
        at = f"ETCDCTL_API=3 /usr/bin/etcdctl --endpoints=127.0.0.1:{self.etcd.port}"
        for name, command in (("rabbitmqctl", RABBITMQ_SCRIPTS / "rabbitmqctl"), ("etcdctl", at)):
            (programs / name).write_text(f'#!/bin/sh\n{command} "$@"\n')
            (programs / name).chmod(0o755)
        recipes = [self.here(body) for _, body in blocks(RECIPES, "sh") if "webhookd t" not in body]
        recipes = [body for body in recipes if not body.startswith("webhookd ")]
        environ = self.rabbitmq.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euc", "".join(recipes)], env=environ, capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (self.folder / "jwt.key").write_text(KEY)
        for _, body in blocks(RECIPES, "toml"):
            for line in self.here(body).splitlines():
                key, _, value = line.partition(" = ")
                self.settings[key] = json.loads(value)

    def daemon(self, folder: Path, **flags: str) -> Daemon:
        return Daemon(folder, **(self.settings | flags))

    def check(self, **flags: str) -> dict[str, str]:
        """Return what `webhookd check` says, by name; what is wrong begins with `FAIL `."""
        given = self.settings | {"jwt_secret_file": str(self.folder / "jwt.key")} | flags
        arguments = [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
        done = script(self.folder, "check", "--json", *arguments)
        found = [json.loads(line) for line in done.out.splitlines()]
        assert done.status == (0 if all(one["ok"] for one in found) else 1), done.err
        return {one["check"]: ("" if one["ok"] else "FAIL ") + one["detail"] for one in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with RabbitMQ(folder / "rabbitmq") as rabbitmq, Etcd(folder / "etcd") as etcd:
        followed = Site(folder, rabbitmq, etcd)
        followed.follow()
        yield followed


def queued(site: Site) -> list[str]:
    """Return the queues of the vhost, each with how many messages are ready in it."""
    listed = site.rabbitmq.ctl("list_queues", "--vhost", VHOST, "name", "messages_ready")
    return sorted(line for line in listed.splitlines() if not line.startswith("name\t"))


def readiness(daemon: Daemon) -> list[str]:
    reasons: list[str] = request(daemon.admin_port, "GET", "/readyz").json["reasons"]
    return reasons


def broker_as(site: Site, user: str, password: str = "password") -> dict[str, str]:
    """Return the settings of another user of the broker, whose password is in its URL."""
    return {"broker": site.rabbitmq.url(VHOST, user=user, password=password), "broker_password_file": ""}


def test_the_daemon_does_its_work_and_tail_looks_on(site: Site, tmp_path: Path) -> None:
    watched = ["--broker", site.here(f"amqp://webhookd-tail@127.0.0.1/{VHOST}"), "--json"]
    (recipe,) = [body for _, body in blocks(RECIPES, "sh") if body.startswith("webhookd tail")]
    assert (
        site.here(recipe) == f"webhookd tail --broker {watched[1]} --broker-password-file {site.folder}/tail.password\n"
    )
    tail = Tail(tmp_path, *watched, "--broker-password-file", str(site.folder / "tail.password"))
    try:
        tail.ready()
        with site.daemon(tmp_path) as daemon:
            assert readiness(daemon) == []
            answer = daemon.deliver(daemon.hook(), b'{"a": 1}')
            assert answer.status == 204
            (shown,) = tail.shows(1)
            assert shown["receipt"] == answer.headers["X-Webhookd-Receipt"]
            assert daemon.metrics()['webhookd_deliveries_total{outcome="confirmed"}'] == 1
            found = site.check(state_dir=str(daemon.state_dir))
            assert not [detail for detail in found.values() if detail.startswith("FAIL")]
            assert found["store"].endswith("hooks: 1")
        assert tail.end() == 0
    finally:
        tail.process.kill()
        tail.process.wait()
    until(lambda: queued(site) == ["enrich\t1"])


def test_check_as_pasted(site: Site, tmp_path: Path) -> None:
    (recipe,) = [body for _, body in blocks(RECIPES, "sh") if body.startswith("webhookd check")]
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in site.settings.items()]
    (tmp_path / "webhookd.toml").write_text("".join(lines) + f'jwt_secret_file = "{site.folder}/jwt.key"\n')
    done = subprocess.run(
        ["bash", "-euc", recipe.replace("check", f"check --config {tmp_path}/webhookd.toml")],
        env=clean_environ(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("ok    ") == 10


def test_users_may_do_no_more_than_they_need(site: Site) -> None:
    """The daemon may not read, `tail` not publish, the consumer neither; and each says which permission is missing."""
    passwords = {name: (site.folder / f"{name}.password").read_text().strip() for name in ("broker", "tail", "enrich")}
    for user, password in (("webhookd", "broker"), ("enrich", "enrich")):
        done = script(
            site.folder, "tail", "--broker", site.rabbitmq.url(VHOST, user=user, password=passwords[password])
        )
        assert done.status == 1
        assert done.line.endswith(f"user {user} lacks a permission: configure, write and read on ^amq\\.gen-")
        assert READY not in done.err
    for user, password in (("webhookd-tail", "tail"), ("enrich", "enrich")):
        found = site.check(**broker_as(site, user, passwords[password]))
        assert f"user {user} may not write to exchange events-to-enrich: give it write on" in found["permission"]
        assert found["permission"].startswith("FAIL ")


def failing(daemon: Daemon, words: str) -> str:
    """Wait until readiness gives a reason that holds `words`, and return it."""
    return until(lambda: next((reason for reason in readiness(daemon) if words in reason), None))


@pytest.mark.timeout(180)
def test_a_daemon_that_may_not_publish_says_so_and_loses_nothing(site: Site, tmp_path: Path) -> None:
    site.rabbitmq.user("poor", "password", VHOST)
    with site.daemon(tmp_path, **broker_as(site, "poor")) as daemon:
        hook = daemon.hook(event="spooled")
        assert daemon.deliver(hook, b"{}").status == 204
        reason = failing(daemon, "may not write")
        assert reason.startswith("broker down: ")
        assert "events-to-enrich" in reason
        assert "poor" in reason
        site.rabbitmq.allow("poor", VHOST, "", "^events-to-enrich$", "")
        until(lambda: readiness(daemon) == [], 90)
        until(lambda: daemon.metrics().get('webhookd_spool_messages{state="waiting"}') == 0)


def test_a_daemon_that_may_not_make_the_exchange_says_so(site: Site, tmp_path: Path) -> None:
    with site.daemon(tmp_path, exchange="not-there") as daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        assert "not-there" in failing(daemon, "broker down")


def test_a_daemon_that_may_only_read_its_prefix_says_so(site: Site, tmp_path: Path) -> None:
    root = f"root:{(site.folder / 'etcd-root.password').read_text().strip()}"
    for user, kind in (("reader", "read"), ("stranger", None)):
        site.etcd.ctl("--user", root, "user", "add", f"{user}:password")
        site.etcd.ctl("--user", root, "role", "add", user)
        if kind is not None:
            site.etcd.ctl("--user", root, "role", "grant-permission", user, "--prefix=true", kind, "/webhookd/")
        site.etcd.ctl("--user", root, "user", "grant-role", user, user)
    (tmp_path / "password").write_text("password")
    password: dict[str, Any] = {"store_password_file": str(tmp_path / "password")}
    with site.daemon(tmp_path, store_user="reader", **password) as daemon:
        assert readiness(daemon) == []
        refused = daemon.config("POST", document={"datasource": "generic", "event": "mine"})
        assert refused.status == 503
    assert "permission denied: grant the user's role readwrite" in site.check(store_user="reader", **password)["store"]
    daemon = site.daemon(tmp_path, store_user="stranger", **password)
    assert "permission denied: grant" in site.check(store_user="stranger", **password)["store"]
    daemon.launch()
    try:
        until(lambda: listening(daemon.admin_port))
        assert failing(daemon, "store down").endswith("permission denied")
    finally:
        daemon.stop()
