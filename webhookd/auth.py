"""Whose bearer token is this? JSON Web Tokens are checked here, with keys that are given: no I/O of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from webhookd.errors import ConfigurationError, Forbidden, Unauthenticated
from webhookd.model import NAME

MAX_AUTHORIZATION = 8 * 1024
"""The longest Authorization header, in bytes, that is looked at."""
LEEWAY = 60
"""How far, in seconds, the issuer's clock may be ahead of ours (`nbf`, `iat`)."""

HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}

PUBLIC_KEY_ALGORITHMS = (*RSA_ALGORITHMS, *_CURVE_ALGORITHMS.values(), "EdDSA")

SHORTEST_SECRET = 32
"""How many bytes a key for HS256 should have at least (RFC 7518, section 3.2)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of the config API. `tenant_is_int` tells how the token spelt the tenant."""

    tenant: str
    tenant_is_int: bool


@dataclass(frozen=True, slots=True)
class Key:
    """One key for JSON Web Tokens and the algorithms that it may be used with: all of one family."""

    key: Any = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str | None = None
    """What tokens call it by, where it was published with a name (RFC 7517, section 4.5)."""


class PublishedKeys(Protocol):
    """Keys that the issuer of tokens publishes and changes."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What any of them may ever be used with."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys as they were last seen; empty before the first time."""

    async def renew(self) -> None:
        """Return once it is of no use to wait for other keys; raises `TokensUnavailable` if none were ever seen."""


class OpaqueTokens(Protocol):
    """Whoever can say what an opaque token is worth."""

    async def caller(self, token: str) -> Caller:
        """Return whose token this is; raises `Unauthenticated`, `Forbidden` or `TokensUnavailable`."""


def secret_key(secret: bytes, algorithms: Sequence[str] | None) -> Key:
    """Return the key for HMAC (RFC 7518, section 3.2); raises `ConfigurationError` for what cannot be one."""
    if b"-----BEGIN" in secret:
        raise ConfigurationError("jwt_secret_file holds a PEM key: name it in jwt_public_key_file")
    return Key(secret, _chosen(HMAC_ALGORITHMS, algorithms, "jwt_secret_file"))


def public_key(pem: bytes, algorithms: Sequence[str] | None) -> Key:
    """Return the key in a PEM file (public key or certificate); raises `ConfigurationError` for any other content."""
    try:
        if b"-----BEGIN CERTIFICATE" in pem:
            key: Any = load_pem_x509_certificate(pem).public_key()
        else:
            key = load_pem_public_key(pem)
    except ValueError:
        hint = ": it holds a private key, give the public one" if b"PRIVATE KEY" in pem else ""
        raise ConfigurationError(f"jwt_public_key_file holds no PEM public key or certificate{hint}") from None
    possible = algorithms_of(key)
    if not possible:
        raise ConfigurationError("jwt_public_key_file: use an RSA, EC (P-256, P-384, P-521) or EdDSA key")
    return Key(key, _chosen(possible, algorithms, "jwt_public_key_file"))


def published_algorithms(algorithms: Sequence[str] | None) -> tuple[str, ...]:
    """Return what published keys may be used with; raises `ConfigurationError` where that is nothing."""
    return _chosen(PUBLIC_KEY_ALGORITHMS, algorithms, "jwks_url")


def algorithms_of(key: object) -> tuple[str, ...]:
    """Return what tokens may be signed with under this public key: one family (RFC 7518, section 3.1), or nothing."""
    match key:
        case rsa.RSAPublicKey():
            return RSA_ALGORITHMS
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVE_ALGORITHMS:
            return (_CURVE_ALGORITHMS[key.curve.name],)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return ("EdDSA",)
        case _:
            return ()


def _chosen(possible: tuple[str, ...], wanted: Sequence[str] | None, source: str) -> tuple[str, ...]:
    if wanted is None:
        return possible
    chosen = tuple(name for name in possible if name in wanted)
    if not chosen:
        raise ConfigurationError(f"jwt_algorithms names none that the key of {source} can do: {', '.join(possible)}")
    return chosen


class UnknownKey(Unauthenticated):
    """The key that the token is signed with is none that is known; it may have been published since."""


