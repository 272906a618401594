"""`webhookd dev`: a daemon to try things out, with everything at hand that a first delivery needs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from webhookd.cli.config_api import ConfigApi
from webhookd.cli.options import SettingsCommand, config_option, settings_of
from webhookd.cli.output import colours, printable, say, show
from webhookd.cli.tokens import checked_tenant, mint, tenant_id
from webhookd.settings import Settings, read_secret_file
from webhookd.version import __version__

if TYPE_CHECKING:
    from webhookd.daemon import Bound
    from webhookd.model import Message

DATASOURCE, EVENT = "demo", "hello"
SAMPLE = '{"message": "Hello, webhookd"}'
DAYS = 30
"""How long the bearer token would be valid; in truth until the daemon stops, since its key is gone then."""
ANYWHERE = {"http://0.0.0.0:": "http://127.0.0.1:", "http://[::]:": "http://[::1]:"}
"""What listens everywhere, and how it is reached from here."""


@click.command(cls=SettingsCommand)
@click.option(
    "--tenant",
    default="1",
    show_default=True,
    metavar="ID",
    callback=checked_tenant,
    help="Whom the bearer token and the hook are for.",
)
@config_option
def dev(tenant: str, config: Path | None, **flags: str | None) -> int:
    """Run a daemon to try things out; Ctrl-C stops it.

    It comes with a signing key of its own (new at each start), a bearer token, a hook and a curl line to try it with,
    and prints a line for each accepted delivery. Hooks and messages stay in ./webhookd-data for the next time.

    \b
    webhookd dev
    webhookd dev --listen 127.0.0.1:9000 --plugins-dir ./plugins

    All flags of `webhookd serve` are taken, and its environment variables; a settings file only by --config.
    """  # noqa: D301 - \b keeps click from wrapping the examples
    # what matters here is printed, so that the log need only say what is wrong
    environ = os.environ if config else {"WEBHOOKD_LOG_LEVEL": "warning", **os.environ}
    settings = settings_of(config or Path(os.devnull), flags, environ)
    if settings.jwt_secret_file is None:
        settings = replace(settings, jwt_secret_file=_in_memory(secrets.token_hex(32)))
    from webhookd import daemon  # noqa: PLC0415 - `--help` needs no Tornado

    guide = Guide(settings, tenant)
    return daemon.serve(settings, ready=guide.ready, accepted=guide.accepted, colours=colours())


def _in_memory(key: str) -> Path:
    """Return the path of a file that holds `key` and is on no disk."""
    file = os.memfd_create("webhookd-dev-key")
    os.write(file, key.encode())
    return Path(f"/proc/self/fd/{file}")


@dataclass(frozen=True, slots=True)
class Guide:
    """Tells a newcomer what runs where and what to do with it."""

    settings: Settings
    tenant: str

    async def ready(self, bound: Bound) -> None:
        """Create the hook, or find the one of the last time, and say how to use it."""
        token = self._token()
        url = bound.url
        for listening, reached in ANYWHERE.items():
            url = url.replace(listening, reached)
        try:
            document = {"datasource": DATASOURCE, "event": EVENT}
            hook = await asyncio.to_thread(ConfigApi(url, token).ask, "POST", "", document)
        except click.ClickException as error:
            say(f"it runs, but the hook to try it with cannot be created: {error.message}")
            return
        self._explain(bound, url, token, urlsplit(hook["hookUrl"]).path)

    def accepted(self, message: Message) -> None:
        """Print a line for an accepted delivery."""
        clock = time.strftime("%H:%M:%S", time.localtime(message.received_at / 1000))
        what = f"tenant {message.tenant}  {message.datasource}  {message.event}  {len(message.body)} bytes"
        with contextlib.suppress(OSError):  # nobody reads it any more: no reason to refuse deliveries
            show(printable(f"{clock}  accepted  {what}  receipt {message.receipt}"), fg="green")

    def _token(self) -> str:
        s = self.settings
        assert s.jwt_secret_file is not None  # noqa: S101 - for the type checker: `dev` has seen to it
        key = read_secret_file(s.jwt_secret_file, "jwt_secret_file")
        claims = {"iss": s.jwt_issuer, "aud": s.jwt_audience}
        return mint(key, tenant_id(self.tenant), int(time.time()), DAYS * 86400, s.jwt_tenant_claim, **claims)

    def _explain(self, bound: Bound, url: str, token: str, path: str) -> None:
        folder = shlex.quote(_relative(self.settings.state_dir))
        here = "" if folder == "webhookd-data" else f" --state-dir {folder}"
        command = _command()
        unix = url.startswith("unix:")
        hook_url = f"http://localhost{path}" if unix else f"{url}{path}"
        through = f"--unix-socket {shlex.quote(url.removeprefix('unix:'))} " if unix else ""
        paragraphs = {
            f"webhookd {__version__} is running. Ctrl-C stops it.": (
                f"deliveries, config API   {url}",
                f"livez, readyz, metrics   {bound.admin_url or 'nowhere'}",
                *([f"the console              {bound.admin_url}/console"] if bound.console else []),
                f"hooks and messages in    {folder}",
            ),
            **_invitation(bound, token),
            f"A bearer token of tenant {self.tenant}, valid until this stops:": (token,),
            f"A hook of that tenant, for the datasource {DATASOURCE} and the event {EVENT}:": (hook_url,),
            "Send it a delivery, from another terminal:": (
                f"curl -i {through}-H 'Content-Type: application/json' -d '{SAMPLE}' {hook_url}",
            ),
            "See the messages, and make a hook of your own:": (
                f"{command} tail --follow{here}",
                f"{command} hooks create github push --url {shlex.quote(url)} --token {token}",
            ),
        }
        for heading, lines in paragraphs.items():
            show(heading, bold=True)
            for line in lines:
                show(f"  {line}")
            show()
        show("Deliveries that are accepted show up here:", bold=True)


def _invitation(bound: Bound, token: str) -> dict[str, tuple[str, ...]]:
    """Return how to get into the console: by a link that works once, where nobody but this machine can follow it."""
    host = urlsplit(bound.admin_url or "").hostname
    if bound.console is None or host not in ("127.0.0.1", "::1"):
        return {}
    return {
        "See deliveries, and make hooks of your own, in the console; this link signs in, once:": (
            f"{bound.admin_url}{bound.console.invite(token)}",
        )
    }


def _command() -> str:
    """Return how this command is called from another terminal in this folder."""
    own = Path(sys.argv[0]).absolute()
    found = shutil.which("webhookd")
    return "webhookd" if found and own.exists() and own.samefile(found) else shlex.quote(_relative(own))


def _relative(path: Path) -> str:
    """Return `path` as somebody in this folder would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
