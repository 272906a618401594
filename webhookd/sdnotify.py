"""Speaks to systemd in the two ways it understands, sd_notify(3) and sd_listen_fds(3), and does nothing without it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from webhookd.errors import StartError

FIRST_INHERITED_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


def notify(state: str) -> None:
    """Tell the service manager `state` (`READY=1`, `STOPPING=1`, `WATCHDOG=1`, ...: sd_notify(3)).

    Does nothing where $NOTIFY_SOCKET is unset, and never raises or blocks: a daemon outlives its supervisor's faults.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace of unix(7)
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        channel.sendto(state.encode(), address)


def watchdog_interval() -> float | None:
    """Return how many seconds to leave between two `WATCHDOG=1`, None where nobody waits for them.

    It is half of what the service manager allows, as sd_watchdog_enabled(3) advises.
    """
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdecimal() or int(allowed) == 0:
        return None
    if os.environ.get("WATCHDOG_PID") not in (None, "", str(os.getpid())):
        return None
    return int(allowed) / 2_000_000


def inherited_sockets() -> list[socket.socket]:
    """Take over the listening sockets that the service manager opened for this process, in the order of its unit.

    They do not block and are not inherited further. The variables that tell of them are removed, so a second call, or
    a child, gets none; those that were meant for another process ($LISTEN_PID) count for nothing. Raises `StartError`
    where one is no listening stream socket.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_listening(fd) for fd in range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + int(count))]


def _listening(fd: int) -> socket.socket:
    try:
        taken = socket.socket(fileno=fd)
    except OSError:
        raise StartError(f"file descriptor {fd}, handed over as a listening socket ($LISTEN_FDS), is none") from None
    if taken.type != socket.SOCK_STREAM or not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        taken.detach()  # it is somebody else's
        raise StartError(f"file descriptor {fd} is no listening stream socket: give the socket unit a ListenStream=")
    taken.setblocking(False)
    taken.set_inheritable(False)
    return taken
