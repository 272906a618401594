"""What every command that speaks to the config API is given: where it is, who asks, and which hook is meant."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from webhookd.cli.config_api import ConfigApi
from webhookd.cli.secrets import given_secret

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"


def api_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add `--url`, `--token` and `--token-file` to a command, as `url`, `bearer` and `token_file`."""
    for option in (
        click.option(
            "--url",
            envvar="WEBHOOKD_URL",
            default=DEFAULT_URL,
            show_default=True,
            metavar="URL",
            help="Where the config API is, or unix:/PATH; also WEBHOOKD_URL.",
        ),
        click.option("--token", "bearer", metavar="TOKEN", help="The bearer token; also WEBHOOKD_TOKEN."),
        click.option(
            "--token-file", metavar="FILE", type=click.Path(path_type=Path), help="The file with the bearer token."
        ),
    ):
        command = option(command)
    return command


def with_api(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options that say where the config API is and who asks, as one `api`."""

    @functools.wraps(command)
    def ask(*, url: str, bearer: str | None, token_file: Path | None, **others: Any) -> T:
        return command(api=ConfigApi(url, bearer_token(bearer, token_file)), **others)

    return api_options(ask)


def bearer_token(bearer: str | None, token_file: Path | None) -> str:
    """Return the bearer token that the options or the environment give; raises click.UsageError where none does."""
    token = given_secret(bearer, token_file, "--token and --token-file") or os.environ.get("WEBHOOKD_TOKEN", "")
    if not token:
        raise click.UsageError(
            "no bearer token: give --token-file or --token, or set WEBHOOKD_TOKEN; `webhookd token` mints one"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError("what is given for a bearer token has characters that none can have")
    return token


def hook_path(token: str) -> str:
    """Return the path of a hook below /wh/config; `token` may be its URL too."""
    return "/" + quote(token.rstrip("/").rpartition("/")[2], safe="")
