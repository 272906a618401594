"""Where a broker is, who we are there, and how the way to it is protected."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from webhookd.errors import ConfigurationError

HEARTBEAT = 5
"""Seconds between two heartbeats; a broker that is silent for 3 * (HEARTBEAT + 1) seconds is given up by aiormq."""
_PORTS = {"amqp": 5672, "amqps": 5671}


class FileFault(Exception):
    """A file beside the URLs cannot be used; the text says which one, and why."""


@dataclass(frozen=True, slots=True)
class Files:
    """What stands in files beside the URLs; each is read again at every connect, so that it can be renewed."""

    password: Path | None = None
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """One broker, as its URL names it; `auth=external` in the query logs in by the client certificate."""

    host: str
    port: int
    tls: bool
    user: str
    password: str = field(repr=False)
    vhost: str
    external: bool

    @classmethod
    def of(cls, url: str) -> Self:
        """Read `amqp[s]://[user[:password]@]host[:port][/vhost]`; without a vhost it is `/`.

        Raises ConfigurationError for a query that says anything else than `auth=external`.
        """
        parts = urlsplit(url.strip())
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if query not in ({}, {"auth": "external"}):
            raise ConfigurationError(f"broker: ?{'&'.join(query)} says nothing here; allowed is ?auth=external")
        return cls(
            host=parts.hostname or "",
            port=parts.port or _PORTS[parts.scheme],
            tls=parts.scheme == "amqps",
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            vhost=unquote(parts.path[1:]) or "/",
            external=bool(query),
        )

    def __str__(self) -> str:
        """Say where it is, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'amqps' if self.tls else 'amqp'}://{host}:{self.port}/{quote(self.vhost, safe='')}"

    def url(self, files: Files) -> str:
        """Return what aiormq is given: it takes user, password, vhost and heartbeat from it. Raises FileFault."""
        password = quote(self.password if files.password is None else _password(files.password), safe="")
        scheme, _, rest = str(self).partition("://")
        auth = "&auth=external" if self.external else ""
        return f"{scheme}://{quote(self.user, safe='')}:{password}@{rest}?heartbeat={HEARTBEAT}{auth}"

    def tls_context(self, files: Files) -> ssl.SSLContext | None:
        """Return how to check the broker's certificate and which one to show; None without TLS. Raises FileFault."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=files.cafile)
            if files.certfile is not None:
                context.load_cert_chain(files.certfile, files.keyfile)
        except (OSError, ssl.SSLError) as error:
            named = " or ".join(str(path) for path in (files.cafile, files.certfile, files.keyfile) if path)
            raise FileFault(f"{named} cannot be used: {error}") from error
        return context


def _password(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFault(f"broker_password_file {path} cannot be read: {error}") from error
