"""Listening sockets: bound from the settings or inherited from systemd, with an error that says what to do."""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets, bind_unix_socket

from webhookd.errors import StartError

BACKLOG = 4096
"""How many connections may wait to be accepted."""
UNIX_SOCKET_MODE = 0o666
"""Who may connect to a `unix:` listener is up to the folder that it lies in."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE = 0.2
"""Seconds for which connections wait when there is no descriptor for another one."""

log = structlog.get_logger(__name__)


class PatientSocket(socket.socket):
    """A listening socket that leaves connections waiting when descriptors run out: what is open goes on meanwhile."""

    @classmethod
    def of(cls, listening: socket.socket) -> PatientSocket:
        """Take `listening` over."""
        patient = cls(listening.family, listening.type, listening.proto, listening.detach())
        patient.setblocking(False)
        return patient

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; with no descriptor left, as if there were none, and again after a pause."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            log.warning("no connection can be accepted now: those that come wait", reason=error.strerror)
            loop = IOLoop.current()
            loop.update_handler(self, 0)  # or the event loop would spin
            loop.call_later(PAUSE, self._go_on, loop)
            raise BlockingIOError from error

    def _go_on(self, loop: IOLoop) -> None:
        if self.fileno() >= 0:
            loop.update_handler(self, IOLoop.READ)


@dataclass(frozen=True, slots=True)
class Listener:
    """Where something listens."""

    sockets: list[socket.socket]
    url: str
    """`http://host:port`, or `unix:/path`."""

    def close(self) -> None:
        """Close the sockets; the path of a UNIX socket that is still ours goes too."""
        for one in self.sockets:
            one.close()
        if self.url.startswith("unix:"):
            Path(self.url.removeprefix("unix:")).unlink(missing_ok=True)


def listen(address: str, key: str) -> Listener:
    """Bind the address that the setting `key` holds (`host:port` or `unix:/path`); raises `StartError`."""
    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            _refuse_other_files(path, key)
            return Listener([bind_unix_socket(path, UNIX_SOCKET_MODE, BACKLOG)], address)
        host, _, port = address.rpartition(":")
        sockets = bind_sockets(int(port), host.strip("[]"), backlog=BACKLOG)
        return Listener(sockets, url_of(sockets[0]))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StartError(f"cannot listen on {address}: {reason}; free it, or set {key} to another address") from error


def inherited(sockets: list[socket.socket]) -> Listener:
    """Return the listener of sockets that systemd has opened."""
    return Listener(sockets, url_of(sockets[0]))


def url_of(listening: socket.socket) -> str:
    """Return where `listening` can be reached."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"inherited unix:{name}"  # systemd's: it is not ours to remove
    host = f"[{name[0]}]" if listening.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def _refuse_other_files(path: str, key: str) -> None:
    """Raise `StartError` where something is at `path` that is no socket, or one that somebody listens on."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot listen on unix:{path}: a file is there; remove it, or set {key} to another path")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise StartError(f"cannot listen on unix:{path}: in use; stop the other, or set {key} to another path")
