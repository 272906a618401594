"""Every recorded delivery through its datasource, and every datasource through the checks of a plugin author."""

import ast
import base64
import hmac
import json
import time
from importlib import resources
from typing import ClassVar

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from recorded import RECORDED, Recorded

from webhookd import Datasource, Delivery, EventType, Unsigned, Verified, hmac_sha256, tsfield
from webhookd.registry import load
from webhookd.schema import Schemas
from webhookd.testing import SECRET, check_datasource, sample_delivery

REGISTRY = load()
SCHEMAS = Schemas(REGISTRY)
EVERY = [*REGISTRY.known, "generic"]
signed = [r for r in RECORDED if "secret" in r.notes]


@pytest.mark.parametrize("name", EVERY)
def test_a_datasource_keeps_the_contract(name):
    check_datasource(REGISTRY.get(name))


@pytest.mark.parametrize("name", EVERY)
def test_a_datasource_has_recorded_deliveries(name):
    assert any(r.datasource == name for r in RECORDED)
    with_schema = {event for event, known in REGISTRY.get(name).events.items() if known.schema}
    for kind in (True, False):
        shown = {r.name.partition(".")[0] for r in RECORDED if r.datasource == name and ("faults" in r.notes) is kind}
        assert with_schema <= shown, f"no delivery that {'does not fit' if kind else 'fits'}"


@pytest.mark.parametrize("recorded", signed, ids=str)
def test_a_signature_is_proved_or_refused(recorded: Recorded):
    datasource = REGISTRY.get(recorded.datasource)
    secret = recorded.notes["secret"]
    assert datasource.secret_fault(secret) is None
    if recorded.notes["verdict"] == "valid":
        assert datasource.verify(recorded.delivery, [secret]) is recorded.delivery
    else:
        with pytest.raises(Unsigned):
            datasource.verify(recorded.delivery, [secret])


@pytest.mark.parametrize("recorded", [r for r in signed if r.notes["verdict"] == "valid"], ids=str)
def test_any_of_several_secrets_will_do(recorded: Recorded):
    datasource = REGISTRY.get(recorded.datasource)
    assert datasource.verify(recorded.delivery, [SECRET, recorded.notes["secret"], SECRET]) is recorded.delivery
    with pytest.raises(Unsigned) as refusal:
        datasource.verify(recorded.delivery, [SECRET, SECRET])
    assert SECRET not in refusal.value.detail


@pytest.mark.parametrize("recorded", RECORDED, ids=str)
def test_event_id_time_and_fit_are_read(recorded: Recorded):
    datasource = REGISTRY.get(recorded.datasource)
    verified = datasource.verify(recorded.delivery, [])
    assert datasource.event_type(verified) == recorded.notes.get("event")
    assert datasource.delivery_id(verified) == recorded.notes.get("id")
    event = recorded.notes.get("event") or _unnamed(recorded)
    if event not in datasource.events:
        return
    path = datasource.events[event].ts_field
    found = tsfield.resolve(path, json.loads(recorded.delivery.body)) if path else None
    assert found == json.loads(recorded.notes.get("time", "null"))
    expected = {pointer.rstrip("/") for pointer in recorded.notes.get("faults", "").split()}
    assert {fault.pointer for fault in SCHEMAS.faults(recorded.datasource, event, recorded.delivery.body)} == expected


def _unnamed(recorded: Recorded) -> str:
    """Return the event that a file is named for, where the delivery itself names none."""
    known = REGISTRY.get(recorded.datasource).events
    return next((event for event in known if recorded.name.startswith(f"{event}.")), "")


TIMES = {
    ("github", "push"): "repository.pushed_at",
    ("github", "star"): "starred_at",
    ("github", "pull_request"): "pull_request.updated_at",
    ("github", "check_run"): "check_run.started_at",
    ("github", "membership"): None,
    ("github", "organization"): None,
    ("circleci", "workflow-completed"): "happened_at",
    ("circleci", "notify-1.x"): "payload.stop_time",
    ("dockerhub", "push"): "push_data.pushed_at",
}


@pytest.mark.parametrize(("datasource", "event"), TIMES)
def test_the_default_time_of_an_event(datasource, event):
    assert REGISTRY.get(datasource).events[event].ts_field == TIMES[datasource, event]


def test_github_knows_its_events_once_each():
    source = ast.parse(resources.files("webhookd.plugins").joinpath("github.py").read_text())
    table = next(
        node.value for node in ast.walk(source) if isinstance(node, ast.AnnAssign) and node.target.id == "_TIMES"
    )
    listed = [event for value in table.values for event in ast.literal_eval(value).split()]
    assert sorted(listed) == sorted(REGISTRY.get("github").events)
    assert len(listed) >= 64


