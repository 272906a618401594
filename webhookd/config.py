"""What tenants ask for under /wh/config: read, checked as a whole, and turned into hooks; pure, without I/O."""

from __future__ import annotations

import ipaddress
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from webhookd.auth import Caller
from webhookd.datasource import Datasource
from webhookd.hook_fields import FIELDS
from webhookd.ingest import Datasources, SchemaCheck
from webhookd.json_input import json_object, refuse_faults
from webhookd.model import MAX_SECRETS, Hook, OnMismatch, Secret, Validation
from webhookd.rotation import new_token
from webhookd.shapes import HookDetails

ORIGIN_HEADER = "X-ORIG-SERVER"
MAX_HOST = 253
"""The longest host name, in characters (RFC 1035, section 2.3.4, less the length octets)."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks of one hook. None: not given."""

    datasource: str
    event: str
    ts_field: str | None = None
    secret: str | None = None
    validation: Validation | None = None
    on_mismatch: OnMismatch | None = None

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"Wish(datasource={self.datasource!r}, event={self.event!r})"


class _Faults(list[dict[str, str]]):
    """Everything that is wrong with one input."""

    def add(self, field: str, message: str) -> None:
        self.append({"field": field, "message": message})


def read_wish(
    body: bytes, origins: Sequence[str], datasources: Datasources, schemas: SchemaCheck
) -> tuple[Wish, str | None]:
    """Read the body of `POST /wh/config` and its X-ORIG-SERVER headers: the wish, and the base URL if there is one.

    Raises `InvalidInput` with all that is wrong at once.
    """
    document = json_object(body)
    faults = _Faults()
    base_url = _origin(origins, faults)
    wish = _wish(document, faults)
    if wish is not None:
        _check_abilities(wish, datasources.get(wish.datasource), schemas, faults)
    refuse_faults(faults)
    assert wish is not None  # noqa: S101 - for the type checker: without one there are faults
    return wish, base_url


def _wish(document: Mapping[str, Any], faults: _Faults) -> Wish | None:
    for name in document:
        if name not in FIELDS:
            faults.add(name, f"unknown field; known are {', '.join(sorted(FIELDS))}")
    given = {name: value for name, value in document.items() if value is not None and name in FIELDS}
    for name, field in FIELDS.items():
        if field.required and name not in given:
            faults.add(name, "required")
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    for name in given.keys() - texts.keys():
        faults.add(name, "must be a string")
    for name in (name for name in FIELDS if name in texts):
        fault = FIELDS[name].fault(texts[name])
        if fault is not None:
            faults.add(name, fault)
    if not {"datasource", "event"} <= texts.keys() or any(f["field"] in ("datasource", "event") for f in faults):
        return None
    return Wish(
        datasource=texts["datasource"],
        event=texts["event"],
        ts_field=texts.get("tsField"),
        secret=texts.get("secret"),
        validation=cast("Validation | None", texts.get("validation")),
        on_mismatch=cast("OnMismatch | None", texts.get("onMismatch")),
    )


def _check_abilities(wish: Wish, source: Datasource, schemas: SchemaCheck, faults: _Faults) -> None:
    if wish.secret and not any(fault["field"] == "secret" for fault in faults):
        fault = source.secret_fault(wish.secret) if source.signs else f"{source.title} does not sign its deliveries"
        if fault is not None:
            faults.add("secret", fault)
    if wish.validation in ("report", "enforce") and not schemas.has(wish.datasource, wish.event):
        faults.add("validation", f"there is no schema for {wish.datasource} {wish.event}: only off is possible")


def _origin(origins: Sequence[str], faults: _Faults) -> str | None:
    if not origins:
        return None
    if len(origins) > 1:
        faults.add(ORIGIN_HEADER, "must be sent once")
        return None
    host = parse_host(origins[0].strip())
    if host is None:
        faults.add(ORIGIN_HEADER, "must be host or host:port: a name (RFC 1123), an IPv4 or a bracketed IPv6 address")
        return None
    name, is_address = host
    if is_address or name.lower().startswith("webhook"):
        return f"https://{name}"
    if len(name.rpartition(":")[0] or name) > MAX_HOST - len("webhook."):
        faults.add(ORIGIN_HEADER, "is too long a name")
        return None
    return f"https://webhook.{name}"


