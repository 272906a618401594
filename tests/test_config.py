import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.auth import Caller
from webhookd.config import details, new_hook, parse_host, read_wish, rotated, updated
from webhookd.errors import InvalidInput
from webhookd.model import Hook, Secret
from webhookd.registry import load
from webhookd.schema import Schemas

REGISTRY = load(None, None)
SCHEMAS = Schemas(REGISTRY)
CALLER = Caller("42", tenant_is_int=True)
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def read(document, *origins):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_wish(body, origins, REGISTRY, SCHEMAS)


def wish(**fields):
    return read({"datasource": "github", "event": "push", **fields})[0]


def faults(document, *origins) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        read(document, *origins)
    return {fault["field"]: fault["message"] for fault in caught.value.errors}


def created(now=1000, **fields) -> Hook:
    asked = wish(**fields)
    return new_hook(asked, CALLER, "https://webhook.example.org", REGISTRY.get(asked.datasource), now)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff", b'{"datasource": NaN}', b'{"a":"\\ud800"}', b"[" * 5000]
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(InvalidInput) as caught:
        read(body)
    assert caught.value.errors == []


def test_all_faults_are_told_at_once():
    document = {
        "datasource": "git hub",
        "event": "",
        "tsField": "a..b",
        "secret": "short",
        "validation": "strict",
        "onMismatch": 5,
        "colour": "blue",
    }
    assert set(faults(document, "no host!")) == {*document, "X-ORIG-SERVER"}


def test_required_and_null():
    assert faults({}) == {"datasource": "required", "event": "required"}
    assert faults({"datasource": None, "event": "push"}) == {"datasource": "required"}
    nulls = dict.fromkeys(("tsField", "secret", "validation", "onMismatch"))
    assert read({"datasource": "github", "event": "push", **nulls})[0] == wish()


@pytest.mark.parametrize("value", [1, 1.5, True, [], {}, ["push"]])
def test_only_strings(value):
    for field in ("datasource", "event", "tsField", "secret", "validation", "onMismatch"):
        document = {"datasource": "github", "event": "push", field: value}
        assert faults(document) == {field: "must be a string"}


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("datasource", ["a", "A_b-9", "x" * 64, "config"], ["", "a.b", "a b", "x" * 65, "é", "a\n", "a/b", "#", "*"]),
        ("event", ["a", "A_b.c:d-9", "x" * 100], ["", "a b", "x" * 101, "é", "a\n", "a/b", "#", "*", "a,b"]),
        (
            "tsField",
            ["a", "a.b", "a[0].b[1][2]", "[0].a", "", "é ü.x", "x" * 256],
            ["a..b", "a[x]", ".", "a.", "x" * 257],
        ),
        (
            "secret",
            ["x" * 8, "x" * 256, "pässwörd", "        ", ""],
            ["x" * 7, "x" * 257, "secret\x00secret", "secret\x85secret"],
        ),
        ("validation", ["off", "report", "enforce"], ["", "on", "OFF"]),
        ("onMismatch", ["publish", "ignore", "reject"], ["", "drop"]),
    ],
)
def test_field_rules(field, good, bad):
    base = {"datasource": "github", "event": "push"}
    for value in good:
        read(base | {field: value})
    for value in bad:
        assert set(faults(base | {field: value})) == {field}, value


def test_what_the_datasource_cannot_do_is_said():
    assert "does not sign" in faults({"datasource": "dockerhub", "event": "push", "secret": "long enough"})["secret"]
    read({"datasource": "dockerhub", "event": "push", "secret": ""})
    assert "base64" in faults({"datasource": "mine", "event": "x", "secret": "not base64!"})["secret"]
    for secret in (WHSEC, WHSEC.removeprefix("whsec_")):
        read({"datasource": "mine", "event": "x", "secret": secret})
    for validation in ("report", "enforce"):
        assert (
            "no schema" in faults({"datasource": "github", "event": "gollum", "validation": validation})["validation"]
        )
        read({"datasource": "github", "event": "push", "validation": validation})


@pytest.mark.parametrize(
    ("origin", "base_url"),
    [
        ("example.org", "https://webhook.example.org"),
        ("example.org:8443", "https://webhook.example.org:8443"),
        ("webhook.example.org", "https://webhook.example.org"),
        ("Webhooks.example.org", "https://Webhooks.example.org"),
        ("webhook", "https://webhook"),
        ("localhost", "https://webhook.localhost"),
        ("192.0.2.1", "https://192.0.2.1"),
        ("192.0.2.1:80", "https://192.0.2.1:80"),
        ("[2001:db8::1]", "https://[2001:db8::1]"),
        ("[2001:db8::1]:443", "https://[2001:db8::1]:443"),
        ("3com.example", "https://webhook.3com.example"),
        ("xn--bcher-kva.example", "https://webhook.xn--bcher-kva.example"),
        ("a.b-c.d:65535", "https://webhook.a.b-c.d:65535"),
    ],
)
def test_origins(origin, base_url):
    assert read({"datasource": "a", "event": "b"}, origin)[1] == base_url


