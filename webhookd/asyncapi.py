"""What is published as AsyncAPI 3: made from the datasources that are loaded and the limits that messages keep to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webhookd.datasource import Datasource
from webhookd.ingest import MAX_SENDER_WORD
from webhookd.model import EVENT_NAME, NAME
from webhookd.shapes import TsField
from webhookd.version import __version__

Json = dict[str, Any]

SCHEMA_FORMAT = "application/schema+json;version=2020-12"
_Word = Meta(max_length=MAX_SENDER_WORD, pattern="^[ -~]+$", description="As the sender called it, where it says so.")
_PARAMETERS = {
    "tenant": "The owner of the hook, in text form.",
    "datasource": f"Who sent it: `{NAME.pattern}`.",
    "event": f"The event of the hook: `{EVENT_NAME.pattern}` (it may have dots).",
}
_VALUES = frozenset({"const", "default", "enum", "examples"})
"""Keywords of JSON Schema whose values are no schemas."""
_ABOUT = (
    "A message for each accepted delivery. Its body is that of the delivery, byte for byte (inflated where it was"
    " compressed). After a fault a consumer may see one message twice, with the same `message_id`; never zero times."
    " Messages of one hook are first published in the order in which their deliveries were answered."
)


class MessageHeaders(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The headers of a message; there are no others."""

    received_at: Annotated[int, Meta(description="When the delivery was received, in ms since the epoch.")]
    ts_field: TsField | UnsetType = UNSET
    delivery_id: Annotated[str, _Word] | UnsetType = UNSET
    provider_event: Annotated[str, _Word] | UnsetType = UNSET
    traceparent: (
        Annotated[
            str,
            Meta(
                pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
                description="The span of the delivery (W3C Trace Context); only where deliveries are traced.",
            ),
        ]
        | UnsetType
    ) = UNSET
    replay_of: Annotated[str, Meta(description="The id of the delivery that this is a replay of; only of replays.")] | (
        UnsetType
    ) = UNSET
    schema_error: Annotated[str, Meta(description="How the body does not fit its schema: the first fault.")] | (
        UnsetType
    ) = UNSET


class MessageProperties(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The properties of a message (AMQP 0-9-1, `basic`); there are no others."""

    content_type: Literal["application/json"]
    delivery_mode: Literal[2]
    message_id: Annotated[
        str, Meta(description="The receipt, a UUIDv7: the sender was told it in `X-Webhookd-Receipt`.")
    ]
    timestamp: Annotated[int, Meta(description="When the delivery was received, in seconds since the epoch.")]
    app_id: Literal["webhookd"]
    type: Annotated[str, Meta(description="The event of the hook.")]


def asyncapi(datasources: Mapping[str, Datasource], exchange: str | None) -> Json:
    """Return the document of what is published to `exchange`, None where the spool is the event log."""
    known = dict(_known(datasources))
    messages = {"any": _message("Any delivery", {"type": ["object", "array"]}), **known}
    document: Json = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "webhookd",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {"events": _channel(exchange, messages)},
        "operations": {
            "publish": {
                "action": "send",
                "channel": {"$ref": "#/channels/events"},
                "summary": "webhookd publishes a message before it answers a delivery 204, or keeps it in its spool.",
            }
        },
        "components": {
            "messages": messages,
            "schemas": {
                "headers": _of(MessageHeaders),
                "properties": _of(MessageProperties),
            },
        },
    }
    if exchange is not None:
        document["operations"]["publish"]["bindings"] = {
            "amqp": {"deliveryMode": 2, "mandatory": True, "timestamp": True, "bindingVersion": "0.3.0"}
        }
    return document


def _channel(exchange: str | None, messages: Json) -> Json:
    channel: Json = {
        "address": "event.{tenant}.{datasource}.{event}",
        "title": "The messages of all hooks, by routing key",
        "parameters": {name: {"description": about} for name, about in _PARAMETERS.items()},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }
    if exchange is not None:
        declared = {"name": exchange, "type": "topic", "durable": True, "autoDelete": False}
        channel["bindings"] = {"amqp": {"is": "routingKey", "exchange": declared, "bindingVersion": "0.3.0"}}
    return channel


def _known(datasources: Mapping[str, Datasource]) -> Iterator[tuple[str, Json]]:
    """Yield the events that have a schema, each with its message."""
    for name, datasource in datasources.items():
        for event, known in sorted(datasource.events.items()):
            if known.schema is not None:
                key = f"{name}.{event.replace(':', '_')}"
                schema = _moved(known.schema, f"#/components/messages/{key}/payload/schema")
                message = _message(f"{datasource.title}: {event}", {"schemaFormat": SCHEMA_FORMAT, "schema": schema})
                message["description"] = (
                    "The schema is what every known body fits. A hook publishes others as well, unless its `validation`"
                    " is `enforce`."
                )
                yield key, message


def _moved(schema: Any, place: str) -> Any:
    """Return a JSON Schema with its references as they are where it stands at `place` of another document."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {name: part if name in _VALUES else _moved(part, place) for name, part in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = place + reference[1:]
    return moved


def _message(title: str, payload: Json) -> Json:
    return {
        "title": title,
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/headers"},
        "payload": payload,
        "x-amqp-properties": {"$ref": "#/components/schemas/properties"},
    }


def _of(struct: type[msgspec.Struct]) -> Json:
    """Return the JSON Schema of `struct`, without a `$ref` at its top."""
    _, schemas = msgspec.json.schema_components([struct])
    document: Json = schemas[struct.__name__]
    return document
