"""Records of deliveries as tenants see them: a real daemon over real sockets."""

import base64
import gzip
import hashlib
import hmac
import socket
import time
from urllib.parse import urlsplit

import pytest
from harness import Daemon, until

SECRET = "a secret for these tests"
SEALED = """
import webhookd


class Sealed(webhookd.Datasource):
    name = title = "sealed"
    signs = True

    def verify_signature(self, delivery, secret):
        raise webhookd.Unsigned("no seal is good enough")

    def sign(self, body, secret, now):
        return {"X-Seal": webhookd.hmac_sha256(secret, body).hex(), "X-Stamp": str(now)}


@webhookd.hookimpl
def register_datasources():
    return [Sealed()]
"""


def path(hook, *more: str) -> str:
    return "/".join(["/wh/config", hook["token"], "deliveries", *more])


def deliveries(daemon: Daemon, hook, query: str = "", **options) -> list[dict]:
    answer = daemon.config("GET", path(hook) + query, **options)
    assert answer.status == 200, answer.body
    return answer.json["deliveries"]


def signed(body: bytes) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}


def test_what_is_told_of_an_accepted_delivery(shared_daemon):
    hook = shared_daemon.hook("github", "push")
    before = time.time_ns() // 1_000_000
    headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "guid", "Authorization": "Basic c2VjcmV0", "X-Other": "1"}
    answer = shared_daemon.deliver(hook, b'{"a": 1}', headers)
    shown = shared_daemon.config("GET", path(hook)).json
    assert shown["node"] == socket.gethostname()
    (one,) = shown["deliveries"]
    assert "next" not in shown
    assert before <= one.pop("receivedAt") <= time.time_ns() // 1_000_000
    assert 0 < one.pop("duration") < 60
    told = one.pop("headers")
    assert (told["content-type"], told["authorization"], told["x-other"]) == ("application/json", "(not shown)", "1")
    receipt = answer.headers["X-Webhookd-Receipt"]
    assert one == {
        "id": receipt,
        "receipt": receipt,
        "outcome": "accepted",
        "status": 204,
        "size": 8,
        "deliveryId": "guid",
        "providerEvent": "push",
        "hasBody": False,
    }
    alone = shared_daemon.config("GET", path(hook, receipt)).json
    assert (alone["id"], alone["node"], "body" in alone) == (receipt, socket.gethostname(), False)


def test_every_way_to_end_leaves_a_record(shared_daemon):
    hook = shared_daemon.hook("github", "issues", secret=SECRET, validation="enforce")
    json = {"Content-Type": "application/json"}
    zipped = gzip.compress(b"[" * 100)
    for body, headers in [
        (b"{}", {**json, **signed(b"{}"), "X-GitHub-Event": "ping"}),
        (b"{}", {"Content-Type": "text/plain"}),
        (b"{}", {**json, "Content-Encoding": "br"}),
        (b"{}", json),
        (b"{", {**json, **signed(b"{")}),
        (b"{}", {**json, **signed(b"{}")}),
        (zipped, {**json, **signed(zipped), "Content-Encoding": "gzip"}),
    ]:
        shared_daemon.deliver(hook, body, headers)
    found = [(one["outcome"], one["reason"], one["status"], one["hasBody"]) for one in deliveries(shared_daemon, hook)]
    assert found[::-1] == [
        ("ignored", "handshake", 204, False),
        ("refused", "content_type", 415, True),
        ("refused", "content_encoding", 415, True),
        ("refused", "signature", 401, True),
        ("refused", "malformed", 400, True),
        ("refused", "schema", 422, True),
        ("refused", "malformed", 400, True),
    ]
    refused = deliveries(shared_daemon, hook, "?outcome=refused")
    assert [one["outcome"] for one in refused] == ["refused"] * 6
    assert all(one["detail"] for one in refused)
    assert "receipt" not in refused[0]
    shown = shared_daemon.config("GET", path(hook, refused[0]["id"])).json
    assert base64.b64decode(shown["bodyBase64"]) == zipped
    assert "(not shown)" in shown["headers"].values()
    assert signed(zipped)["X-Hub-Signature-256"] not in str(shown)
    assert shared_daemon.config("GET", path(hook, refused[2]["id"])).json["body"] == "{"


