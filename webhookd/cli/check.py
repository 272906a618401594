"""`webhookd check`: says of everything that the daemon needs whether it is as it should be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import click

from webhookd.cli.options import SettingsCommand, config_option, settings_of
from webhookd.cli.output import json_option, printable, show, show_json
from webhookd.errors import ConfigurationError
from webhookd.forms import sqlite_path
from webhookd.settings import Settings, check_tokens
from webhookd.statedir import CONTROL_SOCKET, SPOOL_DB, refuse_wider


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
    from webhookd import logs  # noqa: PLC0415 - `--help` needs nothing of it

    warnings = logs.configure("warning", "auto")
    findings = list(_findings(config, flags))
    warnings.finish()
    for finding in findings:
        if as_json:
            show_json({"check": finding.name, "ok": finding.ok, "detail": finding.detail})
        else:
            style = {"fg": "green"} if finding.ok else {"fg": "red"}
            show(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<17}{printable(finding.detail)}", **style)
    return 0 if all(finding.ok for finding in findings) else 1


def _findings(config: Path | None, flags: dict[str, str | None]) -> Iterator[Finding]:
    try:
        settings = settings_of(config, flags)
    except ConfigurationError as error:
        yield Finding("settings", ok=False, detail=str(error))
        return
    yield Finding("settings", ok=True, detail="all keys are known and their values allowed")
    checks: dict[str, Callable[[Settings], str]] = {
        "state directory": _state_dir,
        "store": _store,
        "broker": _broker,
        "keys": _keys,
        "plugins": _plugins,
    }
    for name, checked in checks.items():
        try:
            yield Finding(name, ok=True, detail=checked(settings))
        except (ConfigurationError, Faulty) as error:
            yield Finding(name, ok=False, detail=str(error))
        except OSError as error:
            detail = f"{error.filename}: {error.strerror}; run this as the daemon's user, or see to its permissions"
            yield Finding(name, ok=False, detail=detail)


def _state_dir(settings: Settings) -> str:
    path = settings.state_dir
    if not path.exists():
        parent = next(folder for folder in path.parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise Faulty(f"{path} cannot be made: {parent} is no folder that this user can write to; set state_dir")
        return f"{path} is not there yet; the daemon makes it"
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise Faulty(f"{path} is no folder that this user can write to: change its owner, or set state_dir")
    refuse_wider(path.resolve())  # systemd puts a link there: DynamicUser=
    return f"{path}; {'no daemon runs there' if _daemon(settings) is None else 'a daemon runs there'}"


def _daemon(settings: Settings) -> str | None:
    """Return what is wrong with the spool of the running daemon, empty for nothing; None where no daemon runs."""
    from webhookd.control_client import ControlError, DaemonSpool, NoDaemonError  # noqa: PLC0415 - see check

    try:
        stats = DaemonSpool(settings.state_dir / CONTROL_SOCKET).stats()
    except NoDaemonError:
        return None
    except ControlError as error:
        return str(error)
    full = "it is full: make room, raise spool_max_bytes, or lower spool_retention" if stats.full else ""
    return f"it takes no message ({stats.failing}): see to its disk" if stats.failing else full


def _store(settings: Settings) -> str:
    from webhookd.adapters.sqlite import VERSION  # noqa: PLC0415 - see check

    if not settings.store.startswith("sqlite:"):
        return asyncio.run(_etcd(settings))
    path = sqlite_path(settings.store)
    if not path.exists():
        if not path.parent.is_dir() and path.parent != settings.state_dir:
            raise Faulty(f"the folder {path.parent} is not there: make it, or set store")
        return f"{path} is not there yet; the daemon makes it"
    return f"{path}, hooks: {_count(path, 'hook', VERSION)}"


async def _etcd(settings: Settings) -> str:
    from webhookd.neighbours import etcd_store  # noqa: PLC0415 - see check
    from webhookd.ports import Snapshot  # noqa: PLC0415

    store = etcd_store(settings)
    try:
        async with contextlib.aclosing(store.changes()) as changes:
            change = await anext(changes)
    finally:
        await store.close()
    if not isinstance(change, Snapshot):
        raise Faulty(f"{getattr(change, 'reason', change)}; see to it, or to the store settings")
    if change.set_aside:
        raise Faulty(f"{len(change.set_aside)} records cannot be read: put them right, or delete them and their hooks")
    return f"{settings.shown('store')}, hooks: {len(change.hooks)}"


def _broker(settings: Settings) -> str:
    from webhookd.adapters.spool_disk import damaged_files  # noqa: PLC0415 - see check
    from webhookd.adapters.spool_schema import VERSION  # noqa: PLC0415

    path = settings.state_dir / SPOOL_DB
    if not path.exists():
        return f"spool: {path} is not there yet; the daemon makes it"
    if fault := _daemon(settings):
        raise Faulty(f"spool: {fault}")
    if damaged := damaged_files(path):
        raise Faulty(
            f"spool: {', '.join(damaged)} could not be read and was put aside: save what is in it, or remove it"
        )
    return f"spool: {path}, messages: {_count(path, 'message', VERSION)}"


def _count(path: Path, table: str, version: int) -> int:
    """Count rows, in a read-only connection that a running daemon does not notice and that leaves no file behind."""
    log = path.with_name(f"{path.name}-wal").exists()  # without one nobody writes, and SQLite need not make one
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro{'' if log else '&immutable=1'}", uri=True)
        try:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found != version:
                raise Faulty(f"{path} was written by another version of webhookd (its format is {found}): use that one")
            (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - a name of this module
        finally:
            db.close()
    except sqlite3.Error as error:
        raise Faulty(f"{path} cannot be read ({error}): see to its disk, or put a backup in its place") from None
    return int(count)


def _keys(settings: Settings) -> str:
    from webhookd.keys import json_web_tokens  # noqa: PLC0415 - see check

    check_tokens(settings)
    algorithms = [name for key in json_web_tokens(settings).keys for name in key.algorithms]
    return f"bearer tokens by {', '.join(algorithms)}"


def _plugins(settings: Settings) -> str:
    from webhookd.registry import load  # noqa: PLC0415 - see check
    from webhookd.schema import Schemas  # noqa: PLC0415

    registry = load(settings.plugins_dir, settings.load_plugins)
    Schemas(registry)
    return f"datasources {', '.join(registry.known) or '(none)'}"
