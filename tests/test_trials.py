"""Each diagnosis of a signature has a delivery that it, and nothing else, must be found for; none shows a secret."""

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd import Datasource, Delivery, Unsigned, hmac_sha256, same
from webhookd.model import Hook, Rotation, Secret
from webhookd.registry import load
from webhookd.trials.bodies import MAX_BODY
from webhookd.trials.diagnoses import DIAGNOSES, GENERAL_FACTS
from webhookd.trials.signature import MOST_BYTES, MOST_TRIALS, diagnose

REGISTRY = load()
NOW = 1_717_236_905_000
HOUR = 3_600_000
SECRET = "a secret of these tests"
OLD = "the secret before that"
OTHER = "somebody else's secret"
STANDARD_SECRET = "whsec_c2VjcmV0LW9mLXRoZXNlLXRlc3Rz"
DOCUMENT = {"ref": "refs/heads/m\u00e4in", "commits": [{"id": 1, "url": "https://example.org/1"}], "after": None}
PLAIN = json.dumps(DOCUMENT, ensure_ascii=False, separators=(",", ":")).encode()


def hook(datasource: str = "github", *secrets: str | Secret) -> Hook:
    held = tuple(s if isinstance(s, Secret) else Secret(s) for s in secrets)
    return Hook(
        token="0" * 40,
        api_token="9b2d8e0a-0000-4000-8000-000000000000",
        tenant="42",
        datasource=datasource,
        event="push",
        secrets=held,
        base_url="https://webhook.example.org",
        created_at=NOW - 24 * HOUR,
    )


def hexed(body: bytes, secret: str | bytes = SECRET, algorithm: str = "sha256") -> str:
    return hmac.digest(secret.encode() if isinstance(secret, str) else secret, body, algorithm).hex()


def based(body: bytes, secret: str = SECRET) -> str:
    return base64.b64encode(hmac_sha256(secret, body)).decode()


def dumps(**style: Any) -> bytes:
    return json.dumps(DOCUMENT, **style).encode()


def github(
    sent: bytes, signed: bytes, *held: str | Secret, secret: str | bytes = SECRET, **headers: str
) -> tuple[Hook, Delivery]:
    """Return a delivery of GitHub that sends one thing, and signs another."""
    given = {"x-hub-signature-256": f"sha256={hexed(signed, secret)}", **headers}
    return hook("github", *(held or (SECRET,))), Delivery(given, sent, NOW)


def header(value: str | None, name: str = "x-hub-signature-256", datasource: str = "github") -> tuple[Hook, Delivery]:
    """Return a delivery whose signature is right but for the way it is written."""
    return hook(datasource, SECRET), Delivery({} if value is None else {name: value}, PLAIN, NOW)


