"""Tenants look at what was delivered to their hooks: /wh/config/<token>/deliveries, as this node remembers it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, ClassVar

from webhookd.errors import InvalidInput, NotFound
from webhookd.http_config import ConfigHandler, Route
from webhookd.model import Record
from webhookd.record_view import MOST, PAGE, shown
from webhookd.records import OUTCOMES, Records
from webhookd.tenant_hooks import TenantHooks

NOBODY = "there is no such delivery, or it is no longer remembered"


@dataclass(frozen=True, slots=True)
class Node:
    """What one daemon remembers of deliveries: the others have records of their own."""

    name: str
    records: Records


class RecordsHandler(ConfigHandler):
    """What is about the deliveries of one hook. They are in memory: the store need not be there."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ()
    node: Node

    def initialize(self, service: TenantHooks, node: Node | None = None) -> None:
        """Take what the routes hand over."""
        super().initialize(service)
        assert node is not None  # noqa: S101 - for the type checker: routes below hand it over
        self.node = node

    def parameters(self) -> dict[str, str]:
        """Return the query; raises `InvalidInput` with every parameter that is unknown or there twice."""
        faults = []
        for name, values in self.request.query_arguments.items():
            if name not in self.PARAMETERS:
                known = f"known are {', '.join(self.PARAMETERS)}" if self.PARAMETERS else "there are none here"
                faults.append({"field": name, "message": f"unknown parameter; {known}"})
            elif len(values) > 1:
                faults.append({"field": name, "message": "must be given once"})
        _raise(faults)
        return {name: values[0].decode("latin-1") for name, values in self.request.query_arguments.items()}

    def record(self, token: str, id_: str) -> Record:
        """Return a record of the caller's own hook; raises `NotFound`."""
        record = self.node.records.get(self.own_hook(token).token, id_)
        if record is None:
            raise NotFound(NOBODY)
        return record


class DeliveriesHandler(RecordsHandler):
    """`/wh/config/<token>/deliveries`: the last deliveries of a hook."""

    ALLOW = ("GET",)
    PARAMETERS = ("outcome", "before", "limit")

    def get(self, token: str) -> None:
        """List them, newest first; `next` is what to give as `before` for the page behind."""
        hook = self.own_hook(token)
        asked = self.parameters()
        limit = _limit(asked)
        found = self.node.records.of(
            hook.token, outcome=asked.get("outcome"), before=asked.get("before"), limit=limit + 1
        )
        document: dict[str, Any] = {"node": self.node.name, "deliveries": [shown(record) for record in found[:limit]]}
        if len(found) > limit:
            document["next"] = found[limit - 1].id
        self.write_json(document)


class DeliveryHandler(RecordsHandler):
    """`/wh/config/<token>/deliveries/<id>`: one delivery, with its body where that was kept."""

    ALLOW = ("GET",)

    def get(self, token: str, id_: str) -> None:
        """Show it."""
        record = self.record(token, id_)
        self.parameters()
        body = self.node.records.body(token, id_)
        self.write_json({"node": self.node.name, **shown(record), **shown_body(body), "hasBody": body is not None})


def shown_body(body: bytes | None) -> dict[str, str]:
    """Return a body as it is shown in JSON: as text, in base64 where it is none, absent where there is none."""
    if body is None:
        return {}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode()}


def record_routes(service: TenantHooks, node: Node) -> list[Route]:
    """Return the part of the config API that is about deliveries."""
    given = {"service": service, "node": node}
    deliveries = "/wh/config/([^/]+)/deliveries"
    return [(deliveries, DeliveriesHandler, given), (f"{deliveries}/([^/]+)", DeliveryHandler, given)]


def _limit(asked: dict[str, str]) -> int:
    """Check the values of a page's parameters, and return how many deliveries are wanted."""
    faults = []
    if asked.get("outcome", OUTCOMES[0]) not in OUTCOMES:
        faults.append({"field": "outcome", "message": f"must be one of {', '.join(OUTCOMES)}"})
    text = asked.get("limit", str(PAGE))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) else 0
    if not 1 <= limit <= MOST:
        faults.append({"field": "limit", "message": f"must be a whole number from 1 to {MOST}"})
    _raise(faults)
    return limit


def _raise(faults: list[dict[str, str]]) -> None:
    if faults:
        raise InvalidInput("; ".join(f"{fault['field']}: {fault['message']}" for fault in faults), faults)
