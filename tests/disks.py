"""Disks of a chosen size, for a command and its children alone: a tmpfs in a mount namespace of its own."""

import os
from pathlib import Path

from harness import need

MOUNT = 'mkdir -p -m 0700 "$2" && mount -t tmpfs -o "mode=0700,$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_disk_of_its_own(path: Path, options: str) -> list[str]:
    """Return what to put before a command so that `path` is an empty tmpfs with these mount options for it.

    Others see it as /proc/PID/root/`path`. Root mounts; everybody else is root in a user namespace first.
    """
    namespaces = "-m" if os.geteuid() == 0 else "-rm"
    return [need("unshare"), namespaces, "sh", "-c", MOUNT, "sh", options, str(path)]
