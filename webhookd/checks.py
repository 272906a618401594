"""What a delivery goes through, in its order, and how far one that has ended came: told from its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from webhookd.body import content_encoding, inflate
from webhookd.datasource import Datasource
from webhookd.errors import Malformed, Rejected
from webhookd.ingest import SchemaCheck, examine
from webhookd.model import Delivery, Hook, Record, Verified
from webhookd.remedies import BUG

State = Literal["passed", "failed", "not reached", "unknown"]

CHECKS: Mapping[str, str] = {
    "method": "it is a POST",
    "hook": "the URL is that of a hook",
    "load": "there is room for one more delivery",
    "size": "the body is not too large",
    "content_type": "the Content-Type is JSON",
    "content_encoding": "the body is not compressed, or in a way that is known",
    "signature": "the signature fits the hook's secret",
    "inflate": "the compressed body is whole, and not too large",
    "json": "the body is a JSON object or array",
    "event": "the sender names the hook's event, or the hook takes others",
    "schema": "the body fits the schema, where that is asked for",
    "publish": "the message is confirmed by the broker, or on disk",
}
"""What every delivery goes through, in this order, and what each asks for."""

MAX_INFLATED = 256 * 1024
"""How many inflated bytes are looked at to explain a delivery: building objects of them holds the event loop."""
MAX_WORD = 100
"""How many characters of a sender's word are shown."""


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check of a delivery, and how it ended."""

    check: str
    state: State
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One delivery as it ended, with all that it was judged by: the hook as it is now. `body` is None if not kept."""

    record: Record
    body: bytes | None
    hook: Hook
    source: Datasource
    schemas: SchemaCheck
    max_body: int

    @property
    def delivery(self) -> Delivery:
        """The delivery as it came."""
        record = self.record
        return Delivery(record.headers, self.body or b"", record.received_at, self.hook.url_of(record))

    @property
    def old_url_until(self) -> int | None:
        """Until when (ms since the epoch) the URL is valid that it came to; 0: no more; None: it is the hook's own."""
        token, rotation = self.record.token or self.hook.id, self.hook.rotation
        if token == self.hook.token or rotation is None:
            return None
        return rotation.until if token == rotation.previous else 0


def checks_of(case: Case, failed: str | None) -> tuple[Check, ...]:
    """Return how each check of the delivery ended, in their order; `failed` is what `failed_check` says."""
    checks = []
    state: State = "passed"
    for name in CHECKS:
        if name == failed:
            checks.append(Check(name, "failed", _fault(case)))
            state = "not reached"
        elif case.record.outcome == "ignored" and name in ("schema", "publish"):
            checks.append(Check(name, "not reached", "nothing is to be published"))
        elif failed is None and case.record.outcome == "refused" and name not in _BEFORE_PLUGINS:
            checks.append(Check(name, "unknown"))
        else:
            checks.append(Check(name, state, _NOTES[name](case) if state == "passed" and name in _NOTES else None))
    return tuple(checks)


_BEFORE_PLUGINS = ("method", "hook", "load", "size", "content_type", "content_encoding")
"""What no plugin has a hand in, so that no bug is there."""


def failed_check(case: Case) -> str | None:
    """Return the check that refused the delivery; None where none did, or where that is not known."""
    record = case.record
    if record.outcome != "refused" or record.reason is None:
        return None
    if record.reason == BUG:
        return _faulty_check(case)
    return record.check if record.check in CHECKS else None


def _faulty_check(case: Case) -> str | None:
    """Return the check in which a plugin raises what it must not, None where it does not do so again."""
    if case.body is None:
        return None
    check = "signature"
    try:
        source, hook = case.source, case.hook
        source.verify(case.delivery, hook.valid_secrets(case.record.received_at))
        check = "event"
        examine(source, case.schemas, hook, inflated(Verified(case.delivery)))
    except Rejected:
        return None
    except (Exception, SystemExit):  # noqa: BLE001 - the very bug that is looked for
        return check
    return None


def _fault(case: Case) -> str | None:
    """Return how the failed check failed, as exactly as can be told."""
    record = case.record
    if record.reason != "schema" or case.body is None:
        return record.detail
    try:
        body = inflated(Verified(case.delivery)).body
        faults = case.schemas.faults(case.hook.datasource, case.hook.event, body)
    except Rejected:
        return record.detail
    return "; ".join(f"{fault.pointer or '/'}: {fault.message}" for fault in faults) or record.detail


def _hook_note(case: Case) -> str | None:
    until = case.old_url_until
    if until is None:
        return None
    return f"one that it had before, valid until {moment(until)}" if until else "one that it had before"


def _signature_note(case: Case) -> str | None:
    return None if case.hook.secrets else "the hook has no secret: not asked for"


def _event_note(case: Case) -> str:
    match case.record.reason:
        case "handshake":
            return f"{named(case)} only greets: answered, and not published"
        case "mismatch":
            return f"{named(case)} is another event than the hook's, whose `onMismatch` is `ignore`: not published"
    return named(case)


def _schema_note(case: Case) -> str | None:
    if case.hook.validation == "off":
        return "not asked for: the hook's `validation` is `off`"
    return "reported with the message, if it does not fit" if case.hook.validation == "report" else None


_NOTES: Mapping[str, Callable[[Case], str | None]] = {
    "hook": _hook_note,
    "size": lambda case: f"{case.record.size:,} of at most {case.max_body:,} bytes",
    "content_type": lambda case: shown_word(case.record.headers.get("content-type", "")),
    "content_encoding": lambda case: shown_word(case.record.headers.get("content-encoding", "none")),
    "signature": _signature_note,
    "inflate": lambda case: None if "content-encoding" in case.record.headers else "not compressed",
    "event": _event_note,
    "schema": _schema_note,
}


def named(case: Case) -> str:
    """Return what the sender called the event, fit to be shown."""
    return shown_word(case.record.provider_event) if case.record.provider_event else "none"


def shown_word(text: str) -> str:
    """Return a sender's word as it may be shown anywhere: short, printable, and told from our own words."""
    plain = "".join(c if c.isprintable() else "?" for c in text[:MAX_WORD])
    return f"`{plain}{'…' if len(text) > MAX_WORD else ''}`"


def moment(ms: int) -> str:
    """Return a time, in ms since the epoch, as RFC 3339 writes it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def inflated(verified: Verified) -> Verified:
    """Return the delivery with its body inflated; raises what refuses it, and `Malformed` where it is too much."""
    encoding = content_encoding(verified.headers.get("content-encoding"))
    if encoding is None:
        return verified
    whole = bytearray()
    for step in inflate(verified.body, encoding):
        whole += step
        if len(whole) > MAX_INFLATED:
            raise Malformed("the inflated body is too large to be looked at")
    return Verified(verified._replace(body=bytes(whole)))
