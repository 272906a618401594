"""The format of the spool's file, and how it is opened so that a commit is durable."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from webhookd.adapters.spool_layout import PAGE
from webhookd.errors import ConfigurationError
from webhookd.statedir import sync_directory

VERSION = 2
"""`PRAGMA user_version` of the files written here."""

SCHEMA = """
CREATE TABLE hook (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL, tenant TEXT NOT NULL, datasource TEXT NOT NULL, event TEXT NOT NULL
);
CREATE TABLE message (
    seq INTEGER PRIMARY KEY, receipt TEXT NOT NULL, hook INTEGER NOT NULL, state INTEGER NOT NULL,
    received_at INTEGER NOT NULL, bytes INTEGER NOT NULL, cost INTEGER NOT NULL, blob INTEGER NOT NULL,
    seal INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, reason TEXT
);
CREATE TABLE body (id INTEGER PRIMARY KEY, data BLOB NOT NULL, head BLOB);
CREATE TABLE unfinished (blob INTEGER PRIMARY KEY);
CREATE TABLE floor (next INTEGER NOT NULL);
INSERT INTO floor VALUES (1);
CREATE INDEX line ON message (hook, seq) WHERE state < 4;
"""
NEXT = """
SELECT max((SELECT next FROM floor), (SELECT coalesce(max(seq), 0) + 1 FROM message),
           (SELECT (coalesce(max(id), 0) >> 16) + 1 FROM body))
"""
SEQ_MAX = 1 << 46
"""No number is as large as this: 64 bits hold it and the number of a part."""


class Damaged(sqlite3.DatabaseError):
    """What the file holds cannot be what was written to it."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class Unusable(sqlite3.OperationalError):
    """The file cannot be used here or now, though nothing is wrong with it."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the file for writing, 0600; raises sqlite3.Error, OSError, ConfigurationError."""
    if not path.exists():
        path.touch(0o600)
    db = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False, cached_statements=256)
    try:
        _prepare(db, path)
        sync_directory(path.parent)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute(f"PRAGMA page_size = {PAGE}")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise Unusable("the file system of the state directory cannot hold a write-ahead log")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # the writer decides when
    db.execute("PRAGMA secure_delete = OFF")  # Debian's default would write 25 MiB of zeros to delete 25 MiB
    db.execute("PRAGMA cell_size_check = ON")
    db.execute("PRAGMA cache_size = -4096")
    db.execute("PRAGMA temp_store = MEMORY")  # nothing outside the state directory
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
    elif version != VERSION:
        raise ConfigurationError(
            f"{path} was written by another version of webhookd (its format is {version}): use that one to empty it"
        )
