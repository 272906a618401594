"""Tenants look at what was delivered to their hooks: /wh/config/<token>/deliveries, as this node remembers it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, ClassVar

from webhookd.body import check_content_type
from webhookd.errors import NotFound
from webhookd.http_config import ConfigHandler, Route
from webhookd.json_input import json_object, refuse_faults
from webhookd.model import OUTCOMES, Hook, Record
from webhookd.record_view import MOST, PAGE, shown
from webhookd.records import Records
from webhookd.replay import Replayed, Replayer, Wanted
from webhookd.tenant_hooks import TenantHooks
from webhookd.trials.schemes import secret_headers

REPLAYABLE = ("refused", "accepted")
NOBODY = "there is no such delivery, or it is no longer remembered"


@dataclass(frozen=True, slots=True)
class Node:
    """What one daemon remembers of deliveries: the others have records of their own."""

    name: str
    records: Records
    replayer: Replayer


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
        refuse_faults(faults)
        return {name: values[0].decode("latin-1") for name, values in self.request.query_arguments.items()}

    def shown(self, hook: Hook, *records: Record) -> list[dict[str, Any]]:
        """Return records of a hook as they are shown to its tenant."""
        signing = secret_headers(self.service.datasources.get(hook.datasource))
        return [shown(record, signing) for record in records]

    def own_record(self, token: str, id_: str) -> tuple[Hook, Record]:
        """Return the caller's own hook and a record of it; raises `NotFound`."""
        hook = self.own_hook(token)
        record = self.node.records.get(hook.token, id_)
        if record is None:
            raise NotFound(NOBODY)
        return hook, record


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
        document: dict[str, Any] = {"node": self.node.name, "deliveries": self.shown(hook, *found[:limit])}
        if len(found) > limit:
            document["next"] = found[limit - 1].id
        self.write_json(document)


class DeliveryHandler(RecordsHandler):
    """`/wh/config/<token>/deliveries/<id>`: one delivery, with its body where that was kept."""

    ALLOW = ("GET",)

    def get(self, token: str, id_: str) -> None:
        """Show it."""
        hook, record = self.own_record(token, id_)
        self.parameters()
        body = self.node.records.body(hook.token, id_)
        (document,) = self.shown(hook, record)
        self.write_json({"node": self.node.name, **document, **shown_body(body), "hasBody": body is not None})


class ReplayHandler(RecordsHandler):
    """`/wh/config/<token>/deliveries/<id>/replay`: one delivery again."""

    ALLOW = ("POST",)

    async def post(self, token: str, id_: str) -> None:
        """Replay it, and say what became of it."""
        hook, record = self.own_record(token, id_)
        self.parameters()
        (document,) = self.shown(hook, await self.node.replayer.one(hook, record))
        self.write_json({"node": self.node.name, **document})


class ReplaysHandler(RecordsHandler):
    """`/wh/config/<token>/deliveries/replay`: all deliveries that are asked for again, some at a time."""

    ALLOW = ("POST",)

    async def post(self, token: str) -> None:
        """Replay them, oldest first, and say what became of each; `next` is what to give as `after` for the rest."""
        hook = self.own_hook(token)
        self.parameters()
        check_content_type(self.request.headers.get("Content-Type"))
        wanted = _wanted(self.request.body)
        done, more = await self.node.replayer.some(hook, wanted)
        document: dict[str, Any] = {"node": self.node.name, "replays": [self._told(hook, one) for one in done]}
        if more and done:
            document["next"] = done[-1].record.id
        self.write_json(document)

    def _told(self, hook: Hook, one: Replayed) -> dict[str, Any]:
        error = one.outcome
        if isinstance(error, Record):
            return self.shown(hook, error)[0]
        return {"replayOf": one.record.id, "outcome": "not replayed", "status": error.status, "detail": error.detail}


def _wanted(body: bytes) -> Wanted:
    """Read the body of a request for replays; raises `InvalidInput` with all that is wrong."""
    document = json_object(body)
    known = ("outcome", "reason", "after")
    faults = [
        {"field": name, "message": f"unknown field; known are {', '.join(known)}"}
        for name in document
        if name not in known
    ]
    given = {name: document[name] for name in known if document.get(name) is not None}
    faults += [{"field": name, "message": "must be a string"} for name in given if not isinstance(given[name], str)]
    if given.get("outcome") not in REPLAYABLE:
        faults.append({"field": "outcome", "message": f"must be one of {', '.join(REPLAYABLE)}"})
    refuse_faults(faults)
    return Wanted(**given)


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
    return [
        (deliveries, DeliveriesHandler, given),
        (f"{deliveries}/replay", ReplaysHandler, given),
        (f"{deliveries}/([^/]+)", DeliveryHandler, given),
        (f"{deliveries}/([^/]+)/replay", ReplayHandler, given),
    ]


def _limit(asked: dict[str, str]) -> int:
    """Check the values of a page's parameters, and return how many deliveries are wanted."""
    faults = []
    if asked.get("outcome", OUTCOMES[0]) not in OUTCOMES:
        faults.append({"field": "outcome", "message": f"must be one of {', '.join(OUTCOMES)}"})
    text = asked.get("limit", str(PAGE))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) else 0
    if not 1 <= limit <= MOST:
        faults.append({"field": "limit", "message": f"must be a whole number from 1 to {MOST}"})
    refuse_faults(faults)
    return limit
