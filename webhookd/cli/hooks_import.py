"""`webhookd hooks import`: hooks out of a file, as a tenant through the config API, as the operator into the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import click

from webhookd.cli.api_options import api_options, bearer_token
from webhookd.cli.config_api import ConfigApi, Refused
from webhookd.cli.dump import Record, records
from webhookd.cli.options import setting_options, settings_of
from webhookd.cli.output import Failure, json_option, show, show_json
from webhookd.cli.progress import progress
from webhookd.settings import Settings

OF_THE_STORE = (
    "state_dir",
    "store",
    "store_user",
    "store_password_file",
    "store_cafile",
    "store_certfile",
    "store_keyfile",
    "public_url",
    "plugins_dir",
    "load_plugins",
)
STATES = {"new": "created", "there": "unchanged", "conflict": "failed"}
"""What became of a hook that kept its URL, as it is counted."""


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--keep-urls", is_flag=True, help="As the operator: keep token, apiToken and URL, of all tenants.")
@click.option("--unsigned", is_flag=True, help="Have hooks that were signed without a secret: anybody can send then.")
@click.option("--orig-server", metavar="HOST", help="The host that the hooks' URLs shall have (X-ORIG-SERVER).")
@json_option
@api_options
@setting_options(*OF_THE_STORE)
def import_hooks(
    *,
    file: IO[bytes],
    dry_run: bool,
    keep_urls: bool,
    unsigned: bool,
    orig_server: str | None,
    as_json: bool,
    url: str,
    bearer: str | None,
    token_file: Path | None,
    config: Path | None,
    **flags: str | None,
) -> int:
    """Create the hooks that FILE has, one JSON object a line, as `webhookd hooks export` prints them; - is stdin.

    As a tenant: hooks that the tenant has already are updated, others are created, with tokens of their own. Secrets
    are in no export: a hook that was signed is refused unless its line has a `secret`, or --unsigned is given.

    As the operator, with --keep-urls: FILE may also be what etcd prints of the keys of the service before webhookd. The
    hooks of all tenants get into the store as they are, and their old URLs are accepted at once. A hook that stands
    against another one is told; none that is there is changed. The store is that of the settings; the daemon may run.

    What is wrong with a line is told with its number, and the others go on. Repeating an import does no harm. The exit
    status is 1 where a line failed.

    \b
    webhookd hooks import hooks.jsonl
    etcdctl get --prefix /webhooks/ -w json | webhookd hooks import --keep-urls --dry-run -
    """  # noqa: D301 - \b keeps click from wrapping the examples
    other = (bearer or token_file or orig_server) if keep_urls else (config or any(flags.values()))
    if other:
        ours = "--token, --token-file and --orig-server" if keep_urls else "settings of the daemon"
        raise click.UsageError(f"{ours} {'do not go' if keep_urls else 'only go'} with --keep-urls")
    found = records(file.read())
    if keep_urls:
        done = _into_the_store(found, settings_of(config, flags), dry_run=dry_run, unsigned=unsigned)
    else:
        api = ConfigApi(url, bearer_token(bearer, token_file))
        done = _through_the_api(found, api, dry_run=dry_run, unsigned=unsigned, origin=orig_server)
    _report(done, dry_run=dry_run, as_json=as_json)
    return 1 if done["failed"] else 0


def _through_the_api(
    found: Sequence[Record], api: ConfigApi, *, dry_run: bool, unsigned: bool, origin: str | None
) -> Counter[str]:
    from webhookd.cli.through_api import TenantsHooks, refuse_several_tenants  # noqa: PLC0415 - `--help` needs none

    refuse_several_tenants(found)
    hooks = TenantsHooks(api, origin=origin, unsigned=unsigned)
    done: Counter[str] = Counter()
    with progress("importing", len(found)) as shown:
        for record in found:
            try:
                done[hooks.put(record, dry_run=dry_run)] += 1
            except Failure as fault:
                if isinstance(fault, Refused) and not fault.of_the_document:
                    raise Failure(f"{fault.message}; {record.where} and what follows is left: repeat it") from None
                done["failed"] += 1
                shown.say(f"{record.where}: {fault.message}")
            shown.advance()
    return done


def _into_the_store(found: Sequence[Record], settings: Settings, *, dry_run: bool, unsigned: bool) -> Counter[str]:
    from webhookd import registry  # noqa: PLC0415 - plugins are many imports, and `--help` needs none of them
    from webhookd.cli.kept_urls import Reading, newest_first, take  # noqa: PLC0415 - see above
    from webhookd.cli.store_access import open_hooks  # noqa: PLC0415 - see above
    from webhookd.schema import Schemas  # noqa: PLC0415 - see above

    known = registry.load(settings.plugins_dir, settings.load_plugins)
    reading = Reading(known, Schemas(known), settings.public_url, unsigned)
    done: Counter[str] = Counter()
    with open_hooks(settings) as hooks, progress("importing", len(found)) as shown:
        for record, verdict in take(newest_first(found), reading, hooks, dry_run=dry_run):
            done[STATES[verdict.state]] += 1
            if verdict.reason is not None:
                shown.say(f"{record.where}: {verdict.reason}")
            shown.advance()
    return done


def _report(done: Counter[str], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        show_json({name: done[name] for name in ("created", "updated", "unchanged", "failed")} | {"dryRun": dry_run})
        return
    words = [f"{name} {done[name]}" for name in ("created", "updated", "unchanged", "failed") if done[name]]
    said = ", ".join(words) or "there is no hook in the file"
    show(f"{said} (a dry run: nothing is done)" if dry_run else said)
