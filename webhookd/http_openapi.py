"""The API of tenants and senders as OpenAPI 3.1: made from the tables by which requests are checked and refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from webhookd import errors, shapes
from webhookd.hook_fields import FIELDS, HookField
from webhookd.http_operations import DELIVERY_BODY, HOOK_BODY, PATHS, Operation, Parameter
from webhookd.http_problem import PROBLEM_TYPE
from webhookd.version import __version__

Json = dict[str, Any]

REF = "#/components/schemas/{name}"
BEARER_SCHEME = "bearer"
FAULTS: Mapping[type[errors.Rejected], type[msgspec.Struct]] = {
    errors.InvalidInput: shapes.InputFault,
    errors.SchemaMismatch: shapes.BodyFault,
}
"""What the members of `errors` are, of the refusals that have them."""
_HEADERS = {
    "Retry-After": "How many seconds to wait before the request is repeated.",
    "WWW-Authenticate": "What is missing.",
}
_ABOUT = (
    "Tenants manage their hooks under `/wh/config`, with a bearer token; senders post deliveries to the URLs of hooks."
    " Every refusal is `application/problem+json` (RFC 9457) and says what is wrong. A method that is not listed is"
    " answered 405 with `Allow`, a body of over 64 KiB 413 where no delivery is taken; what is no HTTP/1.1 is answered"
    " with a status and no body (400, 408, 413, 417, 431, 501). The messages that are published are described at"
    " `/wh/asyncapi.json`."
)


def openapi(public_url: str | None, max_body: int) -> Json:
    """Return the document for a daemon that senders reach at `public_url` and that takes bodies of `max_body` bytes."""
    shown = [op.shape for ops in PATHS.values() for op in ops.values() if op.shape is not None]
    taken = (shapes.RotationRequest, shapes.ReplayRequest, shapes.Problem, *FAULTS.values())
    _, schemas = msgspec.json.schema_components([*shown, *taken], ref_template=REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhookd",
            "version": __version__,
            "summary": "Takes deliveries of webhooks for many tenants, and publishes each as a message.",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url.rstrip("/") if public_url else "/"}],
        "paths": {
            path: {method.lower(): _operation(method, op) for method, op in operations.items()}
            for path, operations in PATHS.items()
        },
        "components": {
            "schemas": {**schemas, HOOK_BODY: _hook_body(), DELIVERY_BODY: _delivery_body(max_body)},
            "securitySchemes": {
                BEARER_SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A JWT whose claim names the tenant, or an opaque token that the STS knows.",
                }
            },
        },
    }


def _operation(method: str, operation: Operation) -> Json:
    document: Json = {"operationId": operation.name, "summary": operation.summary}
    if operation.about:
        document["description"] = operation.about
    document["security"] = [{BEARER_SCHEME: []}] if operation.bearer else []
    if operation.parameters:
        document["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.takes is not None:
        document["requestBody"] = {
            "required": not operation.may_be_empty,
            "content": {"application/json": {"schema": {"$ref": REF.format(name=operation.takes)}}},
        }
    document["responses"] = {str(operation.status): _answer(operation)} | _refusals(method, operation.refusals)
    return document


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.about,
        "schema": dict(parameter.schema),
    }


def _answer(operation: Operation) -> Json:
    document: Json = {"description": operation.told}
    if operation.headers:
        document["headers"] = {
            header.name: {"description": header.about, "schema": dict(header.schema)} for header in operation.headers
        }
    if operation.shape is not None:
        (schema,), _ = msgspec.json.schema_components([operation.shape], ref_template=REF)
        document["content"] = {"application/json": {"schema": schema}}
    if operation.links:
        document["links"] = {
            name: {"operationId": name, "parameters": {"token": "$response.body#/token"}} for name in operation.links
        }
    return document


def _refusals(method: str, refusals: Iterable[type[errors.Rejected]]) -> Json:
    """Return the responses of what may be refused, by status: several refusals may have one."""
    by_status: dict[int, list[type[errors.Rejected]]] = {}
    for refusal in refusals:
        by_status.setdefault(refusal.status, []).append(refusal)
    return {str(status): _refused(method, alike) for status, alike in sorted(by_status.items())}


def _refused(method: str, alike: list[type[errors.Rejected]]) -> Json:
    document: Json = {"description": "\n".join(f"- {one.title}: {one.__doc__}" for one in alike)}
    names = sorted({name for one in alike for name in one.headers})
    if names:
        document["headers"] = {name: _refused_header(name, alike) for name in names}
    if method != "HEAD":
        document["content"] = {PROBLEM_TYPE: {"schema": _problem(alike)}}
    return document


def _refused_header(name: str, alike: list[type[errors.Rejected]]) -> Json:
    values = sorted({one.headers[name] for one in alike if name in one.headers})
    return {
        "description": _HEADERS[name],
        "required": all(name in one.headers for one in alike),
        "schema": {"type": "string", "enum": values},
    }


def _problem(alike: list[type[errors.Rejected]]) -> Json:
    narrow: Json = {
        "status": {"const": alike[0].status},
        "title": {"enum": sorted({one.title for one in alike})},
    }
    faults = [REF.format(name=FAULTS[one].__name__) for one in alike if one in FAULTS]
    narrow["errors"] = {"type": "array", "items": {"$ref": faults[0]}} if faults else False
    return {"allOf": [{"$ref": REF.format(name=shapes.Problem.__name__)}, {"properties": narrow}]}


def _hook_body() -> Json:
    """Return the schema of what `POST /wh/config` takes."""
    return {
        "type": "object",
        "properties": {name: _field(field) for name, field in FIELDS.items()},
        "required": [name for name, field in FIELDS.items() if field.required],
        "additionalProperties": False,
        "examples": [{"datasource": "github", "event": "push", "secret": "a long secret"}],
    }


def _field(field: HookField) -> Json:
    schema: Json = {"description": field.about, "type": "string" if field.required else ["string", "null"]}
    if field.choices:
        schema["enum"] = [*field.choices, None]
    if field.pattern is not None:
        schema["pattern"] = field.pattern
    if field.most is not None:
        schema["maxLength"] = field.most
    if field.least is not None:
        long_enough: Json = {"minLength": field.least}
        if not field.empty:
            schema |= long_enough
        else:
            schema["anyOf"] = [{"maxLength": 0}, long_enough]
    return schema


def _delivery_body(max_body: int) -> Json:
    """Return the schema of a delivery: what is in it is the sender's business."""
    return {
        "description": f"Any JSON object or array (RFC 8259, UTF-8) of at most {max_body} bytes, as sent and inflated.",
        "type": ["object", "array"],
    }
