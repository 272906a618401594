"""Secrets and tokens that a command is given: on the command line, in a file, or by the environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from webhookd.settings import read_secret_file

F = TypeVar("F", bound=Callable[..., Any])


def secret_options(command: F) -> F:
    """Add `--secret` and `--secret-file` to a command."""
    by_file = click.option(
        "--secret-file", metavar="FILE", type=click.Path(path_type=Path), help="The file with the hook's secret."
    )
    directly = click.option(
        "--secret", metavar="TEXT", help="The hook's secret; --secret-file keeps it out of the shell's history."
    )
    return directly(by_file(command))


def given_secret(secret: str | None, secret_file: Path | None, names: str = "--secret and --secret-file") -> str | None:
    """Return the secret that one of the two holds, None where neither is given."""
    if secret is not None and secret_file is not None:
        raise click.UsageError(f"{names} exclude each other")
    if secret_file is None:
        return secret
    try:
        return read_secret_file(secret_file, names.rpartition(" ")[2]).decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{secret_file} is not UTF-8") from None
