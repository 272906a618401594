"""`webhookd dev`: a daemon to try things out, with everything at hand that a first delivery needs."""

from __future__ import annotations

import asyncio
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
from webhookd.cli.output import printable, say, show
from webhookd.cli.tokens import mint, tenant_id
from webhookd.settings import Settings, read_secret_file, unsupported
from webhookd.version import __version__

if TYPE_CHECKING:
    from webhookd.daemon import Bound
    from webhookd.model import Message

DATASOURCE, EVENT = "demo", "hello"
SAMPLE = '{"message": "Hello, webhookd"}'
DAYS = 7
"""How long the bearer token is valid."""


@click.command(cls=SettingsCommand)
@click.option("--tenant", default="1", show_default=True, metavar="ID", help="Whom the bearer token and hook are for.")
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
    settings = settings_of(config or Path(os.devnull), flags)
    unsupported(settings)
    own_key = settings.jwt_secret_file is None
    if own_key:
        settings = replace(settings, jwt_secret_file=_in_memory(secrets.token_hex(32)))
    if "log_level" not in flags or flags["log_level"] is None:
        settings = replace(settings, log_level="warning")  # what matters here is printed, not logged
    from webhookd import daemon  # noqa: PLC0415 - `--help` needs no Tornado

    guide = Guide(settings, tenant, own_key)
    return daemon.serve(settings, ready=guide.ready, accepted=guide.accepted)


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
    own_key: bool
    """Whether the key is ours, and shall be in a file for `webhookd token`."""

    async def ready(self, bound: Bound) -> None:
        """Create the hook, or find the one of the last time, and say how to use it."""
        path = self.settings.jwt_secret_file
        assert path is not None  # noqa: S101 - for the type checker: `dev` has seen to it
        key = read_secret_file(path, "jwt_secret_file")
        if self.own_key:
            path = self.settings.state_dir / "dev.key"
            path.unlink(missing_ok=True)
            path.write_bytes(key)  # 0600: the state directory's owner has set the umask
        token = self._token(key)
        try:
            api = ConfigApi(bound.url, token)
            hook = await asyncio.to_thread(api.ask, "POST", "", {"datasource": DATASOURCE, "event": EVENT})
        except click.ClickException as error:
            say(f"the hook for you to try cannot be created: {error.message}")
            return
        self._explain(bound, path, token, bound.url + urlsplit(hook["hookUrl"]).path)

    def accepted(self, message: Message) -> None:
        """Print a line for an accepted delivery."""
        clock = time.strftime("%H:%M:%S", time.localtime(message.received_at / 1000))
        what = f"tenant {message.tenant}  {message.datasource}  {message.event}  {len(message.body)} bytes"
        show(printable(f"{clock}  accepted  {what}  {message.receipt}"), fg="green")

    def _token(self, key: bytes) -> str:
        s = self.settings
        claims = {"iss": s.jwt_issuer, "aud": s.jwt_audience}
        return mint(key, tenant_id(self.tenant), int(time.time()), DAYS * 86400, s.jwt_tenant_claim, **claims)

    def _explain(self, bound: Bound, key_file: Path, token: str, url: str) -> None:
        state_dir = shlex.quote(_relative(self.settings.state_dir))
        here = f" --state-dir {state_dir}" if state_dir != "webhookd-data" else ""
        key = shlex.quote(_relative(key_file))
        command = _command()
        show(f"webhookd {__version__} runs. Ctrl-C stops it.", bold=True)
        show()
        show(f"  deliveries and config API   {bound.url}")
        show(f"  livez, readyz, metrics      {bound.admin_url or '(none)'}")
        show(f"  hooks and messages          {state_dir}")
        show()
        show(f"Bearer token of tenant {self.tenant}, good for {DAYS} days:", bold=True)
        show(f"  {token}")
        show()
        show(f"A hook for the datasource {DATASOURCE} and the event {EVENT}:", bold=True)
        show(f"  {url}")
        show()
        show("Send it a delivery (from another terminal, as it stands):", bold=True)
        show(f"  curl -i -H 'Content-Type: application/json' -d '{SAMPLE}' {shlex.quote(url)}")
        show()
        show("Then look at the message, and make a hook of your own:", bold=True)
        minted = f'"$({command} token --tenant {shlex.quote(self.tenant)} --key-file {key})"'
        show(f"  {command} tail{here}")
        show(f"  {command} hooks create github push --url {bound.url} --token {minted}")
        show()
        sys.stdout.flush()


def _command() -> str:
    """Return how this command is called from here."""
    own = Path(sys.argv[0]).absolute()
    found = shutil.which("webhookd")
    return "webhookd" if found and own.exists() and own.samefile(found) else shlex.quote(_relative(own))


def _relative(path: Path) -> str:
    """Return `path` as somebody in this folder would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
