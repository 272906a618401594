"""`webhookd hooks`: a tenant's hooks, through the config API of a daemon anywhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from webhookd.cli.config_api import ConfigApi
from webhookd.cli.output import json_option, moment, printable, show, show_json, show_table
from webhookd.cli.secrets import given_secret, secret_options
from webhookd.model import ON_MISMATCH, VALIDATIONS

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


def _with_api(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the config API is and who asks, as one `api`."""

    @functools.wraps(command)
    def ask(*, url: str, bearer: str | None, token_file: Path | None, **others: Any) -> None:
        command(api=ConfigApi(url, _bearer(bearer, token_file)), **others)

    for option in (
        click.option(
            "--url",
            envvar="WEBHOOKD_URL",
            default="http://127.0.0.1:8080",
            show_default=True,
            metavar="URL",
            help="Where the config API is, or unix:/PATH; also WEBHOOKD_URL.",
        ),
        click.option("--token", "bearer", metavar="TOKEN", help="The bearer token; also WEBHOOKD_TOKEN."),
        click.option(
            "--token-file", metavar="FILE", type=click.Path(path_type=Path), help="The file with the bearer token."
        ),
    ):
        ask = option(ask)
    return ask


def _bearer(bearer: str | None, token_file: Path | None) -> str:
    token = given_secret(bearer, token_file, "--token and --token-file") or os.environ.get("WEBHOOKD_TOKEN", "")
    if not token:
        raise click.UsageError(
            "no bearer token: give --token-file or --token, or set WEBHOOKD_TOKEN; `webhookd token` mints one"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError("what is given for a bearer token has characters that none can have")
    return token


@click.group(short_help="Create, list, show and delete hooks.")
def hooks() -> None:
    """Create, list, show and delete the hooks of a tenant, through the config API.

    \b
    export WEBHOOKD_URL=https://webhooks.example.org
    export WEBHOOKD_TOKEN=$(webhookd token --tenant 42 --key-file jwt.key)
    webhookd hooks create github push --secret-file github.secret
    webhookd hooks list
    """  # noqa: D301 - \b keeps click from wrapping the examples


@hooks.command()
@click.argument("datasource")
@click.argument("event")
@click.option("--ts-field", metavar="PATH", help="The path of the timestamp in bodies; empty for none.")
@secret_options
@click.option("--validation", type=click.Choice(VALIDATIONS), help="What the event's JSON Schema does.")
@click.option("--on-mismatch", type=click.Choice(ON_MISMATCH), help="What happens to another event than the hook's.")
@click.option("--orig-server", metavar="HOST", help="The host that the hook's URL shall have (X-ORIG-SERVER).")
@json_option
@_with_api
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


_FIELDS = {
    "datasource": "datasource",
    "event": "event",
    "ts_field": "tsField",
    "validation": "validation",
    "on_mismatch": "onMismatch",
}


@hooks.command("list")
@json_option
@_with_api
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
@click.argument("token")
@json_option
@_with_api
def show_one(api: ConfigApi, token: str, as_json: bool) -> None:
    """Show the hook with TOKEN, which may be given as the hook's URL too."""
    _show_hook(api.ask("GET", _path(token)), as_json)


@hooks.command()
@click.argument("token")
@_with_api
def delete(api: ConfigApi, token: str) -> None:
    """Delete the hook with TOKEN, which may be given as the hook's URL too."""
    api.ask("DELETE", _path(token))


def _path(token: str) -> str:
    return "/" + quote(token.rstrip("/").rpartition("/")[2], safe="")


def _show_hook(hook: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(hook)
        return
    shown = {**hook, "createdAt": moment(hook["createdAt"]), "signed": "yes" if hook["signed"] else "no"}
    for name, label in LABELS.items():
        show(f"{label + ':':17}{printable(str(shown.get(name, 'none')))}")
