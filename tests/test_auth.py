import asyncio
import base64
import hashlib
import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from webhookd.auth import Bearer, Caller, JsonWebTokens, bearer_token, public_key, secret_key, tenant_of
from webhookd.errors import ConfigurationError, Forbidden, Unauthenticated

SECRET = b"an HMAC key of more than 64 bytes, so that it is long enough for each HS..."
NOW = 1_700_000_000


def pem_of(private) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(serialization.Encoding.PEM, form)


RSA = rsa.generate_private_key(65537, 2048)
PRIVATE = {
    "RS256": RSA,
    "RS384": RSA,
    "RS512": RSA,
    "PS256": RSA,
    "PS384": RSA,
    "PS512": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "ES256K": ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def another(private):
    """Return a key of the same kind."""
    match private:
        case rsa.RSAPrivateKey():
            return rsa.generate_private_key(65537, 2048)
        case ec.EllipticCurvePrivateKey():
            return ec.generate_private_key(private.curve)
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def mint(algorithm="HS256", key=SECRET, headers=None, **claims):
    claims = {"tenantId": 42, "exp": NOW + 60} | claims
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers=headers)


def forge(header: dict, claims: dict, key: bytes = SECRET) -> str:
    """Sign anything with HS256, also what no library would."""

    def part(document) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")

    signed = part(header) + b"." + part(claims)
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


def rules(*keys, **kwargs):
    return JsonWebTokens(keys or (secret_key(SECRET, None),), **kwargs)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_hmac(algorithm):
    assert rules().caller(mint(algorithm), NOW) == Caller("42", tenant_is_int=True)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_public_keys(algorithm):
    private = PRIVATE[algorithm]
    checked = rules(public_key(pem_of(private), None))
    assert checked.caller(mint(algorithm, private), NOW).tenant == "42"
    with pytest.raises(Unauthenticated, match="signature does not match"):
        checked.caller(mint(algorithm, another(private)), NOW)


def test_ed448_and_certificates():
    private = ed448.Ed448PrivateKey.generate()
    assert rules(public_key(pem_of(private), None)).caller(mint("EdDSA", private), NOW).tenant == "42"
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(RSA.public_key())
    builder = builder.serial_number(1).not_valid_before(moment).not_valid_after(moment + dt.timedelta(days=1))
    certificate = builder.sign(RSA, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    assert rules(public_key(certificate, None)).caller(mint("RS256", RSA), NOW).tenant == "42"


def test_a_secret_and_a_public_key_at_once():
    both = rules(secret_key(SECRET, None), public_key(pem_of(RSA), None))
    assert both.caller(mint(), NOW) == both.caller(mint("PS256", RSA), NOW)


def test_an_hmac_with_the_public_key_is_refused():
    pem = pem_of(RSA)
    token = forge({"alg": "HS256", "typ": "JWT"}, {"tenantId": 42, "exp": NOW + 60}, pem)
    with pytest.raises(Unauthenticated, match="algorithm"):
        rules(public_key(pem, None)).caller(token, NOW)
    with pytest.raises(Unauthenticated, match="signature"):
        rules(secret_key(SECRET, None), public_key(pem, None)).caller(token, NOW)
    with pytest.raises(ConfigurationError, match="jwt_public_key_file"):
        secret_key(pem, None)


def test_only_the_algorithms_that_are_asked_for():
    with pytest.raises(Unauthenticated, match="algorithm"):
        rules(secret_key(SECRET, ["HS512"])).caller(mint("HS256"), NOW)
    with pytest.raises(ConfigurationError, match="HS256, HS384, HS512"):
        secret_key(SECRET, ["RS256"])
    with pytest.raises(Unauthenticated, match="algorithm"):
        rules(public_key(pem_of(RSA), ["RS256"])).caller(mint("PS256", RSA), NOW)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        RSA.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        pem_of(ec.generate_private_key(ec.SECP224R1())),
    ],
)
def test_what_is_no_public_key_stops_the_start(content):
    with pytest.raises(ConfigurationError, match="jwt_public_key_file"):
        public_key(content, None)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "a" * 8000,
        mint()[:-2],
        mint() + "x",
        mint()[: mint().rindex(".")] + ".",
        forge({"alg": "none"}, {"tenantId": 42, "exp": NOW + 60}).rpartition(".")[0] + ".",
        forge({"alg": "None"}, {"tenantId": 42, "exp": NOW + 60}),
        forge({"alg": ["HS256"]}, {"tenantId": 42, "exp": NOW + 60}),
        forge({"alg": None}, {"tenantId": 42, "exp": NOW + 60}),
        forge({}, {"tenantId": 42, "exp": NOW + 60}),
        forge({"alg": "HS256", "crit": ["x"], "x": 1}, {"tenantId": 42, "exp": NOW + 60}),
        forge({"alg": "HS256"}, ["tenantId"]),
        forge({"alg": "HS256"}, {"tenantId": 42}),
        forge({"alg": "HS256"}, {"tenantId": 42, "exp": None}),
        forge({"alg": "HS256"}, {"tenantId": 42, "exp": str(NOW + 60)}),
        forge({"alg": "HS256"}, {"tenantId": 42, "exp": True}),
        forge({"alg": "HS256"}, {"tenantId": 42, "exp": float("inf")}),
        forge({"alg": "HS256"}, {"tenantId": 42, "exp": float("nan")}),
        forge({"alg": "HS256"}, {"tenantId": 42, "exp": {}}),
        forge({"alg": "HS256"}, {"tenantId": 42, "exp": NOW + 60, "nbf": "soon"}),
        mint(exp=NOW),
        mint(exp=NOW - 1),
        mint(nbf=NOW + 61),
        mint(iat=NOW + 61),
        mint(key=b"another key of more than thirty-two bytes"),
    ],
)
def test_tokens_that_are_refused(token):
    with pytest.raises(Unauthenticated):
        rules().caller(token, NOW)


