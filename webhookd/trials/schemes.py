"""How a datasource signs, as far as that shows in what it signs: no plugin has to tell, and no plugin is named."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from webhookd.datasource import Datasource

Encoding = Literal["hex", "base64"]

STANDARD_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
ALGORITHMS: Mapping[int, str] = {
    hashlib.new(name, usedforsecurity=False).digest_size: name for name in ("md5", "sha1", "sha256", "sha384", "sha512")
}
"""The hashes that senders sign with, by the bytes of their signatures."""

_PROBE_SECRET = "cHJvYmUtc2VjcmV0LW9mLXdlYmhvb2tk"  # noqa: S105 - protects nothing; base64, so that every scheme takes it
_OTHER_SECRET = "b3RoZXItc2VjcmV0LW9mLXdlYmhvb2tk"  # noqa: S105 - as above
_PROBE_BODY = b'{"probe": true}'


class Mac(NamedTuple):
    """A signature that is an HMAC of the body alone, written in `encoding` behind `prefix` in one `header`."""

    header: str
    prefix: str
    algorithm: str
    encoding: Encoding


def signing_headers(datasource: Datasource) -> tuple[str, ...]:
    """Return the headers that the sender signs in, in lower case; none where its plugin cannot sign."""
    return tuple(name.lower() for name in _signed(datasource, _PROBE_SECRET, time.time()))


def secret_headers(datasource: Datasource) -> frozenset[str]:
    """Return those of the `signing_headers` that another secret would change: signatures, and no ids or times."""
    now = time.time()
    other = _signed(datasource, _OTHER_SECRET, now)
    mine = _signed(datasource, _PROBE_SECRET, now)
    return frozenset(name.lower() for name, value in mine.items() if value != other.get(name))


def mac_of(datasource: Datasource) -> Mac | None:
    """Return how the datasource signs, if it is with an HMAC of the body alone; None where it is not, or unknown."""
    for header, value in _signed(datasource, _PROBE_SECRET, time.time()).items():
        for algorithm in ALGORITHMS.values():
            digest = hmac.digest(_PROBE_SECRET.encode(), _PROBE_BODY, algorithm)
            for encoding, write in _WRITTEN.items():
                if value.endswith(write(digest)):
                    return Mac(header.lower(), value.removesuffix(write(digest)), algorithm, encoding)
    return None


def is_standard(datasource: Datasource) -> bool:
    """Return whether the datasource signs as Standard Webhooks says."""
    return set(STANDARD_HEADERS) <= set(signing_headers(datasource))


def _signed(datasource: Datasource, secret: str, now: float) -> Mapping[str, str]:
    try:
        return datasource.sign(_PROBE_BODY, secret, now)
    except (Exception, SystemExit):  # noqa: BLE001 - a plugin's bug here is no reason to tell nothing
        return {}


_WRITTEN: Mapping[Encoding, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "base64": lambda digest: base64.b64encode(digest).decode(),
}
