"""`webhookd check`: says of everything that the daemon needs whether it is as it should be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from webhookd.cli.finding import Finding, found
from webhookd.cli.options import SettingsCommand, config_option, settings_of
from webhookd.cli.output import colours, json_option, printable, show, show_json
from webhookd.errors import ConfigurationError


@click.command(cls=SettingsCommand)
@json_option
@config_option
def check(*, as_json: bool, config: Path | None, **flags: str | None) -> int:
    """Check settings, state directory, store, broker, spool, keys, STS and plugins: a line each, ok or why not.

    Works beside a running daemon and without one, and changes nothing: of etcd and RabbitMQ it tries what the daemon
    needs, each endpoint by itself, without leaving a key or a message there. Takes the flags of `webhookd serve`.

    \b
    webhookd check --config /etc/webhookd/webhookd.toml

    Exit status: 0 all is well, 1 something is not.
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from webhookd import logs  # noqa: PLC0415 - `--help` needs nothing of it

    warnings = logs.configure("warning", "auto", colours=colours())
    findings = _findings(config, flags)
    warnings.finish()
    for finding in findings:
        if as_json:
            show_json({"check": finding.name, "ok": finding.ok, "detail": finding.detail})
        else:
            style = {"fg": "green"} if finding.ok else {"fg": "red"}
            show(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<17}{printable(finding.detail)}", **style)
    return 0 if all(finding.ok for finding in findings) else 1


def _findings(config: Path | None, flags: dict[str, str | None]) -> list[Finding]:
    try:
        settings = settings_of(config, flags)
    except ConfigurationError as error:
        return [Finding("settings", ok=False, detail=str(error))]
    from webhookd.cli import local_checks as here  # noqa: PLC0415 - `--help` needs nothing of it
    from webhookd.cli.neighbour_checks import neighbours  # noqa: PLC0415 - see above

    fault = here.daemon(settings)
    spool = found("spool", lambda: here.spool(settings, fault))
    store, broker, jwks, sts = asyncio.run(neighbours(settings))
    return [
        Finding("settings", ok=True, detail="all keys are known and their values allowed"),
        found("state directory", lambda: here.state_dir(settings, running=fault is not None)),
        *(store or [found("store", lambda: here.store(settings))]),
        *([*broker, spool] if broker else [Finding("broker", spool.ok, f"spool: {spool.detail}")]),
        found("keys", lambda: here.keys(settings)),
        *jwks,
        *sts,
        found("plugins", lambda: here.plugins(settings)),
        *([found("traces", lambda: here.traces(settings))] if settings.otel_endpoint else []),
    ]
