"""`webhookd tail`: the accepted messages: of the spool, and those to come; or of the broker, as they are published."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.options import setting_options, settings_of
from webhookd.cli.output import json_option, moment, printable, say, show, show_json
from webhookd.cli.progress import progress
from webhookd.model import NAME

if TYPE_CHECKING:
    from webhookd.adapters.amqp_tail import Seen
    from webhookd.adapters.spool_layout import Entry
    from webhookd.control_protocol import Page
    from webhookd.settings import Settings

SHOWN = 2000
"""How many characters of a body are shown; `--json` has them all."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as it is shown, and its size in bytes; the text of one that cannot be read is missing, and why."""

    message: Entry | Seen
    routing_key: str
    bytes: int
    text: str | None
    reason: str | None = None


@click.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Wait for messages to come, until Ctrl-C.")
@click.option("--tenant", metavar="ID", help="Show this tenant's messages alone.")
@json_option
@setting_options(
    "state_dir",
    "broker",
    "exchange",
    "broker_password_file",
    "broker_cafile",
    "broker_certfile",
    "broker_keyfile",
)
def tail(*, following: bool, tenant: str | None, as_json: bool, config: Path | None, **flags: str | None) -> None:
    """Show the accepted messages, oldest first.

    With broker = spool: they are those in the spool; with --follow those to come, too, through a restart of the
    daemon. Works beside a running daemon and without one.

    With RabbitMQ they are those that are published from now on, through a temporary queue, until Ctrl-C: --follow is
    implied. What waits in the spool is shown by `webhookd spool list`. Have a queue of your own bound first: while no
    other is, what is published is only shown, and kept by nobody. A reader that is too slow misses the oldest.

    With --json, each message is one line: receipt, routingKey, tenant, datasource, event, receivedAt (ms), headers, and
    the body as text.

    \b
    webhookd tail --follow
    webhookd tail --json --tenant 42 --state-dir /var/lib/webhookd | jq -r .body
    webhookd tail --broker amqp://tail@rabbit.example --broker-password-file tail.password
    """  # noqa: D301 - \b keeps click from wrapping the examples
    settings = settings_of(config, flags)
    brokered = settings.broker != "spool:"
    try:
        for shown in _published(settings, tenant) if brokered else _spooled(settings, tenant, following=following):
            if as_json:
                show_json(_document(shown))
            else:
                _show(shown)
    except KeyboardInterrupt:
        if not (following or brokered):
            raise
        # Ctrl-C is how following ends.


def _spooled(settings: Settings, tenant: str | None, *, following: bool) -> Iterator[Shown]:
    from webhookd.cli.spool_access import follow, open_spool, pages  # noqa: PLC0415 - `--help` needs nothing of it
    from webhookd.control_protocol import Wanted  # noqa: PLC0415

    wanted = Wanted(tenant=tenant, bodies=True)
    if following:
        yield from _shown(follow(settings, wanted))
    else:
        with open_spool(settings) as spool:
            yield from _shown(_counted(pages(spool, wanted)))


def _counted(pages: Iterator[Page]) -> Iterator[Page]:
    """Show how far the reading is, unless it is seen in what is printed."""
    first = next(pages, None)
    if first is None:
        return
    start = first.entries[0].seq - 1
    with progress("reading", 0 if sys.stdout.isatty() else first.newest - start) as shown:
        for page in itertools.chain([first], pages):
            yield page
            shown.reach(page.after - start)


def _shown(pages: Iterator[Page]) -> Iterator[Shown]:
    for page in pages:
        for entry in page.entries:
            text = None if entry.body is None else entry.body.decode()
            yield Shown(entry, entry.message.routing_key, entry.bytes, text, entry.reason)
        sys.stdout.flush()


def _published(settings: Settings, tenant: str | None) -> Iterator[Shown]:
    from webhookd.cli.broker_tail import messages  # noqa: PLC0415 - the spool needs nothing of it

    if tenant is not None and NAME.fullmatch(tenant) is None:
        raise click.UsageError(f"--tenant: {tenant} can be no tenant")

    def ready() -> None:
        say("showing what is published from now on, until Ctrl-C; `webhookd spool list` has what waits in the spool")

    for seen in messages(settings, tenant, ready):
        # others than webhookd may publish to the exchange, too, and no rule says what
        yield Shown(seen, seen.routing_key, len(seen.body), seen.body.decode("utf-8", "backslashreplace"))
        sys.stdout.flush()


def _document(shown: Shown) -> dict[str, Any]:
    message = shown.message
    return {
        "receipt": message.receipt,
        "routingKey": shown.routing_key,
        "tenant": message.tenant,
        "datasource": message.datasource,
        "event": message.event,
        "receivedAt": message.received_at,
        "headers": message.headers,
        "body": shown.text,
    }


def _show(shown: Shown) -> None:
    message, text = shown.message, shown.text
    at = moment(message.received_at)
    show(printable(f"{at}  {shown.routing_key}  {shown.bytes} bytes  {message.receipt}"), bold=True)
    extra = {name: value for name, value in message.headers.items() if name != "receivedAt"}
    if extra:
        show(printable("  " + "  ".join(f"{name}: {value}" for name, value in extra.items())), dim=True)
    if text is None:
        show(f"  {shown.reason}", fg="red")
        return
    rest = f" ... ({len(text) - SHOWN} more characters: --json has all)" if len(text) > SHOWN else ""
    show("  " + printable(text[:SHOWN]) + rest)
