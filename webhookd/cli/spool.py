"""`webhookd spool`: what is in the spool, trying it again, and dropping it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.completing import receipts as receipts_known
from webhookd.cli.options import Family, setting_options, settings_of
from webhookd.cli.output import json_option, moment, say, show, show_json, show_table
from webhookd.forms import durations, show_size

if TYPE_CHECKING:
    from webhookd.adapters.spool_layout import Entry, SpoolStats, State
    from webhookd.cli.spool_access import SpoolAccess

HEADER = ("RECEIPT", "TENANT", "DATASOURCE", "EVENT", "STATE", "ATTEMPTS", "RECEIVED", "BYTES", "REASON")
STATE_NAMES = ("waiting", "unroutable", "set aside", "kept")
RETRIED = ("unroutable", "set aside")
AGE = durations(least=0)


class StateName(click.Choice[str]):
    """The name of a state; `set-aside` spares the quotes."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is written in answers."""
        return super().convert(value.replace("-", " "), param, ctx)


@click.group(cls=Family, short_help="Look into the spool, retry and drop what is in it.")
def spool() -> None:
    """Look into the spool, retry and drop what is in it, beside a running daemon or without one.

    A message is `waiting` for the broker, `unroutable` (no queue takes it), `set aside` (the broker refuses it for
    itself), or `kept` (with broker = spool:, for spool_retention).

    \b
    webhookd spool status
    webhookd spool list --state set-aside
    webhookd spool retry 01a20bf3-ff9e-776c-82d4-1966f294507e
    webhookd spool drop --state kept --older-than 2d
    """  # noqa: D301 - \b keeps click from wrapping the examples


state_option = click.option(
    "--state", "states", type=StateName(STATE_NAMES), multiple=True, help="Only messages in this state (repeatable)."
)


