"""`webhookd tail`: the accepted messages in the spool, and those to come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.options import setting_options, settings_of
from webhookd.cli.output import json_option, moment, printable, show, show_json

if TYPE_CHECKING:
    from webhookd.adapters.spool_layout import Entry
    from webhookd.control_protocol import Page
    from webhookd.settings import Settings

SHOWN = 2000
"""How many characters of a body are shown; `--json` has them all."""


@click.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Wait for messages to come, until Ctrl-C.")
@click.option("--tenant", metavar="ID", help="Show this tenant's messages alone.")
@json_option
@setting_options("state_dir")
def tail(*, following: bool, tenant: str | None, as_json: bool, config: Path | None, **flags: str | None) -> None:
    """Show the accepted messages in the spool, oldest first.

    Works beside a running daemon and without one; with --follow it outlives a restart of the daemon. With --json, each
    message is one line: receipt, routingKey, tenant, datasource, event, receivedAt (ms), headers, and the body as text.

    \b
    webhookd tail --follow
    webhookd tail --json --tenant 42 --state-dir /var/lib/webhookd | jq -r .body
    """  # noqa: D301 - \b keeps click from wrapping the examples
    settings = settings_of(config, flags)
    try:
        for page in _pages(settings, tenant, following=following):
            for entry in page.entries:
                if as_json:
                    show_json(_document(entry))
                else:
                    _show(entry)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not following:
            raise
        # Ctrl-C is how following ends.


def _pages(settings: Settings, tenant: str | None, *, following: bool) -> Iterator[Page]:
    from webhookd.cli.spool_access import follow, open_spool, pages  # noqa: PLC0415 - `--help` needs nothing of it
    from webhookd.control_protocol import Wanted  # noqa: PLC0415

    wanted = Wanted(tenant=tenant, bodies=True)
    if following:
        yield from follow(settings, wanted)
    else:
        with open_spool(settings) as spool:
            yield from pages(spool, wanted)


def _key(entry: Entry) -> str:
    return f"event.{entry.tenant}.{entry.datasource}.{entry.event}"


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "receipt": entry.receipt,
        "routingKey": _key(entry),
        "tenant": entry.tenant,
        "datasource": entry.datasource,
        "event": entry.event,
        "receivedAt": entry.received_at,
        "headers": entry.headers,
        "body": None if entry.body is None else entry.body.decode(),
    }


def _show(entry: Entry) -> None:
    show(f"{moment(entry.received_at)}  {_key(entry)}  {entry.bytes} bytes  {entry.receipt}", bold=True)
    extra = {name: value for name, value in entry.headers.items() if name != "receivedAt"}
    if extra:
        show(printable("  " + "  ".join(f"{name}: {value}" for name, value in extra.items())), dim=True)
    if entry.body is None:
        show(f"  {entry.reason}", fg="red")
        return
    text = entry.body.decode()
    rest = f" ... ({len(text) - SHOWN} more characters: --json has all)" if len(text) > SHOWN else ""
    show("  " + printable(text[:SHOWN]) + rest)
