"""Deliveries as senders see them: a real daemon, real sockets, and the spool read from the far side."""

import base64
import gzip
import hashlib
import hmac
import json
import re
import socket
import threading
import time
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import Answer, Daemon, request, until

MIB = 1024 * 1024
RECEIPT = "X-Webhookd-Receipt"
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SECRET = "It's a secret to everybody"


@pytest.fixture
def shop(shared_daemon, request) -> "Shop":
    return Shop(shared_daemon, hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:12])


class Shop:
    """The shared daemon as one tenant, of one test alone, sees it."""

    def __init__(self, daemon: Daemon, tenant: str) -> None:
        self.daemon = daemon
        self.port = daemon.port
        self.tenant = tenant
        self.deliver = daemon.deliver

    def hook(self, *args, **fields):
        return self.daemon.hook(*args, tenant=self.tenant, **fields)

    def messages(self):
        return self.daemon.messages()


def path_of(hook) -> str:
    return urlsplit(hook["hookUrl"]).path


def message_of(daemon: Daemon, answer: Answer) -> dict:
    return next(m for m in daemon.messages() if m["receipt"] == answer.headers[RECEIPT])


def github(body: bytes, event: str = "push", secret: str = SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Event": event, "X-GitHub-Delivery": "guid-1"}


def problem(answer: Answer, status: int) -> dict:
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["title"]
    assert RECEIPT not in answer.headers
    return answer.json


def raw(daemon: Daemon, data: bytes, timeout: float = 10, expect_close: bool = False) -> bytes:
    """Send bytes and read until an answer is whole, or the connection closed."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout) as connection:
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
            head, separator, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            whole = separator and (b" 204 " in head or (length and len(body) >= int(length[1])))
            if whole and not expect_close:
                break
        return answer


# --- accepted ----------------------------------------------------------------------------------------------------------


def test_a_delivery_is_kept_byte_for_byte(shop):
    hook = shop.hook("mine", "thing", tsField="a.b[0]")
    body = b' {"a" : {"b":[1e400]}, "a": "\\u00e9\xc3\xa9",\n "x": 12345678901234567890123} \r\n'
    before = time.time_ns() // 1_000_000
    answer = shop.deliver(hook, body, {"webhook-id": "msg_1"})
    assert (answer.status, answer.body) == (204, b"")
    assert UUID7.fullmatch(answer.headers[RECEIPT])
    assert "Server" not in answer.headers
    message = message_of(shop, answer)
    assert message["body"].encode() == body
    assert message["routingKey"] == f"event.{shop.tenant}.mine.thing"
    assert (message["tenant"], message["datasource"], message["event"]) == (shop.tenant, "mine", "thing")
    received = message["headers"].pop("receivedAt")
    assert before <= received <= time.time_ns() // 1_000_000
    assert message["headers"] == {"tsField": "a.b[0]", "deliveryId": "msg_1"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "foo/moo; application/sjson; charset-utf8"},
        {"Content-Type": "APPLICATION/VND.X+JSON"},
        {"Content-Encoding": "identity"},
    ],
)
def test_content_types_that_pass(shop, headers):
    assert shop.deliver(shop.hook(), b"[]", headers).status == 204


def test_github_says_event_and_delivery(shop):
    hook = shop.hook("github", "push", secret=SECRET)
    body = b'{"ref":"refs/heads/main"}'
    answer = shop.deliver(hook, body, github(body))
    headers = message_of(shop, answer)["headers"]
    assert headers.pop("receivedAt")
    assert headers == {"tsField": "repository.pushed_at", "deliveryId": "guid-1", "providerEvent": "push"}


@pytest.mark.parametrize("word", ["x" * 257, "\xe9", "a\tb", ""])
def test_a_sender_word_that_is_long_or_odd_is_left_out(shop, word):
    hook = shop.hook("mine", "odd-word")
    answer = shop.deliver(hook, b"{}", {"webhook-id": word})
    assert answer.status == 204
    assert "deliveryId" not in message_of(shop, answer)["headers"]


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("DEFLATE", zlib.compress)]
)
def test_compressed_bodies_are_inflated(shop, encoding, compress):
    hook = shop.hook("mine", "compressed")
    body = json.dumps({"text": "x" * 3 * MIB}).encode()
    answer = shop.deliver(hook, compress(body), {"Content-Encoding": encoding})
    assert answer.status == 204
    assert message_of(shop, answer)["body"].encode() == body


def test_a_signature_is_over_the_bytes_as_they_were_sent(shop):
    hook = shop.hook("github", "push", secret=SECRET)
    body = b'{"a":1}'
    sent = gzip.compress(body)
    assert shop.deliver(hook, sent, github(sent) | {"Content-Encoding": "gzip"}).status == 204
    assert shop.deliver(hook, sent, github(body) | {"Content-Encoding": "gzip"}).status == 401


def test_standard_webhooks(shop):
    key = base64.b64encode(b"0123456789abcdef01234567").decode()
    hook = shop.hook("anything", "signed", secret=f"whsec_{key}")
    body, now = b'{"type":"x"}', str(int(time.time()))
    digest = hmac.new(base64.b64decode(key), b"msg_1." + now.encode() + b"." + body, hashlib.sha256).digest()
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    assert shop.deliver(hook, body, headers).status == 204
    assert shop.deliver(hook, body + b" ", headers).status == 401
    assert shop.deliver(hook, body, headers | {"webhook-timestamp": str(int(now) - 301)}).status == 401


def test_exactly_the_limit_passes_and_one_byte_more_does_not(shop):
    hook = shop.hook("mine", "large")
    body = b'{"x":"' + b"a" * (25 * MIB - 8) + b'"}'
    assert len(body) == 25 * MIB
    answer = shop.deliver(hook, body)
    assert answer.status == 204
    kept = message_of(shop, answer)["body"].encode()
    assert hashlib.sha256(kept).digest() == hashlib.sha256(body).digest()
    assert problem(shop.deliver(hook, body + b" "), 413)["detail"] == f"the body is over {25 * MIB} bytes"


def test_large_bodies_are_checked_like_small_ones(shop):
    body = b'{"x":"' + b"a" * 2 * MIB + b'"}'
    hook = shop.hook("github", "push", secret=SECRET)
    assert shop.deliver(hook, body, github(body)).status == 204
    assert shop.deliver(hook, body, github(body + b" ")).status == 401
    plain = shop.hook("mine", "large")
    problem(shop.deliver(plain, body[:-1]), 400)
    problem(shop.deliver(plain, body + b"]"), 400)
    problem(shop.deliver(plain, body.replace(b"aa", b"\xff\xff", 1)), 400)


def test_a_large_body_is_held_to_its_schema(shop):
    hook = shop.hook("github", "push", validation="enforce")
    answer = problem(shop.deliver(hook, b'{"x":"' + b"a" * 400_000 + b'"}'), 422)
    assert answer["errors"]
    report = shop.hook("github", "push", validation="report")
    answer = shop.deliver(report, b'{"x":"' + b"a" * 400_000 + b'"}')
    assert answer.status == 204
    assert message_of(shop, answer)["headers"]["schemaError"]


def test_what_a_check_cannot_hold_is_a_fault_of_the_check(shop):
    body = b'{"x":[' + b"[]," * (8 * MIB) + b"[]]}"
    assert len(body) < 25 * MIB
    hook = shop.hook("github", "push", validation="off")
    assert shop.deliver(hook, body).status == 204
    hook = shop.hook("github", "push", validation="enforce")
    started = time.monotonic()
    assert problem(shop.deliver(hook, body), 422)["errors"]
    assert time.monotonic() - started < 10
    numbers = shop.deliver(hook, b'{"ref": 1e999}')
    assert problem(numbers, 422)["errors"]


# --- refused, in order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path[:-1] + ("0" if path[-1] != "0" else "1"),
        lambda path: path.replace("/wh/", "/wh/0", 1),
        lambda path: path.upper().replace("/WH/", "/wh/"),
        lambda path: path + "/",
        lambda path: path.replace("/wh/", "/wh//"),
        lambda path: path[:20],
        lambda path: path + "%00",
        lambda path: path.replace("-", "%2d"),
        lambda _path: "/wh/%ff/%ff",
    ],
)
def test_an_unknown_address_is_404(shop, change):
    path = change(path_of(shop.hook()))
    problem(request(shop.port, "POST", path, b"{}", {"Content-Type": "application/json"}), 404)


def test_a_wrong_token_and_a_wrong_api_token_look_alike(shop):
    _, _, api_token, token = path_of(shop.hook()).split("/")
    answers = [
        request(shop.port, "POST", f"/wh/{a}/{t}", b"", {})
        for a, t in ((api_token, "0" * 40), ("0" * 36, token), ("x", "y"))
    ]
    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1
    assert len({str([pair for pair in answer.headers.items() if pair[0] != "Date"]) for answer in answers}) == 1


def test_a_query_is_no_part_of_the_address(shop):
    hook = shop.hook()
    path = path_of(hook) + "?a=b/c"
    assert request(shop.port, "POST", path, b"{}", {"Content-Type": "application/json"}).status == 204
    absolute = f"POST http://somewhere{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    assert b" 204 " in raw(shop, absolute.encode())


def test_the_first_check_that_fails_is_the_one_that_is_told(shop):
    hook = shop.hook("github", "push", secret=SECRET, validation="enforce", onMismatch="reject")
    path = path_of(hook)
    too_long = {"Content-Length": str(26 * MIB)}

    def post(headers, body=b"{", where=path):
        return request(shop.port, "POST", where, body, headers).status

    assert post({**too_long}, where=path[:-1] + "x", body=None) == 404
    assert post({**too_long, "Content-Type": "text/plain"}, body=None) == 413
    assert post({"Content-Type": "text/plain", "Content-Encoding": "br"}) == 415
    assert post({"Content-Type": "application/json", "Content-Encoding": "br"}) == 415
    assert post({"Content-Type": "application/json"}) == 401
    assert post({"Content-Type": "application/json", **github(b"{", "issues")}) == 400
    assert post({"Content-Type": "application/json", **github(b"{}", "issues")}, b"{}") == 422
    assert post({"Content-Type": "application/json", **github(b"{}", "push")}, b"{}") == 422


def test_it_is_told_before_the_body_is_sent(shop):
    head = f"POST /wh/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: {20 * MIB}\r\n\r\n"
    assert b" 404 " in raw(shop, head.encode())
    path = path_of(shop.hook())
    expecting = f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {26 * MIB}\r\n\r\n"
    answer = raw(shop, expecting.encode(), expect_close=True)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 (Continue)" not in answer
    assert b"Connection: close" in answer


def test_a_sender_that_asks_first_is_told_to_go_on(shop):
    path = path_of(shop.hook())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", shop.port), 10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 204 ")


def test_a_connection_lives_on_after_a_refusal(shop):
    good, bad = path_of(shop.hook()), "/wh/a/b"
    both = "".join(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        for path in (bad, good, bad)
    )
    with socket.create_connection(("127.0.0.1", shop.port), 10) as connection:
        connection.sendall(both.encode())
        answer = b""
        while answer.count(b"HTTP/1.1 404") < 2:
            answer += connection.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"404", b"204", b"404"]


def test_a_chunked_body_is_bounded_as_it_arrives(tmp_path):
    with Daemon(tmp_path, max_body="1MiB") as daemon:
        path = path_of(daemon.hook())
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        assert b" 204 " in raw(daemon, head.encode() + chunk * 15 + b"2\r\n{}\r\n0\r\n\r\n")
        assert b" 413 " in raw(daemon, head.encode() + chunk * 17)


def test_form_deliveries_are_told_how_to_switch(shop):
    answer = shop.deliver(shop.hook(), b"payload=%7B%7D", {"Content-Type": "application/x-www-form-urlencoded"})
    assert "switch the sender to JSON" in problem(answer, 415)["detail"]
    path = path_of(shop.hook())
    assert "missing" in problem(request(shop.port, "POST", path, b"{}"), 415)["detail"]


def test_a_missing_or_wrong_signature(shop):
    hook = shop.hook("github", "push", secret=SECRET)
    good = github(b"{}")["X-Hub-Signature-256"]
    for headers in (
        {},
        {"X-Hub-Signature-256": ""},
        {"X-Hub-Signature-256": good[:-1]},
        {"X-Hub-Signature-256": good[:-1] + "g"},
        {"X-Hub-Signature-256": "sha256=\xe9"},
        {"X-Hub-Signature": "sha1=" + hmac.new(SECRET.encode(), b"{}", hashlib.sha1).hexdigest()},
        {"X-Hub-Signature-256": f"{good},{good}"},
    ):
        answer = shop.deliver(hook, b"{}", headers)
        problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Signature"
        assert good.removeprefix("sha256=")[:20] not in answer.body.decode()
    hook = shop.hook("github", "push", secret="")
    assert shop.deliver(hook, b"{}").status == 204


def test_a_replaced_secret_stays_valid_for_its_grace(tmp_path):
    with Daemon(tmp_path, secret_grace="1s") as daemon:
        hook = daemon.hook("github", "push", secret="first secret")
        daemon.hook("github", "push", secret="second secret")
        assert daemon.deliver(hook, b"{}", github(b"{}", secret="first secret")).status == 204
        assert daemon.deliver(hook, b"{}", github(b"{}", secret="second secret")).status == 204
        time.sleep(1.1)
        assert daemon.deliver(hook, b"{}", github(b"{}", secret="first secret")).status == 401
        daemon.hook("github", "push", secret="third secret")
        daemon.hook("github", "push", secret="")
        assert daemon.deliver(hook, b"{}").status == 204


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"NaN",
        b"\xef\xbb\xbf{}",
        b'["\\ud800"]',
        b'["\xff"]',
        b"{}{}",
        b"null",
        b'"x"',
        b"1",
        b"[" * 10_000 + b"]" * 10_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_not_json_is_400(shop, body):
    assert problem(shop.deliver(shop.hook(), body), 400)["detail"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"{}", 400),
        (gzip.compress(b"{}", mtime=0)[:-1], 400),
        (gzip.compress(b"{}", mtime=0) + b"{}", 400),
        (b"", 400),
        (gzip.compress(b"{", mtime=0), 400),
        (gzip.compress(b" " * (25 * MIB - 2) + b"{}", mtime=0), 204),
        (gzip.compress(b" " * (25 * MIB - 1) + b"{}", mtime=0), 413),
    ],
)
def test_compressed_bodies_that_are_broken_or_too_large(shop, sent, status):
    hook = shop.hook("mine", "compressed")
    assert shop.deliver(hook, sent, {"Content-Encoding": "gzip"}).status == status


def test_the_answer_lists_at_most_ten_faults(shop):
    hook = shop.hook("github", "push", validation="enforce")
    commits = [{"id": 1}] * 30
    answer = problem(shop.deliver(hook, json.dumps({"commits": commits}).encode()), 422)
    assert 1 <= len(answer["errors"]) <= 10
    assert all(set(fault) == {"pointer", "message"} for fault in answer["errors"])


def test_another_event_than_the_hooks(shop):
    body = b'{"x":1}'

    def send(on_mismatch, event):
        hook = shop.hook("github", "push", onMismatch=on_mismatch, secret="", validation="off")
        return shop.deliver(hook, body, github(body, event))

    published = send("publish", "issues")
    assert published.status == 204
    assert message_of(shop, published)["headers"]["providerEvent"] == "issues"
    ignored = send("ignore", "issues")
    assert (ignored.status, ignored.headers[RECEIPT]) == (204, None)
    problem(send("reject", "issues"), 422)
    assert send("reject", "push").headers[RECEIPT]


@pytest.mark.parametrize("on_mismatch", ["publish", "ignore", "reject"])
def test_a_ping_is_a_handshake(shop, on_mismatch):
    hook = shop.hook("github", "push", onMismatch=on_mismatch, validation="enforce", secret=SECRET)
    body = b'{"zen":"Keep it simple."}'
    answer = shop.deliver(hook, body, github(body, "ping"))
    assert (answer.status, answer.headers[RECEIPT]) == (204, None)
    assert shop.deliver(hook, body, {"X-GitHub-Event": "ping"}).status == 401
    shop.hook("github", "push", secret="", validation="off", onMismatch="publish")
    hook = shop.hook("github", "ping")
    assert shop.deliver(hook, body, {"X-GitHub-Event": "ping"}).headers[RECEIPT]


def test_other_methods(shop):
    hook = shop.hook()
    path = path_of(hook)
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
        for where in (path, "/wh/a/b"):
            answer = request(shop.port, method, where)
            problem(answer, 405)
            assert answer.headers["Allow"] == "POST, HEAD"
    assert request(shop.port, "POST", "/wh/config/" + "0" * 40, b"{}").status == 405
    newest = shop.daemon.config("GET", f"/wh/config/{hook['token']}/deliveries", tenant=shop.tenant).json["deliveries"][
        0
    ]
    assert (newest["outcome"], newest["reason"], newest["status"]) == ("refused", "method", 405)
    assert newest["detail"] == "BREW was sent; allowed here: POST, HEAD"


def test_head(shop):
    path = path_of(shop.hook())
    there, missing = request(shop.port, "HEAD", path), request(shop.port, "HEAD", path[:-1])
    assert (there.status, there.body, missing.status, missing.body) == (200, b"", 404, b"")


# --- budgets -----------------------------------------------------------------------------------------------------------


def hold(daemon: Daemon, hook, size: int, sent: int = 0) -> socket.socket:
    """Begin a delivery and leave it in the middle of its body."""
    connection = socket.create_connection(("127.0.0.1", daemon.port), 10)
    head = (
        f"POST {path_of(hook)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    connection.sendall(head.encode() + b" " * sent)
    return connection


def test_deliveries_in_flight_are_bounded_over_all_and_by_tenant(tmp_path):
    with Daemon(tmp_path, max_in_flight="4", tenant_share="0.5") as daemon:
        one, two, three = (daemon.hook(tenant=tenant) for tenant in (1, 2, 3))
        held = [hold(daemon, one, 2), hold(daemon, one, 2)]
        until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 2)
        refused = daemon.deliver(one, b"{}")
        assert problem(refused, 503)["title"] == "Over the tenant's share"
        assert refused.headers["Retry-After"]
        assert daemon.deliver(two, b"{}").status == 204
        held += [hold(daemon, two, 2), hold(daemon, three, 2)]
        until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 4)
        assert problem(daemon.deliver(three, b"{}"), 503)["title"] == "Overloaded"
        for connection in held[1:]:
            connection.close()
        until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 1)
        held[0].sendall(b"{}")
        assert held[0].recv(100).startswith(b"HTTP/1.1 204")
        held[0].close()
        metrics = daemon.metrics()
        assert metrics["webhookd_in_flight_deliveries"] == metrics["webhookd_in_flight_bytes"] == 0
        assert metrics['webhookd_refusals_total{reason="tenant_share"}'] == 1


def test_bytes_in_flight_are_counted_as_they_arrive_and_as_they_inflate(tmp_path):
    with Daemon(tmp_path, max_in_flight_bytes="4MiB", max_body="3MiB") as daemon:
        one, two = (daemon.hook(tenant=tenant) for tenant in (1, 2))
        held = hold(daemon, one, 3 * MIB, MIB)
        until(lambda: daemon.metrics()["webhookd_in_flight_bytes"] == MIB)
        body = b" " * (MIB + MIB // 2) + b"{}"
        assert problem(daemon.deliver(one, body), 503)["title"] == "Over the tenant's share"
        assert daemon.deliver(two, body).status == 204
        squeezed = daemon.deliver(one, gzip.compress(body), {"Content-Encoding": "gzip"})
        assert problem(squeezed, 503)["title"] == "Over the tenant's share"
        held.close()
        until(lambda: daemon.metrics()["webhookd_in_flight_bytes"] == 0)
        assert daemon.deliver(one, gzip.compress(body), {"Content-Encoding": "gzip"}).status == 204


def test_one_tenant_alone_may_use_everything(tmp_path):
    with Daemon(tmp_path, max_in_flight="2") as daemon:
        hook = daemon.hook()
        held = hold(daemon, hook, 2)
        until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 1)
        assert daemon.deliver(hook, b"{}").status == 204
        held.close()


def test_a_gzip_bomb_costs_no_more_than_the_limit(daemon):
    hook = daemon.hook()
    bomb = gzip.compress(b"[" + b" " * 200_000_000 + b"]")
    assert daemon.deliver(hook, b"{}").status == 204

    def peak() -> int:
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    before = peak()
    for _ in range(3):
        problem(daemon.deliver(hook, bomb, {"Content-Encoding": "gzip"}), 413)
    assert peak() - before < 45 * MIB


def test_a_large_body_does_not_hold_up_small_ones(daemon):
    large, small = daemon.hook("mine", "large", tenant=1), daemon.hook("mine", "small", tenant=2)
    body = b"[" + b"[]," * (8 * MIB) + b"[]]"
    done = threading.Event()
    answers: list[int] = []

    def send_large():
        answers.extend(daemon.deliver(large, body).status for _ in range(3))
        done.set()

    sender = threading.Thread(target=send_large)
    sender.start()
    times = []
    while not done.is_set():
        started = time.perf_counter()
        assert daemon.deliver(small, b"{}").status == 204
        times.append(time.perf_counter() - started)
    sender.join()
    assert answers == [204, 204, 204]


# --- what is counted and logged ----------------------------------------------------------------------------------------


def test_every_answer_is_counted_once(daemon):
    hook = daemon.hook("github", "push", onMismatch="ignore")
    assert [daemon.deliver(hook, b"{}").status for _ in range(3)] == [204] * 3
    assert daemon.deliver(hook, b"{}", {"X-GitHub-Event": "issues"}).status == 204
    assert daemon.deliver(hook, b"{", {"X-GitHub-Event": "push"}).status == 400
    assert request(daemon.port, "POST", "/wh/a/b", b"{}").status == 404
    metrics = daemon.metrics()
    counted = {
        o: metrics[f'webhookd_deliveries_total{{outcome="{o}"}}']
        for o in ("confirmed", "spooled", "ignored", "refused")
    }
    assert counted == {"confirmed": 0, "spooled": 3, "ignored": 1, "refused": 2}
    assert metrics['webhookd_refusals_total{reason="malformed"}'] == 1
    assert metrics['webhookd_refusals_total{reason="unknown_hook"}'] == 1
    assert metrics["webhookd_delivery_duration_seconds_count"] == 4
    assert metrics['webhookd_spool_messages{state="kept"}'] == 3
    assert metrics["webhookd_spool_bytes"] > 0
    assert metrics["webhookd_hooks"] == metrics["webhookd_tenants"] == 1


def test_no_label_names_a_tenant_or_a_token(daemon):
    hook = daemon.hook(tenant="canary-tenant")
    daemon.deliver(hook, b"{}")
    text = request(daemon.admin_port, "GET", "/metrics").body.decode()
    for word in ("canary-tenant", hook["token"], hook["apiToken"], "/wh/"):
        assert word not in text
    assert request(daemon.admin_port, "GET", "/metrics").headers["Content-Type"].startswith("text/plain")


def test_log_lines(tmp_path):
    with Daemon(tmp_path, log_deliveries="all") as daemon:
        hook = daemon.hook("github", "push", secret="canary-secret", tenant=7)
        accepted = daemon.deliver(hook, b'{"x":"canary-body"}', github(b'{"x":"canary-body"}', secret="canary-secret"))
        daemon.deliver(hook, b'{"x":"canary-body"}', {"Authorization": "canary-authorization"})
        daemon.stop()
        lines = [json.loads(line) for line in daemon.log.splitlines()]
        (kept,) = (line for line in lines if line["message"] == "delivery accepted")
        (refused,) = (line for line in lines if line["message"] == "delivery refused")
        assert kept["receipt"] == accepted.headers[RECEIPT]
        shared = {"tenant": "7", "datasource": "github", "event": "push", "bytes": 19}
        assert kept.items() >= ({"outcome": "spooled", "reason": None} | shared).items()
        assert refused.items() >= ({"outcome": "refused", "reason": "signature", "status": 401} | shared).items()
        assert kept["hook"] == refused["hook"] == hashlib.sha256(hook["token"].encode()).hexdigest()[:12]
        for word in ("canary", hook["token"], hook["apiToken"], "Bearer"):
            assert word not in daemon.log


def test_refusals_are_logged_up_to_a_limit_and_counted_beyond(daemon):
    for _ in range(60):
        request(daemon.port, "POST", "/wh/a/b", b"{}")
    time.sleep(1.3)
    daemon.stop()
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    logged = sum(line["message"] == "delivery refused" for line in lines)
    left_out = sum(line["count"] for line in lines if line["message"] == "refused deliveries left out of the log")
    assert logged + left_out == 60
    assert 10 <= logged < 60


@pytest.mark.parametrize("choice", ["none", "refused"])
def test_deliveries_can_be_left_out_of_the_log(tmp_path, choice):
    with Daemon(tmp_path, log_deliveries=choice) as daemon:
        daemon.deliver(daemon.hook(), b"{}")
        request(daemon.port, "POST", "/wh/a/b", b"{}")
        daemon.stop()
        assert "delivery accepted" not in daemon.log
        assert ("delivery refused" in daemon.log) == (choice == "refused")
