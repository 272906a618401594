"""What the spool asks of the file system beyond SQLite: is it full, and some room for the day when it is."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

from webhookd.statedir import sync_directory

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

SALVAGED = "-salvaged"


def free_bytes(folder: Path) -> int:
    """Return what the file system says that it can still take."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def has_room(folder: Path, size: int) -> bool:
    """Tell by trying, since quotas and copy-on-write make `free_bytes` a guess; what fails otherwise is not full."""
    probe = folder / "probe"
    try:
        return allocate(probe, size, sync=False)
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def allocate(path: Path, size: int, *, sync: bool = True) -> bool:
    """Make a file `size` bytes long; False where the disk has no room. Raises OSError for every other fault."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return False
    return True


class Reserve:
    """A file of `size` bytes that is there only to be given free."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    @property
    def held(self) -> bool:
        """Whether there is something to give free."""
        return file_size(self.path) == self.size

    def build(self) -> bool:
        """Take the room, durably; False where the disk has none. Raises OSError for every other fault."""
        if self.held:
            return True
        if not allocate(self.path, self.size):
            self.release()
            return False
        sync_directory(self.path.parent)
        return True

    def release(self) -> None:
        """Give the room free."""
        self.path.unlink(missing_ok=True)


def put_aside(database: Path, what: str, stamp: str, suffixes: tuple[str, ...] = ("", "-wal")) -> Path:
    """Rename a database with its WAL to `NAME.what-stamp`, and return its new name. Nothing is deleted."""
    aside = database.with_name(f"{database.name}.{what}-{stamp}")
    for number in itertools.count(2):
        if not any(aside.with_name(aside.name + suffix).exists() for suffix in suffixes):
            break
        aside = database.with_name(f"{database.name}.{what}-{stamp}.{number}")
    for suffix in suffixes:
        source = database.with_name(database.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    sync_directory(database.parent)
    return aside


def inode(path: Path) -> int:
    """Return what tells a file from others of its name, 0 if there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def damaged_files(database: Path) -> tuple[str, ...]:
    """Return the names of the databases that were put aside and are still there."""
    found = database.parent.glob(f"{database.name}.corrupt-*")
    return tuple(sorted(path.name for path in found if not path.name.endswith(("-wal", "-shm", SALVAGED))))


def salvaged(aside: Path) -> Path:
    """Return the name of the file that says that all that was readable of a database put aside was taken over."""
    return aside.with_name(aside.name + SALVAGED)
