"""`webhookd check` of what is not on this machine: one line each, in bounded time, without a secret or a traceback."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import script
from harness import KEY, Daemon, free_port
from servers import Etcd, RabbitMQ
from sts import StandIn
from test_jwks import ED, entry

from webhookd.adapters.etcd_client import Access, EtcdClient
from webhookd.adapters.etcd_rpc import rpc
from webhookd.errors import StoreError

SECRET = "hunter2"
"""In every URL and file, and in no line."""
KEYED = ["--jwt-secret-file", "jwt.key"]


def listed(folder: Path, *arguments: str, status: int) -> list[tuple[str, str]]:
    """Run `check --json`, and return what it says, each with its name; what is wrong begins with `FAIL `."""
    (folder / "jwt.key").write_text(KEY)
    begun = time.monotonic()
    done = script(folder, "check", "--json", *arguments)
    assert time.monotonic() - begun < 15
    assert done.err == ""
    assert done.status == status, done.out
    assert SECRET not in done.out
    documents = [json.loads(line) for line in done.out.splitlines()]
    return [(d["check"], ("" if d["ok"] else "FAIL ") + d["detail"]) for d in documents]


def findings(folder: Path, *arguments: str, status: int) -> dict[str, str]:
    """Return the same by name, where no name comes twice."""
    pairs = listed(folder, *arguments, status=status)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def named(url: str) -> str:
    """Return the URL with a user and a password."""
    return url.replace("://", f"://me:{SECRET}@")


def test_sts_and_key_set(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.key_set = {"keys": [entry(ED, "one")]}
    flags = ["--sts-url", named(stand_in.url), "--jwks-url", named(stand_in.jwks_url)]
    found = findings(tmp_path, *flags, status=0)
    assert [*found] == ["settings", "state directory", "store", "broker", "keys", "jwks", "sts", "plugins"]
    assert found["keys"] == "none in files: others are asked, see below"
    assert found["jwks"] == f"{stand_in.jwks_url}, keys: 1"
    assert found["sts"] == f"{stand_in.url} refuses a token that nobody issued, as it should"
    stand_in.fault = "html"
    found = findings(tmp_path, *flags, status=1)
    assert found["jwks"].startswith(f"FAIL jwks_url: {stand_in.jwks_url} gives no key set: ")
    assert found["sts"].startswith(f"FAIL sts_url: the STS at {stand_in.url} does not answer: ")
    stand_in.fault = "silent"
    begun = time.monotonic()
    found = findings(tmp_path, *flags, status=1)
    assert time.monotonic() - begun < 10
    assert [name for name, detail in found.items() if detail.startswith("FAIL")] == ["jwks", "sts"]


def test_files_that_a_probe_needs(tmp_path: Path) -> None:
    nowhere = f"https://127.0.0.1:{free_port()}"
    found = findings(tmp_path, "--sts-url", nowhere, "--sts-cafile", "gone", status=1)
    assert found["sts"] == f"FAIL sts_cafile: {tmp_path}/gone cannot be read: No such file or directory"
    found = findings(tmp_path, "--jwks-url", nowhere, "--jwt-algorithms", "HS256", status=1)
    assert found["jwks"].startswith("FAIL jwt_algorithms names none ")


def test_a_daemon_that_hangs_is_told_soon(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        found = findings(daemon.folder, *daemon.command()[2:], status=1)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert found["broker"].endswith("control.sock: the daemon does not answer")
    assert found["state directory"].endswith("a daemon runs there")


def granted(etcd: Etcd, user: str, *grants: tuple[str, str]) -> None:
    """Make a user with the password SECRET who may do what `grants` (kind, prefix) say."""
    etcd.ctl("user", "add", f"{user}:{SECRET}")
    etcd.ctl("role", "add", user)
    for kind, prefix in grants:
        etcd.ctl("role", "grant-permission", user, "--prefix=true", kind, prefix)
    etcd.ctl("user", "grant-role", user, user)


def test_etcd_asks_no_user_and_nothing_is_left_there(etcd: Etcd, etcd_prefix: str, tmp_path: Path) -> None:
    before = etcd.ctl("get", "", "--prefix", "--keys-only")
    at = f"127.0.0.1:{etcd.port}"
    assert findings(tmp_path, *KEYED, "--store", etcd_prefix, status=0)["store"] == f"etcd at {at}, hooks: 0"
    with Daemon(tmp_path, store=etcd_prefix) as daemon:
        daemon.hook()
        found = findings(tmp_path, *daemon.command()[2:], status=0)
        assert found["store"] == f"etcd at {at}, hooks: 1"
        assert found["state directory"].endswith("a daemon runs there")
    prefix = etcd_prefix.removeprefix(f"etcd://{at}")
    etcd.ctl("del", "--prefix", prefix + "/")
    assert etcd.ctl("get", "", "--prefix", "--keys-only") == before
    (tmp_path / "password").write_text(SECRET)
    user = ["--store-user", "me", "--store-password-file", "password"]
    told = findings(tmp_path, *KEYED, "--store", etcd_prefix, *user, status=1)["store"]
    assert "authentication is not enabled: it knows no users: take store_user away" in told


def test_etcd_with_users(own_etcd: Callable[..., Etcd], tmp_path: Path) -> None:
    etcd = own_etcd()
    granted(etcd, "all", ("readwrite", "/hooks/"))
    granted(etcd, "reader", ("read", "/hooks/"))
    granted(etcd, "part", ("readwrite", "/hooks/hooks/"), ("readwrite", "/hooks/revision"))
    granted(etcd, "writer", ("write", "/hooks/"))
    etcd.ctl("user", "add", "root:root")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("auth", "enable")
    (tmp_path / "password").write_text(SECRET)
    (tmp_path / "wrong").write_text("wrong")

    def told(user: str, password: str = "password") -> str:
        flags = [*KEYED, "--store", etcd.url("/hooks"), "--store-user", user, "--store-password-file", password]
        return findings(tmp_path, *flags, status=0 if user == "all" and password == "password" else 1)["store"]

    assert told("all") == f"etcd at 127.0.0.1:{etcd.port}, hooks: 0"
    for user in ("reader", "part", "writer"):
        assert told(user).endswith("permission denied: grant the user's role readwrite on the prefix /hooks/")
    for user, password in (("all", "wrong"), ("nobody", "password")):
        assert told(user, password).endswith(": compare store_user and what is in store_password_file")
    alone = findings(tmp_path, *KEYED, "--store", etcd.url("/hooks"), status=1)["store"]
    assert alone.endswith(": it asks for a user: set store_user and store_password_file")
    assert etcd.ctl("--user", "root:root", "get", "", "--prefix", "--keys-only") == ""
    half = findings(tmp_path, *KEYED, "--store", etcd.url("/hooks"), "--store-user", "all", status=1)["store"]
    assert half == "FAIL store_user and store_password_file go together: set both or none"


def test_etcd_of_several_endpoints(own_etcd: Callable[..., Etcd], etcd: Etcd, tmp_path: Path) -> None:
    other, closed = own_etcd(), free_port()
    store = f"etcd://127.0.0.1:{etcd.port},127.0.0.1:{closed},127.0.0.1:{other.port},localhost:{etcd.port}/hooks"
    found = [detail for name, detail in listed(tmp_path, *KEYED, "--store", store, status=1) if name == "store"]
    assert f"FAIL etcd at 127.0.0.1:{closed}: failed to connect" in found[1]
    assert "Connection refused: see whether it runs there" in found[1]
    strange = [detail for detail in found if "is of another cluster than " in detail]
    assert len(strange) in (1, 2)
    assert sum(detail.endswith("hooks: 0") for detail in found) == 3 - len(strange)
    other.pause()
    begun = time.monotonic()
    found = findings(tmp_path, *KEYED, "--store", other.url(), status=1)
    assert time.monotonic() - begun < 10
    assert "no answer within 3 s: see whether it runs there" in found["store"]
    other.resume()


@pytest.mark.gen_test
async def test_a_client_of_etcd_closes_though_an_exception_holds_its_call() -> None:
    client = EtcdClient([f"127.0.0.1:{free_port()}"], Access())
    try:
        await client.range(rpc.RangeRequest(key=b"x"))
    except StoreError:
        async with asyncio.timeout(10):
            await client.close()


def test_rabbitmq(rabbitmq: RabbitMQ, vhost: str, tmp_path: Path) -> None:
    name = vhost.rpartition("/")[2]
    at = f"127.0.0.1:{rabbitmq.port}, vhost {name}"
    found = findings(tmp_path, *KEYED, "--broker", vhost, status=0)
    names = ["broker", "exchange", "permission", "returns"]
    assert [*found] == ["settings", "state directory", "store", *names, "spool", "keys", "plugins"]
    assert found["exchange"] == f"{at}: events-to-enrich is not there yet; the daemon makes it"
    with Daemon(tmp_path, broker=vhost) as daemon:
        found = findings(tmp_path, *daemon.command()[2:], status=0)
        assert found["broker"].startswith(f"{at}: connected RabbitMQ ")
        assert found["exchange"] == f"{at}: events-to-enrich is there: topic, durable"
        assert found["permission"] == f"{at}: user guest may write to events-to-enrich"
        assert found["returns"] == f"{at}: what no queue takes is returned"
        assert found["spool"] == f"{daemon.state_dir}/spool.db, messages: 0"
    closed = f"amqp://me:{SECRET}@127.0.0.1:{free_port()}/"
    pairs = listed(tmp_path, *KEYED, "--broker", f"{closed},{vhost}", status=1)
    broken, fine = [detail for name, detail in pairs if name == "broker"]
    assert broken.startswith("FAIL 127.0.0.1:")
    assert fine.startswith(f"{at}: connected ")
    found = findings(tmp_path, *KEYED, "--broker", closed, "--broker-keyfile", "jwt.key", status=1)
    assert found["broker"] == "FAIL broker_keyfile and broker_certfile go together: set broker_certfile too"


def test_rabbitmq_that_does_not_answer_is_told_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        found = findings(tmp_path, *KEYED, "--broker", f"amqp://127.0.0.1:{port}", status=1)
    assert found["broker"] == f"FAIL 127.0.0.1:{port}: no answer in time"
