"""A hook gets another token, while its sender may use the old one for a time, or no longer; pure, without I/O."""

from __future__ import annotations

import secrets

import msgspec

from webhookd.json_input import json_object, refuse_faults
from webhookd.model import Hook, Rotation

TOKEN_BYTES = 20
"""How long a token is, in bytes from the system's random numbers; it is written in hex."""


def new_token() -> str:
    """Return a token that nobody has had or can guess."""
    return secrets.token_hex(TOKEN_BYTES)


def read_rotation(body: bytes) -> bool:
    """Read the body of a rotation, which may be empty: whether the old token shall end at once.

    Raises `InvalidInput` with all that is wrong at once.
    """
    if not body:
        return False
    document = json_object(body)
    faults = [
        {"field": name, "message": "unknown field; known is immediately"} for name in document if name != "immediately"
    ]
    immediately = document.get("immediately")
    if not isinstance(immediately, bool | None):
        faults.append({"field": "immediately", "message": "must be true or false"})
    refuse_faults(faults)
    return immediately is True


def rotated(hook: Hook, token: str, *, immediately: bool, now_ms: int, grace: float) -> Hook | None:
    """Return `hook` with another token instead of `token`, None where `token` is not, or no longer, one of its own.

    The token that is replaced stays valid for `grace` seconds from `now_ms` (ms since the epoch), with `immediately`
    not at all; one that was replaced before it ends. A token that is a previous one has been replaced already: it gets
    no other successor, so that asking twice, or two at a time, comes to one new token; `immediately` ends it then.
    """
    first = hook.id
    if token == hook.token:
        until = now_ms + round(grace * 1000)
        left = Rotation(first=first) if immediately else Rotation(first=first, previous=token, until=until)
        return msgspec.structs.replace(hook, token=new_token(), rotation=left)
    if token != hook.previous(now_ms):
        return None
    return msgspec.structs.replace(hook, rotation=Rotation(first=first)) if immediately else hook