@pytest.mark.parametrize("name", EVERY)
def test_handshakes_are_the_pings(name):
    assert REGISTRY.get(name).handshakes == (frozenset({"ping"}) if name in ("github", "circleci") else frozenset())


header_values = st.text(st.characters(max_codepoint=255) | st.characters(codec="utf-8"), max_size=80)
mac_values = st.builds("{}{}".format, st.sampled_from(["sha256=", "v1=", "v1,", "v1,AA== v1,", ""]), header_values)


@given(
    data=st.data(),
    body=st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(
        lambda document: json.dumps(document).encode()
    ),
    secret=st.text(st.characters(codec="utf-8"), max_size=40),
    now=st.integers(0, 2**53),
)
@pytest.mark.parametrize("name", EVERY)
def test_nothing_but_unsigned_is_ever_raised(name, data, body, secret, now):
    datasource = REGISTRY.get(name)
    names = HEADERS_READ[name]
    headers = data.draw(st.dictionaries(st.sampled_from(names), mac_values | header_values)) if names else {}
    delivery = Delivery(headers=headers, body=body, received_at=now)
    with pytest.raises(Unsigned):
        datasource.verify(delivery, [secret])
    assert isinstance(datasource.event_type(Verified(delivery)), str | None)
    assert isinstance(datasource.delivery_id(Verified(delivery)), str | None)
    assert isinstance(datasource.secret_fault(secret), str | None)


HEADERS_READ = {
    "github": ["x-hub-signature-256", "x-hub-signature", "x-github-event", "x-github-delivery"],
    "circleci": ["circleci-signature", "circleci-event-type"],
    "dockerhub": [],
    "generic": [f"{p}-{n}" for p in ("webhook", "svix") for n in ("id", "timestamp", "signature")],
}


def test_docker_hub_cannot_sign():
    docker = REGISTRY.get("dockerhub")
    assert not docker.signs
    with pytest.raises(Unsigned, match="Docker Hub does not sign"):
        docker.verify(Delivery(headers={}, body=b"{}", received_at=0), [SECRET])
    assert docker.sign(b"{}", SECRET, 0) == {}
    assert docker.delivery_id(Verified(Delivery(headers={}, body=b"{}", received_at=0))) is None


@pytest.mark.parametrize(
    ("body", "event", "id_"),
    [
        (b'{"type":"ping","id":"a"}', "ping", "a"),
        (b'{"id":"a","id":"b"}', None, "b"),
        (b'{"id":7,"type":null}', None, None),
        (b'{"id":"\\u00e9","junk":[[[{}]]],"type":{"type":"ping"}}', None, "\u00e9"),
        (b'[{"id":"a"}]', None, None),
        (b'{"payload":{"id":"a","type":"ping"}}', None, None),
        (b'{"id":"a"', None, None),
        (b'{"id":"\xff"}', None, None),
        (b'{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b',"id":"a"}', None, None),
    ],
)
def test_circleci_names_are_read_from_the_body(body, event, id_):
    circleci = REGISTRY.get("circleci")
    verified = Verified(Delivery(headers={}, body=body, received_at=0))
    assert (circleci.event_type(verified), circleci.delivery_id(verified)) == (event, id_)


def test_the_header_of_circleci_goes_before_the_body():
    delivery = Delivery(headers={"circleci-event-type": "job-completed"}, body=b'{"type":"ping"}', received_at=0)
    assert REGISTRY.get("circleci").event_type(Verified(delivery)) == "job-completed"


@pytest.mark.parametrize("headers", [{}, {"x-github-event": "", "x-github-delivery": ""}])
def test_a_missing_or_empty_header_names_nothing(headers):
    delivery = Verified(Delivery(headers=headers, body=b'{"type":"push","id":"a"}', received_at=0))
    github = REGISTRY.get("github")
    assert (github.event_type(delivery), github.delivery_id(delivery)) == (None, None)


# --- HMAC-SHA256 ------------------------------------------------------------------------------------------------------


@given(secrets=st.lists(st.text() | st.binary(max_size=200), min_size=1, max_size=4), parts=st.lists(st.binary()))
def test_an_hmac_is_of_its_own_secret_and_parts_whatever_was_asked_for_before(secrets, parts):
    for secret in secrets * 2:
        key = secret.encode() if isinstance(secret, str) else secret
        assert hmac_sha256(secret, *parts) == hmac.digest(key, b"".join(parts), "sha256")


# --- Standard Webhooks against the reference library -----------------------------------------------------------------


@given(key=st.binary(min_size=1, max_size=80), prefix=st.sampled_from(["", "whsec_"]), text=st.text())
def test_what_generic_signs_the_reference_library_verifies(key, prefix, text):
    secret = prefix + base64.b64encode(key).decode()
    body = json.dumps({"text": text}).encode()
    now = time.time()  # the library looks at the clock itself
    headers = REGISTRY.get("anything").sign(body, secret, now)
    assert standardwebhooks.Webhook(secret).verify(body.decode(), headers) == {"text": text}
    REGISTRY.get("anything").verify(Delivery(headers=headers, body=body, received_at=int(now * 1000)), [secret])


