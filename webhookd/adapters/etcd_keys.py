"""What webhookd keeps under its prefix in etcd: every key is built here, every record is read here."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from webhookd.errors import StoreError
from webhookd.model import EVENT_NAME, NAME, Hook
from webhookd.ports import SetAside

TOKEN = re.compile(rb"[0-9a-f]{40}")


class Keys:
    """The keys under `prefix`. No part holds a separator, so that no two things share a key."""

    def __init__(self, prefix: str) -> None:
        self.all = self._key(prefix)
        """What every key begins with."""
        self.hooks = self._key(prefix, "hooks", "")
        """What the keys of all hooks begin with."""
        self.revision = self._key(prefix, "revision")
        """Written by every transaction: its revision says how far a watch must have come to have told them all."""
        self._prefix = prefix

    def hook(self, hook_id: str) -> bytes:
        """Return the key of a hook's record: it stays when the hook's token is replaced."""
        return self._key(self._prefix, "hooks", hook_id)

    def index(self, hook: Hook) -> bytes:
        """Return the key that holds the id of the one hook for a tenant, datasource and event."""
        return self._key(self._prefix, "index", *hook.key)

    def tenant(self, tenant: str) -> bytes:
        """Return the key of a tenant's apiToken, which outlives the tenant's hooks."""
        return self._key(self._prefix, "tenants", tenant)

    @staticmethod
    def _key(prefix: str, *parts: str) -> bytes:
        return "/".join([prefix.rstrip("/"), *(parts or [""])]).encode()

    def token(self, key: bytes) -> str | None:
        """Return the id of the hook whose record this key holds, None for any other key."""
        token = key.removeprefix(self.hooks)
        return token.decode() if len(token) < len(key) and TOKEN.fullmatch(token) else None

    def read(self, pair: Any) -> Hook | SetAside | None:
        """Return the hook of a key and its value, or why it cannot be read; None where the key is no hook's."""
        hook_id = self.token(pair.key)
        if hook_id is None:
            return None
        try:
            hook = decoded(pair)
        except StoreError as error:
            return SetAside(hook_id, pair.mod_revision, str(error))
        if hook.id != hook_id:
            return SetAside(hook_id, pair.mod_revision, "the record is that of another hook")
        return hook


def encoded(hook: Hook) -> bytes:
    """Return the record of a hook; its revision is that of its key, and no part of it."""
    return msgspec.json.encode(msgspec.structs.replace(hook, revision=0))


def decoded(pair: Any) -> Hook:
    """Return the hook of a record with the revision of its key; raises StoreError where the record is none."""
    try:
        hook = msgspec.json.decode(pair.value, type=Hook)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"the record cannot be decoded: {error}") from None
    if not (NAME.fullmatch(hook.tenant) and NAME.fullmatch(hook.datasource) and EVENT_NAME.fullmatch(hook.event)):
        raise StoreError("the record has a tenant, datasource or event of the wrong form")
    return hook.stored(pair.mod_revision)


def end_of(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that begin with `prefix`, whose last byte is `/`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
