"""The path of a delivery without sockets: admit, verify, examine, compose."""

import math
from dataclasses import replace
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd import Datasource, Delivery, EventType, Unsigned
from webhookd.errors import (
    BodyTooLarge,
    EventMismatch,
    HooksNotCurrent,
    Malformed,
    Rejected,
    SchemaMismatch,
    UnknownHook,
    UnsupportedContentEncoding,
    UnsupportedContentType,
)
from webhookd.hooks import HookTable
from webhookd.ingest import Ingest
from webhookd.model import Fault, Hook, Secret, Verified
from webhookd.ports import Snapshot
from webhookd.registry import load
from webhookd.schema import Schemas

JSON = {"content-type": "application/json"}
TOKEN = "0" * 40
NOW = 1_700_000_000_000


class Bell(Datasource):
    """Rings: says its event and the ring's number in headers, and signs with the secret itself."""

    name = "bell"
    title = "Bell"
    signs = True
    handshakes = frozenset({"hello"})
    events: ClassVar = {"ring": EventType(schema={"type": "object", "required": ["tone"]})}

    def verify_signature(self, delivery, secret):
        if delivery.headers.get("bell-key") != secret:
            raise Unsigned("the header Bell-Key is wrong")

    def event_type(self, delivery):
        return delivery.headers.get("bell-event")

    def delivery_id(self, delivery):
        return delivery.headers.get("bell-ring")


class Bells:
    known: ClassVar = {"bell": Bell()}

    def get(self, name):
        return self.known["bell"]

    def origin(self, name):
        return "test"

    def bundled(self, name):
        return False


def hook(**fields) -> Hook:
    base = {
        "token": TOKEN,
        "api_token": "api",
        "tenant": "42",
        "datasource": "bell",
        "event": "ring",
        "base_url": "https://webhook.example.org",
        "created_at": NOW,
    }
    return Hook(**base | fields)


def ingest(*hooks: Hook) -> Ingest:
    table = HookTable()
    table.apply(Snapshot(hooks, 1))
    return Ingest(table, Bells(), Schemas(Bells()), max_body=100)


def examine(body=b'{"tone":"c"}', headers=JSON, **fields):
    return ingest().examine(hook(**fields), Verified(Delivery(headers, body, NOW)))


def test_what_the_head_decides_in_order():
    path = ingest(hook())
    assert path.admit("api", TOKEN, JSON, 100) == hook()
    assert path.admit("api", TOKEN, JSON, None) == hook()
    bad = {"content-type": "text/plain", "content-encoding": "br"}
    for arguments, error in [
        (("other", TOKEN, bad, 101), UnknownHook),
        (("api", "1" * 40, bad, 101), UnknownHook),
        (("api", TOKEN, bad, 101), BodyTooLarge),
        (("api", TOKEN, bad, 100), UnsupportedContentType),
        (("api", TOKEN, JSON | bad | JSON, 100), UnsupportedContentEncoding),
    ]:
        with pytest.raises(error):
            path.admit(*arguments)
    path.hooks.apply(Snapshot((hook(),), revision=1, checked=-math.inf))
    with pytest.raises(HooksNotCurrent):
        path.admit("api", "1" * 40, JSON, 1)


def test_each_valid_secret_will_do():
    signed = hook(secrets=(Secret("new"), Secret("old", NOW + 1), Secret("older", NOW)))
    for key in ("new", "old"):
        delivery = Delivery({"bell-key": key}, b"{}", NOW)
        assert ingest().verify(signed, delivery) is delivery
    for headers in ({"bell-key": "older"}, {"bell-key": ""}, {}):
        with pytest.raises(Unsigned, match="Bell-Key"):
            ingest().verify(signed, Delivery(headers, b"{}", NOW))
    assert ingest().verify(hook(), Delivery({}, b"{}", NOW))


def test_a_datasource_that_does_not_sign_verifies_nothing():
    class Mute(Datasource):
        name = title = "Mute"

    with pytest.raises(Unsigned, match="Mute does not sign"):
        Mute().verify(Delivery({}, b"{}", NOW), ["secret"])
    assert Mute().sign(b"", "", 0) == Mute().sample_headers("x") == {}
    assert Mute().secret_fault("x") is Mute().event_type(Verified(Delivery({}, b"", 0))) is None


def test_json_comes_before_the_event():
    with pytest.raises(Malformed):
        examine(b"{", {"bell-event": "hello"})