@pytest.mark.parametrize("secret", ["not base64!", "whsec_", "", "abc", "whsec_abcde", "gr\u00fcn", "====", "_-_-_-_-"])
def test_what_is_not_base64_is_no_secret_of_generic(secret):
    generic = REGISTRY.get("anything")
    assert "base64" in (generic.secret_fault(secret) or "")
    if secret not in ("", "whsec_"):
        headers = {"webhook-id": "a", "webhook-timestamp": "10", "webhook-signature": "v1,AAAA"}
        with pytest.raises(Unsigned, match="not base64") as refusal:
            generic.verify(Delivery(headers=headers, body=b"{}", received_at=10_000), [secret])
        assert refusal.value.__cause__ is None
        assert secret not in refusal.value.detail


def test_names_of_the_two_brands_are_not_mixed():
    generic = REGISTRY.get("anything")
    headers = generic.sign(b"{}", SECRET, 10)
    mixed = {"svix-id": headers["webhook-id"], **{k: v for k, v in headers.items() if k != "webhook-id"}}
    with pytest.raises(Unsigned, match="missing or empty: webhook-id"):
        generic.verify(Delivery(headers=mixed, body=b"{}", received_at=10_000), [SECRET])


# --- the checks of a plugin author can fail ----------------------------------------------------------------------


class Careful(Datasource):
    name = "careful"
    title = "Careful"
    signs = True
    events: ClassVar = {
        "done": EventType("at", {"type": "object", "required": ["at"]}, {"at": 1}),
        "undone": EventType(),
    }

    def verify_signature(self, delivery, secret):
        given = delivery.headers.get("x-mac", "").encode("utf-8", "surrogateescape")
        if given != hmac_sha256(secret, delivery.body).hex().encode():
            raise Unsigned("X-Mac does not fit")

    def sign(self, body, secret, now):
        return {"X-Mac": hmac_sha256(secret, body).hex()}

    def event_type(self, delivery):
        return delivery.headers.get("x-event")

    def sample_headers(self, event):
        return {"X-Event": event}


def test_a_careful_datasource_passes():
    check_datasource(Careful())
    delivery = sample_delivery(Careful(), "done", secret=SECRET, now=5)
    assert (delivery.headers["x-event"], delivery.body, delivery.received_at) == ("done", b'{"at": 1}', 5000)
    assert Careful().verify(delivery, [SECRET]) is delivery


@pytest.mark.parametrize("answer", [True, False, 0, ""])
def test_an_answer_in_place_of_a_refusal_verifies_nothing(answer):
    source = type("Answering", (Careful,), {"verify_signature": lambda *_: answer})()
    delivery = sample_delivery(source, "done", secret=SECRET)
    with pytest.raises(TypeError, match=r"must raise webhookd\.Unsigned where the signature does not fit"):
        source.verify(delivery, [SECRET])


def _raises(*_):
    raise KeyError("x-event")


def _shows(self, delivery, secret):
    if delivery.headers.get("x-mac") != hmac_sha256(secret, delivery.body).hex():
        raise Unsigned(f"not by {secret}")


CARELESS = {
    "Careless.name is .* must match": {"name": "a.b"},
    "accepts a body with a newline added": {"verify_signature": lambda *_: None},
    "must raise webhookd.Unsigned where the signature does not fit": {"verify_signature": lambda *_: False},
    "raises KeyError": {"verify_signature": _raises},
    "refuses what sign has signed": {"sign": lambda *_: {"X-Mac": "00"}},
    "sign returns no headers": {"sign": lambda *_: {}},
    "shows the secret": {"verify_signature": _shows},
    "secret_fault refuses the secret of this test: too short": {"secret_fault": lambda *_: "too short"},
    "event_type raises KeyError": {"event_type": lambda _, d: d.headers["x-event"], "sample_headers": lambda *_: {}},
    "event_type returns 7": {"event_type": lambda _, d: None if d.headers.get("x-event") else 7},
    "event_type returns 'other' for the sample of done": {"event_type": lambda *_: "other"},
    "does not fit its schema": {"events": {"done": EventType(None, {"type": "array"}, {})}},
    "leads nowhere in the sample": {"events": {"done": EventType("at", None, {"at": None})}},
    "no sample that shows it": {"events": {"done": EventType(None, {})}},
    "the schema of done is refused": {"events": {"done": EventType(None, {"type": "thing"}, {})}},
}


@pytest.mark.parametrize("fault", CARELESS)
def test_a_careless_datasource_fails(fault):
    with pytest.raises(AssertionError, match=fault):
        check_datasource(type("Careless", (Careful,), CARELESS[fault])())
