"""What every datasource must do, as one call for a plugin's own tests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from webhookd import tsfield
from webhookd.datasource import Datasource, EventType
from webhookd.errors import Unsigned
from webhookd.model import Delivery, Verified
from webhookd.registry import contract_faults
from webhookd.schema import compiled

SECRET = "c2VjcmV0LWZvci10ZXN0cw=="  # noqa: S105 - protects nothing
"""A secret that every scheme takes: it is base64 too."""

_HOSTILE_BODIES = (b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"id":{},"type":[]}', b"[" * 100_000)
_HOSTILE_VALUES = ("", ",", "=", " ", "v1", "v1,", "sha256=", "\u00e9\u0416\udcff", "0" * 10_000)


def check_datasource(datasource: Datasource, *, secret: str = SECRET) -> None:
    """Raise `AssertionError`, with all faults, unless `datasource` keeps the contract of `webhookd.Datasource`.

    Of each sample: it fits its event's schema, its tsField leads to a value, and its headers name the event if they
    name any. If the datasource signs: what it signs with `secret` it verifies; it refuses, with `Unsigned` and nothing
    else, another body, another secret, and every missing, empty or mangled signature header, and never shows the
    secret. With bodies and headers that nobody would send, the event's type and the delivery's id are text or None.
    """
    faults = list(contract_faults(datasource))
    if not faults:
        faults = [
            fault for event, known in datasource.events.items() for fault in _event_faults(datasource, event, known)
        ]
        faults += _hostile_faults(datasource)
        if datasource.signs:
            faults += _signing_faults(datasource, secret)
    if faults:
        raise AssertionError(
            "\n".join([f"{type(datasource).__name__} breaks the contract of webhookd.Datasource:", *faults])
        )


def sample_delivery(
    datasource: Datasource, event: str, *, secret: str | None = None, now: float | None = None
) -> Delivery:
    """Return the delivery that the sender would make of the sample of `event` at `now` (seconds since the epoch).

    It is signed if a `secret` is given.
    """
    now = time.time() if now is None else now
    body = json.dumps(datasource.events[event].sample).encode()
    headers = datasource.sample_headers(event)
    if secret is not None:
        headers |= datasource.sign(body, secret, now)
    return _delivery(headers, body, now)


def _delivery(headers: dict[str, str], body: bytes, now: float) -> Delivery:
    return Delivery(
        headers={name.lower(): value for name, value in headers.items()}, body=body, received_at=int(now * 1000)
    )


def _event_faults(datasource: Datasource, event: str, known: EventType) -> Iterator[str]:
    validator = None
    if known.schema is not None:
        try:
            validator = compiled(known.schema, trusted=False)
        except ValueError as error:
            yield f"the schema of {event} is refused: {error}"
        if known.sample is None:
            yield f"{event} has a schema and no sample that shows it"
    if known.sample is None:
        return
    if validator is not None and not validator.is_valid(known.sample):
        yield f"the sample of {event} does not fit its schema"
    if known.ts_field is not None and tsfield.resolve(known.ts_field, known.sample) is None:
        yield f"the ts_field {known.ts_field} leads nowhere in the sample of {event}"
    yield from _reading_faults(datasource, sample_delivery(datasource, event), (None, event))


def _hostile_faults(datasource: Datasource) -> Iterator[str]:
    names = {name.lower() for event in datasource.events for name in datasource.sample_headers(event)}
    for headers in ({}, *(dict.fromkeys(names, value) for value in _HOSTILE_VALUES)):
        for body in _HOSTILE_BODIES:
            yield from _reading_faults(datasource, _delivery(headers, body, 0))


def _reading_faults(
    datasource: Datasource, delivery: Delivery, allowed: tuple[str | None, ...] | None = None
) -> Iterator[str]:
    """Say how `event_type` (which may be held to be one of `allowed`) or `delivery_id` fails on a delivery."""
    for name in ("event_type", "delivery_id"):
        given = f"for the headers {dict(delivery.headers)} and the body {delivery.body[:40]!r}"
        try:
            answer: Any = getattr(datasource, name)(Verified(delivery))
        except Exception as error:  # noqa: BLE001 - whatever it raises is the fault
            yield f"{name} raises {error!r} {given}"
            continue
        if not isinstance(answer, str | None):
            yield f"{name} returns {answer!r} {given}"
        elif name == "event_type" and allowed and answer not in allowed:
            yield f"event_type returns {answer!r} for the sample of {allowed[-1]}"


def _signing_faults(datasource: Datasource, secret: str) -> Iterator[str]:
    fault = datasource.secret_fault(secret)
    if fault is not None:
        yield f"secret_fault refuses the secret of this test: {fault}; give check_datasource a secret that it takes"
        return
    now, body = time.time(), b'{"text":"gr\xc3\xbc\xc3\x9fe"}'
    headers = datasource.sign(body, secret, now)
    if not headers:
        yield "sign returns no headers"
    verdict = _verdict(datasource, _delivery(headers, body, now), secret)
    if isinstance(verdict, Unsigned):
        yield "verify_signature refuses what sign has signed"
    elif verdict is not None:
        yield f"verify_signature raises {verdict!r} for what sign has signed"
    other = datasource.sign(body, secret[::-1], now) if datasource.secret_fault(secret[::-1]) is None else {}
    refused = {
        "a body with a newline added": _delivery(headers, body + b"\n", now),
        "an empty body": _delivery(headers, b"", now),
        "a delivery signed with another secret": _delivery(other, body, now),
        "a delivery without signature": _delivery({}, body, now),
    }
    for name, value in headers.items():
        refused[f"a delivery without {name}"] = _delivery({k: v for k, v in headers.items() if k != name}, body, now)
        for mangled in (*_HOSTILE_VALUES, value[:-1], f"{value}0"):
            refused[f"{name}: {mangled[:80]!r}"] = _delivery({**headers, name: mangled}, body, now)
    for what, delivery in refused.items():
        verdict = _verdict(datasource, delivery, secret)
        if not isinstance(verdict, Unsigned):
            yield f"verify_signature {'accepts' if verdict is None else f'raises {verdict!r} for'} {what}"
        elif secret in verdict.detail:
            yield f"verify_signature shows the secret when it refuses {what}"


def _verdict(datasource: Datasource, delivery: Delivery, secret: str) -> Exception | None:
    try:
        datasource.verify(delivery, [secret])
    except Exception as error:  # noqa: BLE001 - whatever it raises is looked at
        return error
    return None
