"""Published keys: which entries of a key set count, which token is checked with which key, and how the set is fetched."""

import base64
import json
import logging
import threading
import time

import jwt
import pytest
from certificates import Certificates
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from harness import KEY, Daemon, mint, request, until
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from sts import ENDLESS, FAULTS, StandIn, eventually

from webhookd.adapters import fetch
from webhookd.adapters.fetch import trust
from webhookd.adapters.jwks import Jwks, probe
from webhookd.auth import (
    PUBLIC_KEY_ALGORITHMS,
    Bearer,
    JsonWebTokens,
    public_key,
    published_algorithms,
    secret_key,
)
from webhookd.errors import ConfigurationError, TokensUnavailable, Unauthenticated
from webhookd.jwk import read_key_set

RSA = rsa.generate_private_key(65537, 2048)
RSA2 = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = b"an HMAC key of at least thirty-two bytes"
EVERY_ALGORITHM = {
    "RS256": RSA,
    "RS384": RSA,
    "RS512": RSA,
    "PS256": RSA,
    "PS384": RSA,
    "PS512": RSA,
    "ES256": EC,
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "ES256K": ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ED,
}


def entry(private, kid=None, **members):
    """Return what a key set says of the public part of a key; None takes a member away."""
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind = next((kind for cls, kind in kinds.items() if isinstance(private, cls)), OKPAlgorithm)
    said = {**kind.to_jwk(private.public_key(), as_dict=True), "kid": kid, **members}
    said.pop("key_ops", None) if "key_ops" not in members else None
    return {name: value for name, value in said.items() if value is not None}


def key_set(*entries):
    return json.dumps({"keys": list(entries)}).encode()


def token(private, algorithm, kid=None, **claims):
    body = {"tenantId": 42, "exp": int(time.time()) + 600, **claims}
    return jwt.encode(body, private, algorithm, headers=None if kid is None else {"kid": kid})


def pem_of(private):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(serialization.Encoding.PEM, form)


class Published:
    """A key set that does not change by itself."""

    def __init__(self, *entries, algorithms=PUBLIC_KEY_ALGORITHMS, later=None):
        self.algorithms = algorithms
        self.keys = read_key_set(key_set(*entries), algorithms)
        self.later = later
        self.renewed = 0

    async def renew(self):
        self.renewed += 1
        if self.later is not None:
            self.keys = read_key_set(key_set(*self.later), self.algorithms)


async def tenant(published, said, *keys, **rules):
    bearer = Bearer(JsonWebTokens(keys, published, **rules))
    return (await bearer.caller([f"Bearer {said}"], time.time())).tenant


# --- which entries count ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", EVERY_ALGORITHM)
@pytest.mark.gen_test
async def test_every_kind_of_key(algorithm):
    private = EVERY_ALGORITHM[algorithm]
    assert await tenant(Published(entry(private, "a")), token(private, algorithm, "a")) == "42"
    assert (
        await tenant(Published(entry(private, "a", alg=algorithm, use="sig")), token(private, algorithm, "a")) == "42"
    )


@pytest.mark.gen_test
async def test_ed448():
    private = ed448.Ed448PrivateKey.generate()
    assert await tenant(Published(entry(private)), token(private, "EdDSA")) == "42"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


SHORT = {
    "kty": "RSA",
    "n": b64((rsa.generate_private_key(65537, 1024)).public_key().public_numbers().n.to_bytes(128)),
    "e": "AQAB",
}
PASSED_OVER = {
    "for encryption": entry(RSA, use="enc"),
    "for another use": entry(RSA, use=["sig"]),
    "to sign alone": entry(RSA, key_ops=["sign"]),
    "operations of a strange form": entry(RSA, key_ops="verify"),
    "symmetric": {"kty": "oct", "k": b64(SECRET), "alg": "HS256"},
    "symmetric, that says RSA's algorithm": {"kty": "oct", "k": b64(SECRET), "alg": "RS256"},
    "unknown kty": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
    "no kty": {"n": "AQAB", "e": "AQAB"},
    "kty of a strange form": {"kty": ["RSA"]},
    "curve of a strange form": entry(EC, crv=["P-256"]),
    "unknown curve": entry(EC, crv="P-192"),
    "a curve that signs nothing": {
        "kty": "OKP",
        "crv": "X25519",
        "x": b64(x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()),
    },
    "no curve": entry(EC, crv=None),
    "a point that is none": entry(EC, x=b64(bytes(32))),
    "half a point": entry(EC, y=None),
    "no modulus": entry(RSA, n=None),
    "a modulus that is no text": entry(RSA, n=17),
    "a modulus that is no base64": entry(RSA, n="*"),
    "an even exponent": entry(RSA, e=b64(b"\x02")),
    "too short": SHORT,
    "too long": entry(RSA, n=b64(b"\x81" + b"\x01" * 2100)),
    "the algorithm of another family": entry(RSA, alg="ES256"),
    "HMAC's algorithm": entry(RSA, alg="HS256"),
    "an algorithm of encryption": entry(RSA, alg="RSA-OAEP"),
    "no algorithm": entry(RSA, alg="none"),
    "an algorithm of a strange form": entry(RSA, alg=["RS256"]),
    "a kid of a strange form": entry(RSA, kid=7),
    "a text": "RSA",
    "null": None,
    "a list": [],
}


