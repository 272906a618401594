"""The signatures that a delivery shows, however they are written: the bytes of each, and what is odd about its form."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from webhookd.trials.schemes import ALGORITHMS, STANDARD_HEADERS, Mac

MOST_MARKS = 16
"""How many signatures of one delivery are tried."""

_BETWEEN = re.compile(r"[\s,;]+")
_NAMED = re.compile(r"[A-Za-z0-9_-]{1,12}=(?=.)")
_HEX = re.compile(r"[0-9A-Fa-f]+")


class Mark(NamedTuple):
    """One signature: its bytes, its hash by its length, and what is odd about the way it is written."""

    digest: bytes
    algorithm: str
    names: tuple[str, ...] = ()


def macs(headers: Mapping[str, str], mac: Mac) -> list[Mark]:
    """Return the signatures in `headers`, judged by how `mac` would write them; the expected header comes first."""
    found = [
        mark
        for name in sorted((n for n in headers if n == mac.header or "signature" in n), key=lambda n: n != mac.header)
        for mark in _macs_of(headers[name], mac, () if name == mac.header else ("signature-header",))
    ]
    return found[:MOST_MARKS]


def _macs_of(value: str, mac: Mac, names: tuple[str, ...]) -> Iterator[Mark]:
    tokens = [token for token in _BETWEEN.split(value.strip()) if token]
    if len(tokens) > 1:
        names = (*names, "signature-list")
    for token in tokens:
        bare = token.strip("\"'")
        if mac.prefix and bare.startswith(mac.prefix):
            bare, odd = bare.removeprefix(mac.prefix), names
        elif mac.prefix or _NAMED.match(bare):
            bare, odd = _NAMED.sub("", bare, count=1), (*names, "signature-prefix")
        else:
            odd = names
        yield from _read(bare, mac, odd)


def _read(text: str, mac: Mac, names: tuple[str, ...]) -> Iterator[Mark]:
    for encoding, digest in _digests(text):
        algorithm = ALGORITHMS[len(digest)]
        if algorithm != mac.algorithm:
            # a signature by another hash has a header and a prefix of its own: only the hash is worth telling
            yield Mark(digest, algorithm, ("sha1" if algorithm == "sha1" else "other-hash",))
        elif encoding != mac.encoding:
            yield Mark(digest, algorithm, (*names, f"signature-{encoding}"))
        elif encoding == "hex" and text != text.lower():
            yield Mark(digest, algorithm, (*names, "signature-upper-case"))
        else:
            yield Mark(digest, algorithm, names)


def standard(headers: Mapping[str, str]) -> list[Mark]:
    """Return the `v1` signatures of Standard Webhooks in `headers`, and what would be one if it were written so."""
    value = headers.get(STANDARD_HEADERS[2], "")
    good = {part.removeprefix("v1,") for part in value.split(" ") if part.startswith("v1,")}
    found = []
    for token in re.split(r"[\s,]+", value):
        bare = token.removeprefix("v1=")
        if bare in ("v1", "v1a", ""):
            continue
        several = value.count("v1,") > 1
        odd = () if bare in good else ("signature-list" if several else "signature-prefix",)
        for encoding, digest in _digests(bare):
            if ALGORITHMS[len(digest)] != "sha256":
                found.append(Mark(digest, ALGORITHMS[len(digest)], ("sha1" if len(digest) == 20 else "other-hash",)))  # noqa: PLR2004
            else:
                found.append(Mark(digest, "sha256", odd if encoding == "base64" else (*odd, "signature-hex")))
    return found[:MOST_MARKS]


def only_asymmetric(headers: Mapping[str, str]) -> bool:
    """Return whether all signatures of Standard Webhooks in `headers` are made with a private key."""
    versions = {part.partition(",")[0] for part in headers.get(STANDARD_HEADERS[2], "").split()}
    return versions == {"v1a"}


def with_standard_names(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return `headers` with Svix's older names of the three headers under those of the specification as well."""
    older = {
        f"webhook-{name.removeprefix('svix-')}": value for name, value in headers.items() if name.startswith("svix-")
    }
    return {**older, **headers}


def _digests(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield what `text` may be the digits of, if that has the length of a hash."""
    if _HEX.fullmatch(text) and len(text) // 2 in ALGORITHMS and len(text) % 2 == 0:
        yield "hex", bytes.fromhex(text)
    try:
        bare = text.replace("-", "+").replace("_", "/").rstrip("=")
        digest = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (ValueError, binascii.Error):
        return
    if len(digest) in ALGORITHMS:
        yield "base64", digest
