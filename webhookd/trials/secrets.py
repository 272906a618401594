"""What the sender may have taken for the secret of the hook: an older one, or the same one read carelessly."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import NamedTuple

from webhookd.model import Hook

PREFIX = "whsec_"
"""What the secrets of Standard Webhooks may begin with."""


class Candidate(NamedTuple):
    """A secret that may have been used, and what that would be called; None is a secret as it should be used."""

    name: str | None
    value: str

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"Candidate({self.name!r})"


class Key(NamedTuple):
    """The same as bytes, as HMAC takes them."""

    name: str | None
    value: bytes

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"Key({self.name!r})"


def own_secrets(hook: Hook, received_at: int) -> list[Candidate]:
    """Return the secrets that the hook holds, those that were valid at `received_at` (ms since the epoch) first."""
    valid = set(hook.valid_secrets(received_at))
    held = [Candidate(None if s.value in valid else "secret-expired", s.value) for s in hook.secrets]
    return sorted(held, key=lambda candidate: candidate.name is not None)


def misread(secret: str) -> Iterator[Candidate]:
    """Yield what a careless sender, or a careless tenant, makes of `secret`."""
    yield Candidate("secret-trimmed", secret.strip())
    for blanked in (f"{secret}\n", f"{secret}\r\n", f"{secret} ", f" {secret}", f"{secret.strip()}\n"):
        yield Candidate("secret-blanks", blanked)
    for quote in ('"', "'"):
        yield Candidate("secret-quoted", f"{quote}{secret}{quote}")
        yield Candidate("secret-quoted", secret.strip(quote))
    yield Candidate("secret-empty", "")


def candidates(hook: Hook, received_at: int) -> list[Candidate]:
    """Return every secret that may have been used, none twice, the likeliest first."""
    own = own_secrets(hook, received_at)
    found = {candidate.value: candidate for candidate in own}
    for secret in own:
        for other in misread(secret.value):
            found.setdefault(other.value, other)
    return list(found.values())


def text_keys(secrets: list[Candidate]) -> list[Key]:
    """Return the keys of a scheme whose key is the text of the secret; decoded it is a mistake."""
    keys = [Key(name, value.encode()) for name, value in secrets]
    for name, value in secrets:
        if name in (None, "secret-expired"):
            keys += [Key("secret-decoded", key) for key in _decoded(value)]
    return _distinct(keys)


def base64_keys(secrets: list[Candidate]) -> list[Key]:
    """Return the keys of a scheme whose key is what the secret is the base64 of; its text is a mistake."""
    keys = []
    for name, value in secrets:
        bare = value.removeprefix(PREFIX)
        if (key := _bytes_of(bare, base64.b64decode)) is not None:
            keys.append(Key(name, key))
        if name in (None, "secret-expired"):
            keys += [Key("secret-not-decoded", text.encode()) for text in (bare, PREFIX + bare)]
    return _distinct(keys)


def _decoded(secret: str) -> Iterator[bytes]:
    for decode in (bytes.fromhex, base64.b64decode, base64.urlsafe_b64decode):
        if key := _bytes_of(secret, decode):
            yield key


def _bytes_of(text: str, decode: Callable[[str], bytes]) -> bytes | None:
    try:
        return decode(text)
    except (ValueError, binascii.Error):
        return None


def _distinct(keys: list[Key]) -> list[Key]:
    found: dict[bytes, Key] = {}
    for key in keys:
        found.setdefault(key.value, key)
    return list(found.values())
