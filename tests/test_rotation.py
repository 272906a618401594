"""A hook gets another token: as its tenant, its senders and whoever reads its messages see it, over real sockets."""

import asyncio
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import msgspec
import pytest
from commands import call
from far_side import FarSide
from harness import Answer, Daemon, mint, request, until
from servers import RabbitMQ
from test_hooks import hook as a_hook
from test_http_config import problem

from webhookd import hmac_sha256
from webhookd.adapters.memory import MemoryStore
from webhookd.adoption import Adoption
from webhookd.errors import InvalidInput
from webhookd.hooks import HookTable
from webhookd.model import Rotation
from webhookd.ports import Snapshot
from webhookd.rotation import read_rotation, rotated

DAY_MS = 24 * 3600 * 1000
EXTRA = {"previousToken", "previousHookUrl", "previousUntil"}
NOW = 1_700_000_000_000


def rotate(daemon: Daemon, token: str, document: object = None, *, tenant: object = 42) -> Answer:
    answer = daemon.config("POST", f"/wh/config/{token}/rotate", document, tenant=tenant)
    if answer.status == 200:
        daemon.canaries.add(answer.json["token"])
    return answer


def statuses(daemon: Daemon, *hooks: dict) -> list[int]:
    return [daemon.deliver(hook, b"{}").status for hook in hooks]


def head(daemon: Daemon, hook: dict) -> int:
    return request(daemon.port, "HEAD", urlsplit(hook["hookUrl"]).path).status


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_a_replaced_token_is_valid_until_its_time_is_over():
    first = a_hook(1)
    second = rotated(first, first.token, immediately=False, now_ms=NOW, grace=1.5)
    assert second.token not in (first.token, "")
    assert second == msgspec.structs.replace(
        first, token=second.token, rotation=Rotation(first=first.token, previous=first.token, until=NOW + 1500)
    )
    assert (second.id, second.previous(NOW + 1499), second.previous(NOW + 1500)) == (first.token, first.token, None)


def test_rotating_again_ends_the_oldest_and_the_identity_stays():
    first = a_hook(1)
    second = rotated(first, first.token, immediately=False, now_ms=NOW, grace=60)
    third = rotated(second, second.token, immediately=False, now_ms=NOW, grace=60)
    assert (third.id, third.previous(NOW)) == (first.token, second.token)
    assert rotated(third, first.token, immediately=False, now_ms=NOW, grace=60) is None
    last = rotated(third, third.token, immediately=True, now_ms=NOW, grace=60)
    assert (last.id, last.previous(NOW)) == (first.token, None)
    assert rotated(last, third.token, immediately=False, now_ms=NOW, grace=60) is None


def test_a_token_has_one_successor():
    first = a_hook(1)
    second = rotated(first, first.token, immediately=False, now_ms=NOW, grace=60)
    assert rotated(second, first.token, immediately=False, now_ms=NOW + 59_999, grace=60) == second
    assert rotated(second, first.token, immediately=False, now_ms=NOW + 60_000, grace=60) is None
    ended = rotated(second, first.token, immediately=True, now_ms=NOW, grace=60)
    assert (ended.token, ended.previous(NOW), ended.id) == (second.token, None, first.token)


def test_no_token_is_shown():
    second = rotated(a_hook(1), a_hook(1).token, immediately=False, now_ms=NOW, grace=60)
    for text in (repr(second), repr(second.rotation), str(second.rotation)):
        assert a_hook(1).token not in text
        assert second.token not in text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", False),
        (b"{}", False),
        (b'{"immediately": null}', False),
        (b'{"immediately": false}', False),
        (b'{"immediately": true}', True),
    ],
)
def test_a_body_says_whether_the_old_one_ends(body, expected):
    assert read_rotation(body) is expected


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"[]", []),
        (b"{", []),
        (b"\xff", []),
        (b"null", []),
        (b'{"immediately": 1}', ["immediately"]),
        (b'{"immediately": "true"}', ["immediately"]),
        (b'{"token": "x", "immediately": [], "now": true}', ["token", "now", "immediately"]),
    ],
)
def test_a_body_of_the_wrong_form_is_refused_with_every_field(body, fields):
    with pytest.raises(InvalidInput) as caught:
        read_rotation(body)
    assert [fault["field"] for fault in caught.value.errors] == fields


def test_no_hook_is_taken_in_under_a_token_that_another_has_or_had():
    first = a_hook(1)
    second = rotated(first, first.token, immediately=True, now_ms=NOW, grace=60)
    table = HookTable()
    table.apply(Snapshot((second,), 1))
    adoption = Adoption(MemoryStore(), table)
    for token in (first.token, second.token):
        verdict = adoption.look(a_hook(2, token=token))
        assert verdict.state == "conflict"
        assert verdict.reason.startswith("another hook ha")
    assert adoption.look(a_hook(1)).state == "conflict"  # its URL does not work any more, so it is not there
    assert adoption.look(second).state == "there"
    assert adoption.look(a_hook(2)).state == "new"