def parse_host(text: str) -> tuple[str, bool] | None:
    """Read `host` or `host:port` (RFC 1123 name, IPv4, bracketed IPv6; port 1 to 65535).

    Returns it as given and whether the host is an address; None where it is neither.
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None or (match[2] is not None and not 1 <= int(match[2]) <= _MAX_PORT):
        return None
    host = match[1]
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1] if "%" not in host else "")
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        # RFC 1123, section 2.1: a name whose last label is all digits would be taken for an address
        if len(host) > MAX_HOST or not _NAME.fullmatch(host) or host.rpartition(".")[2].isdigit():
            return None
        return text, False
    return text, True


def new_hook(wish: Wish, caller: Caller, base_url: str, source: Datasource, now_ms: int) -> Hook:
    """Return the hook that `wish` asks for where the tenant has none for this datasource and event."""
    ts_field = wish.ts_field
    if ts_field is None and wish.event in source.events:
        ts_field = source.events[wish.event].ts_field
    return Hook(
        token=new_token(),
        api_token=str(uuid.uuid4()),
        tenant=caller.tenant,
        tenant_is_int=caller.tenant_is_int,
        datasource=wish.datasource,
        event=wish.event,
        ts_field=ts_field or None,
        secrets=(Secret(wish.secret),) if wish.secret else (),
        validation=wish.validation or "off",
        on_mismatch=wish.on_mismatch or "publish",
        base_url=base_url,
        created_at=now_ms,
    )


def updated(hook: Hook, wish: Wish, base_url: str | None, now_ms: int, grace: float) -> Hook:
    """Return `hook` as `wish` wants it: what was not given stays, a replaced secret stays valid for `grace` seconds."""
    return msgspec.structs.replace(
        hook,
        ts_field=hook.ts_field if wish.ts_field is None else (wish.ts_field or None),
        secrets=rotated(hook.secrets, wish.secret, now_ms, grace),
        validation=wish.validation or hook.validation,
        on_mismatch=wish.on_mismatch or hook.on_mismatch,
        base_url=base_url or hook.base_url,
    )


def rotated(current: tuple[Secret, ...], secret: str | None, now_ms: int, grace: float) -> tuple[Secret, ...]:
    """Return the secrets after `secret` was given: None keeps them, an empty one ends them all at once.

    The replaced ones stay valid for `grace` seconds each from its own replacement; at most `MAX_SECRETS` are kept.
    """
    if secret is None or (current and secret == current[0].value):
        return current
    if not secret:
        return ()
    until = now_ms + round(grace * 1000)
    old = (Secret(s.value, until) if s.until is None else s for s in current if s.value != secret)
    still_valid = [s for s in old if s.until is not None and s.until > now_ms]
    return (Secret(secret), *still_valid[: MAX_SECRETS - 1])


def details(hook: Hook, now: Callable[[], float] = time.time) -> dict[str, Any]:
    """Return what a tenant is told of its hook: exactly these keys, never a secret.

    The last three are there only while the token that was replaced is valid.
    """
    previous = hook.previous(int(now() * 1000))
    shown = HookDetails(
        datasource=hook.datasource,
        event=hook.event,
        created_at=hook.created_at,
        api_token=hook.api_token,
        tenant_id=int(hook.tenant) if hook.tenant_is_int else hook.tenant,
        token=hook.token,
        ts_field=msgspec.UNSET if hook.ts_field is None else hook.ts_field,
        hook_url=hook.hook_url,
        validation=hook.validation,
        on_mismatch=hook.on_mismatch,
        signed=hook.signed,
    )
    if previous is not None and hook.rotation is not None:
        shown.previous_token, shown.previous_hook_url = previous, hook.url(previous)
        shown.previous_until = hook.rotation.until
    return cast("dict[str, Any]", msgspec.to_builtins(shown))
