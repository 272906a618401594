"""Which names the console answers to, so that a page of any other host can neither read it nor act through it."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Hosts:
    """The hosts under which the console may be reached: `host` with any port, `host:port` with that one alone."""

    def __init__(self, names: Iterable[str], admin_listen: str) -> None:
        """Take the setting `console_hosts` and the address of the listener; this machine's own names come with them."""
        own = () if admin_listen.startswith("unix:") else (admin_listen.rpartition(":")[0],)
        self._names = frozenset(name.lower() for name in (*LOOPBACK, *own, *names) if name)

    def known(self, host: str) -> bool:
        """Say whether a request with this Host header is meant for the console.

        It is what DNS rebinding cannot forge: a name of somebody else's that was made to resolve to this machine
        still stands in the header.
        """
        host = host.lower()
        return host in self._names or without_port(host) in self._names


def same_origin(origin: str | None, host: str) -> bool:
    """Say whether a request came from a page of the very host and port that it went to (RFC 6454, section 7.3).

    Both scheme and port matter to browsers' origins; the scheme is left to the proxy in front, which may add TLS. A
    request without the header is none of a browser's page, and no form of the console's.
    """
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def over_https(origin: str | None) -> bool:
    """Say whether the browser reached this over TLS: its own word, whatever a proxy in front says or leaves out."""
    return origin is not None and origin.startswith("https://")


def without_port(host: str) -> str:
    """Return the host of `host` or `host:port`, in brackets where it came so."""
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() and (not name.startswith("[") or name.endswith("]")) else host
