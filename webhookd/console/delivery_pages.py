"""A hook's page with its last deliveries, one delivery, and a sample to be sent."""

from __future__ import annotations

from typing import Any

from webhookd.checks import CHECKS
from webhookd.console import forms, sending, views
from webhookd.console.pages import Page
from webhookd.errors import NotFound
from webhookd.model import OUTCOMES, Hook, Record
from webhookd.record_view import shown_headers
from webhookd.records import MAX_KEPT_BODY
from webhookd.replay import Wanted
from webhookd.trials.schemes import secret_headers

PAGE = 50
"""How many deliveries one page shows."""
MOST_SHOWN = 1024 * 1024
"""The largest body, in bytes, that is shown; a small one that came compressed may be large."""


class Deliveries(Page):
    """What the pages about deliveries have in common."""

    def last(self, hook: Hook, limit: int, **which: Any) -> list[Record]:
        """Return the hook's last deliveries, newest first; none where none are kept."""
        records = self.console.intake.records
        return [] if records is None else records.of(hook.token, limit=limit, **which)

    def spark(self, hook: Hook) -> str:
        """Return the hook's last hour as a picture."""
        records = self.console.intake.records
        return views.hour([] if records is None else records.outcomes(hook.token), self.capacity)

    def remembered(self, hook: Hook, id_: str) -> Record:
        """Return a delivery of the hook; raises `NotFound` where it is not remembered."""
        record = self.console.replayer.records.get(hook.token, id_)
        if record is None:
            raise NotFound("this delivery is no longer remembered, or never was")
        return record

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
        sources = self.console.service.datasources
        created = self.get_query_argument("done", "").startswith("created")
        self.render(
            "hook.html",
            hook=hook,
            old=hook.previous(self.console.service.now_ms()),
            source=sources.get(hook.datasource),
            likely=forms.likely(hook.datasource, sources.known) if created else "",
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
        record, explainer = self.remembered(hook, id_), self.console.explainer
        body = await self._body(hook, record)
        self.render(
            "delivery.html",
            hook=hook,
            record=record,
            why=None if explainer is None else await explainer.explain(hook, record),
            checks=CHECKS,
            headers=shown_headers(record, secret_headers(self.console.service.datasources.get(hook.datasource))),
            body=None if body is None else views.payload(body),
        )

    async def _body(self, hook: Hook, record: Record) -> bytes | None:
        """Return the body: kept with the record, or in the spool; None where it is not, or too large to be shown."""
        replayer = self.console.replayer
        body = replayer.records.body(hook.token, record.id)
        if body is None and record.outcome == "accepted" and record.size <= MAX_KEPT_BODY and replayer.spooled:
            body = await replayer.spooled(record.id, record.received_at)
        return body if body is None or len(body) <= MOST_SHOWN else None


class Replay(Deliveries):
    """`/console/hooks/<token>/deliveries/<id>/replay`."""

    async def post(self, token: str, id_: str) -> None:
        """Replay one delivery, and show what became of it."""
        hook = self.own_hook(token)
        replay = await self.console.replayer.one(hook, self.remembered(hook, id_))
        done = "replay" if replay.outcome == "accepted" else f"replay-{replay.outcome}"
        self.go(f"/hooks/{hook.token}/deliveries/{replay.id}", done)


class ReplayRefused(Deliveries):
    """`/console/hooks/<token>/replay`."""

    async def post(self, token: str) -> None:
        """Replay the refused deliveries, as many at a time as one request may."""
        hook = self.own_hook(token)
        await self.console.replayer.some(hook, Wanted("refused"))
        self.go(f"/hooks/{hook.token}", "replayed")


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