# --- as tenants and senders see it ------------------------------------------------------------------------------------


def test_both_tokens_are_one_hook_in_every_request(daemon):
    old = daemon.hook("github", "push")
    before = time.time_ns() // 1_000_000
    answer = rotate(daemon, old["token"])
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    new = answer.json
    assert set(new) == set(old) | EXTRA
    assert new["token"] != old["token"]
    assert new["hookUrl"] == old["hookUrl"].replace(old["token"], new["token"])
    assert (new["previousToken"], new["previousHookUrl"]) == (old["token"], old["hookUrl"])
    assert before + DAY_MS <= new["previousUntil"] <= time.time_ns() // 1_000_000 + DAY_MS
    unchanged = set(old) - {"token", "hookUrl"}
    assert {key: new[key] for key in unchanged} == {key: old[key] for key in unchanged}
    for token in (old["token"], new["token"]):
        assert daemon.config("GET", f"/wh/config/{token}").json == new
        assert daemon.config("HEAD", f"/wh/config/{token}").status == 200
        other = [daemon.config(method, f"/wh/config/{token}", tenant=7).status for method in ("GET", "HEAD", "DELETE")]
        assert other == [404] * 3
    assert daemon.config("GET").json == [new]
    assert daemon.hook("github", "push") == new  # an update keeps both
    assert statuses(daemon, old, new) == [204, 204]
    assert (head(daemon, old), head(daemon, new)) == (200, 200)
    assert daemon.metrics()["webhookd_hooks"] == 1


@pytest.mark.parametrize("by", ["token", "previousToken"])
def test_deleting_the_hook_ends_both(daemon, by):
    old = daemon.hook()
    new = rotate(daemon, old["token"]).json
    assert daemon.config("DELETE", f"/wh/config/{new[by]}").status == 204
    assert statuses(daemon, old, new) == [404, 404]
    gone = [daemon.config("GET", f"/wh/config/{token}") for token in (old["token"], new["token"], "0" * 40)]
    assert [answer.status for answer in gone] == [404] * 3
    assert len({answer.body for answer in gone}) == 1
    assert daemon.config("GET").json == []
    again = daemon.hook()
    assert again["token"] not in (old["token"], new["token"])
    assert not EXTRA & set(again)


def test_immediately_ends_the_old_one_at_once(daemon):
    old = daemon.hook()
    new = rotate(daemon, old["token"], {"immediately": True}).json
    assert set(new) == set(old)
    assert statuses(daemon, old, new) == [404, 204]
    path = f"/wh/config/{old['token']}"
    assert [daemon.config(method, path).status for method in ("GET", "HEAD", "DELETE")] == [404] * 3
    problem(rotate(daemon, old["token"]), 404)
    assert daemon.config("GET").json == [new]


def test_the_grace_ends_by_itself(tmp_path):
    with Daemon(tmp_path, secret_grace="2s") as daemon:
        old = daemon.hook()
        new = rotate(daemon, old["token"]).json
        path = f"/wh/config/{new['token']}"
        until(lambda: "previousToken" not in daemon.config("GET", path).json)
        assert time.time_ns() // 1_000_000 >= new["previousUntil"]
        assert daemon.config("GET", path).json == {key: new[key] for key in set(new) - EXTRA}
        assert statuses(daemon, old, new) == [404, 204]
        assert daemon.config("GET", f"/wh/config/{old['token']}").status == 404
        again = rotate(daemon, new["token"]).json
        assert again["previousToken"] == new["token"]
        assert statuses(daemon, old, again) == [404, 204]


def test_without_a_grace_the_old_one_ends_at_once(tmp_path):
    with Daemon(tmp_path, secret_grace="0s") as daemon:
        old = daemon.hook()
        new = rotate(daemon, old["token"]).json
        assert set(new) == set(old)
        assert statuses(daemon, old, new) == [404, 204]


def test_rotating_again_leaves_the_two_newest(daemon):
    first = daemon.hook()
    second = rotate(daemon, first["token"], {}).json
    third = rotate(daemon, second["token"], {"immediately": False}).json
    assert third["previousToken"] == second["token"]
    assert statuses(daemon, first, second, third) == [404, 204, 204]


def test_repeating_a_rotation_replaces_nothing_a_second_time(daemon):
    old = daemon.hook()
    new = rotate(daemon, old["token"]).json
    assert rotate(daemon, old["token"]).json == new
    assert statuses(daemon, old, new) == [204, 204]
    ended = rotate(daemon, old["token"], {"immediately": True}).json
    assert ended == {key: new[key] for key in set(new) - EXTRA}
    assert statuses(daemon, old, new) == [404, 204]