def standard(
    content: bytes | None = None,
    *,
    key: bytes = base64.b64decode(STANDARD_SECRET.removeprefix("whsec_")),
    stamp: str = str(NOW // 1000),
    written: str = "v1,{base64}",
    prefix: str = "webhook",
) -> tuple[Hook, Delivery]:
    """Return a delivery as Standard Webhooks says, but for what is given."""
    digest = hmac_sha256(key, f"msg_1.{stamp}.".encode() + PLAIN if content is None else content)
    value = written.format(base64=base64.b64encode(digest).decode(), hex=digest.hex())
    headers = {f"{prefix}-id": "msg_1", f"{prefix}-timestamp": stamp, f"{prefix}-signature": value}
    return hook("acme", STANDARD_SECRET), Delivery(headers, PLAIN, NOW)


class SignsItsUrl(Datasource):
    """A sender that signs the URL to which it posts, as some do."""

    name = "signs-its-url"
    title = "Url"
    signs = True

    def verify_signature(self, delivery: Delivery, secret: str) -> None:
        if delivery.headers.get("x-mac") != hmac_sha256(secret, delivery.hook_url.encode(), delivery.body).hex():
            raise Unsigned("X-Mac is no signature of this URL and body")


def with_url(signed: str, came: str | None = None, rotation: Rotation | None = None) -> tuple[Hook, Delivery]:
    """Return a delivery that came to one URL (the hook's own if none is given), and whose sender signed another."""
    one = msgspec.structs.replace(hook(SignsItsUrl.name, SECRET), rotation=rotation)
    headers = {
        "x-mac": hmac_sha256(SECRET, signed.encode(), PLAIN).hex(),
        "host": "127.0.0.1:8080",
        "x-forwarded-host": "hooks.example.com, proxy",
    }
    return one, Delivery(headers, PLAIN, NOW, came or one.hook_url)


BASE = "https://webhook.example.org"
PATH = "/wh/9b2d8e0a-0000-4000-8000-000000000000/"
ROTATION = Rotation(first="f" * 40, previous="e" * 40, until=NOW + HOUR)
FORM = urlencode({"payload": PLAIN.decode()}).encode()
EXPIRED = Secret(OLD, NOW - HOUR)
STAMP = NOW // 1000
HEX_SECRET = "00112233445566778899aabbccddeeff"

FIXTURES: dict[str, tuple[Hook, Delivery]] = {
    "signature-missing": header(None),
    "signature-missing: of Standard Webhooks": (hook("acme", STANDARD_SECRET), Delivery({}, PLAIN, NOW)),
    "signature-missing: of a large body": (hook("github", SECRET), Delivery({}, b"[" + b"1," * MAX_BODY + b"1]", NOW)),
    "signature-header": header(f"sha256={hexed(PLAIN)}", "x-hub-signature"),
    "signature-prefix": header(hexed(PLAIN)),
    "signature-prefix: another": header(f"sha-256={hexed(PLAIN)}"),
    "signature-prefix: of CircleCI": header(hexed(PLAIN), "circleci-signature", "circleci"),
    "signature-prefix: of Standard Webhooks": standard(written="{base64}"),
    "signature-upper-case": header(f"sha256={hexed(PLAIN).upper()}"),
    "signature-base64": header(f"sha256={based(PLAIN)}"),
    "signature-base64: url-safe": header(f"sha256={based(PLAIN).replace('+', '-').replace('/', '_').rstrip('=')}"),
    "signature-hex": standard(written="v1,{hex}"),
    "signature-list": header(f"sha256={'0' * 64},sha256={hexed(PLAIN)}"),
    "signature-list: of Standard Webhooks": standard(written=f"v1,{'A' * 43}=,v1,{{base64}}"),
    "sha1": header(f"sha1={hexed(PLAIN, algorithm='sha1')}", "x-hub-signature"),
    "sha1: in the header of SHA-256": header(f"sha256={hexed(PLAIN, algorithm='sha1')}"),
    "other-hash": header(f"sha512={hexed(PLAIN, algorithm='sha512')}"),
    "asymmetric": standard(written="v1a,{base64}"),
    "secret-expired": github(PLAIN, PLAIN, SECRET, EXPIRED, secret=OLD),
    "secret-expired: of Standard Webhooks": (
        hook("acme", "whsec_bmV3LXNlY3JldA==", Secret(STANDARD_SECRET, NOW - HOUR)),
        standard()[1],
    ),
    "secret-new": github(PLAIN, PLAIN),
    "secret-removed": (hook("github"), Delivery({}, PLAIN, NOW)),
    "secret-trimmed": github(PLAIN, PLAIN, f" {SECRET} "),
    "secret-blanks": github(PLAIN, PLAIN, secret=f"{SECRET}\n"),
    "secret-blanks: of Windows": github(PLAIN, PLAIN, secret=f"{SECRET}\r\n"),
    "secret-quoted": github(PLAIN, PLAIN, secret=f'"{SECRET}"'),
    "secret-quoted: in the hook": github(PLAIN, PLAIN, f"'{SECRET}'"),
    "secret-empty": github(PLAIN, PLAIN, secret=""),
    "secret-not-decoded": standard(key=STANDARD_SECRET.encode()),
    "secret-not-decoded: without its prefix": standard(key=STANDARD_SECRET.removeprefix("whsec_").encode()),
    "secret-decoded": github(PLAIN, PLAIN, HEX_SECRET, secret=bytes.fromhex(HEX_SECRET)),
    "secret-decoded: from base64": github(PLAIN, PLAIN, "c2VjcmV0LXNlY3JldA==", secret=b"secret-secret"),
    "url-new": with_url(BASE + PATH + "0" * 40),
    "url-host": with_url("https://hooks.example.com" + PATH + "0" * 40),
    "url-host: without a proxy": with_url("http://127.0.0.1:8080" + PATH + "0" * 40),
    "url-token": with_url(BASE + PATH + "0" * 40, BASE + PATH + "e" * 40, ROTATION),
    "url-token: the one before": with_url(BASE + PATH + "e" * 40, BASE + PATH + "0" * 40, ROTATION),
    "url-token: the first": with_url(BASE + PATH + "f" * 40, BASE + PATH + "0" * 40, ROTATION),
    "timestamp-outside": standard(stamp=str(STAMP - 3600)),
    "timestamp-outside: after": standard(stamp=str(STAMP + 600)),
    "timestamp-outside: of Svix": standard(stamp=str(STAMP - 3600), prefix="svix"),
    "timestamp-form": standard(stamp=str(NOW)),
    "id-other": (
        hook("acme", STANDARD_SECRET),
        Delivery(standard(f"evt_7.{STAMP}.".encode() + b'{"id":"evt_7"}')[1].headers, b'{"id":"evt_7"}', NOW),
    ),
    "id-other: none": standard(f"{STAMP}.".encode() + PLAIN),
    "signed-body-only": standard(PLAIN),
    "newline-stripped": github(PLAIN + b"\n", PLAIN),
    "newline-stripped: of Windows": github(PLAIN + b"\r\n", PLAIN),
    "newline-added": github(PLAIN, PLAIN + b"\n"),
    "newline-added: of CircleCI": (
        hook("circleci", SECRET),
        Delivery({"circleci-signature": f"v1={hexed(PLAIN + bytes([10]))},v2=00"}, PLAIN, NOW),
    ),
    "newline-added: of Standard Webhooks": standard(f"msg_1.{STAMP}.".encode() + PLAIN + b"\n"),
    "line-endings": github(dumps(indent=2).replace(b"\n", b"\r\n"), dumps(indent=2)),
    "line-endings: back": github(b'{\n"a": 1}', b'{\r\n"a": 1}'),
    "byte-order-mark": github(PLAIN, b"\xef\xbb\xbf" + PLAIN),
    "json-compact": github(dumps(), PLAIN),
    "json-compact: all ASCII": github(PLAIN, dumps(separators=(",", ":"))),
    "json-spaced": github(PLAIN, dumps()),
    "json-spaced: not all ASCII": github(PLAIN, dumps(ensure_ascii=False)),
    "json-sorted": github(PLAIN, dumps(sort_keys=True)),
    "json-sorted: compact, not all ASCII": github(
        PLAIN, dumps(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    ),
    "json-indented": github(PLAIN, dumps(indent=2)),
    "json-indented: by tabs": github(PLAIN, dumps(indent="\t", ensure_ascii=False)),
    "json-slashes": github(PLAIN, dumps(separators=(",", ":")).replace(b"/", rb"\/")),
    "form-decoded": github(FORM, PLAIN),
    "form-encoded": github(PLAIN, FORM),
    "form-encoded: as GitHub escapes": github(PLAIN, b"payload=" + quote_plus(PLAIN).encode()),
    "inflated": github(gzip.compress(PLAIN * 3), PLAIN * 3, **{"content-encoding": "gzip"}),
    "charset": github(PLAIN, PLAIN.decode().encode("latin-1")),
    "body-empty": github(PLAIN, b""),
}


def source_of(one: Hook) -> Datasource:
    return SignsItsUrl() if one.datasource == SignsItsUrl.name else REGISTRY.get(one.datasource)


def names_of(case: tuple[Hook, Delivery]) -> list[str]:
    one, delivery = case
    return [d.name for d in diagnose(one, source_of(one), delivery, NOW + HOUR)]


@pytest.mark.parametrize("title", FIXTURES)
def test_a_mistake_is_named(title: str) -> None:
    assert names_of(FIXTURES[title]) == [title.partition(":")[0]]


@pytest.mark.parametrize("title", FIXTURES)
def test_the_delivery_is_one_that_is_refused(title: str) -> None:
    one, delivery = FIXTURES[title]
    if title in ("secret-new", "secret-removed", "url-new"):
        return  # refused by what the hook had then
    with pytest.raises(Unsigned):
        source_of(one).verify(delivery, one.valid_secrets(delivery.received_at))


def test_every_diagnosis_has_a_delivery() -> None:
    assert {title.partition(":")[0] for title in FIXTURES} == DIAGNOSES.keys()


@pytest.mark.parametrize("title", FIXTURES)
def test_what_is_told_holds_no_secret_and_no_signature(title: str) -> None:
    one, delivery = FIXTURES[title]
    told = " ".join(f"{d!r} {d.text} {d.remedy}" for d in diagnose(one, source_of(one), delivery, NOW + HOUR))
    assert "{" not in told
    hidden = {part for s in one.secrets for part in (s.value, s.value.strip(" '"), s.value.removeprefix("whsec_"))}
    for algorithm in ("sha1", "sha256", "sha512"):
        for secret in {SECRET, *hidden}:
            digest = hmac.digest(secret.encode(), delivery.body, algorithm)
            hidden |= {digest.hex(), base64.b64encode(digest).decode()}
    hidden |= {
        word for value in delivery.headers.values() for word in value.replace(",", "=").split("=") if len(word) > 8
    }
    assert [word for word in hidden - {"msg_1", str(STAMP), str(NOW)} if word in told] == []


@pytest.mark.parametrize(
    ("case", "names"),
    [
        (github(PLAIN + b"\n", PLAIN, SECRET, EXPIRED, secret=OLD), ["secret-expired", "newline-stripped"]),
        (github(PLAIN, dumps(), secret=f"{SECRET}\n"), ["secret-blanks", "json-spaced"]),
        (header(based(PLAIN + b"\n")), ["signature-prefix", "signature-base64", "newline-added"]),
        (header(f"sha1={hexed(PLAIN + bytes([10]), algorithm='sha1')}", "x-hub-signature"), ["sha1", "newline-added"]),
        (
            standard(f"msg_1.{STAMP - 3600}.".encode() + PLAIN + b"\n", stamp=str(STAMP - 3600)),
            ["timestamp-outside", "newline-added"],
        ),
    ],
)
def test_two_mistakes_at_once_are_both_named(case: tuple[Hook, Delivery], names: list[str]) -> None:
    assert names_of(case) == names


@pytest.mark.parametrize(
    "case", [github(PLAIN, PLAIN, secret=OTHER), standard(key=b"another key"), github(PLAIN, b'{"another": "body"}')]
)
def test_what_nothing_explains_is_not_explained(case: tuple[Hook, Delivery]) -> None:
    assert names_of(case) == []


def test_how_far_a_timestamp_is_off_is_told() -> None:
    one, delivery = FIXTURES["timestamp-outside"]
    (found,) = diagnose(one, REGISTRY.get("acme"), delivery, NOW)
    assert "3,600 s before it arrived" in found.text


class Stamped(Datasource):
    """A stranger's plugin: a time in one header, an HMAC over time and body in another, as Slack does it."""

    name = "stamped"
    title = "Stamped"
    signs = True

    def verify_signature(self, delivery: Delivery, secret: str) -> None:
        stamp = delivery.headers.get("x-stamp", "0")
        if abs(delivery.received_at // 1000 - int(stamp)) > 300:
            raise Unsigned("X-Stamp is too far from now")
        if not same(delivery.headers.get("x-seal", ""), self._seal(stamp, delivery.body, secret)):
            raise Unsigned("X-Seal does not fit")

    def sign(self, body: bytes, secret: str, now: float) -> dict[str, str]:
        return {"X-Stamp": str(int(now)), "X-Seal": self._seal(str(int(now)), body, secret)}

    def _seal(self, stamp: str, body: bytes, secret: str) -> str:
        return f"v0={hmac_sha256(secret, f'v0:{stamp}:'.encode(), body).hex()}"


class Shop(Datasource):
    """A stranger's plugin that signs in base64, without a prefix, and is broken where bodies are odd."""

    name = "shop"
    title = "Shop"
    signs = True

    def verify_signature(self, delivery: Delivery, secret: str) -> None:
        if not same(delivery.headers.get("x-shop-hmac", ""), based(delivery.body, secret)):
            raise Unsigned("X-Shop-Hmac does not fit")
        if not delivery.body:
            raise RuntimeError("a bug of this plugin")

    def sign(self, body: bytes, secret: str, now: float) -> dict[str, str]:
        return {"X-Shop-Hmac": based(body, secret)}


STRANGERS: list[tuple[Datasource, Mapping[str, str], bytes, list[str]]] = [
    (Stamped(), Stamped().sign(PLAIN, SECRET, STAMP), PLAIN + b"\n", ["newline-stripped"]),
    (Stamped(), Stamped().sign(PLAIN, SECRET, STAMP - 900), PLAIN, ["timestamp-outside"]),
    (Stamped(), Stamped().sign(PLAIN, f"{SECRET}\n", STAMP), PLAIN, ["secret-blanks"]),
    (Stamped(), Stamped().sign(PLAIN, OTHER, STAMP), PLAIN, []),
    (Stamped(), {}, PLAIN, ["signature-missing"]),
    (Shop(), Shop().sign(dumps(), SECRET, STAMP), PLAIN, ["json-spaced"]),
    (Shop(), Shop().sign(b"", SECRET, STAMP), PLAIN, ["body-empty"]),
    (Shop(), {"X-Shop-Hmac": hexed(PLAIN)}, PLAIN, ["signature-hex"]),
]


@pytest.mark.parametrize(("source", "headers", "body", "names"), STRANGERS)
def test_a_stranger_is_understood_without_a_word_from_its_plugin(
    source: Datasource, headers: Mapping[str, str], body: bytes, names: list[str]
) -> None:
    delivery = Delivery({name.lower(): value for name, value in headers.items()}, body, NOW)
    assert [d.name for d in diagnose(hook(source.name, SECRET), source, delivery, NOW)] == names


def hostile(body: bytes) -> list[tuple[Hook, Delivery]]:
    stamps = ",".join(str(STAMP - 1000 * n) for n in range(1, 100))
    marks = ",".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(200))
    return [
        (hook(name, STANDARD_SECRET, EXPIRED), Delivery({"content-encoding": "gzip", **headers}, body, NOW))
        for name, headers in (
            ("github", {"x-hub-signature-256": marks, "x-times": stamps}),
            (
                "acme",
                {"webhook-id": "1", "webhook-timestamp": str(STAMP), "webhook-signature": marks, "x-times": stamps},
            ),
        )
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MAX_BODY,
        b"[" * 400 + b"1," * 30_000 + b"1" + b"]" * 400,
        b"9" * MAX_BODY,
        b'{"a":' + b"[" * 31 + b"1," * 30_000 + b"1" + b"]" * 31 + b"}",
        b"payload=" + b"&payload=" * 5000,
        gzip.compress(bytes(30 * 1024 * 1024)),
        b"\xff" * MAX_BODY,
        b'{"id": "\\ud800", "eventId": "a\\nb"}',
    ],
)
def test_hostile_deliveries_explain_nothing(body: bytes) -> None:
    for case in hostile(body):
        assert names_of(case) == []


def test_effort_has_an_end() -> None:
    """Count what a plugin is asked: never more than is promised, over no more bytes than is promised."""
    asked: list[int] = []

    class Counting(Stamped):
        def verify_signature(self, delivery: Delivery, secret: str) -> None:
            asked.append(len(delivery.body))
            super().verify_signature(delivery, secret)

    body = json.dumps([DOCUMENT] * 600).encode()[:MAX_BODY]
    stamps = ",".join(str(STAMP - 1000 * n) for n in range(1, 100))
    held = (SECRET, Secret(OLD, NOW + HOUR), EXPIRED)
    assert diagnose(
        hook("stamped", *held), Counting(), Delivery({"x-stamp": str(STAMP), "x-t": stamps}, body, NOW), NOW
    )
    assert 100 < len(asked) <= MOST_TRIALS
    assert sum(asked) <= MOST_BYTES


@given(body=st.binary(max_size=200), value=st.text(st.characters(max_codepoint=255), max_size=200))
def test_nothing_is_found_in_noise_and_nothing_breaks(body: bytes, value: str) -> None:
    for name in ("github", "circleci", "acme"):
        headers = dict.fromkeys(
            ("x-hub-signature-256", "circleci-signature", "webhook-id", "webhook-timestamp", "webhook-signature"), value
        )
        found = names_of((hook(name, STANDARD_SECRET), Delivery(headers, body, NOW)))
        assert set(found) <= {"signature-missing", "asymmetric", "timestamp-form"}


def test_general_facts_are_all_there_are() -> None:
    for known in DIAGNOSES.values():
        assert "{" not in known.text.format(**GENERAL_FACTS) + known.remedy.format(**GENERAL_FACTS)