@pytest.mark.parametrize("one", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_what_is_no_key_for_tokens_is_passed_over(one):
    (key,) = read_key_set(key_set(one, entry(EC, "good"), one), None)
    assert (key.kid, key.algorithms) == ("good", ("ES256",))


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"null", b"42", b'"keys"', b"{}", b'{"keys": {}}', b'{"keys": null}', b"\xff", b"[" * 100_000],
)
def test_what_is_no_key_set_is_told(document):
    with pytest.raises(ValueError, match="no key set"):
        read_key_set(document, None)


def test_a_private_key_that_is_published_counts_as_its_public_part():
    (key,) = read_key_set(key_set(RSAAlgorithm.to_jwk(RSA, as_dict=True) | {"key_ops": ["verify"]}), None)
    assert isinstance(key.key, rsa.RSAPublicKey)


def test_algorithms_are_narrowed_by_the_key_and_by_the_setting():
    document = key_set(entry(RSA, "a"), entry(RSA, "b", alg="PS256"), entry(EC, "c"))
    assert [(key.kid, key.algorithms) for key in read_key_set(document, ("RS256", "RS512", "ES384"))] == [
        ("a", ("RS256", "RS512"))
    ]
    assert [key.kid for key in read_key_set(document, ("PS256", "ES256"))] == ["a", "b", "c"]
    assert published_algorithms(["HS256", "ES256"]) == ("ES256",)
    with pytest.raises(ConfigurationError, match="jwks_url"):
        published_algorithms(["HS256"])


# --- which key for which token ---------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_the_key_that_the_token_names():
    published = Published(entry(RSA, "a"), entry(RSA2, "b"), entry(EC, "c"))
    assert await tenant(published, token(RSA, "RS256", "a")) == "42"
    assert await tenant(published, token(RSA2, "PS512", "b")) == "42"
    assert await tenant(published, token(EC, "ES256", "c")) == "42"
    with pytest.raises(Unauthenticated, match="signature does not match"):
        await tenant(published, token(RSA2, "RS256", "a"))
    assert published.renewed == 0


@pytest.mark.gen_test
async def test_without_a_name_the_only_key_that_fits():
    published = Published(entry(RSA, "a"), entry(EC, "c"), entry(ED, "d"), entry(RSA2, "e", alg="PS256"))
    assert await tenant(published, token(RSA, "RS256")) == "42"
    assert await tenant(published, token(EC, "ES256")) == "42"
    with pytest.raises(Unauthenticated, match=r"\(kid\), and more than one fits"):
        await tenant(published, token(RSA, "PS256"))
    with pytest.raises(Unauthenticated, match="signature does not match"):
        await tenant(published, token(RSA2, "RS256"))
    assert published.renewed == 0


@pytest.mark.gen_test
async def test_a_name_that_several_keys_have():
    published = Published(entry(RSA, "a"), entry(EC, "a"), entry(RSA2, "a"))
    for private, algorithm in ((RSA, "RS256"), (RSA2, "RS256"), (EC, "ES256")):
        assert await tenant(published, token(private, algorithm, "a")) == "42"
    with pytest.raises(Unauthenticated, match="signature"):
        await tenant(published, token(rsa.generate_private_key(65537, 2048), "RS256", "a"))
    assert published.renewed == 0


@pytest.mark.gen_test
async def test_a_key_is_for_its_own_algorithm_alone():
    published = Published(entry(RSA, "a", alg="RS256"))
    assert await tenant(published, token(RSA, "RS256", "a")) == "42"
    for algorithm in ("RS512", "PS256"):
        with pytest.raises(Unauthenticated, match="not known"):
            await tenant(published, token(RSA, algorithm, "a"))


