"""The operators' page: how the daemon is, in the figures of /metrics and the words of /readyz, of no tenant."""

from __future__ import annotations

from webhookd.console import remedies
from webhookd.console.pages import Page


class Overview(Page):
    """`/console/overview`: open to whoever reaches this listener, as /metrics and /readyz are."""

    OPEN = True

    def get(self) -> None:
        """Show it as it is now; the page's script has it move."""
        console = self.console
        readiness = console.readiness()
        seconds = console.trend.seconds()
        self.render(
            "overview.html",
            status=readiness.status,
            faults=remedies.of_faults(readiness),
            now=seconds[-1] if seconds else {},
            refusals=remedies.of_refusals(console.trend.refusals()),
            broker=console.broker,
            store=console.store,
        )
