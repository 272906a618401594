"""Everything that pluggy may call: the whole surface of a plugin module."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from webhookd.datasource import Datasource

PROJECT = "webhookd"
"""pluggy's project name, and the entry point group that plugins register under."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_datasources() -> Iterable[Datasource]:  # type: ignore[empty-body]
    """Return the datasources of this plugin. Called once, at the start of the daemon."""
