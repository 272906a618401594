"""Each refusal that leaves a record is provoked at a real daemon, and explained by its API and by `webhookd why`."""

import gzip
import hashlib
import hmac
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from commands import on_a_terminal
from harness import Answer, Daemon, mint, until

SECRET = "a secret for these tests"
JSON = {"Content-Type": "application/json"}
PUSH = b'{"ref": "refs/heads/main", "repository": {"pushed_at": 1714564800}}'
PLUGIN = """
import webhookd

class Odd(webhookd.Datasource):
    name = "odd"
    title = "Odd"

    def event_type(self, delivery):
        raise KeyError("canary-value")

@webhookd.hookimpl
def register_datasources():
    return [Odd()]
"""


def signed(body: bytes, **more: str) -> dict[str, str]:
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {**JSON, "X-Hub-Signature-256": f"sha256={digest}", **more}


def last(daemon: Daemon, hook: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    path = f"/wh/config/{hook['token']}/deliveries"
    found = daemon.config("GET", f"{path}?outcome=refused&limit=1", **options).json["deliveries"]
    answer = daemon.config("GET", f"{path}/{found[0]['id']}/explain", **options)
    assert answer.status == 200, answer.body
    for canary in (SECRET, hook["apiToken"], hook["token"]):
        assert canary.encode() not in answer.body
    explanation: dict[str, Any] = answer.json
    assert explanation["id"] == found[0]["id"]
    return explanation


def check_of(explanation: Mapping[str, Any], name: str) -> dict[str, str]:
    (found,) = (check for check in explanation["checks"] if check["check"] == name)
    return found


ZIPPED = gzip.compress(b"[" + b" " * 300_000 + b"]")
REFUSED = {
    "too large": ({}, b"[" + b" " * 300_000 + b"]", JSON, 413, "size", "`max_body`"),
    "too large when inflated": ({}, ZIPPED, {**JSON, "Content-Encoding": "gzip"}, 413, "inflate", "`max_body`"),
    "a form": (
        {},
        urlencode({"payload": PUSH.decode()}).encode(),
        {"Content-Type": "application/x-www-form-urlencoded"},
        415,
        "content_type",
        "At GitHub: Settings, Webhooks, Edit, Content type: application/json.",
    ),
    "an unknown encoding": ({}, b"{}", {**JSON, "Content-Encoding": "br"}, 415, "content_encoding", "gzip or deflate"),
    "unsigned": ({"secret": SECRET}, PUSH, JSON, 401, "signature", "At GitHub: Settings, Webhooks, Edit, Secret."),
    "a newline more": ({"secret": SECRET}, PUSH + b"\n", signed(PUSH), 401, "signature", "sign the very bytes"),
    "no JSON": ({}, b"{'ref': 1}", JSON, 400, "json", "RFC 8259"),
    "a broken stream": (
        {},
        gzip.compress(PUSH)[:-5],
        {**JSON, "Content-Encoding": "gzip"},
        400,
        "inflate",
        "gzip or deflate",
    ),
    "another event": (
        {"onMismatch": "reject"},
        PUSH,
        {**JSON, "X-GitHub-Event": "issues"},
        422,
        "event",
        "Let me select individual events",
    ),
    "a misfit": ({"validation": "enforce"}, b'{"ref": 1}', JSON, 422, "schema", "`validation`"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    with Daemon(tmp_path_factory.mktemp("small"), max_body="200KiB") as daemon:
        yield daemon


NAMED = {
    "unsigned": ["signature-missing"],
    "a newline more": ["newline-stripped"],
    "no JSON": ["single-quotes"],
    "a broken stream": ["compressed-cut"],
}


@pytest.mark.parametrize("title", REFUSED)
def test_a_refusal_is_explained(small: Daemon, title: str) -> None:
    fields, body, headers, status, failed, remedy = REFUSED[title]
    hook = small.hook("github", "push", tenant=title.replace(" ", "-"), **fields)
    assert small.deliver(hook, body, headers).status == status
    explanation = last(small, hook, tenant=title.replace(" ", "-"))
    assert (explanation["outcome"], explanation["failed"]) == ("refused", failed)
    assert check_of(explanation, failed)["state"] == "failed"
    assert check_of(explanation, failed)["detail"]
    assert explanation["problem"].endswith(".")
    assert remedy in explanation["remedy"]
    names = [finding["name"] for finding in explanation["diagnoses"]]
    assert names == NAMED.get(title, [])


def test_faults_of_the_schema_are_told_and_no_value_of_the_body(small: Daemon) -> None:
    hook = small.hook("github", "push", tenant="misfit", validation="enforce")
    small.deliver(hook, b'{"ref": ["canary of a body"]}', JSON)
    detail = check_of(last(small, hook, tenant="misfit"), "schema")["detail"]
    assert "/ref: " in detail
    assert "canary" not in detail


def test_a_secret_that_was_set_right_since_is_found(small: Daemon) -> None:
    hook = small.hook("github", "push", tenant="rotating", secret="another secret")
    assert small.deliver(hook, PUSH, signed(PUSH)).status == 401
    assert last(small, hook, tenant="rotating")["diagnoses"] == []
    small.hook("github", "push", tenant="rotating", secret=SECRET)
    (found,) = last(small, hook, tenant="rotating")["diagnoses"]
    assert found["name"] == "secret-new"


def test_a_share_of_what_is_in_work_is_explained(tmp_path: Path) -> None:
    with Daemon(tmp_path, max_in_flight="4", tenant_share="0.5") as daemon:
        hook, _ = daemon.hook(), daemon.hook(tenant=7)
        head = f"POST {urlsplit(hook['hookUrl']).path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        held = [socket.create_connection(("127.0.0.1", daemon.port), 10) for _ in range(2)]
        for connection in held:
            connection.sendall(f"{head}Content-Length: 2\r\n\r\n".encode())
        until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 2)
        assert daemon.deliver(hook, b"{}").status == 503
        explanation = last(daemon, hook)
        assert explanation["failed"] == "load"
        assert "`tenant_share`" in explanation["remedy"]
        assert check_of(explanation, "size")["state"] == "not reached"
        for connection in held:
            connection.close()


def test_a_share_that_is_reached_by_inflating_is_explained(tmp_path: Path) -> None:
    with Daemon(tmp_path, max_in_flight_bytes="200KiB", tenant_share="0.5") as daemon:
        hook, _ = daemon.hook("github", "push", secret=SECRET), daemon.hook(tenant=7)
        assert daemon.deliver(hook, ZIPPED, signed(ZIPPED, **{"Content-Encoding": "gzip"})).status == 503
        explanation = last(daemon, hook)
        assert explanation["failed"] == "inflate"
        assert "as its share allows" in check_of(explanation, "inflate")["detail"]
        assert [check_of(explanation, name)["state"] for name in ("load", "signature")] == ["passed", "passed"]
        assert "`tenant_share`" in explanation["remedy"]


def test_a_check_that_takes_too_long_is_explained(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    slow = PLUGIN.replace('raise KeyError("canary-value")', "__import__('time').sleep(60 if delivery.body else 0)")
    (tmp_path / "plugins" / "odd.py").write_text(slow)
    with Daemon(tmp_path, plugins_dir=str(tmp_path / "plugins"), publish_timeout="500ms") as daemon:
        hook = daemon.hook("odd", "x")
        assert daemon.deliver(hook, b'["' + b"x" * 1_100_000 + b'"]').status == 503
        explanation = last(daemon, hook)
        assert (explanation["failed"], check_of(explanation, "publish")["state"]) == ("json", "not reached")


def test_a_share_of_the_spool_and_a_full_spool_are_explained(tmp_path: Path) -> None:
    body = b'["' + b"x" * 50_000 + b'"]'
    with Daemon(tmp_path, spool_max_bytes="4MiB", tenant_share="0.3") as daemon:
        greedy, modest = daemon.hook(tenant="greedy"), daemon.hook(tenant="modest")
        until(lambda: daemon.deliver(greedy, body).status == 503, pause=0)
        explanation = last(daemon, greedy, tenant="greedy")
        assert (explanation["failed"], "in the spool" in explanation["problem"]) == ("publish", True)
        assert "have it sent again" not in explanation["problem"]
        assert "the delivery would pass: replay it" in explanation["remedy"]
        hooks = [daemon.hook(tenant=f"tenant-{n}") for n in range(9)]
        until(lambda: any(full(daemon.deliver(hook, body)) for hook in hooks), pause=0)
        assert full(daemon.deliver(modest, body))
        explanation = last(daemon, modest, tenant="modest")
        assert explanation["failed"] == "publish"
        assert "`spool_max_bytes`" in explanation["remedy"]


def full(answer: Answer) -> bool:
    return answer.status == 503 and answer.json["title"] == "Cannot be taken now"


def test_a_plugins_bug_is_explained(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "odd.py").write_text(PLUGIN)
    with Daemon(tmp_path, plugins_dir=str(tmp_path / "plugins")) as daemon:
        hook = daemon.hook("odd", "x")
        assert daemon.deliver(hook, b"{}").status == 500
        explanation = last(daemon, hook)
        assert explanation["failed"] == "event"
        assert "the plugin for Odd" in explanation["problem"]
        assert "canary-value" not in json.dumps(explanation)
        assert "`a delivery failed by a bug`" in explanation["remedy"]


def test_accepted_and_ignored_deliveries_are_explained_too(small: Daemon) -> None:
    hook = small.hook("github", "push", tenant="fine")
    receipt = small.deliver(hook, PUSH, {"X-GitHub-Event": "push"}).headers["X-Webhookd-Receipt"]
    small.deliver(hook, PUSH, {"X-GitHub-Event": "ping"})
    path = f"/wh/config/{hook['token']}/deliveries"
    explanation = small.config("GET", f"{path}/{receipt}/explain", tenant="fine").json
    assert {check["state"] for check in explanation["checks"]} == {"passed"}
    assert explanation.keys() == {"id", "outcome", "checks", "diagnoses"}
    (ping,) = small.config("GET", f"{path}?outcome=ignored", tenant="fine").json["deliveries"]
    explanation = small.config("GET", f"{path}/{ping['id']}/explain", tenant="fine").json
    assert check_of(explanation, "publish") == {
        "check": "publish",
        "state": "not reached",
        "detail": "nothing is to be published",
    }


def test_another_tenant_learns_nothing(small: Daemon) -> None:
    hook = small.hook("github", "push", tenant="owner", secret=SECRET)
    small.deliver(hook, PUSH, JSON)
    (one,) = small.config("GET", f"/wh/config/{hook['token']}/deliveries", tenant="owner").json["deliveries"]
    theirs = small.config("GET", f"/wh/config/{hook['token']}/deliveries/{one['id']}/explain", tenant="other")
    nobodys = small.config("GET", f"/wh/config/{'0' * 40}/deliveries/{one['id']}/explain", tenant="other")
    assert (theirs.status, theirs.body) == (404, nobodys.body)
    missing = small.config("GET", f"/wh/config/{hook['token']}/deliveries/nothing/explain", tenant="owner")
    assert missing.status == 404
    path = f"/wh/config/{hook['token']}/deliveries/{one['id']}/explain"
    assert small.config("GET", f"{path}?deep=1", tenant="owner").status == 400
    answer = small.config("POST", path, {}, tenant="owner")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


# --- the command -----------------------------------------------------------------------------------------------------


def why(daemon: Daemon, tenant: str, *arguments: str):
    token = mint(tenant)
    daemon.canaries.add(token)
    environ = {"WEBHOOKD_URL": f"http://127.0.0.1:{daemon.port}", "WEBHOOKD_TOKEN": token}
    return daemon.run("why", *arguments, **environ)


def test_the_command_explains_the_last_refusal(small: Daemon) -> None:
    hook = small.hook("github", "push", tenant="asking", secret=SECRET)
    none_yet = why(small, "asking", hook["token"])
    assert (none_yet.returncode, none_yet.stdout) == (1, "")
    assert none_yet.stderr == "webhookd: no refused delivery to this hook is remembered by this daemon\n"
    small.deliver(hook, PUSH, JSON)
    small.deliver(hook, PUSH + b"\n", signed(PUSH))
    small.deliver(hook, PUSH, signed(PUSH))
    done = why(small, "asking", hook["hookUrl"])
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert SECRET not in done.stdout
    text = " ".join(done.stdout.split())
    assert "refused (signature): answered 401, 68 bytes" in text
    assert "passed the Content-Type is JSON: `application/json`" in text
    assert "FAILED the signature fits the hook's secret: X-Hub-Signature-256 is no signature" in text
    assert "- the body fits the schema" in text
    assert "How it comes: The signature is over the body without the newline at its end." in text
    assert "What to do: Have GitHub sign the very bytes that it sends" in text


def test_the_command_explains_any_delivery_as_text_and_as_json(small: Daemon) -> None:
    hook = small.hook("github", "push", tenant="naming", secret=SECRET)
    small.deliver(hook, PUSH, JSON)
    small.deliver(hook, PUSH + b"\n", signed(PUSH))
    listed = small.config("GET", f"/wh/config/{hook['token']}/deliveries", tenant="naming").json["deliveries"]
    first = listed[-1]["id"]
    document = json.loads(why(small, "naming", hook["token"], first, "--json").stdout)
    assert (document["id"], document["failed"], document["diagnoses"][0]["name"]) == (
        first,
        "signature",
        "signature-missing",
    )
    assert "X-Hub-Signature-256 is missing" in why(small, "naming", hook["token"], first).stdout
    missing = why(small, "naming", hook["token"], "nothing")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "there is no such delivery" in missing.stderr


def test_the_command_has_colours_on_a_terminal(small: Daemon, tmp_path: Path) -> None:
    hook = small.hook("github", "push", tenant="looking", secret=SECRET)
    small.deliver(hook, PUSH, JSON)
    token = tmp_path / "token"
    token.write_text(mint("looking"))
    status, seen = on_a_terminal(
        tmp_path, "why", hook["token"], "--token-file", str(token), "--url", f"http://127.0.0.1:{small.port}"
    )
    assert (status, "\x1b[31m" in seen, "FAILED" in seen) == (0, True, True)