def _age(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else AGE.parse(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not {AGE.allowed}", ctx, parameter) from None


@spool.command()
@json_option
@setting_options("state_dir")
def status(*, as_json: bool, config: Path | None, **flags: str | None) -> None:
    """Show how much is in the spool, how old it is, and whether it takes messages."""
    from webhookd.cli.spool_access import open_spool  # noqa: PLC0415 - `--help` needs nothing of it

    with open_spool(settings_of(config, flags)) as opened:
        stats = opened.stats()
    if as_json:
        show_json(_numbers(stats))
    else:
        _show_numbers(stats)


def _numbers(stats: SpoolStats) -> dict[str, Any]:
    return {
        "messages": {name: stats.messages.get(_state(name), 0) for name in STATE_NAMES},
        "bytes": stats.bytes,
        "used": stats.used,
        "maxBytes": stats.max_bytes,
        "oldestReceivedAt": stats.oldest_received_at,
        "oldestKeptReceivedAt": stats.oldest_kept_received_at,
        "full": stats.full,
        "failing": stats.failing,
        "damaged": list(stats.damaged),
    }


def _show_numbers(stats: SpoolStats) -> None:
    for name in STATE_NAMES:
        show(f"{name:<13}{stats.messages.get(_state(name), 0)}")
    part = 100 * stats.bytes / stats.max_bytes
    show(f"{'on disk':<13}{stats.bytes / 1024**2:,.1f} MiB of {show_size(stats.max_bytes)} ({part:.1f} %)")
    for name, oldest in (("oldest", stats.oldest_received_at), ("oldest kept", stats.oldest_kept_received_at)):
        show(f"{name:<13}{'-' if oldest is None else moment(oldest)}")
    if stats.full:
        show("full: there is room for no message", fg="red")
    if stats.failing:
        show(f"failing: {stats.failing}", fg="red")
    for file in stats.damaged:
        show(f"damaged: {file} could not be read and was put aside", fg="red")


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
    from webhookd.control_protocol import Wanted  # noqa: PLC0415

    wanted = Wanted(tenant=tenant, states=[_state(name) for name in states] or None)
    with open_spool(settings_of(config, flags)) as opened:
        header: Sequence[str] | None = HEADER
        for page in pages(opened, wanted):
            if as_json:
                for entry in page.entries:
                    show_json(_document(entry))
            else:
                show_table(header, [_row(entry) for entry in page.entries])
                header = None
        if header and not as_json:
            show_table(header, [])


@spool.command()
@click.argument("receipts", nargs=-1, shell_complete=receipts_known)
@json_option
@setting_options("state_dir")
def retry(*, receipts: Sequence[str], as_json: bool, config: Path | None, **flags: str | None) -> int:
    """Let messages that are set aside or unroutable wait for the broker again: those with RECEIPTS, or all.

    The exit status is 1 where one of RECEIPTS is not there in such a state.
    """
    from webhookd.cli.spool_access import open_spool  # noqa: PLC0415 - see status
    from webhookd.control_protocol import Condition  # noqa: PLC0415

    with open_spool(settings_of(config, flags)) as opened:
        count = opened.retry(Condition(receipts=list(receipts))) if receipts else _retry_all(opened)
    return _report("retried", count, receipts, as_json=as_json)


def _retry_all(opened: SpoolAccess) -> int:
    """Let everything that does not wait wait again, page by page: very many take their time."""
    from webhookd.cli.progress import progress  # noqa: PLC0415 - see status
    from webhookd.cli.spool_access import pages  # noqa: PLC0415 - see status
    from webhookd.control_protocol import Condition, Wanted  # noqa: PLC0415 - see status

    states = [_state(name) for name in RETRIED]
    numbers = opened.stats().messages
    count = 0
    with progress("retrying", sum(numbers.get(state, 0) for state in states)) as shown:
        for page in pages(opened, Wanted(states=states)):
            count += opened.retry(Condition(receipts=[entry.receipt for entry in page.entries]))
            shown.reach(count)
    return count


@spool.command()
@click.argument("receipts", nargs=-1, shell_complete=receipts_known)
@state_option
@click.option(
    "--older-than", metavar="DURATION", callback=_age, help="Only messages received longer ago than this: 90m, 7d."
)
@click.option("--all", "everything", is_flag=True, help="All messages.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@setting_options("state_dir")
def drop(
    *,
    receipts: Sequence[str],
    states: Sequence[str],
    older_than: float | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    config: Path | None,
    **flags: str | None,
) -> int:
    """Delete messages from the spool: those that all of the given conditions hold for.

    What is deleted was accepted, and nobody will get it: it asks first. The exit status is 1 where one of RECEIPTS is
    not there, or does not fit the conditions. Where the daemon or this command is killed on the way, the messages that
    it had not come to are left.

    \b
    webhookd spool drop --state set-aside --older-than 7d
    webhookd spool drop 01a20bf3-ff9e-776c-82d4-1966f294507e --yes
    """  # noqa: D301 - \b keeps click from wrapping the examples
    if not (receipts or states or older_than is not None or everything):
        raise click.UsageError("say what to drop: RECEIPTS, --state, --older-than, or --all")
    settings = settings_of(config, flags)
    if not yes:
        _ask(receipts, states, aged=older_than is not None)
    from webhookd.cli.spool_access import open_spool  # noqa: PLC0415 - see status
    from webhookd.control_protocol import Condition  # noqa: PLC0415

    condition = Condition(
        states=[_state(name) for name in states] or None, older_than=older_than, receipts=list(receipts) or None
    )
    with open_spool(settings) as opened:
        count = opened.drop(condition)
    return _report("dropped", count, receipts, as_json=as_json)


def _ask(receipts: Sequence[str], states: Sequence[str], *, aged: bool) -> None:
    """Go on only if somebody says yes."""
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here whether to drop messages: add --yes")
    which = [f"with {len(receipts)} receipts"] if receipts else []
    which += [f"that are {' or '.join(states)}"] if states else []
    which += ["that are so old"] if aged else []
    what = f"the messages {' and '.join(which)}" if which else "all messages"
    click.confirm(f"Drop {what}? They were accepted, and nobody will get them.", abort=True, err=True)


def _report(done: str, count: int, receipts: Sequence[str], *, as_json: bool) -> int:
    """Say what was done, and return the exit status."""
    if as_json:
        show_json({done: count})
    else:
        show(f"{done} {count} message{'' if count == 1 else 's'}")
    missed = max(0, len(set(receipts)) - count)
    if missed:
        say(f"{missed} of the receipts named no such message: `webhookd spool list` shows what there is")
    return 1 if missed else 0


def _state(name: str) -> State:
    from webhookd.adapters.spool_layout import State  # noqa: PLC0415 - see status

    return State(name)


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
