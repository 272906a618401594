"""`webhookd send`: a delivery as its datasource would send it, so that a hook can be tried without the real sender."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from webhookd.cli.completing import datasource_names, event_names
from webhookd.cli.config_api import Answer, request
from webhookd.cli.options import setting_options, settings_of
from webhookd.cli.output import Failure, json_option, printable, say, show, show_json
from webhookd.cli.secrets import given_secret, secret_options
from webhookd.settings import closest
from webhookd.version import __version__

if TYPE_CHECKING:
    from webhookd.datasource import Datasource


@click.command()
@click.argument("datasource", shell_complete=datasource_names)
@click.argument("event", shell_complete=event_names)
@click.argument("url")
@secret_options
@click.option(
    "--data", metavar="FILE", type=click.File("rb"), help="The body to send instead of the sample; - is stdin."
)
@setting_options("plugins_dir", "load_plugins")
@json_option
def send(
    *,
    datasource: str,
    event: str,
    url: str,
    secret: str | None,
    secret_file: Path | None,
    data: IO[bytes] | None,
    config: Path | None,
    as_json: bool,
    **flags: str | None,
) -> int:
    """Send one delivery of EVENT to the hook at URL, with the headers and the signature of DATASOURCE.

    The body is the plugin's sample of the event, or what --data holds. The exit status is 0 only if it was accepted.

    \b
    webhookd send github push "$HOOK_URL" --secret-file github.secret
    echo '{"id": 7}' | webhookd send my-service order.paid "$HOOK_URL" --data -
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from webhookd import registry  # noqa: PLC0415 - plugins are many imports, and `--help` needs none of them

    settings = settings_of(config, flags)
    sources = registry.load(settings.plugins_dir, settings.load_plugins)
    source = sources.get(datasource)
    if datasource not in sources.known and (near := closest(datasource, sources.known)):
        say(f"no plugin is named {datasource}{near} It is sent as any other source sends")
    body = data.read() if data is not None else _sample(source, event)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"webhookd/{__version__}",
        **source.sample_headers(event),
    }
    key = given_secret(secret, secret_file)
    if key:
        headers |= _signature(source, body, key)
    answer = request("POST", url, body, headers)
    if as_json:
        problem = None if answer.ok else answer.document()
        show_json({"status": answer.status, "receipt": answer.receipt, "problem": problem})
        return 0 if answer.ok else 1
    if not answer.ok:
        raise Failure(printable(answer.problem()))
    show(_words(answer))
    return 0


def _words(answer: Answer) -> str:
    if answer.receipt:
        return f"{answer.status} accepted, receipt {printable(answer.receipt)}"
    return f"{answer.status} answered, but nothing is published: a greeting, or another event than the hook's"


def _sample(source: Datasource, event: str) -> bytes:
    known = source.events.get(event)
    sample = known.sample if known is not None else None
    if sample is None and source.events:
        samples = [name for name, kind in source.events.items() if kind.sample is not None]
        raise click.UsageError(
            f"datasource {source.name} has no sample of {event!r}{closest(event, samples)};"
            f" there are {', '.join(samples)}; --data FILE sends a body of yours",
            click.get_current_context(),
        )
    if sample is None:
        sample = {"event": event, "message": "Hello from webhookd send", "createdAt": int(time.time())}
    return json.dumps(sample, ensure_ascii=False).encode()


def _signature(source: Datasource, body: bytes, secret: str) -> dict[str, str]:
    if not source.signs:
        raise click.UsageError(f"datasource {source.name} does not sign its deliveries: leave the secret out")
    if fault := source.secret_fault(secret):
        raise click.UsageError(f"the secret {fault}")
    return source.sign(body, secret, time.time())