@pytest.mark.gen_test
async def test_what_no_published_key_can_sign_is_refused_without_asking():
    published = Published(entry(RSA, "a"), {"kty": "oct", "k": b64(SECRET), "kid": "s"}, algorithms=("RS256",))
    unsigned = f"{b64(json.dumps({'alg': 'none', 'kid': 'x'}).encode())}.{token(RSA, 'RS256').split('.')[1]}."
    hmac_of_public = jwt.encode({"tenantId": 42}, SECRET, "HS256", headers={"kid": "s"})
    for said in (unsigned, hmac_of_public, token(EC, "ES256", "new"), token(RSA, "RS512", "new")):
        with pytest.raises(Unauthenticated, match="algorithm that is not accepted"):
            await tenant(published, said)
    for said in ("a.b.c", "..", "opaque", token(RSA, "RS256", "a")[:-3] + "..."):
        with pytest.raises(Unauthenticated):
            await tenant(published, said)
    with pytest.raises(Unauthenticated, match="signature"):
        await tenant(published, jwt.encode({"tenantId": 1}, b"x" * 40, "HS256"), secret_key(SECRET, None))
    assert published.renewed == 0


@pytest.mark.gen_test
async def test_an_unknown_key_is_asked_for_once():
    published = Published(entry(RSA, "a"), later=[entry(RSA2, "b")])
    assert await tenant(published, token(RSA2, "RS256", "b")) == "42"
    assert published.renewed == 1
    with pytest.raises(Unauthenticated, match="key that is not known"):
        await tenant(published, token(RSA, "RS256", "a"))  # it was withdrawn
    assert published.renewed == 2


@pytest.mark.gen_test
async def test_files_and_published_keys_together():
    pem = public_key(pem_of(RSA), None)
    published = Published(entry(RSA2, "b"), entry(EC, "c"), later=[entry(EC, "d")])
    files = (secret_key(SECRET, None), pem)
    assert await tenant(published, jwt.encode({"tenantId": 1, "exp": time.time() + 9}, SECRET, "HS256"), *files) == "1"
    assert await tenant(published, token(RSA, "RS256"), *files) == "42"
    assert await tenant(published, token(RSA, "RS256", "a name that the issuer gave it"), *files) == "42"
    assert await tenant(published, token(RSA2, "RS256", "b"), *files) == "42"
    assert await tenant(published, token(RSA2, "RS256"), *files) == "42"
    assert await tenant(published, token(EC, "ES256", "c"), *files) == "42"
    with pytest.raises(Unauthenticated, match="expired"):
        await tenant(published, token(RSA, "RS256", exp=1), *files)
    assert published.renewed == 0


@pytest.mark.gen_test
async def test_claims_are_checked_as_ever():
    published = Published(entry(RSA, "a"))
    for claims, words in (({"exp": 1}, "expired"), ({"iss": "b"}, "issuer"), ({"nbf": 2**40}, "not valid yet")):
        with pytest.raises(Unauthenticated, match=words):
            await tenant(published, token(RSA, "RS256", "a", **{"iss": "i", **claims}), issuer="i")
    assert await tenant(published, token(RSA, "RS256", "a", org="acme"), tenant_claim="org") == "acme"


# --- fetching --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in():
    with StandIn() as running:
        running.key_set = {"keys": [entry(RSA, "a")]}
        yield running


@pytest.fixture
def made(io_loop):
    """Return a function that makes a Jwks on the loop of the test."""
    every = []

    async def make(url, **times):
        every.append(Jwks(url, trust(None, "jwks_url"), PUBLIC_KEY_ALGORITHMS, **times))
        return every[-1]

    yield make
    for one in every:
        io_loop.run_sync(one.close)


@pytest.fixture
def patience(monkeypatch):
    """Set how long an exchange may take, in seconds: to little, or to more than a busy machine needs."""
    return lambda seconds: monkeypatch.setattr(fetch, "PATIENCE", seconds)


@pytest.mark.gen_test
async def test_keys_are_fetched_at_the_start_and_a_token_waits_for_them(stand_in, made):
    stand_in.hold()
    jwks = await made(stand_in.jwks_url)
    asking = tenant(jwks, token(RSA, "RS256", "a"))
    stand_in.go_on()
    assert await asking == "42"
    assert jwks.loaded
    assert stand_in.fetched == 1
    assert jwks.fetches == {"ok": 1, "failed": 0}


