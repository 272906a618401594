"""The config API as tenants see it: a real daemon over real sockets."""

import json
import re
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import KEY, Answer, Daemon, mint, request

from webhookd.http_config import AT_A_TIME

KEYS = {
    "datasource",
    "event",
    "createdAt",
    "apiToken",
    "tenantId",
    "token",
    "hookUrl",
    "validation",
    "onMismatch",
    "signed",
}


def problem(answer: Answer, status: int) -> dict:
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json
    assert document["status"] == status
    assert document["title"]
    assert "detail" in document
    assert set(document) <= {"title", "status", "detail", "errors"}
    return document


def test_more_hooks_than_are_put_into_words_at_a_time_are_listed_in_order(shared_daemon):
    made = [shared_daemon.hook(event=f"number-{number}", tenant="many") for number in range(2 * AT_A_TIME + 1)]
    listed = shared_daemon.config("GET", tenant="many").json
    assert listed == sorted(made, key=lambda hook: (hook["createdAt"], hook["token"]))


def test_creating_showing_listing_and_deleting(daemon):
    assert daemon.config("GET").json == []
    before = time.time_ns() // 1_000_000
    hook = daemon.hook("github", "push")
    assert set(hook) == KEYS | {"tsField"}
    assert before <= hook["createdAt"] <= time.time_ns() // 1_000_000
    assert (hook["datasource"], hook["event"], hook["tenantId"], hook["signed"]) == ("github", "push", 42, False)
    assert (hook["validation"], hook["onMismatch"], hook["tsField"]) == ("off", "publish", "repository.pushed_at")
    assert re.fullmatch("[0-9a-f]{40}", hook["token"])
    assert hook["hookUrl"] == f"http://127.0.0.1:{daemon.port}/wh/{hook['apiToken']}/{hook['token']}"
    other = daemon.hook("mine", "thing")
    assert set(other) == KEYS
    assert other["apiToken"] == hook["apiToken"]
    assert daemon.config("GET").json == [hook, other]
    path = f"/wh/config/{hook['token']}"
    shown = daemon.config("GET", path)
    assert shown.json == hook
    assert shown.headers["Content-Type"] == "application/json"
    assert "Server" not in shown.headers
    asked = daemon.config("HEAD", path)
    assert (asked.status, asked.body) == (200, b"")
    deleted = daemon.config("DELETE", path)
    assert (deleted.status, deleted.body) == (204, b"")
    assert [daemon.config(method, path).status for method in ("GET", "HEAD", "DELETE")] == [404, 404, 404]
    assert daemon.deliver(hook, b"{}").status == 404
    assert daemon.config("GET").json == [other]


def test_an_update_keeps_what_identifies_the_hook(daemon):
    hook = daemon.hook("github", "push", secret="a long secret", validation="report", onMismatch="ignore")
    assert hook["signed"] is True
    changed = daemon.hook("github", "push", tsField="a.b", validation="enforce")
    same = ("token", "apiToken", "createdAt", "hookUrl", "onMismatch", "signed")
    assert [changed[key] for key in same] == [hook[key] for key in same]
    assert (changed["tsField"], changed["validation"]) == ("a.b", "enforce")
    assert "tsField" not in daemon.hook("github", "push", tsField="")
    assert daemon.hook("github", "push", secret="")["signed"] is False
    assert len(daemon.config("GET").json) == 1


def test_the_api_token_outlives_all_hooks_and_a_restart(daemon):
    hook = daemon.hook()
    daemon.config("DELETE", f"/wh/config/{hook['token']}")
    again = daemon.hook()
    assert again["apiToken"] == hook["apiToken"]
    assert again["token"] != hook["token"]
    assert daemon.hook(tenant=43)["apiToken"] != hook["apiToken"]
    daemon.config("DELETE", f"/wh/config/{again['token']}")
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.config("GET").json == []
    assert daemon.hook()["apiToken"] == hook["apiToken"]


def test_hooks_are_there_after_a_restart(daemon):
    hook = daemon.hook("github", "push", secret="a long secret")
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.config("GET").json == [hook]
    assert daemon.deliver(hook, b"{}").status == 401


def test_an_integer_tenant_and_its_text_are_one(daemon):
    hook = daemon.hook(tenant=42)
    assert daemon.config("GET", tenant="42").json == [hook]
    assert daemon.hook("mine", "text", tenant="42")["tenantId"] == "42"
    assert [h["tenantId"] for h in daemon.config("GET").json] == [42, "42"]


def test_fifty_concurrent_creations_end_in_one_hook(daemon):
    answers: list[dict] = []
    barrier = threading.Barrier(50)

    def create(number: int):
        barrier.wait()
        answers.append(daemon.hook("github", "push", tsField=f"field.number{number}"))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 50
    assert len({(a["token"], a["apiToken"], a["createdAt"]) for a in answers}) == 1
    (hook,) = daemon.config("GET").json
    assert hook["token"] == answers[0]["token"]
    assert daemon.deliver(hook, b"{}").status == 204


