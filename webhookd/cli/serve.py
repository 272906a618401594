"""`webhookd serve`: the daemon, in the foreground, until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from webhookd.cli.options import SettingsCommand, config_option, settings_of
from webhookd.cli.output import colours
from webhookd.settings import check_tokens


@click.command(cls=SettingsCommand)
@config_option
def serve(config: Path | None, **flags: str | None) -> int:
    """Run the daemon in the foreground until SIGTERM or SIGINT.

    Every setting is a flag here, WEBHOOKD_<KEY> in the environment, and a key of the settings file; a flag wins over
    the environment, the environment over the file. Sizes take KiB, MiB, GiB; durations ms, s, m, h, d.

    \b
    webhookd serve --jwt-secret-file /etc/webhookd/jwt.key
    webhookd serve --config ./webhookd.toml --listen 0.0.0.0:8080
    WEBHOOKD_SPOOL_MAX_BYTES=20GiB webhookd serve --config ./webhookd.toml

    Exit status: 0 stopped as told, 1 failed, 2 wrong usage or settings.
    """  # noqa: D301 - \b keeps click from wrapping the examples
    settings = settings_of(config, flags)
    check_tokens(settings)
    from webhookd import daemon  # noqa: PLC0415 - `--help` and a bad setting need no Tornado

    return daemon.serve(settings, colours=colours())
