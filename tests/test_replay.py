"""Replays: what was refused or accepted is put through the same checks again and published as a new message."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import time

import pytest
from far_side import FarSide
from harness import Daemon, mint, until
from test_daemon import PLUGIN

from webhookd.model import OUTCOMES

SECRET = "a secret for these tests"
WHSEC = "whsec_" + base64.b64encode(b"a key of some bytes").decode()


def path(hook, *more: str) -> str:
    return "/".join(["/wh/config", hook["token"], "deliveries", *more])


def seen(daemon: Daemon, hook) -> list[dict]:
    return daemon.config("GET", path(hook) + "?limit=200").json["deliveries"]


def replay(daemon: Daemon, hook, id_: str, status: int = 200) -> dict:
    answer = daemon.config("POST", path(hook, id_, "replay"), {})
    assert answer.status == status, answer.body
    return answer.json


def replay_all(daemon: Daemon, hook, **wanted) -> dict:
    answer = daemon.config("POST", path(hook, "replay"), wanted)
    assert answer.status == 200, answer.body
    return answer.json


def github(body: bytes, secret: str = SECRET) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Delivery": "guid", "X-GitHub-Event": "push"}


def test_a_refused_delivery_is_accepted_once_its_fault_is_mended(daemon):
    hook = daemon.hook("github", "push", secret="another secret")
    body = b'{"pushed": "something long enough"}'
    assert daemon.deliver(hook, body, github(body)).status == 401
    (refused,) = seen(daemon, hook)
    again = replay(daemon, hook, refused["id"])
    assert (again["outcome"], again["status"], again["reason"]) == ("refused", 401, "signature")
    assert daemon.messages() == []
    daemon.hook("github", "push", secret=SECRET)
    done = replay(daemon, hook, refused["id"])
    assert (done["outcome"], done["replayOf"], done["deliveryId"]) == ("accepted", refused["id"], "guid")
    (message,) = daemon.messages()
    assert message["headers"]["replayOf"] == refused["id"]
    assert (message["receipt"], message["body"].encode()) == (done["receipt"], body)
    records = seen(daemon, hook)
    assert [one.get("replayOf") for one in records] == [refused["id"], refused["id"], None]
    assert records[0]["id"] == done["receipt"]


def test_an_accepted_delivery_comes_from_the_spool(daemon):
    hook = daemon.hook("github", "push", secret=SECRET)
    bodies = [b'{"number": %d}' % number for number in range(30)] + [b"[%s1]" % (b"1," * 200_000)]
    receipts = [daemon.deliver(hook, body, github(body)).headers["X-Webhookd-Receipt"] for body in bodies]
    for number in (0, 17, 30):
        done = replay(daemon, hook, receipts[number])
        assert (done["outcome"], done["replayOf"]) == ("accepted", receipts[number])
        message = daemon.messages()[-1]
        assert (message["headers"]["replayOf"], message["body"].encode()) == (receipts[number], bodies[number])


def test_an_accepted_delivery_without_the_spool_needs_its_body_kept(tmp_path):
    zipped = gzip.compress(b'{"some": "thing"}')
    headers = {**github(zipped), "Content-Encoding": "gzip"}
    with Daemon(tmp_path, keep_accepted="true") as daemon:
        hook = daemon.hook("github", "push", secret=SECRET)
        receipt = daemon.deliver(hook, zipped, headers).headers["X-Webhookd-Receipt"]
        assert replay(daemon, hook, receipt)["outcome"] == "accepted"
        assert daemon.messages()[-1]["body"] == '{"some": "thing"}'


def test_what_came_compressed_and_signed_is_not_replayed_from_the_spool(daemon):
    zipped = gzip.compress(b'{"some": "thing"}')
    hook = daemon.hook("github", "push", secret=SECRET)
    daemon.deliver(hook, zipped, {**github(zipped), "Content-Encoding": "gzip"})
    (record,) = seen(daemon, hook)
    assert "compressed" in replay(daemon, hook, record["id"], 409)["detail"]
    daemon.hook("github", "push", secret="")
    assert replay(daemon, hook, record["id"])["outcome"] == "accepted"


def test_what_inflates_counts_against_what_may_be_in_work(tmp_path):
    with Daemon(tmp_path, max_in_flight_bytes="1MiB") as daemon:
        hook = daemon.hook("github", "push", secret=SECRET)
        for mib in (1, 0.5):
            body = b'{"some": "%s"}' % (b"x" * int(mib * 1024**2))
            daemon.deliver(hook, gzip.compress(body), {"Content-Encoding": "gzip"})
        daemon.hook("github", "push", secret="")
        half, whole = (replay(daemon, hook, record["id"]) for record in seen(daemon, hook))
        assert (half["outcome"], whole["outcome"], whole["reason"]) == ("accepted", "refused", "tenant_share")
        assert daemon.metrics()["webhookd_in_flight_bytes"] == 0


def test_bodies_that_are_not_kept_are_409(daemon):
    hook = daemon.hook()
    daemon.deliver(hook, b"x" * 70_000)
    daemon.deliver(hook, b"x" * 70_000, {"Content-Type": "text/plain"})
    until(lambda: len(seen(daemon, hook)) == 2)  # the second is remembered once its body is at its end
    for record in seen(daemon, hook):
        assert "not kept" in replay(daemon, hook, record["id"], 409)["detail"]
    told = replay_all(daemon, hook, outcome="refused")["replays"]
    assert [one["status"] for one in told] == [409, 409]
    assert replay(daemon, hook, "no-such-id", 404)["status"] == 404
    other = daemon.config("POST", path(hook, seen(daemon, hook)[0]["id"], "replay"), {}, tenant="other")
    assert other.status == 404


def test_the_time_window_of_a_signature_is_that_of_the_sender(daemon):
    hook = daemon.hook("standard", "thing", secret=WHSEC)
    body, stamp = b'{"an": "old delivery"}', str(int(time.time()) - 3600)
    mac = hmac.new(b"a key of some bytes", f"msg_1.{stamp}.".encode() + body, hashlib.sha256).digest()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": stamp}
    assert daemon.deliver(hook, body, {**headers, "webhook-signature": "v1," + base64.b64encode(mac).decode()}).status
    assert daemon.deliver(hook, body, {**headers, "webhook-signature": "v1,AAAA"}).status == 401
    wrong, old = seen(daemon, hook)
    assert (old["status"], "seconds from now" in old["detail"]) == (401, True)
    assert replay(daemon, hook, old["id"])["outcome"] == "accepted"
    assert replay(daemon, hook, wrong["id"])["reason"] == "signature"


def test_a_filter_replays_in_order_and_some_at_a_time(daemon):
    hook = daemon.hook("github", "push", secret="another secret")
    for number in range(60):
        body = b'{"number": %d}' % number
        daemon.deliver(hook, body, github(body))
    daemon.deliver(hook, b"{", github(b"{", "another secret"))
    daemon.hook("github", "push", secret=SECRET)
    first = replay_all(daemon, hook, outcome="refused", reason="signature")
    assert [one["outcome"] for one in first["replays"]] == ["accepted"] * 50
    second = replay_all(daemon, hook, outcome="refused", reason="signature", after=first["next"])
    assert (len(second["replays"]), "next" in second) == (10, False)
    assert [json.loads(message["body"])["number"] for message in daemon.messages()] == list(range(60))
    # what was replayed and accepted is not replayed again
    assert replay_all(daemon, hook, outcome="refused", reason="signature")["replays"] == []
    (malformed,) = replay_all(daemon, hook, outcome="refused")["replays"]
    assert (malformed["outcome"], malformed["reason"]) == ("refused", "malformed")


def test_they_are_counted_by_outcome_and_not_as_deliveries(daemon):
    hook = daemon.hook("github", "push", onMismatch="reject")
    assert daemon.deliver(hook, b"{}", {"X-GitHub-Event": "star"}).status == 422
    assert daemon.deliver(hook, b"x" * 70_000).status == 400
    too_large, refused = seen(daemon, hook)
    replay(daemon, hook, refused["id"])
    daemon.hook("github", "push", onMismatch="ignore")
    for _ in range(2):
        replay(daemon, hook, refused["id"])
    daemon.hook("github", "push", onMismatch="publish")
    for _ in range(3):
        replay(daemon, hook, refused["id"])
    replay(daemon, hook, too_large["id"], 409)
    counted = daemon.metrics()
    replays = {name: counted[f'webhookd_replays_total{{outcome="{name}"}}'] for name in OUTCOMES}
    assert replays == {"refused": 1, "ignored": 2, "accepted": 3}
    deliveries = {key: count for key, count in counted.items() if key.startswith("webhookd_deliveries_total{")}
    assert sum(deliveries.values()) == 2, deliveries


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({}, {"outcome"}),
        ({"outcome": "ignored"}, {"outcome"}),
        ({"outcome": ["refused"]}, {"outcome"}),
        ({"outcome": "refused", "limit": 3, "reason": 1}, {"limit", "reason"}),
    ],
)
def test_faults_are_told(shared_daemon, document, fields):
    hook = shared_daemon.hook()
    answer = shared_daemon.config("POST", path(hook, "replay"), document)
    assert answer.status == 400
    assert {error["field"] for error in answer.json["errors"]} == fields
    assert shared_daemon.config("POST", path(hook, "replay"), []).status == 400
    assert shared_daemon.config("GET", path(hook, "any", "replay")).status == 405


def test_a_bug_of_a_plugin_refuses_its_replay_and_no_other(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "odd.py").write_text(PLUGIN)
    with Daemon(tmp_path, plugins_dir=str(tmp_path / "plugins")) as daemon:
        hook = daemon.hook("odd", "x")
        for header in ("raise", "leave"):
            assert daemon.deliver(hook, b"{}", {header: "1"}).status == 500
        assert daemon.deliver(hook, b"no JSON").status == 400
        told = replay_all(daemon, hook, outcome="refused")["replays"]
        assert [(one["reason"], one["status"]) for one in told] == [("bug", 500), ("bug", 500), ("malformed", 400)]
        assert "canary-value" not in json.dumps(seen(daemon, hook))
        assert daemon.metrics()['webhookd_replays_total{outcome="refused"}'] == 3
        assert daemon.metrics()["webhookd_in_flight_deliveries"] == 0
        daemon.stop()
        lines = [json.loads(line) for line in daemon.log.splitlines()]
        bugs = [line for line in lines if "failed by a bug" in line["message"] and "replay_of" in line]
        assert [bug["replay_of"] for bug in bugs] == [one["replayOf"] for one in told[:2]]
        assert all("Traceback" in bug["exception"] and bug["event"] == "x" for bug in bugs)


async def deliver_and_replay(daemon: Daemon, url: str) -> None:
    async with FarSide(url) as far:
        await far.bind()
        hook = daemon.hook("github", "push", validation="enforce")
        body = b'{"a": "body that does not fit"}'
        assert daemon.deliver(hook, body, {"X-GitHub-Event": "push"}).status == 422
        (refused,) = seen(daemon, hook)
        daemon.hook("github", "push", validation="off")
        done = replay(daemon, hook, refused["id"])
        (message,) = await far.take()
        assert (message.body, message.message_id) == (body, done["receipt"])
        assert message.headers["replayOf"] == refused["id"]
        assert daemon.deliver(hook, b"{}").status == 204
        (_, live) = await far.take()
        assert "replayOf" not in live.headers


def test_a_message_in_rabbitmq_names_what_it_is_a_replay_of(tmp_path, vhost):
    with Daemon(tmp_path, broker=vhost) as daemon:
        asyncio.run(deliver_and_replay(daemon, vhost))
        receipt = next(one["id"] for one in seen(daemon, daemon.hook("github", "push")) if one["outcome"] == "accepted")
        assert "not kept" in replay(daemon, daemon.hook("github", "push"), receipt, 409)["detail"]


def test_the_commands(daemon):
    hook = daemon.hook("github", "push", secret="another secret")
    for number in range(3):
        body = b'{"number": %d}' % number
        daemon.deliver(hook, body, github(body))
    url, token = hook["hookUrl"], {"WEBHOOKD_TOKEN": mint(42), "WEBHOOKD_URL": f"http://127.0.0.1:{daemon.port}"}
    listed = daemon.run("hooks", "deliveries", url, "--json", **token)
    ids = [json.loads(line)["id"] for line in listed.stdout.splitlines()]
    assert ids == [one["id"] for one in seen(daemon, hook)]
    table = daemon.run("hooks", "deliveries", url, "--outcome", "refused", **token).stdout
    assert all(id_ in table for id_ in ids)
    wrong = daemon.run("replay", url, ids[0], **token)
    assert (wrong.returncode, "1 of 1 were not accepted" in wrong.stderr) == (1, True)
    daemon.hook("github", "push", secret=SECRET)
    one = daemon.run("replay", url, ids[0], "--json", **token)
    assert (one.returncode, json.loads(one.stdout)["replayOf"]) == (0, ids[0])
    rest = daemon.run("replay", url, "--outcome", "refused", "--reason", "signature", **token)
    assert (rest.returncode, rest.stdout.count("accepted, receipt")) == (0, 2)
    assert daemon.run("replay", url, "--outcome", "refused", **token).stdout == "nothing to replay\n"
    assert len(daemon.messages()) == 3
    assert daemon.run("replay", url, **token).returncode == 2
