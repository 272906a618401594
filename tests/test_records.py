"""Holds records of deliveries to their bounds, their order, and what they say."""

import random
import tracemalloc
from collections.abc import Mapping

import msgspec
import pytest

from webhookd.hooks import HookTable
from webhookd.http1_head import Fields
from webhookd.ingest import MAX_SENDER_WORD
from webhookd.model import Event, Hook, Message, Record, Rotation
from webhookd.ports import Deleted, Snapshot
from webhookd.record_view import shown, shown_headers
from webhookd.records import Records
from webhookd.registry import load

REGISTRY = load()
HEAD = b"POST /x HTTP/1.1\r\nContent-Type: application/json\r\nX-Twice: 1\r\nX-Twice: 2 \r\n\r\n"
ENDED = {"outcome": "refused", "status": 401, "size": 2, "duration": 0.25}


def a_hook(number: int = 1, datasource: str = "github", tenant: str = "42") -> Hook:
    return Hook(
        token=f"{number:040x}",
        api_token="api",
        tenant=tenant,
        datasource=datasource,
        event=f"push{number}",
        base_url="http://127.0.0.1",
        created_at=1,
    )


def some(hooks: int = 1, **options) -> tuple[Records, HookTable]:
    table = HookTable()
    table.apply(Snapshot(tuple(a_hook(number) for number in range(1, hooks + 1)), 1))
    return Records(table, REGISTRY, **{"per_hook": 5, "max_bytes": 1 << 20, **options}), table


def a_message(hook: Hook, number: int) -> Message:
    return Message(
        receipt=f"receipt-{number:06}",
        hook=hook.token,
        tenant=hook.tenant,
        datasource=hook.datasource,
        event=hook.event,
        received_at=1000 + number,
        headers={"receivedAt": 1000 + number, "deliveryId": f"guid-{number}", "providerEvent": "push"},
        body=b"{}",
    )


def accept(records: Records, hook: Hook, number: int, body: bytes | None = b"{}", headers=None) -> None:
    given = Fields.of(HEAD) if headers is None else headers
    records.accepted(hook, given, body, 2, 0.001, a_message(hook, number))


def refuse(records: Records, hook: Hook | tuple[str, str], body: bytes | None = b"{}", headers=None) -> None:
    begun = records.begun(hook)
    if begun is not None:
        why = ("signature", 401, "it is wrong", "signature")
        records.refused(begun, headers or {"x-github-delivery": "abc"}, body, 2, 0.001, why)


def test_an_accepted_delivery():
    records, _ = some()
    accept(records, a_hook(), 7)
    (record,) = records.of(a_hook().token)
    assert msgspec.structs.asdict(record) == {
        "id": "receipt-000007",
        "received_at": 1007,
        "outcome": "accepted",
        "reason": None,
        "status": 204,
        "detail": None,
        "check": None,
        "size": 2,
        "duration": 0.001,
        "delivery_id": "guid-7",
        "provider_event": "push",
        "headers": {"content-type": "application/json", "x-twice": "1,2"},
        "token": None,
        "replay_of": None,
        "has_body": False,
    }
    assert records.get(a_hook().token, record.id) == record
    assert records.body(a_hook().token, record.id) is None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_token_that_a_delivery_came_with_is_known(number):
    first, before, now = tokens = [letter * 40 for letter in "fed"]
    records, table = some()
    hook = msgspec.structs.replace(a_hook(), token=now, rotation=Rotation(first=first, previous=before, until=1 << 60))
    if number == 0:
        hook = msgspec.structs.replace(a_hook(), token=first)
    table.apply(msgspec.structs.replace(hook, revision=2))
    head = HEAD.replace(b"/x", f"/wh/api/{tokens[number]}?a=/b".encode())
    accept(records, hook, 1, headers=Fields.of(head))
    refuse(records, hook, headers=Fields.of(head))
    for record in records.of(tokens[2] if number else first):
        assert record.token == (None if number == 0 else tokens[number])
        assert hook.url_of(record) == f"http://127.0.0.1/wh/api/{tokens[number]}"
        assert tokens[number] not in repr(record) + repr(shown(record, ()))


def test_an_ignored_delivery():
    records, _ = some()
    records.ignored(a_hook(), {}, 2, 0.001, Event(type="ping", id="abc", ignored="handshake"))
    (record,) = records.of(a_hook().token)
    assert (record.outcome, record.reason, record.status) == ("ignored", "handshake", 204)
    assert (record.delivery_id, record.provider_event) == ("abc", "ping")


