"""What `webhookd check` looks at on this machine: folders, files, keys and plugins; it changes none of them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from webhookd.cli.finding import Faulty
from webhookd.forms import sqlite_path
from webhookd.settings import Settings, check_tokens
from webhookd.statedir import CONTROL_SOCKET, SPOOL_DB, refuse_wider

PATIENCE = 5.0
"""How long, in seconds, a running daemon has for its answer."""


def daemon(settings: Settings) -> str | None:
    """Ask the running daemon what is wrong with its spool: empty for nothing, None where no daemon runs."""
    from webhookd.control_client import ControlError, DaemonSpool, NoDaemonError  # noqa: PLC0415 - see check

    try:
        stats = DaemonSpool(settings.state_dir / CONTROL_SOCKET, PATIENCE).stats()
    except NoDaemonError:
        return None
    except ControlError as error:
        return str(error)
    full = "it is full: make room, raise spool_max_bytes, or lower spool_retention" if stats.full else ""
    return f"it takes no message ({stats.failing}): see to its disk" if stats.failing else full


def state_dir(settings: Settings, *, running: bool) -> str:
    """Look at the folder of the spool; `running` says whether a daemon has it."""
    path = settings.state_dir
    if not path.exists():
        parent = next(folder for folder in path.parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise Faulty(f"{path} cannot be made: {parent} is no folder that this user can write to; set state_dir")
        return f"{path} is not there yet; the daemon makes it"
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise Faulty(f"{path} is no folder that this user can write to: change its owner, or set state_dir")
    refuse_wider(path.resolve())  # systemd puts a link there: DynamicUser=
    return f"{path}; {'a daemon runs there' if running else 'no daemon runs there'}"


def store(settings: Settings) -> str:
    """Look at the hooks of an embedded store."""
    from webhookd.adapters.sqlite import VERSION  # noqa: PLC0415 - see check

    path = sqlite_path(settings.store)
    if not path.exists():
        if not path.parent.is_dir() and path.parent != settings.state_dir:
            raise Faulty(f"the folder {path.parent} is not there: make it, or set store")
        return f"{path} is not there yet; the daemon makes it"
    return f"{path}, hooks: {_count(path, 'hook', VERSION)}"


def spool(settings: Settings, fault: str | None) -> str:
    """Look at the messages in the spool; `fault` is what a daemon that has it says."""
    from webhookd.adapters.spool_disk import damaged_files  # noqa: PLC0415 - see check
    from webhookd.adapters.spool_schema import VERSION  # noqa: PLC0415

    path = settings.state_dir / SPOOL_DB
    if not path.exists():
        return f"{path} is not there yet; the daemon makes it"
    if fault:
        raise Faulty(fault)
    if damaged := damaged_files(path):
        raise Faulty(f"{', '.join(damaged)} could not be read and was put aside: save what is in it, or remove it")
    return f"{path}, messages: {_count(path, 'message', VERSION)}"


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


def keys(settings: Settings) -> str:
    """Read the keys that bearer tokens are checked with."""
    from webhookd.keys import json_web_tokens  # noqa: PLC0415 - see check

    check_tokens(settings)
    algorithms = [name for key in json_web_tokens(settings).keys for name in key.algorithms]
    return f"bearer tokens by {', '.join(algorithms)}" if algorithms else "none in files: others are asked, see below"


def plugins(settings: Settings) -> str:
    """Import every plugin, and compile its schemas."""
    from webhookd.registry import load  # noqa: PLC0415 - see check
    from webhookd.schema import Schemas  # noqa: PLC0415

    registry = load(settings.plugins_dir, settings.load_plugins)
    Schemas(registry)
    return f"datasources {', '.join(registry.known) or '(none)'}"


def traces(settings: Settings) -> str:
    """Look whether what traces need is installed."""
    from webhookd.tracing import EXTRA  # noqa: PLC0415 - see check

    try:
        import webhookd.traced  # noqa: F401, PLC0415 - it is the one that needs it
    except ModuleNotFoundError as error:
        raise Faulty(f"{error.name} is not installed: {EXTRA}, or unset otel_endpoint") from None
    return f"{settings.shown('otel_endpoint')}, which is asked when there are spans"
