"""Explains deliveries that are remembered: one at a time, beside the event loop, and tenants take turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from webhookd.checks import Case
from webhookd.explain import Explanation, explain
from webhookd.ingest import Datasources, SchemaCheck
from webhookd.model import Hook, Record
from webhookd.records import Records
from webhookd.turns import Turns


@dataclass(frozen=True, slots=True)
class Explainer:
    """What the config API and the console ask for an explanation; used on the event loop only."""

    records: Records
    datasources: Datasources
    schemas: SchemaCheck
    max_body: int
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    _turns: Turns = field(default_factory=Turns)

    async def explain(self, hook: Hook, record: Record) -> Explanation:
        """Return why `record`, of a delivery to `hook`, is as it is, judged by the hook as it is now."""
        async with self._turns.of(hook.tenant):
            return await asyncio.to_thread(explain, self._case(hook, record), self.now_ms())

    def _case(self, hook: Hook, record: Record) -> Case:
        source = self.datasources.get(hook.datasource)
        return Case(record, self.records.body(hook.token, record.id), hook, source, self.schemas, self.max_body)