def test_a_refused_delivery_keeps_its_body_and_what_its_sender_calls_it():
    records, _ = some()
    refuse(records, a_hook(), b"[1]", {"x-github-delivery": "guid", "x-github-event": "push"})
    (record,) = records.of(a_hook().token)
    assert (record.outcome, record.reason, record.status, record.detail) == (
        *("refused", "signature", 401, "it is wrong"),
    )
    assert (record.delivery_id, record.provider_event, record.has_body) == ("guid", "push", True)
    assert record.check == "signature"
    assert "check" not in shown(record, ())
    assert records.body(a_hook().token, record.id) == b"[1]"


@pytest.mark.parametrize("word", ["x" * (MAX_SENDER_WORD + 1), "a\nb", "é", ""])
def test_what_cannot_be_the_word_of_a_sender_is_none(word):
    records, _ = some()
    refuse(records, a_hook(), b"{}", {"x-github-delivery": word, "x-github-event": word})
    (record,) = records.of(a_hook().token)
    assert (record.delivery_id, record.provider_event) == (None, None)


@pytest.mark.parametrize("body", [None, b"", b"not JSON", b"\xff\xfe", b'{"id": [], "type": {}}'])
def test_a_plugin_may_be_asked_about_anything(body):
    records, table = some()
    hook = a_hook(9, "circleci")
    table.apply(hook)
    refuse(records, hook, body, {"content-type": "application/json"})
    (record,) = records.of(hook.token)
    assert (record.delivery_id, record.provider_event, record.has_body) == (None, None, body is not None)


def test_an_address_that_is_no_hooks_leaves_no_record():
    records, _ = some()
    refuse(records, ("api", "f" * 40))
    refuse(records, ("not the apiToken", a_hook().token))
    assert len(records) == 0
    refuse(records, ("api", a_hook().token))
    assert len(records.of(a_hook().token)) == 1


def test_bodies_of_accepted_deliveries_are_kept_where_that_is_wanted():
    records, _ = some(keep_accepted=True)
    accept(records, a_hook(), 1, b"[1]")
    accept(records, a_hook(), 2, None)
    assert [record.has_body for record in records.of(a_hook().token)] == [False, True]
    assert records.body(a_hook().token, "receipt-000001") == b"[1]"


@pytest.mark.parametrize("count", [3, 5, 6, 255, 256, 257, 1000])
def test_the_last_of_a_hook_stay(count):
    records, _ = some()
    for number in range(count):
        accept(records, a_hook(), number)
    expected = [f"receipt-{number:06}" for number in range(count)][-5:][::-1]
    assert [record.id for record in records.of(a_hook().token)] == expected
    assert len(records) == len(expected)


def test_pages_and_filters():
    records, _ = some(per_hook=100)
    token = a_hook().token
    for number in range(50):
        accept(records, a_hook(), number)
        refuse(records, a_hook())
    everything = records.of(token, limit=1000)
    assert len(everything) == 100
    pages, before = [], None
    while page := records.of(token, before=before, limit=7):
        pages += page
        before = page[-1].id
    assert pages == everything
    refused = records.of(token, outcome="refused", limit=1000)
    assert refused == [record for record in everything if record.outcome == "refused"]
    assert records.of(token, outcome="ignored") == []
    assert records.of(token, before=refused[3].id, outcome="refused", limit=2) == refused[4:6]


def test_a_page_goes_on_after_its_last_record_is_gone():
    records, _ = some(per_hook=10)
    for _number in range(10):
        refuse(records, a_hook())
    seen = records.of(a_hook().token, limit=9)
    for _number in range(3):
        refuse(records, a_hook())
    assert records.of(a_hook().token, before=seen[-1].id) == []
    assert records.of(a_hook().token, before=seen[3].id) == seen[4:7]


def test_memory_is_bounded_and_what_was_used_last_stays():
    records, _ = some(hooks=100, max_bytes=200_000)
    for number in range(1, 101):
        for _ in range(5):
            refuse(records, a_hook(number), b"x" * 1000)
        assert records.shares.bytes <= 200_000
    kept = [number for number in range(1, 101) if records.of(a_hook(number).token)]
    assert kept == list(range(101 - len(kept), 101))
    assert 10 < len(kept) < 100
    assert len(records.gone) == 100 - len(kept)


@pytest.mark.parametrize("each", [1, 20])
def test_what_is_counted_is_what_memory_they_take(each):
    hooks = 2000 // each
    records, _ = some(hooks=hooks, per_hook=each, max_bytes=1 << 30)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(hooks * each):
            hook = a_hook(number % hooks + 1)
            refuse(records, hook, b"x" * 200, Fields.of(HEAD[:-2] + b"X-Number: %d\r\n\r\n" % number))
        assert len(records) == hooks * each
        noted = tracemalloc.get_traced_memory()[0] - before
        assert records.shares.bytes / 1.5 < noted < records.shares.bytes * 1.5
        for _, token, kept in records.unwritten(10**9, 10**12):
            records.written(token, [(one, records.make(one)) for one in kept])
        written = tracemalloc.get_traced_memory()[0] - before
        assert records.shares.bytes / 1.5 < written < records.shares.bytes * 1.5
    finally:
        tracemalloc.stop()