def test_a_foreign_token_is_as_good_as_none(shared_daemon):
    mine = shared_daemon.hook(tenant="mine")
    shared_daemon.hook(tenant="other")
    for method in ("GET", "HEAD", "DELETE", "PUT", "POST", "PATCH", "OPTIONS"):
        seen = set()
        for token in (mine["token"], "0" * 40, "nonsense", "%ff", mine["token"].upper(), mine["token"] + "%00"):
            answer = shared_daemon.config(method, f"/wh/config/{token}", tenant="other")
            headers = sorted((k, v) for k, v in answer.headers.items() if k != "Date")
            seen.add((answer.status, str(headers), answer.body))
        assert len(seen) == 1, seen
    assert shared_daemon.config("GET", f"/wh/config/{mine['token']}", tenant="mine").json == mine
    assert mine not in shared_daemon.config("GET", tenant="other").json


@pytest.mark.parametrize(
    ("path", "methods", "allow"),
    [
        ("/wh/config", ("PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "BREW"), "GET, POST"),
        ("/wh/config/" + "0" * 40, ("PUT", "POST", "PATCH", "OPTIONS", "BREW"), "GET, HEAD, DELETE"),
        ("/wh/datasources", ("PUT", "POST", "HEAD", "DELETE", "OPTIONS"), "GET"),
    ],
)
def test_other_methods_are_refused_before_the_token_is_looked_at(shared_daemon, path, methods, allow):
    for method in methods:
        answer = request(shared_daemon.port, method, path)
        assert answer.status == 405
        assert answer.headers["Allow"] == allow
        if method != "HEAD":
            problem(answer, 405)


@pytest.mark.parametrize(
    "path", ["/", "/wh", "/wh/", "/wh/config/", "/wh/config/a/b", "/wh/a", "/wh/datasources/", "/metrics", "/livez"]
)
def test_there_is_nothing_else(shared_daemon, path):
    for method in ("GET", "POST", "BREW"):
        problem(request(shared_daemon.port, method, path), 404)


def test_bearer_tokens(shared_daemon):
    def ask(authorization, status):
        for path in ("/wh/config", "/wh/config/" + "0" * 40, "/wh/datasources"):
            headers = {} if authorization is None else {"Authorization": authorization}
            answer = request(shared_daemon.port, "GET", path, None, headers)
            assert answer.status == status or (status == 200 and answer.status == 404)
            if status == 401:
                problem(answer, 401)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            if status == 403:
                problem(answer, 403)

    good = mint()
    ask(f"bearer {good}", 200)
    ask(f"BEARER {good}", 200)
    for bad in (None, "", "Basic x", "Bearer", good, f"Bearer {good[:-1]}", f"Bearer {mint(ttl=-1)}", "Bearer opaque"):
        ask(bad, 401)
    ask(f"Bearer {mint(key=KEY + '!')}", 401)
    ask(f"Bearer {mint(padding='x' * 9000)}", 401)
    for tenant in (None, True, "", "a.b", 1.5, ["1"]):
        ask(f"Bearer {mint(tenant)}", 403)


def test_input_faults_are_told_all_at_once(shared_daemon):
    document = {"datasource": "a b", "event": "x" * 101, "tsField": "a..b", "secret": "short", "extra": 1}
    answer = problem(shared_daemon.config("POST", document=document, headers={"X-ORIG-SERVER": "a b"}), 400)
    assert {error["field"] for error in answer["errors"]} == {*document, "X-ORIG-SERVER"}
    assert all(set(error) == {"field", "message"} for error in answer["errors"])
    assert "short" not in json.dumps(answer["errors"])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nul", b'"x"', b"\xff\xfe", b'{"datasource":"a","event":"b"'])
def test_what_is_no_json_object_is_400(shared_daemon, body):
    headers = {"Authorization": f"Bearer {mint()}", "Content-Type": "application/json"}
    assert problem(request(shared_daemon.port, "POST", "/wh/config", body, headers), 400).get("errors") is None


def test_the_content_type_must_be_json(shared_daemon):
    body = b'{"datasource":"a","event":"b"}'
    token = {"Authorization": f"Bearer {mint()}"}
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
    ):
        problem(request(shared_daemon.port, "POST", "/wh/config", body, token | {"Content-Type": kind}), 415)
        problem(request(shared_daemon.port, "POST", "/wh/config", body, {"Content-Type": kind}), 401)
    problem(request(shared_daemon.port, "POST", "/wh/config", body, token), 415)
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert request(shared_daemon.port, "POST", "/wh/config", body, token | kind).status == 200


def test_bodies_over_64_kib_are_413(shared_daemon):
    fitting = json.dumps({"datasource": "a", "event": "b"}).encode().ljust(64 * 1024)
    headers = {"Authorization": f"Bearer {mint()}", "Content-Type": "application/json"}
    assert request(shared_daemon.port, "POST", "/wh/config", fitting, headers).status == 200
    for size in (64 * 1024 + 1, 10_000_000):
        problem(request(shared_daemon.port, "POST", "/wh/config", fitting.ljust(size), headers), 413)
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", shared_daemon.port, timeout=10)
    connection.request("POST", "/wh/config", iter([fitting, b" "]), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_hook_urls(tmp_path):
    with Daemon(tmp_path, public_url="https://hooks.example.org/") as daemon:
        hook = daemon.hook("a", "b")
        tail = urlsplit(hook["hookUrl"]).path
        assert hook["hookUrl"] == f"https://hooks.example.org{tail}"

        def ask(origin):
            answer = daemon.config(
                "POST", document={"datasource": "a", "event": "b"}, headers={"X-ORIG-SERVER": origin}
            )
            return answer.json["hookUrl"]

        assert ask("example.org:8443") == f"https://webhook.example.org:8443{tail}"
        assert daemon.hook("a", "b")["hookUrl"] == f"https://webhook.example.org:8443{tail}"
        assert ask("webhook2.example.org") == f"https://webhook2.example.org{tail}"
        assert ask("[::1]:80") == f"https://[::1]:80{tail}"


def test_a_host_that_is_none_is_no_part_of_a_hook_url(shared_daemon):
    headers = {"Authorization": f"Bearer {mint()}", "Content-Type": "application/json", "Host": "a_b"}
    answer = request(shared_daemon.port, "POST", "/wh/config", b'{"datasource":"x","event":"host"}', headers)
    assert problem(answer, 400)["errors"] == [{"field": "Host", "message": "must be host or host:port"}]


def test_datasources(shared_daemon):
    listed = shared_daemon.config("GET", "/wh/datasources").json
    by_name = {source["name"]: source for source in listed}
    assert list(by_name) == ["circleci", "dockerhub", "github"]
    assert [source["signs"] for source in listed] == [True, False, True]
    events = {event["event"]: event for event in by_name["github"]["events"]}
    assert events["push"] == {"event": "push", "tsField": "repository.pushed_at", "schema": True}
    assert all(source["title"] for source in listed)


def test_a_store_that_cannot_be_written_is_503(daemon):
    import sqlite3

    hook = daemon.hook()
    with sqlite3.connect(daemon.state_dir / "hooks.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = daemon.config("POST", document={"datasource": "x", "event": "y"})
        assert problem(refused, 503)
        assert refused.headers["Retry-After"]
        assert daemon.config("DELETE", f"/wh/config/{hook['token']}").status == 503
        assert daemon.deliver(hook, b"{}").status == 204
        other.execute("ROLLBACK")
    other.close()
    assert daemon.hook("x", "y")["token"]


def test_the_log_names_no_token(daemon):
    hook = daemon.hook(secret="")
    daemon.config("GET", f"/wh/config/{hook['token']}")
    daemon.config("DELETE", f"/wh/config/{hook['token']}")
    daemon.stop()
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    asked = [line for line in lines if line["message"] == "config request"]
    assert [(line["method"], line["resource"], line["status"], line["tenant"]) for line in asked] == [
        ("POST", "hooks", 200, "42"),
        ("GET", "hook", 200, "42"),
        ("DELETE", "hook", 204, "42"),
    ]
    assert hook["token"] not in daemon.log
    assert hook["apiToken"] not in daemon.log


def test_a_hundred_thousand_hooks(daemon):
    import sqlite3

    hook = daemon.hook(tenant="many")
    daemon.stop()
    with sqlite3.connect(daemon.state_dir / "hooks.db") as db:
        (columns,) = [[c[1] for c in db.execute("PRAGMA table_info(hook)")]]
        assert columns == ["token", "tenant", "datasource", "event", "record", "revision"]
        (record,) = db.execute("SELECT record FROM hook").fetchone()
        record = json.loads(record)
        rows = []
        for number in range(100_000):
            values = {
                "token": f"{number:040x}",
                "tenant": f"t{number % 1000}",
                "datasource": "mine",
                "event": f"e{number}",
            }
            rows.append((*values.values(), json.dumps(record | values).encode(), 2))
        db.executemany("INSERT INTO hook VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.close()
    started = time.monotonic()
    daemon.start()
    print(f"100,000 hooks: started in {time.monotonic() - started:.2f} s")
    assert daemon.metrics()["webhookd_hooks"] == 100_001
    assert daemon.deliver(hook, b"{}").status == 204
    assert len(daemon.config("GET", tenant="t7").json) == 100
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    print(re.search(r"VmRSS:.*", status)[0])
