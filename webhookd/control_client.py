"""Asks the daemon that owns a state directory about its spool and hooks, through the socket in that directory."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from webhookd.adapters.spool_layout import SpoolStats
from webhookd.adoption import Verdict
from webhookd.control_protocol import Adopting, Condition, Page, Wanted, short_socket_path
from webhookd.model import Hook

T = TypeVar("T")

TIMEOUT = 30.0
"""How long, in seconds, an answer may take beyond the wait that it is asked for."""


class NoDaemonError(Exception):
    """Nobody answers at the socket: no daemon owns the directory, or it is just going or coming."""


class ControlError(Exception):
    """The daemon could not do what it was asked; the text says why."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the UNIX socket at `path`."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_socket_path(self._path) as name:
            self.sock.connect(name)


class DaemonSpool:
    """The spool of a running daemon, given `patience` seconds. Every method raises NoDaemonError or ControlError."""

    def __init__(self, control_socket: Path, patience: float = TIMEOUT) -> None:
        self._socket = control_socket
        self._patience = patience

    def stats(self) -> SpoolStats:
        """Return the spool's numbers."""
        return _ask(self._socket, self._patience, "GET", "/stats", None, SpoolStats)

    def page(self, wanted: Wanted) -> Page:
        """Return the next entries that are wanted."""
        return _ask(self._socket, self._patience + wanted.wait, "POST", "/entries", wanted, Page)

    def retry(self, condition: Condition) -> int:
        """Have set aside and unroutable messages (those with a receipt given, or all) tried again; return how many."""
        return _ask(self._socket, self._patience, "POST", "/retry", condition, int)

    def drop(self, condition: Condition) -> int:
        """Delete the messages that all of the given conditions hold for, and return how many."""
        return _ask(self._socket, self._patience, "POST", "/drop", condition, int)


class DaemonHooks:
    """The hooks of a running daemon. Raises NoDaemonError or ControlError."""

    def __init__(self, control_socket: Path) -> None:
        self._socket = control_socket

    def take_all(self, hooks: Sequence[Hook], *, dry_run: bool) -> list[Verdict]:
        """Have the daemon take hooks in as they are, or only look at them, and say what became of each."""
        return _ask(
            self._socket, TIMEOUT, "POST", "/adopt", Adopting(hooks=list(hooks), dry_run=dry_run), list[Verdict]
        )


def _ask(path: Path, patience: float, method: str, target: str, document: object, answer: type[T]) -> T:
    connection = UnixConnection(path, patience)
    try:
        connection.request(method, target, None if document is None else msgspec.msgpack.encode(document))
        response = connection.getresponse()
        data = response.read()
    except PermissionError:
        raise ControlError(f"{path} is not for this user: run this as the daemon's user or root") from None
    except TimeoutError:
        raise ControlError(f"{path}: the daemon does not answer") from None
    except (OSError, http.client.HTTPException):
        raise NoDaemonError from None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise ControlError(data.decode("utf-8", "replace"))
    try:
        return msgspec.msgpack.decode(data, type=answer)
    except msgspec.MsgspecError:
        raise ControlError("the daemon's answer cannot be read: is it of another version? restart it") from None