def test_memory_stays_bounded_when_records_are_written():
    many = Fields.of(HEAD[:-2] + b"".join(b"X-%d: y\r\n" % number for number in range(50)) + b"\r\n")
    records, _ = some(hooks=20, max_bytes=50_000)
    for number in range(1, 21):
        refuse(records, a_hook(number), b"x", many)
    assert len(records) > 10
    for _, token, kept in records.unwritten(1000, 1 << 20):
        records.written(token, [(one, records.make(one)) for one in kept])
    assert records.shares.bytes <= 50_000


def test_one_hook_alone_is_bounded_too():
    records, _ = some(per_hook=1000, max_bytes=100_000)
    for _ in range(1000):
        refuse(records, a_hook(), b"x" * 10_000)
        assert records.shares.bytes <= 110_000
    assert 1 <= len(records) <= 10


def of_tenants(sizes: Mapping[str, int], **options) -> tuple[Records, dict[str, list[Hook]]]:
    """Return records without any, and so many hooks for each tenant."""
    table, hooks = HookTable(), {}
    for place, (tenant, count) in enumerate(sizes.items(), 1):
        hooks[tenant] = [a_hook(place * 1000 + number, tenant=tenant) for number in range(count)]
    table.apply(Snapshot(tuple(hook for mine in hooks.values() for hook in mine), 1))
    return Records(table, REGISTRY, **{"per_hook": 100, "max_bytes": 1_000_000, **options}), hooks


def held(records: Records, hooks: list[Hook]) -> int:
    return sum(len(records.of(hook.token, limit=1000)) for hook in hooks)


@pytest.mark.parametrize("noisy", [1, 3, 200])
def test_a_tenant_that_has_much_pushes_out_nothing_of_those_that_have_little(noisy):
    records, hooks = of_tenants({"quiet": 2, "noisy": noisy, "silent": 1})
    for _ in range(10):
        refuse(records, hooks["quiet"][0], b"x" * 5000)
        accept(records, hooks["silent"][0], 1)
    for number in range(3000):
        refuse(records, hooks["noisy"][number % noisy], b"x" * 10_000)
        assert records.shares.bytes <= 1_000_000
    refuse(records, hooks["quiet"][1], b"x" * 5000)
    assert [held(records, hooks[tenant]) for tenant in ("quiet", "silent")] == [11, 10]
    assert 50 < held(records, hooks["noisy"]) < 100
    assert not records.gone & {hook.token for hook in (*hooks["quiet"], *hooks["silent"])}


def test_tenants_that_have_much_get_the_same():
    records, hooks = of_tenants({"first": 1, "second": 7, "third": 50, "little": 1})
    refuse(records, hooks["little"][0], b"x" * 20_000)
    for number in range(900):
        tenant = ("first", "second", "third", "third")[number % 4]
        refuse(records, hooks[tenant][number % len(hooks[tenant])], b"x" * 9_500)
    counts = [held(records, hooks[tenant]) for tenant in ("first", "second", "third")]
    assert max(counts) - min(counts) <= 5, counts
    assert sum(counts) > 90
    assert held(records, hooks["little"]) == 1


def test_tenants_take_turns_to_be_written():
    records, hooks = of_tenants({"noisy": 60, "quiet": 2, "deleted": 1})
    for _ in range(3):
        for hook in hooks["noisy"]:
            refuse(records, hook)
    refuse(records, hooks["deleted"][0])
    for hook in hooks["quiet"]:
        refuse(records, hook)
    records.forget(hooks["deleted"][0].token)
    first = [(tenant, token, len(kept)) for tenant, token, kept in records.unwritten(9, 1 << 20)]
    noisy = [("noisy", hook.token, 3) for hook in hooks["noisy"]]
    quiet = [("quiet", hook.token, 1) for hook in hooks["quiet"]]
    assert first == [noisy[0], quiet[0], noisy[1], quiet[1], noisy[2]]
    refuse(records, hooks["noisy"][0])
    rest = [(tenant, token, len(kept)) for tenant, token, kept in records.unwritten(1000, 1 << 20)]
    assert rest == [*noisy[3:], ("noisy", hooks["noisy"][0].token, 1)]
    assert records.unwritten(1000, 1 << 20) == []


