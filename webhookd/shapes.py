"""The JSON of answers, as types: what is answered is made of them, and the API is described by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webhookd.model import EVENT_NAME, NAME, OnMismatch, Outcome, Validation

UUID4 = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
TOKEN = "^[0-9a-f]{40}$"  # noqa: S105 - the form of one

DatasourceName = Annotated[str, Meta(pattern=f"^{NAME.pattern}$", description="Who sends.")]
EventName = Annotated[str, Meta(pattern=f"^{EVENT_NAME.pattern}$", description="What is sent, in the sender's words.")]
TsField = Annotated[str, Meta(description="Where in the body the time of the event is.")]
TenantId = Annotated[int | str, Meta(description="As it was in the bearer token that the hook was created with.")]
Node = Annotated[str, Meta(description="The daemon that remembers it: each has records of its own.")]
Millis = Annotated[int, Meta(description="In ms since the epoch.")]


class HookDetails(msgspec.Struct, kw_only=True, rename="camel"):
    """One hook, as its tenant sees it. A secret is never shown."""

    datasource: DatasourceName
    event: EventName
    created_at: Millis
    api_token: Annotated[str, Meta(pattern=UUID4, description="The tenant's, the same in all its hooks.")]
    tenant_id: TenantId
    token: Annotated[str, Meta(pattern=TOKEN, description="The hook's own id.")]
    ts_field: TsField | UnsetType = UNSET
    hook_url: Annotated[str, Meta(description="Where the sender posts to.", extra_json_schema={"format": "uri"})]
    validation: Validation
    on_mismatch: OnMismatch
    signed: Annotated[bool, Meta(description="Whether deliveries must carry a valid signature.")]


class EventDetails(msgspec.Struct, kw_only=True, rename="camel"):
    """One event of a datasource."""

    event: EventName
    ts_field: Annotated[str | None, Meta(description="The default of a hook for it; null where there is none.")]
    schema: Annotated[bool, Meta(description="Whether there is a JSON Schema, so that a hook may ask for validation.")]


class DatasourceDetails(msgspec.Struct, kw_only=True, rename="camel"):
    """One datasource that has a plugin."""

    name: DatasourceName
    title: str
    signs: Annotated[bool, Meta(description="Whether it signs, so that a hook may have a secret.")]
    events: list[EventDetails]


class DeliveryDetails(msgspec.Struct, kw_only=True, rename="camel"):
    """How one delivery ended."""

    id: Annotated[str, Meta(description="A UUIDv7; of an accepted delivery its receipt.")]
    received_at: Millis
    outcome: Outcome
    reason: Annotated[str, Meta(description="Why it was refused or ignored, in a word.")] | UnsetType = UNSET
    status: Annotated[int, Meta(description="What was answered.")]
    detail: Annotated[str, Meta(description="What a refused sender was told.")] | UnsetType = UNSET
    size: Annotated[int, Meta(description="Bytes of the body as received.")]
    duration: Annotated[float, Meta(description="In seconds.")]
    receipt: str | UnsetType = UNSET
    delivery_id: Annotated[str, Meta(description="What the sender calls it.")] | UnsetType = UNSET
    provider_event: Annotated[str, Meta(description="What the sender calls the event.")] | UnsetType = UNSET
    replay_of: Annotated[str, Meta(description="The delivery that it is a replay of.")] | UnsetType = UNSET
    headers: Annotated[Mapping[str, str], Meta(description="By lower-case name, without secrets and signatures.")]
    has_body: Annotated[bool, Meta(description="Whether the body was kept.")]


class OneDelivery(DeliveryDetails, kw_only=True, rename="camel"):
    """How one delivery ended, and its body where that was kept."""

    node: Node
    body: str | UnsetType = UNSET
    body_base64: Annotated[str, Meta(description="In place of a body that is no UTF-8.")] | UnsetType = UNSET


class DeliveryPage(msgspec.Struct, kw_only=True):
    """The last deliveries of a hook, newest first."""

    node: Node
    deliveries: list[DeliveryDetails]
    next: Annotated[str, Meta(description="To be given as `before` for the page behind.")] | UnsetType = UNSET


class ReplayRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which deliveries to replay."""

    outcome: Annotated[Literal["refused", "accepted"], Meta(description="Those that ended so.")]
    reason: Annotated[str | None, Meta(description="Of these, the ones with this reason.")] = None
    after: Annotated[str | None, Meta(description="The `next` of the answer before.")] = None


class ReplayPage(msgspec.Struct, kw_only=True):
    """What became of each replay, oldest first."""

    node: Node
    replays: Annotated[
        list[dict[str, Any]],
        Meta(description="The delivery that each is; or, `not replayed`, `replayOf`, `status` and `detail` say why."),
    ]
    next: Annotated[str, Meta(description="To be given as `after` for the rest.")] | UnsetType = UNSET


class InputFault(msgspec.Struct):
    """What is wrong with one field or header."""

    field: str
    message: str


class BodyFault(msgspec.Struct):
    """Where (`pointer`, RFC 6901) and how a body does not fit its schema."""

    pointer: str
    message: str


class Problem(msgspec.Struct):
    """Why a request was refused (RFC 9457)."""

    title: str
    status: int
    detail: str
    errors: Sequence[Mapping[str, str]] | UnsetType = UNSET
