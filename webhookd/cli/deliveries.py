"""`webhookd hooks deliveries`: the last deliveries of a hook, as one daemon remembers them."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from webhookd.cli.api_options import hook_path, with_api
from webhookd.cli.completing import hook_tokens
from webhookd.cli.config_api import ConfigApi
from webhookd.cli.output import json_option, moment, printable, show_json, show_table
from webhookd.model import OUTCOMES

PAGE = 200
"""How many deliveries are asked for at a time: as many as there may be in one answer."""
HEADER = ("ID", "RECEIVED", "OUTCOME", "STATUS", "REASON", "BYTES", "DELIVERY ID", "EVENT", "REPLAY OF")


@click.command()
@click.argument("hook", shell_complete=hook_tokens)
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only those that ended so.")
@json_option
@with_api
def deliveries(api: ConfigApi, hook: str, outcome: str | None, as_json: bool) -> None:
    """List the last deliveries to HOOK (its token or its URL), newest first. With --json: one JSON object a line.

    They are those that the daemon remembers that is asked; another one has its own.

    \b
    webhookd hooks deliveries "$HOOK_URL" --outcome refused
    """  # noqa: D301 - \b keeps click from wrapping the examples
    found = []
    asked: dict[str, str | int] = {"limit": PAGE} | ({} if outcome is None else {"outcome": outcome})
    while True:
        page = api.ask("GET", f"{hook_path(hook)}/deliveries?{urlencode(asked)}")
        found += page["deliveries"]
        if "next" not in page:
            break
        asked["before"] = page["next"]
    if as_json:
        for one in found:
            show_json(one)
        return
    names = ("status", "reason", "size", "deliveryId", "providerEvent", "replayOf")
    rows = [
        (one["id"], moment(one["receivedAt"]), one["outcome"], *(printable(str(one.get(name, ""))) for name in names))
        for one in found
    ]
    show_table(HEADER, rows)