@pytest.mark.gen_test
async def test_many_unknown_names_fetch_once_and_then_not_for_a_while(stand_in, made, io_loop):
    import asyncio

    jwks = await made(stand_in.jwks_url, apart=0.0)
    await eventually(lambda: jwks.loaded)
    jwks._apart = 30.0
    jwks._begun -= 30.0
    stand_in.key_set = {"keys": [entry(RSA, "a"), entry(RSA2, "b")]}
    stand_in.hold()
    asking = [asyncio.ensure_future(tenant(jwks, token(RSA2, "RS256", kid))) for kid in ("b", "x", "y") * 20]
    await eventually(lambda: stand_in.fetched == 2)
    asking[0].cancel()
    stand_in.go_on()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert told.count("42") == 19
    assert sum(isinstance(one, Unauthenticated) for one in told) == 40
    with pytest.raises(Unauthenticated, match="not known"):
        await tenant(jwks, token(RSA2, "RS256", "z"))
    assert stand_in.fetched == 2


@pytest.mark.gen_test(timeout=20)
async def test_keys_are_fetched_again_and_again_without_anybody_asking(stand_in, made):
    jwks = await made(stand_in.jwks_url, every=0.05)
    await eventually(lambda: stand_in.fetched >= 3)
    stand_in.key_set = {"keys": [entry(EC, "c")]}
    await eventually(lambda: [key.kid for key in jwks.keys] == ["c"])
    with pytest.raises(Unauthenticated, match="not known"):
        await tenant(jwks, token(RSA, "RS256", "a"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.gen_test(timeout=20)
async def test_until_there_are_keys_tokens_cannot_be_checked(stand_in, made, fault, patience, caplog):
    patience(0.5 if fault in ENDLESS else 20)
    caplog.set_level(logging.DEBUG)
    stand_in.fault = fault
    jwks = await made(stand_in.jwks_url, apart=0.2)
    with pytest.raises(TokensUnavailable):
        await tenant(jwks, token(RSA, "RS256", "a"))
    assert not jwks.loaded
    assert jwks.fetches["failed"] >= 1
    assert stand_in.redirected == 0
    assert "Traceback" not in caplog.text
    assert await tenant(jwks, mint(), secret_key(KEY.encode(), None)) == "42"  # needs none of them
    stand_in.fault = None
    patience(20)
    await eventually(lambda: jwks.loaded)  # by itself
    assert await tenant(jwks, token(RSA, "RS256", "a")) == "42"


@pytest.mark.gen_test(timeout=20)
async def test_an_issuer_that_is_away_is_not_asked_more_often_than_allowed(stand_in, made):
    stand_in.fault = "500"
    jwks = await made(stand_in.jwks_url)
    for _ in range(20):
        with pytest.raises(TokensUnavailable):
            await tenant(jwks, token(RSA, "RS256", "a"))
    assert stand_in.fetched == 1


@pytest.mark.parametrize("fault", ["500", "html", "silent", "reset halfway", "down"])
@pytest.mark.gen_test(timeout=20)
async def test_old_keys_stay_while_fetching_fails(stand_in, made, fault, patience, capsys, caplog):
    jwks = await made(stand_in.jwks_url, every=0.05, apart=0.05)
    await eventually(lambda: jwks.loaded)
    patience(0.5 if fault in ENDLESS else 20)
    if fault == "down":
        stand_in.down()
    else:
        stand_in.fault = fault
    await eventually(lambda: jwks.fetches["failed"] >= 3)
    assert await tenant(jwks, token(RSA, "RS256", "a")) == "42"
    with pytest.raises(Unauthenticated, match="not known"):
        await tenant(jwks, token(RSA2, "RS256", "b"))
    stand_in.key_set = {"keys": [entry(RSA2, "b")]}
    if fault == "down":
        stand_in.up()
    stand_in.fault = None
    patience(20)
    await eventually(lambda: [key.kid for key in jwks.keys] == ["b"])
    told = (capsys.readouterr().out + caplog.text).count("the key set cannot be fetched")
    assert 1 <= told < jwks.fetches["failed"]  # one for each time that it began to fail


@pytest.mark.gen_test
async def test_a_set_without_keys_withdraws_them_all(stand_in, made, capsys, caplog):
    jwks = await made(stand_in.jwks_url, every=0.05)
    await eventually(lambda: jwks.keys)
    stand_in.key_set = {"keys": []}
    await eventually(lambda: not jwks.keys)
    with pytest.raises(Unauthenticated, match="not known"):
        await tenant(jwks, token(RSA, "RS256", "a"))
    assert "holds no key that bearer tokens may be signed with" in capsys.readouterr().out + caplog.text


@pytest.mark.gen_test(timeout=20)
async def test_the_probe_of_a_key_set(stand_in, patience):
    url, tls = stand_in.jwks_url.replace("://", "://me:hunter2@"), trust(None, "jwks_url")
    assert await probe(url, tls, PUBLIC_KEY_ALGORITHMS) == f"{stand_in.jwks_url}, keys: 1"
    with pytest.raises(
        ConfigurationError, match=f"^jwks_url: the key set of {stand_in.jwks_url} holds no key for ES256"
    ):
        await probe(url, tls, ("ES256",))
    for fault, words in (
        ("404", "status 404"),
        ("html", "no key set"),
        ("redirect", "status 302"),
        ("silent", "within"),
    ):
        stand_in.fault = fault
        patience(0.5 if fault in ENDLESS else 20)
        with pytest.raises(ConfigurationError, match=f"^jwks_url: {stand_in.jwks_url} gives no key set: .*{words}"):
            await probe(url, tls, PUBLIC_KEY_ALGORITHMS)


# --- the daemon ------------------------------------------------------------------------------------------------------


def ask(daemon, said):
    daemon.canaries.add(said)
    return request(daemon.port, "GET", "/wh/config", headers={"Authorization": f"Bearer {said}"})


def readiness(daemon):
    return request(daemon.admin_port, "GET", "/readyz").json


def test_a_daemon_with_every_kind_of_token(tmp_path, stand_in):
    (tmp_path / "key.pem").write_bytes(pem_of(ED))
    stand_in.documents["an-opaque-token"] = {"tenantId": 42}
    flags = {"jwks_url": stand_in.jwks_url, "jwt_public_key_file": str(tmp_path / "key.pem"), "sts_url": stand_in.url}
    with Daemon(tmp_path, **flags) as daemon:
        until(lambda: stand_in.fetched == 1)
        for said in (mint(), token(ED, "EdDSA"), token(RSA, "RS256", "a"), token(RSA, "PS256"), "an-opaque-token"):
            assert ask(daemon, said).status == 200
        refused = ask(daemon, token(RSA2, "RS256", "a"))
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert ask(daemon, token(RSA2, "RS256", "b")).status == 401
        assert stand_in.asked == ["an-opaque-token"]
        assert stand_in.fetched == 1  # two within 30 seconds are too many
        assert readiness(daemon) == {"status": "ok", "reasons": []}
        counted = daemon.metrics()
        assert counted["webhookd_jwks_keys"] == 1
        assert counted['webhookd_jwks_fetches_total{result="ok"}'] == 1


def test_a_daemon_does_not_wait_for_the_key_set(tmp_path, stand_in):
    stand_in.fault = "silent"
    with Daemon(tmp_path, jwks_url=stand_in.jwks_url) as daemon:
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(ask(daemon, token(RSA, "RS256", "a"))))
        waiting.start()
        assert daemon.deliver(daemon.hook(), b'{"in": "the meantime"}').status == 204
        waiting.join()
        assert (answers[0].status, answers[0].headers["Retry-After"]) == (503, "5")
        assert answers[0].json["title"] == "Bearer tokens cannot be checked now"
        assert readiness(daemon) == {"status": "degraded", "reasons": ["jwks: never loaded"]}
        lines = [json.loads(line) for line in daemon.log.splitlines()]
        (told,) = [line for line in lines if line["message"] == "the key set cannot be fetched"]
        assert (told["jwks_url"], told["reason"]) == (stand_in.jwks_url, "no answer within 3 s")


def test_a_key_set_behind_tls_is_trusted_as_the_system_says(tmp_path):
    authority = Certificates(tmp_path / "ca")
    with StandIn(authority.server()) as stand_in:
        stand_in.key_set = {"keys": [entry(RSA, "a")]}
        (tmp_path / "one").mkdir()
        with Daemon(tmp_path / "one", jwks_url=stand_in.jwks_url) as daemon:
            assert ask(daemon, token(RSA, "RS256", "a")).status == 503
            assert "its certificate is not trusted" in daemon.log
        (tmp_path / "two").mkdir()
        environ = {"SSL_CERT_FILE": str(authority.cafile)}
        with Daemon(tmp_path / "two", environ=environ, jwks_url=stand_in.jwks_url) as daemon:
            assert ask(daemon, token(RSA, "RS256", "a")).status == 200


def test_algorithms_that_leave_nothing_to_the_key_set_stop_the_start(tmp_path, stand_in):
    daemon = Daemon(tmp_path, jwks_url=stand_in.jwks_url, jwt_algorithms="HS256")
    with pytest.raises(AssertionError, match="ended with 2"):
        daemon.start()
    assert "jwt_algorithms names none that the key of jwks_url can do" in daemon.log
    assert "Traceback" not in daemon.log