def test_rotations_at_a_time_end_in_one(daemon):
    old = daemon.hook()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: rotate(daemon, old["token"]), range(32)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert statuses(daemon, old, answers[0].json) == [204, 204]


def test_it_is_there_after_a_restart(daemon):
    first = daemon.hook()
    second = rotate(daemon, first["token"]).json
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.config("GET").json == [second]
    assert statuses(daemon, first, second) == [204, 204]
    third = rotate(daemon, second["token"], {"immediately": True}).json
    daemon.kill()
    daemon.start()
    assert statuses(daemon, first, second, third) == [404, 404, 204]
    assert daemon.config("DELETE", f"/wh/config/{third['token']}").status == 204
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.config("GET").json == []


def test_what_is_refused(daemon):
    hook = daemon.hook()
    path = f"/wh/config/{hook['token']}/rotate"
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        refused = request(daemon.port, method, path)
        assert problem(refused, 405)
        assert refused.headers["Allow"] == "POST"
    assert request(daemon.port, "POST", path).status == 401
    none = [rotate(daemon, "0" * 40), rotate(daemon, hook["token"], tenant=7), rotate(daemon, "x%20y")]
    assert [answer.status for answer in none] == [404] * 3
    assert len({answer.body for answer in none}) == 1
    assert problem(rotate(daemon, hook["token"], {"now": True}), 400)["errors"] == [
        {"field": "now", "message": "unknown field; known is immediately"}
    ]
    assert problem(rotate(daemon, hook["token"], []), 400)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert problem(daemon.config("POST", path, {}, headers=form), 415)
    assert problem(daemon.config("POST", path, {"immediately": " " * 70_000}), 413)
    assert daemon.config("GET").json == [hook]
    assert daemon.config("POST", path, headers=form).status == 200  # an empty body is of no type


def test_a_signed_hook_stays_signed(daemon):
    old = daemon.hook("github", "push", secret="a long secret")
    new = rotate(daemon, old["token"]).json
    assert new["signed"] is True
    for hook in (old, new):
        assert daemon.deliver(hook, b"{}").status == 401
        sent = call("send", "github", "push", hook["hookUrl"], "--secret", "a long secret")
        assert sent.status == 0, sent.err


def test_the_command_line_rotates(daemon, elsewhere, monkeypatch):
    monkeypatch.setenv("WEBHOOKD_URL", f"http://127.0.0.1:{daemon.port}")
    old = daemon.hook("github", "push")
    monkeypatch.setenv("WEBHOOKD_TOKEN", mint(42))
    shown = call("hooks", "rotate", old["token"]).out
    assert f"previous URL:    {old['hookUrl']}" in shown
    assert "valid until:     20" in shown
    (new,) = call("hooks", "show", old["hookUrl"], "--json").documents
    assert new["previousToken"] == old["token"]
    (ended,) = call("hooks", "rotate", old["hookUrl"], "--immediately", "--json").documents
    assert (ended["token"], "previousToken" in ended) == (new["token"], False)
    assert "previous URL" not in call("hooks", "show", new["token"]).out
    assert call("hooks", "rotate", old["token"]).line.startswith("404 ")


def test_delivery_records_stay_with_the_hook(daemon):
    first = daemon.hook("github", "push")
    assert daemon.deliver(first, b"{").status == 400
    second = rotate(daemon, first["token"]).json
    assert [daemon.deliver(hook, b"{}").status for hook in (first, second)] == [204, 204]
    paths = [f"/wh/config/{hook['token']}/deliveries" for hook in (first, second)]
    listed, again = (daemon.config("GET", path).json["deliveries"] for path in paths)
    assert listed == again
    assert [record["outcome"] for record in listed] == ["accepted", "accepted", "refused"]
    third = rotate(daemon, second["token"], {"immediately": True}).json
    path = f"/wh/config/{third['token']}/deliveries"
    assert daemon.config("GET", path).json["deliveries"] == listed
    shown = daemon.config("GET", f"{path}/{listed[-1]['id']}").json
    assert (shown["outcome"], shown["body"]) == ("refused", "{")
    assert daemon.config("GET", f"{path}/{listed[-1]['id']}/explain").status == 200
    assert daemon.config("GET", paths[0]).status == 404
    assert daemon.stop() == 0
    daemon.start()
    kept = daemon.config("GET", path).json["deliveries"]
    assert [record["id"] for record in kept] == [record["id"] for record in listed]
    assert daemon.config("DELETE", f"/wh/config/{third['token']}").status == 204
    again = daemon.hook("github", "push")
    assert daemon.config("GET", f"/wh/config/{again['token']}/deliveries").json["deliveries"] == []