def test_a_deeply_nested_token_is_refused():
    segment = base64.urlsafe_b64encode(b"[" * 6000).rstrip(b"=").decode()
    with pytest.raises(Unauthenticated):
        rules().caller(f"{segment}.{segment}.x", NOW)


def test_times():
    assert rules().caller(mint(exp=NOW + 1, nbf=NOW + 60, iat=NOW + 60.5 - 1), NOW).tenant == "42"
    assert rules().caller(forge({"alg": "HS256"}, {"tenantId": 42, "exp": 10**400}), NOW).tenant == "42"
    assert rules(require_exp=False).caller(mint(exp=None), NOW).tenant == "42"
    with pytest.raises(Unauthenticated, match="expired"):
        rules(require_exp=False).caller(mint(exp=NOW - 1), NOW)
    with pytest.raises(Unauthenticated, match="lacks the claim exp"):
        rules().caller(mint(exp=None), NOW)


def test_issuer_and_audience_where_they_are_asked_for():
    checked = rules(issuer="https://iss", audience="webhookd")
    assert checked.caller(mint(iss="https://iss", aud=["other", "webhookd"]), NOW).tenant == "42"
    for claims in (
        {"iss": "https://is", "aud": "webhookd"},
        {"iss": "https://iss", "aud": "other"},
        {"aud": "webhookd"},
    ):
        with pytest.raises(Unauthenticated, match=r"issuer|audience|claim iss"):
            checked.caller(mint(**claims), NOW)
    assert rules().caller(mint(iss="any", aud="any", sub=7, jti=8), NOW).tenant == "42"


@pytest.mark.parametrize(
    ("claim", "caller"),
    [(0, ("0", True)), (42, ("42", True)), (-1, ("-1", True)), ("42", ("42", False)), ("a_B-9", ("a_B-9", False))],
)
def test_tenants(claim, caller):
    assert tenant_of(claim) == Caller(*caller)


@pytest.mark.parametrize("claim", [None, True, 1.0, "", "a.b", "a b", "ä", "x" * 65, 10**64, [], {"a": 1}, "42\n"])
def test_what_names_no_tenant_is_forbidden(claim):
    with pytest.raises(Forbidden):
        tenant_of(claim)
    with pytest.raises(Forbidden):
        rules().caller(forge({"alg": "HS256"}, {"tenantId": claim, "exp": NOW + 60}), NOW)


def test_the_tenant_claim_can_have_another_name():
    assert rules(tenant_claim="org").caller(mint(org="acme"), NOW).tenant == "acme"


@pytest.mark.parametrize("value", ["Bearer x.y.z", "bearer x.y.z", "BEARER  x.y.z ", " Bearer x.y.z"])
def test_the_scheme_has_no_case(value):
    assert bearer_token([value]) == "x.y.z"


@pytest.mark.parametrize(
    "values",
    [[], ["Basic x"], ["Bearer"], ["Bearer "], ["Bearer a b"], ["Bearer é"], ["x"], ["Bearer a", "Bearer a"], [""]],
)
def test_other_headers_are_refused(values):
    with pytest.raises(Unauthenticated):
        bearer_token(values)


def test_a_header_over_8_kib_is_refused():
    assert bearer_token(["Bearer " + "x" * (8192 - 7)])
    with pytest.raises(Unauthenticated, match="8192"):
        bearer_token(["Bearer " + "x" * (8192 - 6)])


class Opaque:
    def __init__(self):
        self.asked = []

    async def caller(self, token):
        self.asked.append(token)
        return Caller("opaque", tenant_is_int=False)


def test_what_looks_like_a_jwt_and_fails_is_never_tried_as_opaque():
    opaque = Opaque()
    both = Bearer(rules(), opaque)
    assert asyncio.run(both.caller([f"Bearer {mint()}"], NOW)).tenant == "42"
    assert asyncio.run(both.caller(["Bearer opaque-token"], NOW)).tenant == "opaque"
    with pytest.raises(Unauthenticated):
        asyncio.run(both.caller([f"Bearer {mint(exp=NOW - 1)}"], NOW))
    assert opaque.asked == ["opaque-token"]
    assert asyncio.run(Bearer(None, opaque).caller(["Bearer a.b.c"], NOW)).tenant == "opaque"
    with pytest.raises(Unauthenticated, match="kind"):
        asyncio.run(Bearer(None).caller(["Bearer a.b.c"], NOW))
    with pytest.raises(Unauthenticated):
        asyncio.run(Bearer(rules()).caller(["Bearer opaque"], NOW))


def test_no_key_is_shown():
    assert SECRET.decode() not in repr(rules())
