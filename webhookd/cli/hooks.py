"""`webhookd hooks`: a tenant's hooks, through the config API of a daemon anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from webhookd.cli.api_options import hook_path, with_api
from webhookd.cli.completing import datasource_names, event_names, hook_tokens
from webhookd.cli.config_api import ConfigApi
from webhookd.cli.deliveries import deliveries
from webhookd.cli.hooks_export import export_hooks
from webhookd.cli.hooks_import import import_hooks
from webhookd.cli.options import Family
from webhookd.cli.output import json_option, moment, printable, say, show, show_json, show_table
from webhookd.cli.secrets import given_secret, secret_options
from webhookd.errors import ConfigurationError
from webhookd.model import ON_MISMATCH, VALIDATIONS
from webhookd.settings import closest

LABELS = {
    "hookUrl": "hook URL",
    "datasource": "datasource",
    "event": "event",
    "tenantId": "tenant",
    "token": "token",
    "apiToken": "API token",
    "signed": "signed",
    "validation": "validation",
    "onMismatch": "on mismatch",
    "tsField": "timestamp field",
    "createdAt": "created",
}
"""The details of a hook, as the config API and as people call them."""
ROTATED = {"previousHookUrl": "previous URL", "previousUntil": "valid until"}
"""The same of a hook whose token was replaced, as long as the old one is valid."""


@click.group(cls=Family, short_help="Create, list, show, rotate, delete, export and import hooks.")
def hooks() -> None:
    """Create, list, show and delete the hooks of a tenant, and rotate their tokens, through the config API.

    \b
    export WEBHOOKD_URL=https://webhooks.example.org
    export WEBHOOKD_TOKEN=$(webhookd token --tenant 42 --key-file jwt.key)
    webhookd hooks create github push --secret-file github.secret
    webhookd hooks list
    """  # noqa: D301 - \b keeps click from wrapping the examples


hooks.add_command(export_hooks)
hooks.add_command(import_hooks)


@hooks.command()
@click.argument("datasource", shell_complete=datasource_names)
@click.argument("event", shell_complete=event_names)
@click.option("--ts-field", metavar="PATH", help="The path of the timestamp in bodies; empty for none.")
@secret_options
@click.option("--validation", type=click.Choice(VALIDATIONS), help="What the event's JSON Schema does.")
@click.option("--on-mismatch", type=click.Choice(ON_MISMATCH), help="What happens to another event than the hook's.")
@click.option("--orig-server", metavar="HOST", help="The host that the hook's URL shall have (X-ORIG-SERVER).")
@json_option
@with_api
def create(
    api: ConfigApi,
    as_json: bool,
    orig_server: str | None,
    secret: str | None,
    secret_file: Path | None,
    **given: str | None,
) -> None:
    """Create the hook for DATASOURCE and EVENT, or update the one that there is.

    What is not given keeps its value on an update; an empty --secret removes the secret, an empty --ts-field the path.

    \b
    webhookd hooks create github push --secret-file github.secret --validation report
    webhookd hooks create my-service order.paid --ts-field created_at
    """  # noqa: D301 - \b keeps click from wrapping the examples
    fields = {"secret": given_secret(secret, secret_file), **{_FIELDS[name]: value for name, value in given.items()}}
    document = {name: value for name, value in fields.items() if value is not None}
    _show_hook(api.ask("POST", document=document, origin=orig_server), as_json)
    _tell_of_a_likely_typo(document["datasource"])


def _tell_of_a_likely_typo(datasource: str) -> None:
    """Say so where the hook is a generic one and a plugin has nearly the same name: that is seldom meant."""
    from webhookd import registry  # noqa: PLC0415 - plugins are many imports, and `--help` needs none of them

    try:
        known = registry.load(None, None).known
    except ConfigurationError:
        return  # the plugins of this machine are not those of the daemon
    near = closest(datasource, known)
    if datasource not in known and near:
        say(f"no plugin is named {datasource}{near} This hook is a generic one; `webhookd hooks delete` removes it")


_FIELDS = {
    "datasource": "datasource",
    "event": "event",
    "ts_field": "tsField",
    "validation": "validation",
    "on_mismatch": "onMismatch",
}


@hooks.command("list")
@json_option
@with_api
def list_hooks(api: ConfigApi, as_json: bool) -> None:
    """List the tenant's hooks, oldest first. With --json: one JSON object a line."""
    found = api.ask("GET")
    if as_json:
        for hook in found:
            show_json(hook)
        return
    rows = [
        (h["token"], h["datasource"], h["event"], "yes" if h["signed"] else "no", h["validation"], h["hookUrl"])
        for h in found
    ]
    show_table(("TOKEN", "DATASOURCE", "EVENT", "SIGNED", "VALIDATION", "HOOK URL"), rows)


@hooks.command("show")
@click.argument("token", shell_complete=hook_tokens)
@json_option
@with_api
def show_one(api: ConfigApi, token: str, as_json: bool) -> None:
    """Show the hook with TOKEN, which may be given as the hook's URL too."""
    _show_hook(api.ask("GET", hook_path(token)), as_json)


@hooks.command()
@click.argument("token", shell_complete=hook_tokens)
@click.option("--immediately", is_flag=True, help="End the old token at once.")
@json_option
@with_api
def rotate(api: ConfigApi, token: str, immediately: bool, as_json: bool) -> None:
    """Give the hook with TOKEN, which may be given as the hook's URL too, a new token and URL.

    The old ones stay valid for the daemon's secret_grace, so that the sender can be switched without a lost delivery.
    Naming the old token again changes nothing, and shows the new one; with --immediately it ends the old one.
    """
    _show_hook(api.ask("POST", hook_path(token) + "/rotate", document={"immediately": immediately}), as_json)


@hooks.command()
@click.argument("token", shell_complete=hook_tokens)
@with_api
def delete(api: ConfigApi, token: str) -> None:
    """Delete the hook with TOKEN, which may be given as the hook's URL too."""
    api.ask("DELETE", hook_path(token))


def _show_hook(hook: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(hook)
        return
    shown = {**hook, "createdAt": moment(hook["createdAt"]), "signed": "yes" if hook["signed"] else "no"}
    labels = dict(LABELS)
    if "previousUntil" in hook:
        shown["previousUntil"] = moment(hook["previousUntil"])
        labels |= ROTATED
    for name, label in labels.items():
        show(f"{label + ':':17}{printable(str(shown.get(name, 'none')))}")


hooks.add_command(deliveries)