def test_large_bodies_are_not_kept(tmp_path):
    with Daemon(tmp_path, max_body="1MiB") as daemon:
        hook = daemon.hook()
        for size in (64 * 1024, 64 * 1024 + 1, 1024 * 1024, 1024 * 1024 + 1):
            daemon.deliver(hook, b"x" * size)
        found = [(one["size"], one["status"], one["hasBody"]) for one in deliveries(daemon, hook)]
        assert found[1:] == [(2**20, 400, False), (65537, 400, False), (65536, 400, True)]
        assert found[0][1:] == (413, False)
        (kept,) = [one for one in deliveries(daemon, hook) if one["hasBody"]]
        assert daemon.config("GET", path(hook, kept["id"])).json["body"] == "x" * 65536


FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
LIMIT = 64 * 1024


def sent_apart(daemon: Daemon, hook, fields: list[str], pieces: list[bytes]) -> bytes:
    """Send a head, then each piece once the daemon has had the one before; return the beginning of the answer."""
    head = "\r\n".join([f"POST {urlsplit(hook['hookUrl']).path} HTTP/1.1", "Host: a", *fields]) + "\r\n\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (head.encode(), *pieces):
            wire.sendall(piece)
            time.sleep(0.05)  # that they are read apart is what is wanted; that they are not does not fail
        return wire.recv(12)


@pytest.mark.parametrize(
    ("fields", "pieces", "status", "kept"),
    [
        pytest.param(
            [FORM, "Content-Length: 9"], [b"payload=1"], 415, b"payload=1", id="there with its head, or behind it"
        ),
        pytest.param([FORM, "Content-Length: 9"], [b"pay", b"load", b"=1"], 415, b"payload=1", id="in pieces"),
        pytest.param(
            [FORM, "Transfer-Encoding: chunked"],
            [b"3\r\npay\r\n", b"6\r\nload=1\r\n0\r\n\r\n"],
            415,
            b"payload=1",
            id="chunked",
        ),
        pytest.param([FORM, f"Content-Length: {LIMIT}"], [b"x" * LIMIT], 415, b"x" * LIMIT, id="as large as may be"),
        pytest.param([FORM, f"Content-Length: {LIMIT + 1}"], [b"x" * (LIMIT + 1)], 415, None, id="too large"),
        pytest.param(
            [FORM, "Transfer-Encoding: chunked"],
            [f"{LIMIT:x}\r\n".encode() + b"x" * LIMIT + b"\r\n", b"1\r\nx\r\n0\r\n\r\n"],
            415,
            None,
            id="chunked, and too large",
        ),
        pytest.param([FORM, "Content-Length: 9"], [b"payl"], 415, None, id="that does not come to its end"),
        pytest.param(
            [FORM, "Expect: 100-continue", "Content-Length: 9"], [], 415, None, id="that is asked about first"
        ),
        pytest.param([FORM], [], 415, b"", id="empty"),
        pytest.param(
            [JSON, "Content-Length: 9"], [b"pay", b"load=1"], 400, b"payload=1", id="that is read, and no JSON"
        ),
    ],
)
def test_the_body_of_a_refused_delivery_is_kept(shared_daemon, fields, pieces, status, kept):
    """Whether it was refused for what is in its body, or before that was there."""
    hook = shared_daemon.hook("anything", f"kept.{time.time_ns()}")
    assert sent_apart(shared_daemon, hook, fields, pieces) == f"HTTP/1.1 {status}".encode()
    until(lambda: deliveries(shared_daemon, hook))
    (one,) = deliveries(shared_daemon, hook)
    assert (one["status"], one["hasBody"]) == (status, kept is not None)
    alone = shared_daemon.config("GET", path(hook, one["id"])).json
    assert alone.get("body", "").encode() == (kept or b"")
    if kept is not None:
        assert one["size"] == len(kept)
        assert shared_daemon.config("POST", path(hook, one["id"], "replay")).json["status"] == status


def test_the_body_of_a_delivery_that_there_was_no_room_for_is_kept(tmp_path):
    with Daemon(tmp_path, broker="spool:", max_in_flight_bytes="100") as daemon:
        hook = daemon.hook("anything", "a")
        body = b'{"text": "' + b"x" * 200 + b'"}'
        fields = [JSON, f"Content-Length: {len(body)}"]
        assert sent_apart(daemon, hook, fields, [body[:90], body[90:180], body[180:]]) == b"HTTP/1.1 503"
        until(lambda: deliveries(daemon, hook))
        (one,) = deliveries(daemon, hook)
        assert (one["reason"], one["size"]) == ("tenant_share", len(body))
        assert daemon.config("GET", path(hook, one["id"])).json["body"].encode() == body


