"""Hooks in one SQLite file: every write is on disk before it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec
import structlog

from webhookd.adapters.memory import Changes
from webhookd.errors import Conflict, StoreError
from webhookd.model import Hook
from webhookd.ports import Change, Deleted, Snapshot
from webhookd.statedir import sync_directory

VERSION = 1
"""`PRAGMA user_version` of the files written here."""
BUSY = 5
"""How long, in seconds, is waited where another process has locked the file."""

SCHEMA = """
CREATE TABLE hook (
    token TEXT PRIMARY KEY, tenant TEXT NOT NULL, datasource TEXT NOT NULL, event TEXT NOT NULL,
    record BLOB NOT NULL, revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX hook_key ON hook (tenant, datasource, event);
CREATE TABLE tenant (tenant TEXT PRIMARY KEY, api_token TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE counter (revision INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
"""
"""What there is in a file; `hook.token` is the hook's id, the token with which it was created."""
PUT = """
INSERT INTO hook VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, datasource, event)
DO UPDATE SET record = excluded.record, revision = excluded.revision
"""
RETRY = 1.0
"""Seconds between two attempts to read a file that cannot be read."""

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class SqliteStore:
    """A HookStore in the file `path`, of one daemon. All SQLite work happens in one thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hooks.db")
        self._connection: sqlite3.Connection | None = None
        self._changes: Changes | None = None
        self._closed = False

    async def put(self, hook: Hook) -> Hook:
        """As the port promises."""
        return await self._run(partial(self._put, hook))

    async def delete(self, hook_id: str) -> int:
        """As the port promises."""
        return await self._run(partial(self._delete, hook_id))

    async def snapshot(self) -> Snapshot:
        """Return all that the file holds; raises StoreError."""
        return await self._run(self._read_all)

    async def replace_all(self, snapshot: Snapshot) -> None:
        """Make the file hold exactly this snapshot, for a start without the store that it was taken of."""
        await self._run(partial(self._replace_all, snapshot))

    async def replace(self, hooks: Mapping[str, Hook | None], revision: int) -> None:
        """Write these hooks of that store by their ids, as of `revision`; None deletes one."""
        await self._run(partial(self._replace, hooks, revision))

    async def changes(self) -> AsyncGenerator[Change, None]:
        """As the port promises."""
        while True:
            changes = Changes()
            try:
                await self._run(partial(self._snapshot, changes))
            except StoreError as error:
                log.warning("hooks cannot be read", reason=str(error))
                await asyncio.sleep(RETRY)
                continue
            async for change in changes.follow():
                yield change

    async def close(self) -> None:
        """As the port promises."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._worker, self._disconnect)
            self._worker.shutdown()

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise StoreError(f"{self.path}: the store is closed")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._worker, self._guarded, loop, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {error}") from error

    # --- in the worker thread ----------------------------------------------------------------------------------------

    def _guarded(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Result]) -> Result:
        self._loop = loop
        try:
            return work()
        except (sqlite3.Error, OSError):
            # Whether the write is in the file is not known now: start again from what the file holds.
            self._disconnect()
            if self._changes is not None:
                loop.call_soon_threadsafe(self._changes.end)
            raise

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self.path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _put(self, hook: Hook) -> Hook:
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            key = "SELECT record, revision FROM hook WHERE tenant = ? AND datasource = ? AND event = ?"
            row = db.execute(key, hook.key).fetchone()
            current = decode(*row) if row else None
            if (current.revision if current else 0) != hook.revision or (current and current.id != hook.id):
                raise Conflict(current)
            db.execute("INSERT OR IGNORE INTO tenant VALUES (?, ?)", (hook.tenant, hook.api_token))
            (api_token,) = db.execute("SELECT api_token FROM tenant WHERE tenant = ?", (hook.tenant,)).fetchone()
            written = msgspec.structs.replace(hook, api_token=api_token, revision=_next_revision(db))
            db.execute(PUT, _row(written))
        self._push(written)
        if current is not None and {s.value for s in current.secrets} - {s.value for s in hook.secrets}:
            _empty_log(db)
        return written

    def _delete(self, hook_id: str) -> int:
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("DELETE FROM hook WHERE token = ?", (hook_id,)).rowcount:
                return _revision(db)
            revision = _next_revision(db)
        self._push(Deleted(hook_id, revision))
        _empty_log(db)
        return revision

    def _replace_all(self, snapshot: Snapshot) -> None:
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            hooks: dict[str, Hook | None] = {hook.id: hook for hook in snapshot.hooks}
            for hook_id, record in db.execute("SELECT token, record FROM hook"):  # never all of them in memory
                hook = hooks.get(hook_id)
                if hook is None:
                    hooks[hook_id] = None
                elif msgspec.json.encode(hook) == record:
                    del hooks[hook_id]
            _write(db, hooks, snapshot.revision)
        self._push(snapshot)

    def _replace(self, hooks: Mapping[str, Hook | None], revision: int) -> None:
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            _write(db, hooks, revision)
        for hook_id, hook in hooks.items():
            self._push(hook or Deleted(hook_id, revision))

    def _read_all(self) -> Snapshot:
        with self._connect() as db:
            db.execute("BEGIN")
            revision = _revision(db)
            rows = db.execute("SELECT tenant, datasource, event, record, revision FROM hook")
            return Snapshot(tuple(_readable(rows)), revision)

    def _snapshot(self, changes: Changes) -> None:
        """Read every hook and push the snapshot from here: what is written after it then comes after it."""
        snapshot = self._read_all()
        self._changes = changes
        self._push(snapshot)

    def _push(self, change: Change) -> None:
        if self._changes is not None:
            self._loop.call_soon_threadsafe(self._changes.push, change)


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the file, 0600 and durable; raises sqlite3.Error or StoreError."""
    new = not path.exists()
    if new:
        path.touch(0o600)
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY, check_same_thread=False)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    if new:
        sync_directory(path.parent)
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # no secret stays in a freed page
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
    elif version != VERSION:
        raise StoreError(f"written by another version of webhookd (its format is {version})")


def _empty_log(db: sqlite3.Connection) -> None:
    """Have the file alone hold what is in it: in its log is what was, secrets too.

    While somebody reads that cannot be, and nobody waits for it: it is done the next time, or at the end.
    """
    with contextlib.suppress(sqlite3.Error):
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.execute(f"PRAGMA busy_timeout = {BUSY * 1000}")


def decode(record: bytes, revision: int, tenants: Mapping[str, Hook] = MappingProxyType({})) -> Hook:
    """Return the hook of one row, sharing what it can with another one of its tenant in `tenants`.

    Raises StoreError where the record is none.
    """
    try:
        hook = msgspec.json.decode(record, type=Hook)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
        raise StoreError(f"a record cannot be decoded: {error}") from error
    return hook.stored(revision, tenants.get(hook.tenant))


def _readable(rows: Iterable[tuple[str, str, str, bytes, int]]) -> Iterable[Hook]:
    tenants: dict[str, Hook] = {}
    for tenant, datasource, event, record, revision in rows:
        try:
            hook = decode(record, revision, tenants)
        except StoreError as error:
            log.warning("hook left out", tenant=tenant, datasource=datasource, _event=event, reason=str(error))
        else:
            tenants.setdefault(hook.tenant, hook)
            yield hook


def _row(hook: Hook) -> tuple[str, str, str, str, bytes, int]:
    return (hook.id, *hook.key, msgspec.json.encode(hook), hook.revision)


def _write(db: sqlite3.Connection, hooks: Mapping[str, Hook | None], revision: int) -> None:
    db.execute("UPDATE counter SET revision = ?", (revision,))
    db.executemany("DELETE FROM hook WHERE token = ?", ((hook_id,) for hook_id, hook in hooks.items() if hook is None))
    held = [hook for hook in hooks.values() if hook is not None]
    db.executemany("INSERT OR REPLACE INTO hook VALUES (?, ?, ?, ?, ?, ?)", map(_row, held))
    tenants = ((hook.tenant, hook.api_token) for hook in held)
    db.executemany("INSERT OR REPLACE INTO tenant VALUES (?, ?)", tenants)


def _revision(db: sqlite3.Connection) -> int:
    (revision,) = db.execute("SELECT revision FROM counter").fetchone()
    return int(revision)


def _next_revision(db: sqlite3.Connection) -> int:
    (revision,) = db.execute("UPDATE counter SET revision = revision + 1 RETURNING revision").fetchone()
    return int(revision)
