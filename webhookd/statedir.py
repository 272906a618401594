"""One process owns the state directory, and nobody but its owner can read what is in it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Self

from webhookd.errors import ConfigurationError, StateDirInUse

HOOKS_DB, SPOOL_DB, RECORDS_DB, CONTROL_SOCKET = "hooks.db", "spool.db", "records.db", "control.sock"
"""What the things in it are called, also for who looks in without owning it."""
OWN = (HOOKS_DB, SPOOL_DB, RECORDS_DB, CONTROL_SOCKET, "remembered-", "lock")
"""How the names of all begin that webhookd makes there."""
WIDER = stat.S_IRWXG | stat.S_IRWXO
"""The permission bits that nothing in the state directory may have."""


class StateDir:
    """The directory that holds hooks, spool and control socket, owned until `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.hooks_db = path / HOOKS_DB
        self.spool_db = path / SPOOL_DB
        self.records_db = path / RECORDS_DB
        self.control_socket = path / CONTROL_SOCKET
        self._lock: int | None = lock

    def remembered_db(self, store: str) -> Path:
        """Return the file that remembers the hooks of the shared store called `store`; forgets those of any other."""
        path = self.path / f"remembered-{hashlib.sha256(store.encode()).hexdigest()[:16]}.db"
        self.forget_stores(but=path.name)
        return path

    def forget_stores(self, but: str = "/") -> None:
        """Remove what is remembered of stores no longer in use: nobody will ask for it, and it holds secrets."""
        for other in self.path.glob("remembered-*"):
            if not other.name.startswith(but):
                other.unlink()

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Make `path` this process's own, creating it (0700) where it is missing.

        The process's umask becomes 077, so that every file made in it later is 0600. Raises StateDirInUse where another
        process holds it, ConfigurationError where it or a file in it is open to group or others or cannot be written.
        """
        path = path.resolve()
        os.umask(0o077)
        try:
            _create(path)
            refuse_wider(path)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(_unusable(path, error)) from error
        try:
            _lock(lock, path)
            _prove_writable(lock, path)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock)

    def close(self) -> None:
        """Let another process have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _create(path: Path) -> None:
    """Make the directory and its missing parents, each 0700, and their names durable."""
    if path.is_dir():
        return
    if path.exists():
        raise ConfigurationError(f"{path} is not a directory: name another state_dir")
    if not path.parent.is_dir():
        _create(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def refuse_wider(path: Path) -> None:
    """Raise ConfigurationError where the state directory, or what is webhookd's in it, is open to others or a link.

    What an operator has put beside it is left alone: in a directory of mode 0700 nobody else can reach it.
    """
    own = (entry for entry in sorted(path.iterdir()) if entry.name.startswith(OWN))
    for entry in (path, *own):
        mode = entry.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise ConfigurationError(f"{entry} in the state directory is a symbolic link: replace it by what it names")
        if mode & WIDER:
            raise ConfigurationError(f"{entry} can be reached by group or others: run `chmod go= {entry}`")


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        raise StateDirInUse(
            f"state directory {path} is in use by pid {owner or 'unknown'}: stop that daemon or name another state_dir"
        ) from None


def _prove_writable(lock: int, path: Path) -> None:
    """Create a name, as SQLite must: a read-only file system shows here, not at the first delivery."""
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        (path / "probe").touch(0o600)
        (path / "probe").unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return  # a full disk does not stop the start: the spool has a reserve for it, and readiness says so
        raise ConfigurationError(_unusable(path, error)) from error


def _unusable(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"state directory {path} cannot be used ({reason}): make it writable for this user or name another state_dir"
