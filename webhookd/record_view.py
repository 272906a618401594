"""What a tenant is shown of a delivery: everything but secrets, and what is made with them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from webhookd.model import Record

PAGE = 50
"""How many deliveries a page has where nothing is said."""
MOST = 200
"""How many it may have."""
NOT_SHOWN = "(not shown)"

_SECRET = re.compile(
    r"token|secret|signature|pass(w|phrase)|pwd|auth|cookie|credential|session|hmac|jwt|verification"
    r"|api-?key|(?<!idempotency)-key$|private|(^|-)sig(-|$)|trello-webhook"
)
"""What the name of a header has whose value is a secret, or is made with one."""


def shown_headers(record: Record, signing: Collection[str]) -> dict[str, str]:
    """Return the headers of a record as they may be shown: without secrets, and without what is made with one.

    `signing` are the names of those that the plugin of its datasource signs in (`trials.schemes.secret_headers`).
    """
    return {
        name: NOT_SHOWN if name in signing or _SECRET.search(name) else value for name, value in record.headers.items()
    }


def shown(record: Record, signing: Collection[str]) -> dict[str, Any]:
    """Return a record as the API shows it: times in ms, sizes in bytes, what has no value absent."""
    document: dict[str, Any] = {
        "id": record.id,
        "receivedAt": record.received_at,
        "outcome": record.outcome,
        "reason": record.reason,
        "status": record.status,
        "detail": record.detail,
        "size": record.size,
        "duration": round(record.duration, 6),
        "receipt": record.id if record.outcome == "accepted" else None,
        "deliveryId": record.delivery_id,
        "providerEvent": record.provider_event,
        "replayOf": record.replay_of,
        "headers": shown_headers(record, signing),
        "hasBody": record.has_body,
    }
    return {name: value for name, value in document.items() if value is not None}
