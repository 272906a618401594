"""`webhookd why`: why a delivery to a hook was refused, and what to do about it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from webhookd.checks import CHECKS
from webhookd.cli.api_options import hook_path, with_api
from webhookd.cli.completing import hook_tokens
from webhookd.cli.config_api import ConfigApi
from webhookd.cli.output import Failure, json_option, moment, printable, show, show_json

WIDTH = 100
"""How many characters a line of a paragraph may have."""

_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "passed": ("passed", {"fg": "green"}),
    "failed": ("FAILED", {"fg": "red", "bold": True}),
    "not reached": ("-", {"dim": True}),
    "unknown": ("?", {"fg": "yellow"}),
}
"""How each state of a check is shown."""


@click.command()
@click.argument("hook", shell_complete=hook_tokens)
@click.argument("delivery", metavar="[ID]", required=False)
@json_option
@with_api
def why(api: ConfigApi, hook: str, delivery: str | None, as_json: bool) -> None:
    """Say why a delivery to HOOK (its token or its URL) was refused, and what to do.

    Without ID it is the last one that was refused. The config API's list of deliveries has the ids of all:
    those of accepted deliveries are their receipts.

    \b
    webhookd why "$HOOK_URL"
    webhookd why "$HOOK_URL" 0190a1b2-c3d4-7e5f-8a6b-0c1d2e3f4a5b
    """  # noqa: D301 - \b keeps click from wrapping the examples
    deliveries = f"{hook_path(hook)}/deliveries"
    if delivery is None:
        found = api.ask("GET", f"{deliveries}?outcome=refused&limit=1")["deliveries"]
        if not found:
            raise Failure("no refused delivery to this hook is remembered by this daemon")
        delivery = str(found[0]["id"])
    path = f"{deliveries}/{quote(delivery, safe='')}"
    explanation = api.ask("GET", f"{path}/explain")
    if as_json:
        show_json(explanation)
        return
    _show_head(api.ask("GET", path))
    for check in explanation["checks"]:
        _show_check(check)
    _show_reasons(explanation)


def _show_head(record: dict[str, Any]) -> None:
    reason = f" ({record['reason']})" if "reason" in record else ""
    show(f"Delivery {printable(record['id'])} of {moment(record['receivedAt'])}", bold=True)
    show(printable(f"{record['outcome']}{reason}: answered {record['status']}, {record['size']:,} bytes"))
    show()


def _show_check(check: dict[str, str]) -> None:
    mark, style = _MARKS.get(check["state"], ("?", {}))
    detail = f": {check['detail']}" if "detail" in check else ""
    text = printable(f"{CHECKS.get(check['check'], check['check'])}{detail}")
    show(f"  {click.style(f'{mark:7}', **style)} {text}")


def _show_reasons(explanation: dict[str, Any]) -> None:
    findings = " ".join(finding["text"] for finding in explanation["diagnoses"])
    for label, text in (
        ("What is wrong", explanation.get("problem")),
        ("How it comes", findings),
        ("What to do", explanation.get("remedy")),
    ):
        if text:
            show()
            show(click.wrap_text(f"{click.style(label + ':', bold=True)} {printable(text)}", width=WIDTH))
