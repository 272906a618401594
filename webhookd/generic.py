"""The datasource of every name that no plugin claims: any JSON, signed as Standard Webhooks says or not at all."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import ClassVar
from uuid import uuid4

from webhookd.datasource import Datasource, hmac_sha256, same
from webhookd.errors import Unsigned
from webhookd.model import Delivery, Verified

TOLERANCE = 300
"""How many seconds the sender's clock and ours may differ."""

_PREFIXES = ("webhook", "svix")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class Generic(Datasource):
    """Senders that follow the Standard Webhooks specification 1.0.0, symmetric signatures (`v1`) only.

    Svix's own header names (`svix-id` and so on) are as good: its senders used them before the specification.
    """

    name = "generic"
    title = "Any other source (Standard Webhooks)"
    signs = True
    advice: ClassVar = {
        "signature": "The signature is that of Standard Webhooks, by a secret in base64, with or without `whsec_`.",
    }

    def verify_signature(self, delivery: Delivery, secret: str) -> None:
        """Check one of the space-separated `v1` signatures over `{id}.{timestamp}.{body}`, not older than 5 minutes."""
        message_id, timestamp, signatures = _signed_headers(delivery.headers)
        if not _TIMESTAMP.fullmatch(timestamp):
            raise Unsigned("webhook-timestamp is not in whole seconds since the epoch")
        if abs(delivery.received_at // 1000 - int(timestamp)) > TOLERANCE:
            raise Unsigned(f"webhook-timestamp is more than {TOLERANCE} seconds from now")
        expected = _signature(secret, message_id, timestamp, delivery.body)
        if not any(same(candidate, expected) for candidate in signatures.split(" ")):
            raise Unsigned("webhook-signature holds no v1 signature of this body by the hook's secret")

    def signed_at(self, headers: Mapping[str, str]) -> int | None:
        """Return the time in `webhook-timestamp`."""
        timestamp = headers.get("webhook-timestamp") or headers.get("svix-timestamp") or ""
        return int(timestamp) * 1000 if _TIMESTAMP.fullmatch(timestamp) else None

    def sign(self, body: bytes, secret: str, now: float) -> dict[str, str]:
        """Return the three headers of the specification, with a new id."""
        message_id, timestamp = f"msg_{uuid4().hex}", str(int(now))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": _signature(secret, message_id, timestamp, body),
        }

    def secret_fault(self, secret: str) -> str | None:
        """Refuse what is not base64 (RFC 4648 section 4), with or without `whsec_`."""
        try:
            if _key(secret):
                return None
        except ValueError:
            pass
        return "must be base64, with or without the prefix whsec_ (Standard Webhooks)"

    def delivery_id(self, delivery: Verified) -> str | None:
        """Return the `webhook-id`, which a redelivery keeps."""
        return delivery.headers.get("webhook-id") or delivery.headers.get("svix-id")


def _signed_headers(headers: Mapping[str, str]) -> tuple[str, str, str]:
    """Return id, timestamp and signatures, all of one prefix; raise `Unsigned` where one is missing."""
    prefix = next((p for p in _PREFIXES if f"{p}-signature" in headers), _PREFIXES[0])
    names = [f"{prefix}-{name}" for name in ("id", "timestamp", "signature")]
    missing = [name for name in names if not headers.get(name)]
    if missing:
        raise Unsigned(f"missing or empty: {', '.join(missing)}")
    message_id, timestamp, signatures = (headers[name] for name in names)
    return message_id, timestamp, signatures


def _key(secret: str) -> bytes:
    """Return the bytes of a secret; raises `ValueError` if it is not base64."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_").encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        # The cause would hold the secret: `UnicodeEncodeError` shows what it could not encode.
        raise ValueError("not base64") from None


def _signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    try:
        key = _key(secret)
    except ValueError:
        raise Unsigned("the hook's secret is not base64: replace it") from None
    head = f"{message_id}.{timestamp}.".encode("utf-8", "surrogateescape")
    return f"v1,{base64.b64encode(hmac_sha256(key, head, body)).decode()}"