@pytest.mark.parametrize(
    ("event", "on_mismatch", "ignored"),
    [
        (None, "reject", None),
        ("ring", "reject", None),
        ("other", "publish", None),
        ("other", "ignore", "mismatch"),
        ("hello", "publish", "handshake"),
        ("hello", "reject", "handshake"),
        ("hello", "ignore", "handshake"),
    ],
)
def test_mismatches_and_handshakes_are_decided_before_the_schema(event, on_mismatch, ignored):
    headers = {} if event is None else {"bell-event": event}
    body = b'{"tone":1}' if ignored is None else b"{}"
    read = examine(body, headers, on_mismatch=on_mismatch, validation="enforce")
    assert (read.type, read.ignored) == (event, ignored)


def test_rejected_mismatches():
    with pytest.raises(EventMismatch, match="ring"):
        examine(headers={"bell-event": "other"}, on_mismatch="reject")


def test_a_handshake_is_published_where_the_hook_is_for_it():
    assert examine(headers={"bell-event": "hello"}, event="hello").ignored is None


def test_schemas():
    assert examine(b"{}").faults == ()
    assert examine(b"{}", validation="report").faults
    assert examine(b"{}", validation="report", event="unknown").faults == ()
    assert examine(validation="enforce").faults == ()
    with pytest.raises(SchemaMismatch) as caught:
        examine(b"{}", validation="enforce")
    assert caught.value.errors[0].keys() == {"pointer", "message"}


def test_the_message():
    read = examine(b'{"tone":1}', {"bell-event": "ring", "bell-ring": "7"})
    verified = Verified(Delivery({}, b'{"tone":1}', NOW))
    message = ingest().compose(hook(ts_field="a.b"), read, verified, "receipt")
    assert message.routing_key == "event.42.bell.ring"
    assert message.body == b'{"tone":1}'
    assert message.headers == {"receivedAt": NOW, "tsField": "a.b", "deliveryId": "7", "providerEvent": "ring"}
    assert (message.receipt, message.hook, message.tenant, message.received_at) == ("receipt", TOKEN, "42", NOW)
    bare = ingest().compose(hook(), examine(), verified, "receipt")
    assert bare.headers == {"receivedAt": NOW}
    faulty = msgspec.structs.replace(read, faults=(Fault("/a", "is odd"), Fault("/b", "is odd, too")))
    assert ingest().compose(hook(), faulty, verified, "receipt").headers["schemaError"] == "/a: is odd"
    assert TOKEN not in repr(message)
    assert "tone" not in repr(message)


@pytest.mark.parametrize("word", ["", "x" * 257, "é", "a\nb", "a\x7f"])
def test_words_of_the_sender_that_are_not_published(word):
    read = examine(headers={"bell-ring": word, "bell-event": word})
    headers = ingest().compose(hook(), read, Verified(Delivery({}, b"{}", NOW)), "r").headers
    assert headers == {"receivedAt": NOW}


REGISTRY = load(None, None)
SCHEMAS = Schemas(REGISTRY)
NAMES = st.sampled_from(
    ["x-github-event", "x-hub-signature-256", "x-github-delivery", "circleci-event-type", "circleci-signature",
     "webhook-id", "webhook-timestamp", "webhook-signature"]
)  # fmt: skip


@given(
    st.sampled_from(["github", "circleci", "dockerhub", "else"]),
    st.sampled_from(["push", "ping", "job-completed"]),
    st.sampled_from(["off", "report", "enforce"]),
    st.sampled_from(["publish", "ignore", "reject"]),
    st.dictionaries(NAMES, st.text(max_size=30) | st.sampled_from(["ping", "push", "v1=", "sha256=", "v1,", "0"])),
    st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"id":1,"type":"ping"}', b'{"payload":{}}']),
    st.booleans(),
)
def test_any_delivery_is_read_or_rejected(datasource, event, validation, on_mismatch, headers, body, signed):
    path = replace(ingest(), datasources=REGISTRY, schemas=SCHEMAS)
    secrets = (Secret("c2VjcmV0IGtleSE="),) if signed else ()
    asked = hook(datasource=datasource, event=event, validation=validation, on_mismatch=on_mismatch, secrets=secrets)
    try:
        verified = path.verify(asked, Delivery(headers, body, NOW))
        message = path.compose(asked, path.examine(asked, verified), verified, "r")
    except Rejected:
        return
    assert message.body == body
    assert message.routing_key == f"event.42.{datasource}.{event}"
