"""Where the broker is, and how to prove who we are there: nothing of it, as text, shows a password."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from webhookd.errors import ConfigurationError

PORTS = {"amqp": 5672, "amqps": 5671}
"""The ports of a URL without one (https://www.rabbitmq.com/uri-spec.html)."""
GUEST = "guest"
"""The user of a URL without one, and its password."""


@dataclass(frozen=True, slots=True)
class Address:
    """One broker. `url` holds the password, `shown` what may be shown: host and port, and the vhost."""

    url: str = field(repr=False)
    host: str
    port: int
    vhost: str
    user: str
    shown: str
    tls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the settings `broker` (`urls`, comma-separated) and `broker_*` say."""

    urls: str = field(repr=False)
    password: Callable[[], bytes] | None = None
    """Returns the user's password, which wins over that of a URL; raises ConfigurationError when there is none."""
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None

    def addresses(self, heartbeat: int) -> list[Address]:
        """Return each broker, in the order in which to try them; `heartbeat` is in seconds.

        Asks for the password anew: it may have changed. Raises ConfigurationError where there is none.
        """
        try:
            password = None if self.password is None else self.password().decode()
        except UnicodeDecodeError:
            raise ConfigurationError("broker_password_file: the password is not UTF-8") from None
        return [_address(url.strip(), password, heartbeat) for url in self.urls.split(",")]

    def tls(self) -> ssl.SSLContext:
        """Return what to check the broker's certificate with, its host name too, and what to show of ours.

        Raises ConfigurationError for a file that holds no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=None if self.cafile is None else str(self.cafile))
        except OSError as error:
            raise ConfigurationError(f"broker_cafile: {self.cafile} holds no certificates: {_why(error)}") from None
        if self.certfile is not None:
            try:
                context.load_cert_chain(self.certfile, self.keyfile)
            except OSError as error:
                files = f"{self.certfile} and {self.keyfile or 'the key in it'}"
                raise ConfigurationError(
                    f"broker_certfile, broker_keyfile: {files} are no certificate with its key: {_why(error)}"
                ) from None
        return context


def _address(url: str, password: str | None, heartbeat: int) -> Address:
    parts = urlsplit(url)
    user = unquote(parts.username or GUEST)
    secret = password if password is not None else unquote(parts.password or GUEST)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or PORTS[parts.scheme]
    vhost = unquote(parts.path.removeprefix("/")) or "/"
    userinfo = f"{quote(user, safe='')}:{quote(secret, safe='')}"
    return Address(
        url=f"{parts.scheme}://{userinfo}@{host}:{port}/{quote(vhost, safe='')}?heartbeat={heartbeat}",
        host=parts.hostname or "",
        port=port,
        vhost=vhost,
        user=user,
        shown=f"{host}:{port}" if vhost == "/" else f"{host}:{port}, vhost {vhost}",
        tls=parts.scheme == "amqps",
    )


def _why(error: OSError) -> str:
    return error.strerror or error.args[0]
