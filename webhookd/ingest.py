"""The path of one delivery, from its address to the message it deserves: pure, synchronous, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from webhookd.body import check_content_type, check_json, content_encoding
from webhookd.datasource import Datasource
from webhookd.errors import BodyTooLarge, EventMismatch, SchemaMismatch
from webhookd.hooks import HookTable
from webhookd.model import Delivery, Event, Fault, HeaderValue, Hook, Message, Verified

MAX_SENDER_WORD = 256
"""The longest name of an event or a delivery, in characters, that is published as the sender gave it."""


class Datasources(Protocol):
    """Every datasource by name; a name without a plugin is the generic one."""

    def get(self, name: str) -> Datasource:
        """Return the datasource of this name."""


class SchemaCheck(Protocol):
    """The schemas of every datasource."""

    def has(self, datasource: str, event: str) -> bool:
        """Say whether there is a schema for the event."""

    def faults(self, datasource: str, event: str, body: bytes) -> tuple[Fault, ...]:
        """Return how the JSON `body` does not fit the schema of the event; none where it does."""


@dataclass(frozen=True, slots=True)
class Ingest:
    """From a delivery to its message, in four steps: `admit`, `verify`, `examine`, `compose`.

    The first three raise the `Rejected` that says why not.
    """

    hooks: HookTable
    datasources: Datasources
    schemas: SchemaCheck
    max_body: int

    def admit(self, api_token: str, token: str, headers: Mapping[str, str], length: int | None) -> Hook:
        """Return the hook of a delivery: everything that can be decided before its body (`length` bytes) is read."""
        hook = self.hooks.find(api_token, token)
        if length is not None and length > self.max_body:
            raise BodyTooLarge(f"the body is over {self.max_body} bytes")
        check_content_type(headers.get("content-type"))
        encoding = headers.get("content-encoding")
        if encoding is not None:
            content_encoding(encoding)
        return hook

    def verify(self, hook: Hook, delivery: Delivery) -> Verified:
        """Return the delivery as proved by its datasource, over the bytes as they were sent."""
        return self.datasources.get(hook.datasource).verify(delivery, hook.valid_secrets(delivery.received_at))

    def examine(self, hook: Hook, verified: Verified) -> Event:
        """Return what the (inflated) delivery says happened, checked as the hook asks for."""
        return examine(self.datasources.get(hook.datasource), self.schemas, hook, verified)

    def judge(self, hook: Hook, delivery: Delivery) -> tuple[Event, Verified]:
        """Do what `verify` and `examine` do, for a delivery that needs nothing in between."""
        source = self.datasources.get(hook.datasource)
        secrets = hook.valid_secrets(delivery.received_at) if hook.secrets else ()
        verified = source.verify(delivery, secrets)
        return examine(source, self.schemas, hook, verified), verified

    def compose(self, hook: Hook, event: Event, verified: Verified, receipt: str) -> Message:
        """Return the message to publish."""
        headers: dict[str, HeaderValue] = {"receivedAt": verified.received_at}
        if hook.ts_field is not None:
            headers["tsField"] = hook.ts_field
        if event.id is not None and is_sender_word(event.id):
            headers["deliveryId"] = event.id
        if event.type is not None and (event.type == hook.event or is_sender_word(event.type)):
            headers["providerEvent"] = event.type
        if event.faults:
            headers["schemaError"] = f"{event.faults[0].pointer}: {event.faults[0].message}"
        return Message(
            receipt=receipt,
            hook=hook.id,
            tenant=hook.tenant,
            datasource=hook.datasource,
            event=hook.event,
            received_at=verified.received_at,
            headers=headers,
            body=verified.body,
        )


def is_sender_word(word: str) -> bool:
    """Whether what a sender calls something is published."""
    return 0 < len(word) <= MAX_SENDER_WORD and word.isascii() and word.isprintable()


def examine(source: Datasource, schemas: SchemaCheck, hook: Hook, verified: Verified) -> Event:
    """Read the event out of a verified delivery and check it; also run in another process, for large bodies."""
    check_json(verified.body)
    event = Event(type=source.event_type(verified), id=source.delivery_id(verified))
    if event.type is not None and event.type != hook.event:
        if event.type in source.handshakes:
            return Event(type=event.type, id=event.id, ignored="handshake")
        if hook.on_mismatch == "ignore":
            return Event(type=event.type, id=event.id, ignored="mismatch")
        if hook.on_mismatch == "reject":
            raise EventMismatch(f"this hook is for the event {hook.event}, and takes no other")
    if hook.validation == "off" or not schemas.has(hook.datasource, hook.event):
        return event
    faults = schemas.faults(hook.datasource, hook.event, verified.body)
    if faults and hook.validation == "enforce":
        raise SchemaMismatch(f"the body does not fit the schema of {hook.datasource} {hook.event}", faults)
    return Event(type=event.type, id=event.id, faults=faults)
