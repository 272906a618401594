"""`webhookd spool`: what is in the spool, trying it again, and dropping it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.options import setting_options, settings_of
from webhookd.cli.output import json_option, moment, show, show_json, show_table
from webhookd.forms import parse_duration

if TYPE_CHECKING:
    from webhookd.adapters.spool_layout import Entry, State

HEADER = ("RECEIPT", "TENANT", "DATASOURCE", "EVENT", "STATE", "ATTEMPTS", "RECEIVED", "BYTES", "REASON")
STATE_NAMES = ("waiting", "unroutable", "set aside", "kept")


@click.group(short_help="Look into the spool, retry and drop what is in it.")
def spool() -> None:
    """Look into the spool, retry and drop what is in it, beside a running daemon or without one.

    A message is `waiting` for the broker, `unroutable` (no queue takes it), `set aside` (the broker refuses it for
    itself), or `kept` (with broker = spool:, for spool_retention).

    \b
    webhookd spool status
    webhookd spool list --state "set aside"
    webhookd spool retry 01a20bf3-ff9e-776c-82d4-1966f294507e
    webhookd spool drop --state kept --older-than 2d
    """  # noqa: D301 - \b keeps click from wrapping the examples


state_option = click.option(
    "--state", "states", type=click.Choice(STATE_NAMES), multiple=True, help="Only messages in this state."
)


@spool.command()
@json_option
@setting_options("state_dir")
def status(*, as_json: bool, config: Path | None, **flags: str | None) -> None:
    """Show how much is in the spool."""
    from webhookd.cli.spool_access import open_spool  # noqa: PLC0415 - `--help` needs no Tornado

    settings = settings_of(config, flags)
    with open_spool(settings) as opened:
        stats = opened.stats()
    counts = {state.value: count for state, count in stats.messages.items()}
    document: dict[str, Any] = {
        "messages": {name: counts.get(name, 0) for name in STATE_NAMES},
        "bytes": stats.bytes,
        "maxBytes": stats.max_bytes,
        "oldestReceivedAt": stats.oldest_received_at,
        "oldestKeptReceivedAt": stats.oldest_kept_received_at,
        "full": stats.full,
        "failing": stats.failing,
        "damaged": list(stats.damaged),
    }
    if as_json:
        show_json(document)
        return
    for name, count in document["messages"].items():
        show(f"{name:<12}{count}")
    show(f"{'on disk':<12}{stats.bytes} of {stats.max_bytes} bytes")
    for name, oldest in (("oldest", stats.oldest_received_at), ("oldest kept", stats.oldest_kept_received_at)):
        show(f"{name:<12}{'-' if oldest is None else moment(oldest)}")
    if stats.full:
        show("full: the last message that came did not fit", fg="red")
    if stats.failing:
        show(f"failing: {stats.failing}", fg="red")
    for file in stats.damaged:
        show(f"damaged: {file} was put aside", fg="red")


@spool.command("list")
@state_option
@click.option("--tenant", metavar="ID", help="Only this tenant's messages.")
@json_option
@setting_options("state_dir")
def list_messages(
    *, states: Sequence[str], tenant: str | None, as_json: bool, config: Path | None, **flags: str | None
) -> None:
    """List the messages in the spool, oldest first. With --json: one JSON object a line."""
    from webhookd.cli.spool_access import open_spool, pages  # noqa: PLC0415 - see status
    from webhookd.control import Wanted  # noqa: PLC0415

    with open_spool(settings_of(config, flags)) as opened:
        for page in pages(opened, Wanted(tenant=tenant, states=_states(states))):
            if as_json:
                for entry in page:
                    show_json(_document(entry))
                continue
            show_table(HEADER, [_row(entry) for entry in page])


@spool.command()
@click.argument("receipts", nargs=-1)
@json_option
@setting_options("state_dir")
def retry(*, receipts: Sequence[str], as_json: bool, config: Path | None, **flags: str | None) -> None:
    """Let messages that are set aside or unroutable wait for the broker again: those named, or all."""
    from webhookd.cli.spool_access import open_spool  # noqa: PLC0415 - see status

    with open_spool(settings_of(config, flags)) as opened:
        count = opened.retry(receipts or None)
    _report("retried", count, as_json=as_json)


@spool.command()
@click.argument("receipts", nargs=-1)
@state_option
@click.option("--older-than", metavar="DURATION", help="Only messages received longer ago than this: 90m, 7d.")
@click.option("--all", "everything", is_flag=True, help="All messages.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@setting_options("state_dir")
def drop(
    *,
    receipts: Sequence[str],
    states: Sequence[str],
    older_than: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    config: Path | None,
    **flags: str | None,
) -> None:
    """Delete messages from the spool: those that all of the given conditions hold for.

    What is deleted was accepted, and nobody will get it: it asks first.
    """
    if not (receipts or states or older_than or everything):
        raise click.UsageError("say what to drop: receipts, --state, --older-than, or --all")
    try:
        seconds = None if older_than is None else parse_duration(older_than)
    except ValueError:
        raise click.UsageError(f"--older-than {older_than!r} is no duration: write 90m, 12h, 7d") from None
    settings = settings_of(config, flags)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: add --yes")
        click.confirm("These messages were accepted and will be gone for good. Drop them?", abort=True)
    from webhookd.cli.spool_access import open_spool  # noqa: PLC0415 - see status
    from webhookd.control import Condition  # noqa: PLC0415

    with open_spool(settings) as opened:
        count = opened.drop(Condition(states=_states(states), older_than=seconds, receipts=list(receipts) or None))
    _report("dropped", count, as_json=as_json)


def _report(done: str, count: int, *, as_json: bool) -> None:
    if as_json:
        show_json({done: count})
    else:
        show(f"{done} {count} message{'' if count == 1 else 's'}")


def _states(names: Sequence[str]) -> list[State] | None:
    from webhookd.adapters.spool_layout import State  # noqa: PLC0415 - see status

    return [State(name) for name in names] or None


def _row(entry: Entry) -> tuple[object, ...]:
    what = (entry.receipt, entry.tenant, entry.datasource, entry.event, entry.state.value, entry.attempts)
    return (*what, moment(entry.received_at), entry.bytes, entry.reason or "-")


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "receipt": entry.receipt,
        "tenant": entry.tenant,
        "datasource": entry.datasource,
        "event": entry.event,
        "state": entry.state.value,
        "attempts": entry.attempts,
        "receivedAt": entry.received_at,
        "bytes": entry.bytes,
        "reason": entry.reason,
    }
