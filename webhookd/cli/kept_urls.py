"""Puts hooks into the store as they were, token and apiToken too, so that the URLs that senders have go on working."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from webhookd import config
from webhookd.adoption import OTHER_API_TOKEN, Verdict
from webhookd.auth import tenant_of
from webhookd.cli.dump import TOKEN, Record
from webhookd.cli.store_access import HooksAccess
from webhookd.errors import Forbidden, InvalidInput
from webhookd.model import Hook, Secret
from webhookd.registry import Registry
from webhookd.schema import Schemas

BATCH = 50
"""How many hooks are given to the store at once."""
API_TOKEN = re.compile(r"[A-Za-z0-9_.~-]{8,128}")
"""What the first part of a URL can be: a UUID in all that webhookd makes, and whatever the STS said before it."""
HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""The host of a URL, more kindly read than in the config API: a sender has it already."""
LAST_MOMENT = 253_402_300_799_999
"""The last millisecond of the year 9999: what is beyond is no time that could be shown."""
FIELDS = {"tsField", "secret", "validation", "onMismatch"}


class UnfitError(Exception):
    """A record that makes no hook, and why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Makes hooks of records."""

    registry: Registry
    schemas: Schemas
    public_url: str | None
    unsigned: bool
    now_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def hook(self, record: Record) -> Hook:
        """Return the hook that a record describes; raises UnfitError."""
        if record.fault is not None:
            raise UnfitError(record.fault)
        document = record.document
        token, api_token, created_at = (document.get(name) for name in ("token", "apiToken", "createdAt"))
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise UnfitError("token: not 40 lower-case hexadecimal digits")
        if not isinstance(api_token, str) or not API_TOKEN.fullmatch(api_token) or api_token == "config":  # noqa: S105
            raise UnfitError("apiToken: not a UUID, nor anything else that fits into a URL")
        if created_at is not None and not (type(created_at) is int and 0 <= created_at <= LAST_MOMENT):
            raise UnfitError("createdAt: not a number of milliseconds")
        try:
            caller = tenant_of(document.get("tenantId"))
        except Forbidden:
            raise UnfitError("tenantId: not a number, nor 1 to 64 letters, digits, `_` or `-`") from None
        base_url = self._base_url(document.get("hookUrl"), f"/wh/{api_token}/{token}")
        wish = self._wish(document)
        return Hook(
            token=token,
            api_token=api_token,
            tenant=caller.tenant,
            tenant_is_int=caller.tenant_is_int,
            datasource=wish.datasource,
            event=wish.event,
            ts_field=wish.ts_field or None,
            secrets=(Secret(wish.secret),) if wish.secret else (),
            validation=wish.validation or "off",
            on_mismatch=wish.on_mismatch or "publish",
            base_url=base_url,
            created_at=self.now_ms if created_at is None else created_at,
        )

    def _wish(self, document: Mapping[str, Any]) -> config.Wish:
        """Return what may be wished for in the config API too, checked as there."""
        if document.get("signed") and not document.get("secret") and not self.unsigned:
            raise UnfitError("the hook was signed, and its secret is not here: add it as `secret`, or use --unsigned")
        asked = {name: value for name, value in document.items() if name in FIELDS}
        asked |= {"datasource": document.get("datasource"), "event": event_of(document)}
        try:
            return config.read_wish(json.dumps(asked).encode(), (), self.registry, self.schemas)[0]
        except InvalidInput as fault:
            raise UnfitError(str(fault)) from None

    def _base_url(self, url: object, path: str) -> str:
        if url is None:
            if self.public_url is None:
                raise UnfitError("hookUrl: missing; --public-url says what URLs begin with")
            return self.public_url
        try:
            parts = urlsplit(url) if isinstance(url, str) else None
        except ValueError:
            parts = None
        if parts is None or parts.scheme not in ("http", "https") or not HOST.fullmatch(parts.netloc):
            raise UnfitError("hookUrl: not an http:// or https:// URL")
        if parts.path != path or parts.query or parts.fragment:
            raise UnfitError("hookUrl: not that of its apiToken and token")
        return f"{parts.scheme}://{parts.netloc}"


def event_of(document: Mapping[str, Any]) -> Any:
    """Return the event of a record: the service before webhookd called it eventType."""
    return document.get("event", document.get("eventType"))


def newest_first(records: Sequence[Record]) -> list[Record]:
    """Put the records that win before those that lose, where two of them stand against one another."""

    def age(record: Record) -> int:
        created_at = record.document.get("createdAt")
        return -created_at if type(created_at) is int else 0

    return sorted(records, key=age)


def take(
    records: Sequence[Record], reading: Reading, hooks: HooksAccess, *, dry_run: bool
) -> Iterator[tuple[Record, Verdict]]:
    """Take in what the records describe, and yield what became of each."""
    rehearsal = _Rehearsal()
    for start in range(0, len(records), BATCH):
        batch: list[tuple[Record, Hook]] = []
        for record in records[start : start + BATCH]:
            try:
                batch.append((record, reading.hook(record)))
            except UnfitError as fault:
                yield record, Verdict("conflict", str(fault))
        verdicts = hooks.take_all([hook for _, hook in batch], dry_run=dry_run) if batch else []
        for (record, hook), verdict in zip(batch, verdicts, strict=True):
            yield record, rehearsal.judged(hook, verdict) if dry_run else verdict


class _Rehearsal:
    """Knows what would be in the store, if it were no dry run."""

    def __init__(self) -> None:
        self._tokens: dict[str, Hook] = {}
        self._keys: dict[tuple[str, str, str], str] = {}
        self._api_tokens: dict[str, str] = {}

    def judged(self, hook: Hook, verdict: Verdict) -> Verdict:
        """Return the verdict on a hook after those that came before it."""
        if verdict.state == "conflict":
            return verdict
        if (held := self._tokens.get(hook.token)) is not None:
            return Verdict("there") if held.key == hook.key else Verdict("conflict", "another hook has this token")
        if hook.key in self._keys:
            return Verdict("conflict", f"another record is for {hook.datasource} {hook.event} of the tenant, too")
        if self._api_tokens.setdefault(hook.tenant, hook.api_token) != hook.api_token:
            return Verdict("conflict", OTHER_API_TOKEN)
        self._tokens[hook.token], self._keys[hook.key] = hook, hook.token
        return verdict