def test_an_address_that_is_no_hooks_leaves_no_record(shared_daemon):
    hook = shared_daemon.hook("some", "thing")
    shared_daemon.deliver({"hookUrl": hook["hookUrl"].replace(hook["apiToken"], "wrong")}, b"{}")
    assert deliveries(shared_daemon, hook) == []


def test_pages(shared_daemon):
    hook = shared_daemon.hook("paged", "thing")
    receipts = [shared_daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"] for _ in range(23)]
    found, query = [], "?limit=5"
    while True:
        page = shared_daemon.config("GET", path(hook) + query).json
        found += [one["id"] for one in page["deliveries"]]
        if "next" not in page:
            break
        assert len(page["deliveries"]) == 5
        query = f"?limit=5&before={page['next']}"
    assert found == receipts[::-1]
    assert len(deliveries(shared_daemon, hook, "?limit=23")) == 23


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?limit=0", {"limit"}),
        ("?limit=201", {"limit"}),
        ("?limit=x", {"limit"}),
        ("?limit=%D9%A3", {"limit"}),
        ("?outcome=lost", {"outcome"}),
        ("?outcome=lost&limit=-1", {"outcome", "limit"}),
        ("?page=2&size=3", {"page", "size"}),
        ("?limit=1&limit=2", {"limit"}),
    ],
)
def test_parameters_at_fault_are_named(shared_daemon, query, fields):
    hook = shared_daemon.hook("some", "thing")
    answer = shared_daemon.config("GET", path(hook) + query)
    assert answer.status == 400
    assert {error["field"] for error in answer.json["errors"]} == fields
    assert shared_daemon.config("GET", path(hook, "any") + "?x=1").status == 404


def test_a_signature_is_not_shown_whatever_the_plugin_calls_its_header(tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "sealed.py").write_text(SEALED)
    with Daemon(tmp_path, plugins_dir=str(plugins)) as daemon:
        hook = daemon.hook("sealed", "thing")
        daemon.deliver(hook, b"no JSON", {"X-Seal": "f00d", "X-Stamp": "5"})
        path = f"/wh/config/{hook['token']}/deliveries"
        (listed,) = daemon.config("GET", path).json["deliveries"]
        one = daemon.config("GET", f"{path}/{listed['id']}").json
        replayed = daemon.config("POST", f"{path}/{listed['id']}/replay", {}).json
        replays = daemon.config("POST", f"{path}/replay", {"outcome": "refused"}).json["replays"]
    for told in (listed, one, replayed, *replays):
        assert (told["headers"]["x-seal"], told["headers"]["x-stamp"]) == ("(not shown)", "5")


def test_another_tenants_deliveries_are_not_there(shared_daemon):
    hook = shared_daemon.hook("some", "thing")
    receipt = shared_daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"]
    other = shared_daemon.hook("some", "thing", tenant="other")
    for rest in ((), (receipt,)):
        foreign = shared_daemon.config("GET", path(hook, *rest), tenant="other")
        missing = shared_daemon.config("GET", path({"token": "f" * 40}, *rest), tenant="other")
        assert (foreign.status, foreign.body) == (missing.status, missing.body)
        assert foreign.status == 404
    assert shared_daemon.config("GET", path(other, receipt), tenant="other").status == 404
    assert shared_daemon.config("GET", path(hook, receipt)).status == 200


def test_records_go_with_their_hook(shared_daemon):
    hook = shared_daemon.hook("gone", "thing")
    shared_daemon.deliver(hook, b"{}")
    shared_daemon.config("DELETE", f"/wh/config/{hook['token']}")
    assert shared_daemon.config("GET", path(hook)).status == 404
    again = shared_daemon.hook("gone", "thing")
    assert deliveries(shared_daemon, again) == []


def test_the_settings(tmp_path):
    with Daemon(tmp_path, records_per_hook="3", node_name="the first", keep_accepted="true") as daemon:
        hook = daemon.hook()
        for number in range(5):
            daemon.deliver(hook, b"[%d]" % number)
        answer = daemon.config("GET", path(hook)).json
        assert answer["node"] == "the first"
        bodies = [daemon.config("GET", path(hook, one["id"])).json["body"] for one in answer["deliveries"]]
        assert bodies == ["[4]", "[3]", "[2]"]


def test_none_are_kept_where_none_are_wanted(tmp_path):
    with Daemon(tmp_path, records_per_hook="0") as daemon:
        hook = daemon.hook()
        assert daemon.deliver(hook, b"{}").status == 204
        assert daemon.deliver(hook, b"{").status == 400
        assert deliveries(daemon, hook) == []
