"""Remembers deliveries as the settings say."""

from __future__ import annotations

from webhookd.hooks import HookTable
from webhookd.records import Records
from webhookd.registry import Registry
from webhookd.settings import Settings


def records_of(settings: Settings, table: HookTable, registry: Registry) -> Records:
    """Return the records of the hooks in `table`, none yet."""
    return Records(
        table,
        registry,
        per_hook=settings.records_per_hook,
        max_bytes=settings.records_max_bytes,
        keep_accepted=settings.keep_accepted,
    )
