"""Disks of a chosen size, for a command and its children alone: a tmpfs in a mount namespace of its own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness import need

MOUNT = 'mkdir -p -m 0700 "$2" && mount -t tmpfs -o "mode=0700,$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_disk_of_its_own(path: Path, options: str) -> list[str]:
    """Return what to put before a command so that `path` is an empty tmpfs with these mount options for it.

    Others see it as /proc/PID/root/`path`. Root mounts; everybody else is root in a user namespace first.
    """
    namespaces = "-m" if os.geteuid() == 0 else "-rm"
    return [need("unshare"), namespaces, "sh", "-c", MOUNT, "sh", options, str(path)]


class Disk:
    """A small disk that others can look at while processes on it come and go."""

    def __init__(self, holder: int, path: Path) -> None:
        self.path = path
        self.outside = Path(f"/proc/{holder}/root{path}")
        as_root = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        self.wrapper = [need("nsenter"), "-t", str(holder), *as_root, "-m"]
        """What to put before a command that is to find the disk at `path`."""
        self.filler = self.outside / "filler"

    def free(self) -> int:
        status = os.statvfs(self.outside)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all its room but `leave` bytes, as another program would."""
        with self.filler.open("ab") as filler:
            self.filler.chmod(0o600)
            while (room := self.free() - leave) > 0:
                os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), min(room, 1 << 20))


@contextlib.contextmanager
def disk(path: Path, size: str) -> Iterator[Disk]:
    """Give a disk of this size, at `path` for whatever runs behind its `wrapper`."""
    hold = [*on_disk_of_its_own(path, f"size={size}"), "sh", "-c", "echo ready && exec cat"]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield Disk(holder.pid, path)
        holder.communicate()