SIGNS_ITS_URL = """
import webhookd

class Odd(webhookd.Datasource):
    name = "odd"
    title = "Odd"
    signs = True

    def verify_signature(self, delivery, secret):
        expected = webhookd.hmac_sha256(secret, delivery.hook_url.encode(), delivery.body).hex()
        if not webhookd.same(delivery.headers.get("x-mac", ""), expected):
            raise webhookd.Unsigned("X-Mac is no signature of this URL and body")

@webhookd.hookimpl
def register_datasources():
    return [Odd()]
"""
SECRET = "a long secret"
LARGE = b'["' + b"x" * 1_100_000 + b'"]'


def deliver_signed(daemon: Daemon, hook: dict) -> None:
    """Have two deliveries accepted, and two refused, of a sender that signs the URL that it was given."""
    for body, signed, status in ((b"{}", b"{}", 204), (LARGE, LARGE, 204), (b"{", b"{", 400), (b"{}", b"[]", 401)):
        mac = hmac_sha256(SECRET, hook["hookUrl"].encode(), signed).hex()
        assert daemon.deliver(hook, body, {"X-Mac": mac}).status == status


def check_replays(daemon: Daemon, token: str, expected: list[str]) -> None:
    """Replay and explain all that came; `expected` is said of the URL of each, newest first ("": nothing)."""
    path = f"/wh/config/{token}/deliveries"
    listed = daemon.config("GET", f"{path}?limit=200").json["deliveries"]
    came = [record for record in listed if "replayOf" not in record]
    for record, said in zip(came, expected, strict=True):
        replay = daemon.config("POST", f"{path}/{record['id']}/replay", {}).json
        assert [replay.get(key) for key in ("outcome", "reason")] == [record["outcome"], record.get("reason")]
        for one in (record, replay):
            why = daemon.config("GET", f"{path}/{one['id']}/explain").json
            (check,) = (check for check in why["checks"] if check["check"] == "hook")
            assert ("detail" in check) is bool(said)
            assert {found["name"] for found in why["diagnoses"]} <= {"cut-off"}  # of the body, not of the signature
            if record["outcome"] == "refused":
                assert why["failed"] == {"signature": "signature", "malformed": "json"}[record["reason"]]
                assert said in why["remedy"]
                assert ("It came to" in why["remedy"]) is bool(said)


def test_what_came_by_an_older_url_is_explained_and_replayed_as_it_came(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "odd.py").write_text(SIGNS_ITS_URL)
    with Daemon(tmp_path, plugins_dir=str(tmp_path / "plugins")) as daemon:
        first = daemon.hook("odd", "x", secret=SECRET)
        deliver_signed(daemon, first)
        second = rotate(daemon, first["token"]).json
        deliver_signed(daemon, first)
        deliver_signed(daemon, second)
        check_replays(daemon, second["token"], [""] * 4 + ["which works until 20"] * 8)
        third = rotate(daemon, second["token"], {"immediately": True}).json
        check_replays(daemon, third["token"], ["that the hook has no more"] * 12)
        daemon.stop()
        daemon.start()
        check_replays(daemon, third["token"], ["that the hook has no more"] * 12)


# --- order ------------------------------------------------------------------------------------------------------------


def test_messages_of_all_tokens_are_published_in_order(own_rabbitmq, tmp_path):
    """What waits under the old tokens comes before what came by the new ones, across a restart too."""
    node: RabbitMQ = own_rabbitmq()
    sent = 0

    def deliver(daemon: Daemon, *hooks: dict) -> None:
        nonlocal sent
        for _, hook in itertools.product(range(10), hooks):
            assert daemon.deliver(hook, json.dumps({"n": sent}).encode()).status == 204
            sent += 1

    async def far_side(numbers: list[int] | None = None) -> None:
        async with FarSide(node.url()) as far:
            if numbers is None:
                await far.bind()
            else:
                numbers += [json.loads(message.body)["n"] for message in await far.take()]

    with Daemon(tmp_path, broker=node.url()) as daemon:
        first = daemon.hook("github", "push")
        until(lambda: request(daemon.admin_port, "GET", "/readyz").json["reasons"] == [])  # so the exchange is there
        asyncio.run(far_side())
        deliver(daemon, first)
        node.stop()
        deliver(daemon, first)
        second = rotate(daemon, first["token"]).json
        deliver(daemon, second, first)
        assert daemon.stop() == 0
        daemon.start()
        third = rotate(daemon, second["token"], {"immediately": True}).json
        deliver(daemon, third)
        node.start()
        deliver(daemon, third)
        until(lambda: daemon.metrics()["webhookd_hooks_behind"] == 0)
        deliver(daemon, third)
    numbers: list[int] = []
    asyncio.run(far_side(numbers))
    assert list(dict.fromkeys(numbers)) == list(range(sent))  # a fault may have one published twice