def test_whose_records_they_are_stays_counted():
    """Whatever is done to them: what is counted is what is there, and who has less than the largest loses nothing."""
    chance = random.Random(7)
    records, hooks = of_tenants({f"tenant-{number}": 1 + number % 5 for number in range(40)}, max_bytes=300_000)
    everything = [hook for mine in hooks.values() for hook in mine]
    lost = 0
    for _ in range(1500):
        before = {name: parts(records, name) for name in hooks}
        hook = everything[int(len(everything) * chance.random() ** 3)]
        match chance.randrange(20):
            case 0:
                records.forget(hook.token)
            case 1:
                for _, token, kept in records.unwritten(50, 100_000):
                    records.written(token, [(one, records.make(one)) for one in kept])
            case 2:
                if not records.of(hook.token):
                    records.restore(hook.token, hook.tenant, [Record(id="a", received_at=1, **ENDED)] * 10)
            case _:
                refuse(records, hook, b"x" * int(20_000 * chance.random() ** 4))
        after = {name: parts(records, name) for name in hooks}
        assert records.shares.bytes == sum(size for _, size in after.values()) <= 300_000
        most = max(size for _, size in after.values())
        losers = [name for name in hooks if after[name][0] < before[name][0] and name != hook.tenant]
        assert all(before[name][1] >= most * 8 / 9 for name in losers)
        lost += len(losers)
    assert lost > 100


def parts(records: Records, tenant: str) -> tuple[int, int]:
    """Return how many records a tenant has, and how many bytes they take."""
    rings = [ring for ring in records.shares.rings.values() if ring.tenant == tenant]
    return sum(len(ring.entries) for ring in rings), sum(ring.bytes for ring in rings)


def test_headers_count():
    records, _ = some(hooks=3, per_hook=1000, max_bytes=100_000)
    for _ in range(300):
        accept(records, a_hook(), 1, headers=Fields.of(HEAD[:-2] + b"X-Long: " + b"x" * 10_000 + b"\r\n\r\n"))
    assert len(records) <= 10


def test_records_go_with_their_hook():
    records, table = some(hooks=3)
    for number in (1, 2, 3):
        refuse(records, a_hook(number))
    table.apply(Deleted(a_hook(1).token, 2))
    assert records.of(a_hook(1).token) == []
    refuse(records, a_hook(1))  # was in work when its hook was deleted
    assert records.of(a_hook(1).token) == []
    table.apply(Snapshot((a_hook(2),), 3, checked=float("-inf")))  # only remembered: the third may be there
    assert len(records.of(a_hook(3).token)) == 1
    table.apply(Snapshot((a_hook(2),), 4))
    assert [len(records.of(a_hook(number).token)) for number in (1, 2, 3)] == [0, 1, 0]
    assert records.gone == {a_hook(1).token, a_hook(3).token}


def test_an_updated_hook_keeps_its_records():
    records, table = some()
    refuse(records, a_hook())
    table.apply(msgspec.structs.replace(a_hook(), revision=2, validation="report"))
    assert len(records.of(a_hook().token)) == 1


def test_listeners_hear_of_their_hook_at_once():
    records, _ = some(hooks=2)
    heard: list[str] = []
    other: list[str] = []
    accept(records, a_hook(1), 0)
    stop = records.listen(a_hook(1).token, lambda record: heard.append(record.id))
    stop_other = records.listen(a_hook(1).token, lambda record: other.append(record.id))
    accept(records, a_hook(1), 1)
    accept(records, a_hook(2), 2)
    assert heard == other == ["receipt-000001"]
    stop()
    stop()
    accept(records, a_hook(1), 3)
    assert (heard, other) == (["receipt-000001"], ["receipt-000001", "receipt-000003"])
    stop_other()
    accept(records, a_hook(1), 4)
    assert len(other) == 2


def test_secrets_and_signatures_are_not_shown():
    records, _ = some()
    hidden = ["authorization", "cookie", "x-gitlab-token", "webhook-signature", "svix-signature", "x-hub-signature"]
    hidden += ["x-hub-signature-256", "circleci-signature", "x-api-key", "x-apikey", "x-my-password", "x-proxy-auth"]
    hidden += ["x-shopify-hmac-sha256", "paypal-transmission-sig", "x-client-secret", "x-functions-key", "x-pwd"]
    hidden += ["ocp-apim-subscription-key", "plaid-verification", "x-trello-webhook", "x-passphrase"]
    shown = ["content-type", "user-agent", "x-github-event", "x-github-delivery", "webhook-id", "webhook-timestamp"]
    shown += ["idempotency-key", "x-passed-by", "x-keyboard"]
    refuse(records, a_hook(), b"{}", dict.fromkeys(hidden + shown, "value"))
    (record,) = records.of(a_hook().token)
    assert shown_headers(record, ()) == dict.fromkeys(hidden, "(not shown)") | dict.fromkeys(shown, "value")
    assert record.headers["authorization"] == "value"
    assert "value" not in repr(record)
