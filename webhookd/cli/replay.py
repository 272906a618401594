"""`webhookd replay`: deliveries that a daemon remembers, published again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import click

from webhookd.cli.api_options import hook_path, with_api
from webhookd.cli.completing import hook_tokens
from webhookd.cli.config_api import ConfigApi
from webhookd.cli.output import Failure, json_option, printable, show, show_json

PATIENCE = 120
"""How long, in seconds, the answer to a request for many replays may take."""


@click.command()
@click.argument("hook", shell_complete=hook_tokens)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--outcome", type=click.Choice(("refused", "accepted")), help="All of them that ended so.")
@click.option("--reason", metavar="WORD", help="Of these, the ones with this reason: `signature`, say.")
@json_option
@with_api
def replay(
    api: ConfigApi, hook: str, ids: Sequence[str], outcome: str | None, reason: str | None, as_json: bool
) -> None:
    """Replay deliveries to HOOK (its token or its URL): by ID, or all with an --outcome, oldest first.

    Each is put through the same checks again and published as a new message, whose header `replayOf` names the
    delivery. What is itself a replay, or was replayed and accepted already, is replayed by ID only. The exit status
    says whether all were accepted.

    \b
    webhookd replay "$HOOK_URL" 0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b
    webhookd replay "$HOOK_URL" --outcome refused --reason signature
    """  # noqa: D301 - \b keeps click from wrapping the examples
    if bool(ids) == bool(outcome) or (ids and reason):
        raise click.UsageError("name deliveries by ID, or all with an --outcome (and a --reason)")
    api = replace(api, timeout=PATIENCE)
    deliveries = f"{hook_path(hook)}/deliveries"
    told = _by_id(api, deliveries, ids) if ids else _all(api, deliveries, {"outcome": outcome, "reason": reason})
    count = failed = 0
    for one in told:
        count += 1
        failed += one["outcome"] == "refused" or one["outcome"] == "not replayed"
        if as_json:
            show_json(one)
        else:
            _show(one)
    if failed:
        raise Failure(f"{failed} of {count} were not accepted")
    if not count and not as_json:
        show("nothing to replay")


def _by_id(api: ConfigApi, deliveries: str, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    for id_ in ids:
        yield api.ask("POST", f"{deliveries}/{quote(id_, safe='')}/replay")


def _all(api: ConfigApi, deliveries: str, wanted: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    while True:
        answer = api.ask("POST", f"{deliveries}/replay", wanted)
        yield from answer["replays"]
        if "next" not in answer:
            return
        if answer["replays"][-1]["status"] == 503:  # noqa: PLR2004 - what is asked to be sent again
            raise Failure("nothing can be taken at present: run it again later for the rest")
        wanted = {**wanted, "after": answer["next"]}


def _show(one: dict[str, Any]) -> None:
    why = "".join(f": {one[name]}" for name in ("reason", "detail") if name in one)
    became = f"receipt {one['receipt']}" if "receipt" in one else f"{one['status']}{why}"
    show(printable(f"{one['replayOf']}  {one['outcome']}, {became}"))
