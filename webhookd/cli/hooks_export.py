"""`webhookd hooks export`: a tenant's hooks as JSON lines, which `webhookd hooks import` takes; never a secret."""

from __future__ import annotations

import click

from webhookd.cli.api_options import with_api
from webhookd.cli.config_api import ConfigApi
from webhookd.cli.output import say, show_json


@click.command("export")
@with_api
def export_hooks(api: ConfigApi) -> None:
    """Print the tenant's hooks, oldest first, one JSON object a line: what `webhookd hooks import` takes.

    Secrets are not in it: the config API tells nobody a secret. Where hooks are signed, stderr says how many.

    \b
    webhookd hooks export > hooks.jsonl
    """  # noqa: D301 - \b keeps click from wrapping the examples
    found = api.ask("GET")
    for hook in found:
        show_json(hook)
    signed = sum(hook["signed"] for hook in found)
    if signed:
        say(f"{signed} of {len(found)} hooks are signed; their secrets are not in the export")
