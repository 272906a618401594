"""The daemon as its operator sees it: starts, readiness, stops, and what it does when a part fails."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from urllib.parse import urlsplit

import pytest
from harness import KEY, Daemon, request, until


def ready(daemon: Daemon) -> tuple[int, dict]:
    answer = request(daemon.admin_port, "GET", "/readyz")
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status, answer.json


def test_a_healthy_daemon(daemon):
    assert request(daemon.admin_port, "GET", "/livez").json == {"status": "ok"}
    assert ready(daemon) == (200, {"status": "ok", "reasons": []})
    missing = request(daemon.admin_port, "GET", "/wh/config")
    assert (missing.status, missing.headers["Content-Type"]) == (404, "application/problem+json")
    assert request(daemon.admin_port, "POST", "/livez").status == 405
    metrics = daemon.metrics()
    for name in (
        "webhookd_hooks_current",
        "webhookd_event_loop_lag_seconds_count",
        "webhookd_tasks",
        "process_cpu_seconds_total",
    ):
        assert name in metrics
    assert metrics['webhookd_build_info{version="0.1.0"}'] == 1
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    assert [line["message"] for line in lines] == ["webhookd is ready", "webhookd is stopping", "webhookd has stopped"]
    assert lines[0]["listen"] == f"http://127.0.0.1:{daemon.port}"


def test_no_admin_listener(tmp_path):
    daemon = Daemon(tmp_path, admin_listen="")
    daemon.wait_ready = lambda timeout: until(lambda: "webhookd is ready" in daemon.log)
    with daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        with pytest.raises(OSError, match="refused"):
            request(daemon.admin_port, "GET", "/livez")


def test_a_unix_socket(tmp_path):
    path = tmp_path / "web.sock"
    with Daemon(tmp_path, listen=f"unix:{path}", public_url="https://hooks.example.org") as daemon:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"POST /wh/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 404 ")
        assert daemon.stop() == 0
    assert not path.exists()


def test_a_public_key(tmp_path):
    import jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    with Daemon(tmp_path, jwt_public_key_file=str(tmp_path / "key.pem"), jwt_issuer="me", jwt_audience="it") as daemon:
        claims = {"tenantId": 1, "exp": time.time() + 60, "iss": "me", "aud": "it"}
        for key, algorithm, status in ((private, "EdDSA", 200), (KEY, "HS256", 200), (KEY + "!", "HS256", 401)):
            bearer = {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm)}"}
            assert request(daemon.port, "GET", "/wh/config", headers=bearer).status == status
        assert daemon.config("GET").status == 401


def test_a_short_key_is_said_once(tmp_path):
    daemon = Daemon(tmp_path)
    (tmp_path / "jwt.key").write_text("too short")
    with daemon:
        until(lambda: "is short" in daemon.log)


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        ({"jwt_secret_file": "/nowhere/key"}, 2, "jwt_secret_file"),
        ({"jwt_algorithms": "RS256"}, 2, "jwt_algorithms"),
        ({"jwt_public_key_file": __file__}, 2, "jwt_public_key_file"),
        ({"plugins_dir": "/nowhere"}, 2, "/nowhere"),
        ({"load_plugins": "githbu"}, 2, "githbu"),
        ({"state_dir": f"{__file__}/below"}, 2, "state_dir"),
        ({"spool_max_bytes": "1kB"}, 2, "spool_max_bytes"),
        ({"store": "etcd://127.0.0.1:1/webhookd", "store_user": "me"}, 2, "store_password_file"),
        ({"store": "etcd://127.0.0.1:1/webhookd", "store_cafile": "/nowhere/ca"}, 2, "/nowhere/ca"),
        ({"listen": "192.0.2.1:80"}, 1, "set listen"),
    ],
)
def test_a_start_that_must_not_happen_is_one_line(tmp_path, flags, status, words):
    daemon = Daemon(tmp_path, **flags)
    done = subprocess.run(
        daemon.command(), capture_output=True, text=True, env=daemon.environ, cwd=tmp_path, timeout=30, check=False
    )
    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


def test_a_port_in_use_and_a_state_directory_in_use(daemon, tmp_path):
    (tmp_path / "second").mkdir()
    second = Daemon(tmp_path / "second", listen=f"127.0.0.1:{daemon.port}")
    done = subprocess.run(second.command(), capture_output=True, text=True, env=second.environ, timeout=30, check=False)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr.splitlines()[-1]
    third = Daemon(tmp_path / "second", state_dir=str(daemon.state_dir))
    done = subprocess.run(third.command(), capture_output=True, text=True, env=third.environ, timeout=30, check=False)
    assert done.returncode == 1
    assert f"in use by pid {daemon.pid}" in done.stderr
    assert daemon.deliver(daemon.hook(), b"{}").status == 204


def test_a_full_spool_is_unready_and_comes_back(tmp_path):
    with Daemon(tmp_path, spool_max_bytes="1MiB") as daemon:
        hook = daemon.hook()
        body = b'["' + b"x" * 20_000 + b'"]'
        answers = [daemon.deliver(hook, body) for _ in range(60)]
        refused = next(answer for answer in answers if answer.status != 204)
        assert (refused.status, refused.json["title"]) == (503, "Cannot be taken now")
        assert refused.headers["Retry-After"]
        until(lambda: ready(daemon)[0] == 503)
        assert "spool full" in ready(daemon)[1]["reasons"]
        accepted = sum(answer.status == 204 for answer in answers)
        assert len(daemon.messages()) == accepted
        done = daemon.run("spool", "drop", "--all", "--yes", "--state-dir", str(daemon.state_dir))
        assert done.returncode == 0
        until(lambda: ready(daemon)[1]["status"] == "ok")
        assert daemon.deliver(hook, body).status == 204


def test_a_filling_spool_is_degraded(tmp_path):
    with Daemon(tmp_path, spool_max_bytes="2MiB") as daemon:
        hook = daemon.hook()
        for _ in range(200):
            daemon.deliver(hook, b'["' + b"x" * 20_000 + b'"]')
            status, document = ready(daemon)
            if document["status"] != "ok":
                break
        assert (status, document["status"]) == (200, "degraded")
        assert document["reasons"][0].startswith("spool filling")


def test_no_tenant_holds_more_of_the_spool_than_its_share(tmp_path):
    with Daemon(tmp_path, spool_max_bytes="4MiB", tenant_share="0.3") as daemon:
        greedy, modest = daemon.hook(tenant="greedy"), daemon.hook(tenant="modest")
        body = b'["' + b"x" * 50_000 + b'"]'
        answers = [daemon.deliver(greedy, body) for _ in range(40)]
        refused = next(answer for answer in answers if answer.status != 204)
        assert (refused.status, refused.json["title"]) == (503, "Over the tenant's share")
        assert daemon.deliver(modest, body).status == 204
        assert ready(daemon)[0] == 200
        assert daemon.metrics()['webhookd_refusals_total{reason="tenant_share"}'] >= 1


def test_a_store_that_is_broken_does_not_stop_deliveries(daemon):
    hook = daemon.hook()
    with sqlite3.connect(daemon.state_dir / "hooks.db", isolation_level=None) as other:
        other.execute("DROP TABLE hook")
    other.close()
    assert daemon.config("POST", document={"datasource": "x", "event": "y"}).status == 503
    assert daemon.deliver(hook, b"{}").status == 204


# --- stopping ------------------------------------------------------------------------------------------------------------


def begin(daemon: Daemon, hook, size: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", daemon.port), 10)
    path = urlsplit(hook["hookUrl"]).path
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_work_is_finished(daemon, number):
    hook = daemon.hook()
    with begin(daemon, hook, 2) as first, socket.create_connection(("127.0.0.1", daemon.port), 10) as idle:
        until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 1)
        os.kill(daemon.pid, number)
        until(lambda: "webhookd is stopping" in daemon.log)
        assert ready(daemon) == (503, {"status": "unready", "reasons": ["stopping"]})
        with pytest.raises(OSError, match="refused"):
            request(daemon.port, "GET", "/")
        path = urlsplit(hook["hookUrl"]).path
        idle.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        assert idle.recv(1000).startswith(b"HTTP/1.1 503 ")
        first.sendall(b"{}")
        assert first.recv(1000).startswith(b"HTTP/1.1 204 ")
    assert daemon.stop() == 0
    assert len(daemon.messages()) == 1


def test_a_sender_that_does_not_finish_does_not_hold_up_the_stop(tmp_path):
    with Daemon(tmp_path, stop_timeout="500ms") as daemon:
        with begin(daemon, daemon.hook(), 2) as connection:
            until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 1)
            started = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - started < 8
            assert connection.recv(1000) == b""
        assert "left unanswered" in daemon.log


def test_stopping_while_a_large_body_is_checked(daemon):
    hook = daemon.hook()
    answers = []
    body = b"[" + b"[]," * 6_000_000 + b"[]]"
    thread = threading.Thread(target=lambda: answers.append(daemon.deliver(hook, body)))
    thread.start()
    until(lambda: daemon.metrics()["webhookd_in_flight_bytes"] == len(body))
    os.killpg(os.getpgid(daemon.pid), 0)  # it is there
    assert daemon.stop() == 0
    thread.join()
    assert answers[0].status == 204
    assert len(daemon.messages()) == 1


PLUGIN = """
import sys
import webhookd