@dataclass(frozen=True, slots=True)
class JsonWebTokens:
    """Checks JSON Web Tokens (RFC 7519, with the advice of RFC 8725) against the given keys and rules."""

    keys: tuple[Key, ...]
    published: PublishedKeys | None = None
    issuer: str | None = None
    audience: str | None = None
    tenant_claim: str = "tenantId"
    require_exp: bool = True

    def caller(self, token: str, now: float) -> Caller:
        """Return whose token this is at `now` (seconds since the epoch).

        Keys that are given come first; where none of them signed it, those that are published. Raises
        `Unauthenticated` (`UnknownKey` where the published keys hold none that fits) or `Forbidden`.
        """
        claims = self._claims(token)
        self._check_times(claims, now)
        return tenant_of(claims.get(self.tenant_claim))

    def _claims(self, token: str) -> Mapping[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            given = [key for key in self.keys if algorithm in key.algorithms]
            for key in given:
                with contextlib.suppress(jwt.InvalidSignatureError):
                    return self._decode(token, key)
            if self.published is not None and algorithm in self.published.algorithms:
                for key in self._fitting(self.published.keys, algorithm, header.get("kid")):
                    with contextlib.suppress(jwt.InvalidSignatureError):
                        return self._decode(token, key)
            elif not given:
                raise Unauthenticated("the bearer token is signed with an algorithm that is not accepted")
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the bearer token lacks the claim {error.claim}") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the bearer token is from another issuer") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the bearer token is for another audience") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Unauthenticated("the bearer token is malformed") from None
        raise Unauthenticated("the bearer token's signature does not match")

    @staticmethod
    def _fitting(keys: Sequence[Key], algorithm: str, kid: str | None) -> list[Key]:
        """Return the keys that the token calls by name (more than one may have it), or the only one that fits."""
        fitting = [key for key in keys if algorithm in key.algorithms and kid in (None, key.kid)]
        if not fitting:
            raise UnknownKey("the bearer token is signed with a key that is not known")
        if kid is None and len(fitting) > 1:
            raise Unauthenticated("the bearer token does not name its key (kid), and more than one fits")
        return fitting

    def _decode(self, token: str, key: Key) -> Mapping[str, Any]:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=list(key.algorithms),
            issuer=self.issuer,
            audience=self.audience,
            options={
                "require": self._required(),
                "verify_aud": self.audience is not None,
                # times are checked by `_check_times`, against the caller's clock and by their type
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                # nothing here depends on these, and issuers do use integers
                "verify_sub": False,
                "verify_jti": False,
            },
        )
        return claims

    def _required(self) -> list[str]:
        claims = (("exp", self.require_exp), ("iss", self.issuer is not None), ("aud", self.audience is not None))
        return [name for name, wanted in claims if wanted]

    def _check_times(self, claims: Mapping[str, Any], now: float) -> None:
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name)
            if value is not None and not _is_number(value):
                raise Unauthenticated(f"the bearer token's claim {name} is not a number")
        if claims.get("exp") is not None and claims["exp"] <= now:
            raise Unauthenticated("the bearer token has expired")
        for name in ("nbf", "iat"):
            if claims.get(name) is not None and claims[name] > now + LEEWAY:
                raise Unauthenticated(f"the bearer token is not valid yet ({name})")


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # Python's JSON reads NaN and Infinity
    return isinstance(value, int) and not isinstance(value, bool)


def tenant_of(claim: Any) -> Caller:
    """Return the caller that a tenant claim names; raises `Forbidden` where it is missing or of the wrong form."""
    if claim is None:
        raise Forbidden("the bearer token names no tenant")
    is_int = isinstance(claim, int) and not isinstance(claim, bool)
    text = str(claim) if is_int else claim
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise Forbidden("the bearer token's tenant is no integer or string of 1 to 64 letters, digits, `_` or `-`")
    return Caller(text, is_int)


class Bearer:
    """Finds out who calls, from the Authorization headers of a request (RFC 6750)."""

    def __init__(self, tokens: JsonWebTokens | None, opaque: OpaqueTokens | None = None) -> None:
        self._tokens = tokens
        self._opaque = opaque

    async def caller(self, authorization: Iterable[str], now: float) -> Caller:
        """Return the caller; raises `Unauthenticated`, `Forbidden` or `TokensUnavailable`."""
        token = bearer_token(list(authorization))
        # what looks like a JWT and fails is never tried as an opaque token
        if self._tokens is not None and (self._opaque is None or token.count(".") == 2):  # noqa: PLR2004 - RFC 7519
            return await self._checked(self._tokens, token, now)
        if self._opaque is None:
            raise Unauthenticated("the bearer token is of a kind that is not accepted")
        return await self._opaque.caller(token)

    async def _checked(self, tokens: JsonWebTokens, token: str, now: float) -> Caller:
        try:
            return tokens.caller(token, now)
        except UnknownKey:
            if tokens.published is None:
                raise
        await tokens.published.renew()
        return tokens.caller(token, now)


def bearer_token(authorization: Sequence[str]) -> str:
    """Return the token of the one Authorization header; raises `Unauthenticated` for anything else."""
    if not authorization:
        raise Unauthenticated("the Authorization header is missing: send Authorization: Bearer TOKEN")
    if len(authorization) > 1:
        raise Unauthenticated("there is more than one Authorization header")
    if len(authorization[0]) > MAX_AUTHORIZATION:
        raise Unauthenticated(f"the Authorization header is over {MAX_AUTHORIZATION} bytes")
    scheme, _, token = authorization[0].strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or not token.isascii() or " " in token:
        raise Unauthenticated("the Authorization header is malformed: send Authorization: Bearer TOKEN")
    return token
