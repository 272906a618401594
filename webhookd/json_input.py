"""What tenants send in JSON: an object, or an answer that says all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from webhookd.errors import InvalidInput


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` is; raises `InvalidInput`."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("the body is not JSON") from None
    if not isinstance(document, dict):
        raise InvalidInput("the body is not a JSON object")
    return document


def refuse_faults(faults: Sequence[Mapping[str, str]]) -> None:
    """Raise `InvalidInput` with all `faults` (`field`, `message`), if there are any."""
    if faults:
        raise InvalidInput("; ".join(f"{fault['field']}: {fault['message']}" for fault in faults), faults)
