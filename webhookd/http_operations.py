"""Every operation that is served to tenants and senders: one table, from which the API is described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from webhookd import errors, shapes
from webhookd.config import ORIGIN_HEADER
from webhookd.explain import Explanation
from webhookd.model import OUTCOMES
from webhookd.record_view import MOST, PAGE

ORIGIN_PATTERN = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(:[0-9]{1,5})?$"
"""What X-ORIG-SERVER looks like; it may let a little more pass than is taken."""
RECEIPT_HEADER = "X-Webhookd-Receipt"
HOOK_BODY, DELIVERY_BODY = "HookRequest", "Delivery"
"""The components that describe what is posted."""

Refusals = tuple[type[errors.Rejected], ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """What is said in the path, the query or a header."""

    name: str
    where: Literal["path", "query", "header"]
    about: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    `status` and `shape` are of the answer to what is not refused: `shape` a type of `shapes`, a list of one, or None
    for an answer without a body; `headers` are those of it that may be there. `takes` names the component of the body,
    `refusals` is all that it may be refused for, `bearer` whether a bearer token is needed, `links` is what a token in
    the answer is good for.
    """

    name: str
    summary: str
    about: str
    status: int
    told: str
    shape: Any = None
    headers: tuple[Parameter, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    takes: str | None = None
    refusals: Refusals = ()
    bearer: bool = True
    links: tuple[str, ...] = ()


BEARER: Refusals = (errors.Unauthenticated, errors.Forbidden, errors.TokensUnavailable)
"""What every request with a bearer token may be refused for."""
STORED: Refusals = (*BEARER, errors.StoreUnavailable, errors.Stopping)
"""What every request about hooks may be refused for."""
OWN: Refusals = (errors.NotFound, *STORED)
"""What every request about one hook may be refused for."""
REMEMBERED: Refusals = (errors.NotFound, *BEARER, errors.Stopping)
"""What every request about deliveries of a hook may be refused for: they are in memory, and need no store."""
REPLAYED: Refusals = (errors.InvalidInput, errors.NotReplayable, errors.BodyTooLarge, *REMEMBERED)
ADDRESS: Refusals = (errors.UnknownHook, errors.HooksNotCurrent)
DELIVERY: Refusals = (
    *ADDRESS,
    *(errors.BodyTooLarge, errors.UnsupportedContentType, errors.UnsupportedContentEncoding, errors.Unsigned),
    *(errors.Malformed, errors.SchemaMismatch, errors.EventMismatch),
    *(errors.Overloaded, errors.TenantOverShare, errors.Unavailable, errors.Stopping),
)

_TOKEN = Parameter("token", "path", "The hook's token.", {"type": "string", "pattern": shapes.TOKEN})
_API_TOKEN = Parameter("apiToken", "path", "The tenant's apiToken.", {"type": "string", "pattern": shapes.UUID4})
_ID = Parameter(
    "id", "path", "The delivery's id; its receipt where it was accepted.", {"type": "string", "minLength": 1}
)
_OUTCOME = Parameter("outcome", "query", "Only deliveries that ended so.", {"type": "string", "enum": list(OUTCOMES)})
_BEFORE = Parameter("before", "query", "The id from which on older ones are listed.", {"type": "string"})
_LIMIT = Parameter(
    "limit", "query", "How many there may be.", {"type": "integer", "minimum": 1, "maximum": MOST, "default": PAGE}
)
_ORIGIN = Parameter(
    ORIGIN_HEADER,
    "header",
    "The host, or host and port, that senders reach webhookd by, as a gateway sees it: the hook's URL begins with"
    " `https://webhook.` and it.",
    {"type": "string", "pattern": ORIGIN_PATTERN},
)
_RECEIPT = Parameter(
    RECEIPT_HEADER,
    "header",
    "The id of the message (a UUIDv7), where one is published.",
    {"type": "string", "format": "uuid"},
)

PATHS: Mapping[str, Mapping[str, Operation]] = MappingProxyType(
    {
        "/wh/config": {
            "GET": Operation(
                "listHooks", "List the hooks", "Oldest first.", 200, "The tenant's hooks.", list[shapes.HookDetails],
                refusals=STORED,
            ),
            "POST": Operation(
                "putHook",
                "Create or update a hook",
                "A tenant has one hook for a datasource and event. Where there is one it is updated, and keeps its"
                " token; fields that are not given stay as they are. Repeating the request is safe.",
                200,
                "The hook as it is now; deliveries to it are taken from now on.",
                shapes.HookDetails,
                parameters=(_ORIGIN,),
                takes=HOOK_BODY,
                refusals=(errors.InvalidInput, errors.BodyTooLarge, errors.UnsupportedContentType, *STORED),
                links=("showHook", "deleteHook"),
            ),
        },
        "/wh/config/{token}": {
            "GET": Operation(
                "showHook", "Show a hook", "", 200, "The hook.", shapes.HookDetails,
                parameters=(_TOKEN,), refusals=OWN,
            ),
            "HEAD": Operation(
                "hasHook", "Ask whether a hook is there", "", 200, "It is there.", parameters=(_TOKEN,), refusals=OWN
            ),
            "DELETE": Operation(
                "deleteHook", "Delete a hook", "Deliveries to it are refused from now on.", 204, "It is gone.",
                parameters=(_TOKEN,), refusals=OWN,
            ),
        },
        "/wh/config/{token}/deliveries": {
            "GET": Operation(
                "listDeliveries", "List the last deliveries to a hook", "As this node remembers them, newest first.",
                200, "The deliveries.", shapes.DeliveryPage,
                parameters=(_TOKEN, _OUTCOME, _BEFORE, _LIMIT), refusals=(errors.InvalidInput, *REMEMBERED),
            ),
        },
        "/wh/config/{token}/deliveries/{id}": {
            "GET": Operation(
                "showDelivery", "Show a delivery", "", 200, "The delivery, with its body where that was kept.",
                shapes.OneDelivery, parameters=(_TOKEN, _ID), refusals=(errors.InvalidInput, *REMEMBERED),
            ),
        },
        "/wh/config/{token}/deliveries/{id}/explain": {
            "GET": Operation(
                "explainDelivery",
                "Ask why a delivery was refused",
                "Every check in its order with the first that failed, what is wrong and what to do; and of a signature"
                " that does not match what explains it. It holds no secret, no signature and no value of the body.",
                200,
                "The explanation.",
                Explanation,
                parameters=(_TOKEN, _ID),
                refusals=(errors.InvalidInput, *REMEMBERED),
            ),
        },
        "/wh/config/{token}/deliveries/replay": {
            "POST": Operation(
                "replayDeliveries",
                "Replay the deliveries that ended in one way",
                "At most 50 at a time, oldest first. Each is put through the same checks again, and published with the"
                " header `replayOf`. Left out are replays, and what was replayed and accepted already.",
                200,
                "What became of each.",
                shapes.ReplayPage,
                parameters=(_TOKEN,),
                takes=shapes.ReplayRequest.__name__,
                refusals=(errors.UnsupportedContentType, *REPLAYED),
            ),
        },
        "/wh/config/{token}/deliveries/{id}/replay": {
            "POST": Operation(
                "replayDelivery", "Replay a delivery", "It is put through the same checks again.", 200,
                "The delivery that it is now.", shapes.OneDelivery, parameters=(_TOKEN, _ID), refusals=REPLAYED,
            ),
        },
        "/wh/datasources": {
            "GET": Operation(
                "listDatasources",
                "List the datasources",
                "Those that have a plugin, with their events. Every other name is the generic datasource.",
                200,
                "The datasources.",
                list[shapes.DatasourceDetails],
                refusals=BEARER,
            ),
        },
        "/wh/{apiToken}/{token}": {
            "POST": Operation(
                "deliver",
                "Deliver",
                "What a sender posts to a hook's URL. A sender should repeat what is answered 503. With a secret, the"
                " hook takes what is signed by the datasource's scheme alone (GitHub's `X-Hub-Signature-256`, the"
                " `webhook-signature` of Standard Webhooks for a datasource without a plugin). A body with a"
                " `Content-Encoding` of `gzip` or `deflate` is inflated.",
                204,
                "The message is confirmed by the broker or on disk, or there is nothing to publish.",
                headers=(_RECEIPT,),
                parameters=(_API_TOKEN, _TOKEN),
                takes=DELIVERY_BODY,
                refusals=DELIVERY,
                bearer=False,
            ),
            "HEAD": Operation(
                "hasAddress", "Ask whether a hook's URL is there", "Some senders do before they send.",
                200, "It is there.", parameters=(_API_TOKEN, _TOKEN), refusals=ADDRESS, bearer=False,
            ),
        },
        "/wh/openapi.json": {
            "GET": Operation(
                "describeApi", "This description", "", 200, "OpenAPI 3.1.", dict[str, Any], bearer=False
            ),
        },
        "/wh/asyncapi.json": {
            "GET": Operation(
                "describeMessages", "The description of what is published", "", 200, "AsyncAPI 3.0.", dict[str, Any],
                bearer=False,
            ),
        },
    }
)  # fmt: skip
"""By path and method: an operation that is served and not in here fails a test, and so does one that is not served."""
