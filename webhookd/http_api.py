"""Everything that tenants ask for over HTTP, deliveries aside, as one application."""

from __future__ import annotations

import socket

from tornado import web

from webhookd.explainer import Explainer
from webhookd.http_config import config_app
from webhookd.http_documents import document_routes
from webhookd.http_explain import explain_routes
from webhookd.http_records import Node, record_routes
from webhookd.registry import Registry
from webhookd.replay import Replayer
from webhookd.schema import Schemas
from webhookd.settings import Settings
from webhookd.tenant_hooks import TenantHooks


def tenant_api(
    settings: Settings, service: TenantHooks, replayer: Replayer, registry: Registry, schemas: Schemas
) -> web.Application:
    """Return the config API with what this node knows of deliveries, and the documents that describe it."""
    records = replayer.records
    node = Node(settings.node_name or socket.gethostname(), records, replayer)
    explainer = Explainer(records, registry, schemas, settings.max_body)
    return config_app(
        service,
        [
            *record_routes(service, node),
            *explain_routes(service, node, explainer),
            *document_routes(settings, registry),
        ],
    )
