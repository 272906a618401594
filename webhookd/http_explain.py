"""Tenants ask why a delivery was refused: /wh/config/<token>/deliveries/<id>/explain."""

from __future__ import annotations

from webhookd.explainer import Explainer
from webhookd.http_config import Route
from webhookd.http_records import Node, RecordsHandler
from webhookd.tenant_hooks import TenantHooks


class ExplainHandler(RecordsHandler):
    """`/wh/config/<token>/deliveries/<id>/explain`: every check of one delivery, and why the first that failed did."""

    ALLOW = ("GET",)
    explainer: Explainer

    def initialize(self, service: TenantHooks, node: Node | None = None, explainer: Explainer | None = None) -> None:
        """Take what the route hands over."""
        super().initialize(service, node)
        assert explainer is not None  # noqa: S101 - for the type checker: the route below hands it over
        self.explainer = explainer

    async def get(self, token: str, id_: str) -> None:
        """Explain it."""
        hook, record = self.own_record(token, id_)
        self.parameters()
        self.write_json(await self.explainer.explain(hook, record))


def explain_routes(service: TenantHooks, node: Node, explainer: Explainer) -> list[Route]:
    """Return the part of the config API that explains deliveries."""
    given = {"service": service, "node": node, "explainer": explainer}
    return [("/wh/config/([^/]+)/deliveries/([^/]+)/explain", ExplainHandler, given)]
