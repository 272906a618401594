"""What commands print: plain text that no terminal can be harmed by, and JSON that any program can read."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click


class Failure(click.ClickException):
    """Something could not be done; its text is the one line that the user sees. Exit status 1."""


def say(text: str) -> None:
    """Tell the user on stderr, where it is no data."""
    click.echo(f"webhookd: {printable(text)}", err=True)


def colours() -> bool:
    """Whether whoever runs the command has nothing against colours; they are seen on terminals only."""
    ctx = click.get_current_context(silent=True)
    return ctx is None or ctx.color is not False


def show(text: str = "", **style: Any) -> None:
    """Print one line; `style` is seen on terminals only."""
    click.echo(click.style(text, **style) if style else text)


def show_json(document: Any) -> None:
    """Print one value as one line of JSON, in ASCII: whatever is in it, and whatever locale stdout has."""
    sys.stdout.write(json.dumps(document) + "\n")


def show_table(header: Sequence[str] | None, rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns as wide as they need be; without a header they go on with a table."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    lines = texts if header is None else [header, *texts]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        show(line, bold=True) if row is header else show(line)


def printable(text: str) -> str:
    """Return `text` with what could move a terminal's cursor or change its state written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def moment(milliseconds: int) -> str:
    """Return a time in ms since the epoch as RFC 3339 has it, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
