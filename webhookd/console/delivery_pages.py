"""A hook's page with its last deliveries, one delivery, and a sample to be sent."""

from __future__ import annotations

from typing import Any

from webhookd.checks import CHECKS
from webhookd.console import sending, views
from webhookd.console.pages import Page
from webhookd.errors import NotFound
from webhookd.model import OUTCOMES, Hook, Record
from webhookd.records import shown_headers

PAGE = 50
"""How many deliveries one page shows."""


class Deliveries(Page):
    """What the pages about deliveries have in common."""

    def last(self, hook: Hook, limit: int, **which: Any) -> list[Record]:
        """Return the hook's last deliveries, newest first; none where none are kept."""
        records = self.console.intake.records
        return [] if records is None else records.of(hook.token, limit=limit, **which)

    def spark(self, hook: Hook) -> str:
        """Return the hook's last hour as a picture."""
        records = self.console.intake.records
        return views.hour([] if records is None else records.of(hook.token, limit=records.per_hook), self.capacity)

    @property
    def capacity(self) -> int:
        """How many deliveries of a hook are kept."""
        records = self.console.intake.records
        return 0 if records is None else records.per_hook


class HookPage(Deliveries):
    """`/console/hooks/<token>`."""

    def get(self, token: str) -> None:
        """Show the hook and its last deliveries."""
        hook = self.own_hook(token)
        outcome = self.get_query_argument("outcome", "")
        outcome = outcome if outcome in OUTCOMES else ""
        before = self.get_query_argument("before", "") or None
        shown = self.last(hook, PAGE + 1, outcome=outcome or None, before=before)
        self.render(
            "hook.html",
            hook=hook,
            source=self.console.service.datasources.get(hook.datasource),
            spark=self.spark(hook),
            records=shown[:PAGE],
            more=shown[PAGE - 1].id if len(shown) > PAGE else None,
            outcome=outcome,
            outcomes=OUTCOMES,
            before=before,
            capacity=self.capacity,
        )


class DeliveryPage(Deliveries):
    """`/console/hooks/<token>/deliveries/<id>`."""

    async def get(self, token: str, id_: str) -> None:
        """Show everything about one delivery."""
        hook = self.own_hook(token)
        records, explainer = self.console.intake.records, self.console.explainer
        record = None if records is None else records.get(hook.token, id_)
        if records is None or record is None:
            raise NotFound("this delivery is no longer remembered, or never was")
        body = records.body(hook.token, id_)
        self.render(
            "delivery.html",
            hook=hook,
            record=record,
            why=await explainer.explain(hook, record) if explainer is not None else None,
            checks=CHECKS,
            headers=shown_headers(record),
            body=None if body is None else views.payload(body),
        )


class SamplePage(Page):
    """`/console/hooks/<token>/sample`."""

    def get(self, token: str) -> None:
        """Show the sample before it is sent."""
        hook = self.own_hook(token)
        self.show(hook, sending.sample(self.console.service.datasources.get(hook.datasource), hook.event))

    def show(self, hook: Hook, body: str) -> None:
        """Show the form."""
        source = self.console.service.datasources.get(hook.datasource)
        self.render("sample.html", hook=hook, body=body, source=source, signatures=sending.SIGNATURES)

    async def post(self, token: str) -> None:
        """Send it."""
        hook = self.own_hook(token)
        # a form's lines end with CR LF, and a text that a sender would send does not
        body = self.get_body_argument("body", "", strip=False).replace("\r\n", "\n").strip().encode("utf-8", "replace")
        source = self.console.service.datasources.get(hook.datasource)
        headers = sending.headers_of(source, hook, body, self.get_body_argument("signature", "valid"))
        await sending.deliver(self.console.intake, hook, headers, body)
        self.go(f"/hooks/{hook.token}", "sent")
