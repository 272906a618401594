"""Daemons on a real etcd, as tenants, senders and operators see them: whatever becomes of it, known hooks go on."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from documents import DOCS, blocks
from harness import Daemon, request, until
from test_etcd import keys_of, open_store, put_raw

from webhookd.forms import etcd_url
from webhookd.logs import hook_id

FAULTS = (DOCS / "rabbitmq-and-etcd.md").read_text().partition("\n## Faults of etcd")[2]

UNKNOWN = {"hookUrl": f"https://x/wh/00000000-0000-4000-8000-000000000000/{'0' * 40}"}


def readiness(daemon: Daemon) -> tuple[int, str, list[str]]:
    answer = request(daemon.admin_port, "GET", "/readyz")
    return answer.status, answer.json["status"], answer.json["reasons"]


def followed(daemon: Daemon) -> bool:
    return readiness(daemon) == (200, "ok", [])


def lost(daemon: Daemon) -> bool:
    return any(reason.startswith("store down: etcd at ") for reason in readiness(daemon)[2])


def lines(daemon: Daemon) -> list[dict]:
    return [json.loads(line) for line in daemon.log.splitlines()]


def timed(call):
    began = time.monotonic()
    return call(), time.monotonic() - began


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    made = [tmp_path / name for name in ("one", "two")]
    for folder in made:
        folder.mkdir()
    return made


@pytest.fixture
def pair(folders, etcd_prefix):
    with Daemon(folders[0], store=etcd_prefix) as one, Daemon(folders[1], store=etcd_prefix) as two:
        yield one, two


def test_a_hook_made_on_one_is_used_and_deleted_on_the_other(pair):
    """Within a second where nothing else keeps the machine busy."""
    one, two = pair
    hook = one.hook(event="push")
    assert one.deliver(hook, b"{}").status == 204
    until(lambda: two.deliver(hook, b"{}").status == 204)
    assert two.config("GET", f"/wh/config/{hook['token']}").json == hook
    assert two.config("DELETE", f"/wh/config/{hook['token']}").status == 204
    assert two.deliver(hook, b"{}").status == 404
    until(lambda: one.deliver(hook, b"{}").status == 404)
    assert one.hook(event="other")["apiToken"] == hook["apiToken"]


def test_fifty_concurrent_creations_over_both_end_in_one_hook(pair):
    with ThreadPoolExecutor(50) as pool:
        hooks = list(pool.map(lambda n: pair[n % 2].hook(event="push"), range(50)))
        assert {json.dumps(hook) for hook in hooks} == {json.dumps(hooks[0])}
        others = list(pool.map(lambda n: pair[n % 2].hook(event=f"e{n // 2}", tenant="new"), range(20)))
    assert len({hook["token"] for hook in others}) == 10
    assert len({hook["apiToken"] for hook in others}) == 1
    for daemon in pair:
        until(lambda daemon=daemon: len(daemon.config("GET").json) == 1)


def rotate(daemon: Daemon, token: str, **document: bool) -> dict:
    answer = daemon.config("POST", f"/wh/config/{token}/rotate", document)
    assert answer.status == 200, answer.body
    daemon.canaries.add(answer.json["token"])
    return answer.json


def test_a_token_replaced_on_one_is_known_and_ended_on_the_other(pair):
    """Within a second where nothing else keeps the machine busy."""
    one, two = pair
    first = one.hook(event="push")
    second = rotate(one, first["token"])
    until(lambda: two.deliver(second, b"{}").status == 204)
    assert [daemon.deliver(first, b"{}").status for daemon in pair] == [204, 204]
    assert two.config("GET", f"/wh/config/{first['token']}").json == second
    ended = rotate(two, first["token"], immediately=True)
    assert ended["token"] == second["token"]
    assert two.deliver(first, b"{}").status == 404
    until(lambda: one.deliver(first, b"{}").status == 404)
    third = rotate(two, second["token"])
    until(lambda: one.deliver(third, b"{}").status == 204)
    assert one.config("DELETE", f"/wh/config/{second['token']}").status == 204
    for hook in (second, third):
        assert one.deliver(hook, b"{}").status == 404
        until(lambda hook=hook: two.deliver(hook, b"{}").status == 404)
    assert [daemon.config("GET").json for daemon in pair] == [[], []]


def test_a_grace_ends_on_both(folders, etcd_prefix):
    with (
        Daemon(folders[0], store=etcd_prefix, secret_grace="3s") as one,
        Daemon(folders[1], store=etcd_prefix, secret_grace="1h") as two,
    ):
        first = one.hook(event="push")
        second = rotate(one, first["token"])
        until(lambda: two.deliver(second, b"{}").status == 204)
        until(lambda: [daemon.deliver(first, b"{}").status for daemon in (one, two)] == [404, 404])
        assert time.time_ns() // 1_000_000 >= second["previousUntil"]
        assert [daemon.deliver(second, b"{}").status for daemon in (one, two)] == [204, 204]
        assert "previousToken" not in two.config("GET", f"/wh/config/{second['token']}").json


def test_rotations_at_a_time_over_both_end_in_one(pair):
    first = pair[0].hook(event="push")
    until(lambda: pair[1].deliver(first, b"{}").status == 204)
    with ThreadPoolExecutor(20) as pool:
        hooks = list(pool.map(lambda n: rotate(pair[n % 2], first["token"]), range(20)))
    assert {json.dumps(hook) for hook in hooks} == {json.dumps(hooks[0])}
    for daemon in pair:
        until(lambda daemon=daemon: daemon.config("GET").json == hooks[:1])
        assert [daemon.deliver(hook, b"{}").status for hook in (first, hooks[0])] == [204, 204]


def test_while_etcd_is_away_known_hooks_go_on_and_unknown_ones_may_be_new(tmp_path, own_etcd):
    server = own_etcd()
    with Daemon(tmp_path, store=server.url()) as daemon:
        hook = daemon.hook()
        assert daemon.deliver(UNKNOWN, b"{}").status == 404
        server.kill()
        until(lambda: lost(daemon))
        answer, seconds = timed(lambda: daemon.config("POST", document={"datasource": "x", "event": "y"}))
        assert (answer.status, answer.json["title"]) == (503, "Store unavailable")
        assert answer.headers["Retry-After"]
        assert seconds < 3
        assert daemon.config("DELETE", f"/wh/config/{hook['token']}").status == 503
        until(lambda: daemon.deliver(UNKNOWN, b"{}").status == 503)
        assert daemon.metrics()["webhookd_hooks_current"] == 0
        assert daemon.deliver(UNKNOWN, b"{}").json["title"] == "Hooks not current"
        assert daemon.deliver(hook, b"{}").status == 204
        assert readiness(daemon)[:2] == (200, "degraded")
        server.start()
        until(lambda: followed(daemon))
        assert daemon.deliver(UNKNOWN, b"{}").status == 404
        daemon.hook(event="later")
        told = [line for line in lines(daemon) if "follow" in line["message"]]
        assert [line["level"] for line in told][:2] == ["error", "info"]
        assert f"etcd at 127.0.0.1:{server.port}: " in told[0]["error"]
        assert told[1]["seconds"] > 5


def test_a_config_request_to_an_etcd_that_hangs_is_answered_in_time(tmp_path, own_etcd):
    server = own_etcd()
    with Daemon(tmp_path, store=server.url()) as daemon:
        hook = daemon.hook()
        server.pause()
        answer, seconds = timed(lambda: daemon.config("POST", document={"datasource": "x", "event": "y"}))
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert seconds < 5
        assert daemon.deliver(hook, b"{}").status == 204
        until(lambda: lost(daemon))
        server.resume()
        until(lambda: followed(daemon))
        server.pause()
        _, seconds = timed(daemon.stop)
        assert seconds < 10
        server.resume()


def test_a_start_while_etcd_is_away_serves_what_is_remembered(tmp_path, own_etcd):
    server = own_etcd()
    with Daemon(tmp_path, store=server.url()) as daemon:
        kept, gone = daemon.hook(event="kept"), daemon.hook(event="gone")
        assert daemon.config("DELETE", f"/wh/config/{gone['token']}").status == 204
        assert daemon.stop() == 0
        server.kill()
        daemon.start()
        assert daemon.deliver(kept, b"{}").status == 204
        assert daemon.deliver(gone, b"{}").status == 503
        assert daemon.deliver(UNKNOWN, b"{}").status == 503
        assert daemon.config("POST", document={"datasource": "x", "event": "y"}).status == 503
        assert readiness(daemon)[:2] == (200, "degraded")
        assert lost(daemon)
        daemon.kill()
        daemon.start()
        assert daemon.deliver(kept, b"{}").status == 204
        server.start()
        until(lambda: followed(daemon))
        assert daemon.deliver(gone, b"{}").status == 404


def test_both_tokens_are_remembered(tmp_path, own_etcd):
    etcd = own_etcd()
    with Daemon(tmp_path, store=etcd.url("/p")) as daemon:
        first = daemon.hook(event="push")
        second = rotate(daemon, first["token"])
        gone = daemon.hook(event="gone")
        left = rotate(daemon, gone["token"], immediately=True)
        assert daemon.stop() == 0
        etcd.kill()
        daemon.start()
        assert [daemon.deliver(hook, b"{}").status for hook in (first, second, left, gone)] == [204, 204, 204, 503]


def test_a_daemon_that_was_killed_remembers_too(tmp_path, own_etcd):
    server = own_etcd()
    with Daemon(tmp_path, store=server.url()) as daemon:
        hooks = [daemon.hook(event=f"e{n}") for n in range(5)]
        until(lambda: remembered(daemon) == {hook["token"] for hook in hooks})
        daemon.kill()
        server.pause()
        daemon.start()
        assert [daemon.deliver(hook, b"{}").status for hook in hooks] == [204] * 5
        server.resume()
        until(lambda: followed(daemon))


def remembered(daemon: Daemon) -> set[str]:
    (path,) = daemon.state_dir.glob("remembered-*.db")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return {token for (token,) in db.execute("SELECT token FROM hook")}


def test_what_is_remembered_of_another_store_is_never_served(tmp_path, own_etcd):
    server = own_etcd()
    with Daemon(tmp_path, store=server.url("/first")) as daemon:
        hook = daemon.hook()
    server.kill()
    for url in (server.url("/second"), "etcd://127.0.0.1:1/first"):
        other = Daemon(tmp_path, store=url)
        other.log_path.write_text("")
        other.wait_ready = lambda timeout, other=other: until(lambda: "webhookd is ready" in other.log, timeout)
        with other:
            assert other.deliver(hook, b"{}").status == 503
            status, word, reasons = readiness(other)
            assert (status, word, reasons[0]) == (503, "unready", "hooks never loaded")


def test_a_hook_set_aside_is_said_and_the_others_go_on(tmp_path, etcd, etcd_prefix):
    with Daemon(tmp_path, store=etcd_prefix) as daemon:
        broken, good = daemon.hook(event="broken"), daemon.hook(event="good")
        break_record(etcd_prefix, broken["token"])
        until(lambda: daemon.deliver(broken, b"{}").status == 503)
        assert daemon.deliver(good, b"{}").status == 204
        assert readiness(daemon) == (200, "degraded", ["set aside: 1 hooks"])
        assert daemon.metrics()["webhookd_hooks_set_aside"] == 1
        (told,) = [line for line in lines(daemon) if "set aside" in line["message"]]
        assert told["hook"] == hook_id(broken["token"])
        daemon.stop()
        daemon.start()
        assert readiness(daemon) == (200, "degraded", ["set aside: 1 hooks"])
        assert daemon.deliver(broken, b"{}").status == 503
        (recipe,) = [body for _, body in blocks(FAULTS, "sh") if "HASH" in body]
        recipe = recipe.replace("HASH", told["hook"]).replace("/webhookd/", f"{etcd_url(etcd_prefix)[1]}/")
        environ = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": f"127.0.0.1:{etcd.port}"}
        key = subprocess.run(["sh", "-c", recipe], env=environ, capture_output=True, text=True, check=True).stdout
        assert key == f"{keys_of(etcd_prefix).hook(broken['token']).decode()}\n"
        etcd.ctl("del", key.strip())
        until(lambda: followed(daemon))
        assert daemon.deliver(broken, b"{}").status == 404
        again = daemon.hook(event="broken")
        assert again["apiToken"] == broken["apiToken"]
        assert daemon.deliver(again, b"{}").status == 204


def test_a_rotated_hook_set_aside_may_be_the_one_that_is_asked_for(tmp_path, etcd_prefix):
    with Daemon(tmp_path, store=etcd_prefix) as daemon:
        first = daemon.hook(event="push")
        second = rotate(daemon, first["token"])
        break_record(etcd_prefix, first["token"])
        until(lambda: [daemon.deliver(hook, b"{}").status for hook in (first, second)] == [503, 503])
        assert daemon.metrics()["webhookd_hooks_set_aside"] == 1
        assert daemon.deliver(UNKNOWN, b"{}").status == 404


def break_record(url: str, token: str) -> None:
    async def main() -> None:
        store = open_store(url)
        await put_raw(store, keys_of(url).hook(token), b"junk")
        await store.close()

    asyncio.run(main())


def test_a_large_body_is_examined_beside_etcd(tmp_path, etcd_prefix):
    """By another process: gRPC has to bear that one is started."""
    with Daemon(tmp_path, store=etcd_prefix) as daemon:
        hook = daemon.hook("github", "push")
        assert daemon.deliver(hook, b'["' + b"x" * 2_000_000 + b'"]').status == 204
        daemon.hook(event="still")
        assert followed(daemon)
        assert daemon.stop() == 0
        assert all(line["level"] == "info" for line in lines(daemon))


def test_etcds_libraries_are_loaded_only_for_etcd():
    script = "import sys, webhookd.daemon, webhookd.neighbours; print({'grpc', 'aetcd'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