@pytest.mark.parametrize(
    "origin",
    ["", ":80", "a:", "a:0", "a:65536", "a:b", "a:1:2", "-a.b", "a-.b", "a..b", ".a", "a.", "a_b", "é.org", "1.2.3", "256.1.1.1",
     "1.2.3.4.5", "2001:db8::1", "[2001:db8::1", "[::1%eth0]", "[1.2.3.4]", "[]", "http://a", "a/b", "a b", "a@b", "x" * 64,
     ".".join(["x" * 60] * 5), "a,b", "a:+1", "a:1_0", "a:\u0661"],
)  # fmt: skip
def test_what_is_no_origin(origin):
    assert set(faults({"datasource": "a", "event": "b"}, origin)) == {"X-ORIG-SERVER"}


def test_two_origins_are_refused():
    assert "once" in faults({"datasource": "a", "event": "b"}, "a.org", "a.org")["X-ORIG-SERVER"]


@given(st.text(max_size=40))
def test_any_host_is_read_or_refused(text):
    host = parse_host(text)
    assert host is None or re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", host[0])


def test_a_new_hook():
    hook = created()
    assert re.fullmatch("[0-9a-f]{40}", hook.token)
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", hook.api_token)
    assert created().token != hook.token
    assert details(hook) == {
        "datasource": "github",
        "event": "push",
        "createdAt": 1000,
        "apiToken": hook.api_token,
        "tenantId": 42,
        "token": hook.token,
        "tsField": "repository.pushed_at",
        "hookUrl": f"https://webhook.example.org/wh/{hook.api_token}/{hook.token}",
        "validation": "off",
        "onMismatch": "publish",
        "signed": False,
    }


def test_ts_field_on_creation():
    assert created(tsField="a.b").ts_field == "a.b"
    assert created(tsField="").ts_field is None
    assert created(datasource="mine").ts_field is None
    assert created(event="unheard-of").ts_field is None
    assert "tsField" not in details(created(tsField=""))


def test_ts_field_on_update():
    hook = created(tsField="a.b")
    assert updated(hook, wish(), None, 0, 0).ts_field == "a.b"
    assert updated(hook, wish(tsField="c"), None, 0, 0).ts_field == "c"
    assert updated(hook, wish(tsField=""), None, 0, 0).ts_field is None
    assert updated(created(tsField=""), wish(), None, 0, 0).ts_field is None


def test_an_update_keeps_what_is_not_given():
    hook = created(secret="first secret", validation="report", onMismatch="reject")
    assert updated(hook, wish(), None, 5, 60) == hook
    changed = updated(hook, wish(validation="off", onMismatch="ignore"), "https://webhook.other", 5, 60)
    assert (changed.validation, changed.on_mismatch, changed.base_url) == ("off", "ignore", "https://webhook.other")
    assert (changed.token, changed.api_token, changed.created_at) == (hook.token, hook.api_token, hook.created_at)


def test_secrets_are_rotated_with_grace():
    one = rotated((), "secret-1", 1000, 10)
    assert one == (Secret("secret-1"),)
    assert rotated(one, None, 2000, 10) == one
    assert rotated(one, "secret-1", 2000, 10) == one
    two = rotated(one, "secret-2", 2000, 10)
    assert two == (Secret("secret-2"), Secret("secret-1", 12_000))
    three = rotated(two, "secret-3", 3000, 10)
    assert three == (Secret("secret-3"), Secret("secret-2", 13_000), Secret("secret-1", 12_000))
    four = rotated(three, "secret-4", 4000, 10)
    assert [secret.value for secret in four] == ["secret-4", "secret-3", "secret-2"]
    assert rotated(three, "secret-4", 12_500, 10) == (
        Secret("secret-4"),
        Secret("secret-3", 22_500),
        Secret("secret-2", 13_000),
    )
    assert rotated(three, "secret-1", 4000, 10) == (
        Secret("secret-1"),
        Secret("secret-3", 14_000),
        Secret("secret-2", 13_000),
    )
    assert rotated(three, "", 4000, 10) == ()
    assert rotated(one, "secret-2", 2000, 0) == (Secret("secret-2"),)


def test_no_secret_is_shown():
    hook = created(secret="hush hush")
    assert "hush" not in repr(wish(secret="hush hush"))
    assert "hush" not in json.dumps(details(hook))
    assert details(hook)["signed"] is True