class Odd(webhookd.Datasource):
    name = "odd"
    title = "Odd"

    def event_type(self, delivery):
        if "raise" in delivery.headers:
            raise KeyError("canary-value")
        if "leave" in delivery.headers:
            sys.exit("leaving")
        return None

@webhookd.hookimpl
def register_datasources():
    return [Odd()]
"""


def test_a_plugin_that_fails_costs_its_own_deliveries_alone(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "odd.py").write_text(PLUGIN)
    with Daemon(tmp_path, plugins_dir=str(tmp_path / "plugins")) as daemon:
        hook = daemon.hook("odd", "x")
        for header in ("raise", "leave"):
            for body in (b"{}", b'{"x":"' + b"x" * 2_000_000 + b'"}'):
                answer = daemon.deliver(hook, body, {header: "1"})
                assert answer.status == 500
                assert answer.json == {"title": "Internal error", "status": 500, "detail": "see the daemon's log"}
        assert daemon.deliver(hook, b"{}").status == 204
        assert daemon.metrics()['webhookd_refusals_total{reason="bug"}'] == 4
        assert daemon.metrics()["webhookd_in_flight_deliveries"] == 0
        daemon.stop()
        bugs = [json.loads(line) for line in daemon.log.splitlines() if "failed by a bug" in line]
        assert len(bugs) == 4
        assert all("Traceback" in bug["exception"] for bug in bugs)
        assert all(bug["datasource"] == "odd" for bug in bugs)


def test_many_descriptors_less(tmp_path):
    with Daemon(tmp_path, wrapper=["prlimit", "--nofile=64"]) as daemon:
        hook = daemon.hook()
        crowd = []
        for _ in range(100):
            try:
                crowd.append(socket.create_connection(("127.0.0.1", daemon.port), 2))
            except OSError:
                break
        assert len(crowd) > 50
        for connection in crowd:
            connection.close()
        until(lambda: daemon.deliver(hook, b"{}").status == 204)
