"""The keys in a published key set (RFC 7517) that bearer tokens may be signed with; the rest is passed over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from webhookd.auth import Key, algorithms_of

RSA_BITS = range(2048, 16384 + 1)
"""How long an RSA key may be: shorter ones must not be used (RFC 7518, section 3.3), longer ones OpenSSL refuses."""

_KINDS = {
    ("RSA", None): ("RS256", ("n", "e")),
    ("EC", "P-256"): ("ES256", ("crv", "x", "y")),
    ("EC", "P-384"): ("ES384", ("crv", "x", "y")),
    ("EC", "P-521"): ("ES512", ("crv", "x", "y")),
    ("EC", "secp256k1"): ("ES256K", ("crv", "x", "y")),
    ("OKP", "Ed25519"): ("EdDSA", ("crv", "x")),
    ("OKP", "Ed448"): ("EdDSA", ("crv", "x")),
}
"""By kty and crv: an algorithm by which PyJWT reads such keys, and the members of the public part."""


def read_key_set(document: bytes, algorithms: Sequence[str] | None) -> tuple[Key, ...]:
    """Return the keys of a key set that sign tokens by one of `algorithms` (None: by any), in its order.

    A key that says its own `alg` is for that one alone. Passed over is what is for something else (`use`, `key_ops`,
    `alg`), symmetric, of an unknown kind, or malformed: a set may hold such keys for others. Raises `ValueError` for
    what is no key set.
    """
    try:
        entries = json.loads(document)["keys"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError("it is no key set (RFC 7517)") from None
    if not isinstance(entries, list):
        raise ValueError("it is no key set (RFC 7517)")  # noqa: TRY004 - one error for whatever is none
    return tuple(_keys(entries, algorithms))


def _keys(entries: Sequence[Any], algorithms: Sequence[str] | None) -> Iterator[Key]:
    for entry in entries:
        if not isinstance(entry, dict) or not _for_signatures(entry):
            continue
        key, kid, own = _public(entry), entry.get("kid"), entry.get("alg")
        chosen = tuple(name for name in algorithms_of(key) if own in (None, name))
        if algorithms is not None:
            chosen = tuple(name for name in chosen if name in algorithms)
        if chosen and (kid is None or isinstance(kid, str)):
            yield Key(key, chosen, kid)


def _for_signatures(entry: dict[str, Any]) -> bool:
    operations = entry.get("key_ops")
    verifies = operations is None or (isinstance(operations, list) and "verify" in operations)
    return verifies and entry.get("use") in (None, "sig")


def _public(entry: dict[str, Any]) -> object:
    """Return the public key of an entry, never a private part of it; None where there is none of use."""
    kty, curve = entry.get("kty"), entry.get("crv")
    if not isinstance(kty, str) or not (curve is None or isinstance(curve, str)):
        return None
    kind = _KINDS.get((kty, None if kty == "RSA" else curve))
    if kind is None:
        return None
    algorithm, members = kind
    try:
        public = {"kty": kty, **{name: entry[name] for name in members}}
        key: object = jwt.PyJWK(public, algorithm).key
    except (LookupError, ValueError, TypeError, AttributeError, jwt.PyJWTError):
        return None
    return None if isinstance(key, rsa.RSAPublicKey) and key.key_size not in RSA_BITS else key
