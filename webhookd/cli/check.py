"""`webhookd check`: says of everything that the daemon needs whether it is as it should be."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import click

from webhookd.cli.options import SettingsCommand, config_option, settings_of
from webhookd.cli.output import json_option, printable, show, show_json
from webhookd.errors import ConfigurationError
from webhookd.settings import Settings, check_tokens, unsupported


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    name: str
    ok: bool
    detail: str


class Faulty(Exception):
    """What was checked is not as it should be; the text says what to do."""


@click.command(cls=SettingsCommand)
@json_option
@config_option
def check(*, as_json: bool, config: Path | None, **flags: str | None) -> int:
    """Check settings, state directory, store, broker, keys and plugins: a line each, ok or why not.

    Works beside a running daemon and without one, and changes nothing. Takes the flags of `webhookd serve`.

    \b
    webhookd check --config /etc/webhookd/webhookd.toml

    Exit status: 0 all is well, 1 something is not.
    """  # noqa: D301 - \b keeps click from wrapping the examples
    findings = list(_findings(config, flags))
    for finding in findings:
        if as_json:
            show_json({"check": finding.name, "ok": finding.ok, "detail": finding.detail})
        else:
            style = {"fg": "green"} if finding.ok else {"fg": "red"}
            show(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<16}{printable(finding.detail)}", **style)
    return 0 if all(finding.ok for finding in findings) else 1


def _findings(config: Path | None, flags: dict[str, str | None]) -> Iterator[Finding]:
    try:
        settings = settings_of(config, flags)
        unsupported(settings)
    except ConfigurationError as error:
        yield Finding("settings", ok=False, detail=str(error))
        return
    yield Finding("settings", ok=True, detail="all keys are known and their values allowed")
    checks: dict[str, Callable[[Settings], str]] = {
        "keys": _keys,
        "plugins": _plugins,
        "state directory": _state_dir,
        "store": _store,
        "broker": _broker,
    }
    for name, checked in checks.items():
        try:
            yield Finding(name, ok=True, detail=checked(settings))
        except (ConfigurationError, Faulty) as error:
            yield Finding(name, ok=False, detail=str(error))


def _keys(settings: Settings) -> str:
    from webhookd.keys import json_web_tokens  # noqa: PLC0415 - `--help` needs no cryptography

    check_tokens(settings)
    algorithms = [name for key in json_web_tokens(settings).keys for name in key.algorithms]
    return f"bearer tokens by {', '.join(algorithms)}"


def _plugins(settings: Settings) -> str:
    from webhookd.registry import load  # noqa: PLC0415 - see _keys
    from webhookd.schema import Schemas  # noqa: PLC0415

    registry = load(settings.plugins_dir, settings.load_plugins)
    Schemas(registry)
    return f"datasources {', '.join(registry.known) or '(none)'}"


def _state_dir(settings: Settings) -> str:
    from webhookd.statedir import WIDER  # noqa: PLC0415 - see _keys

    path = settings.state_dir
    if not path.exists():
        parent = next(folder for folder in path.parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise Faulty(f"{path} cannot be made: {parent} is not a folder that can be written to")
        return f"{path} is not there yet; the daemon makes it"
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise Faulty(f"{path} is no folder that can be written to: change its owner, or set state_dir")
    wide = next(
        (item for item in (path, *path.iterdir()) if item.lstat().st_mode & WIDER and not item.is_symlink()), None
    )
    if wide is not None:
        raise Faulty(f"{wide} is open to others: chmod {'0700' if wide.is_dir() else '0600'} {wide}")
    return f"{path}, {'in use by a running daemon' if _daemon_runs(path) else 'no daemon runs there'}"


def _daemon_runs(state_dir: Path) -> bool:
    from webhookd.control import short_socket_path  # noqa: PLC0415 - see _keys

    with socket.socket(socket.AF_UNIX) as probe, short_socket_path(state_dir / "control.sock") as path:
        return probe.connect_ex(path) == 0


def _store(settings: Settings) -> str:
    path = Path(settings.store.removeprefix("sqlite://"))
    if not path.exists():
        if not path.parent.is_dir() and path.parent != settings.state_dir:
            raise Faulty(f"the folder {path.parent} is not there: make it, or set store")
        return f"{path} is not there yet; the daemon makes it"
    return f"{path}, {_count(path, 'hook')} hooks"


def _broker(settings: Settings) -> str:
    path = settings.state_dir / "spool.db"
    if not path.exists():
        return "spool: is not there yet; the daemon makes it"
    damaged = sorted(file.name for file in path.parent.glob("spool.db.corrupt-*"))
    if damaged:
        raise Faulty(f"{', '.join(damaged)} could not be read and was put aside: look into it, then move it away")
    return f"spool: {path}, {_count(path, 'message')} messages"


def _count(path: Path, table: str) -> int:
    """Count rows, in a read-only connection that a running daemon does not notice."""
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - a name of this module
        finally:
            db.close()
    except sqlite3.Error as error:
        raise Faulty(f"{path} cannot be read: {error}") from None
    return int(count)
