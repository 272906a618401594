"""`webhookd token`: a bearer token for the config API, minted with the daemon's own secret."""

from __future__ import annotations

import math
import time
from pathlib import Path

import click

from webhookd.cli.output import json_option, show, show_json
from webhookd.cli.tokens import checked_tenant, mint, tenant_id
from webhookd.forms import durations
from webhookd.settings import read_secret_file

TTL = durations(least=1)


def _ttl(ctx: click.Context, parameter: click.Parameter, value: str) -> float:
    try:
        return TTL.parse(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not {TTL.allowed}", ctx, parameter) from None


@click.command()
@click.option(
    "--tenant", required=True, metavar="ID", callback=checked_tenant, help="The tenant that the token is for."
)
@click.option(
    "--key-file",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file with the secret: the daemon's jwt_secret_file.",
)
@click.option("--ttl", default="1h", show_default=True, metavar="DURATION", callback=_ttl, help="How long it is valid.")
@click.option("--string", is_flag=True, help="Write an ID of digits as a string, not as an integer.")
@click.option(
    "--claim", default="tenantId", show_default=True, help="The claim for the tenant: the daemon's jwt_tenant_claim."
)
@click.option("--issuer", help="The `iss` claim, if the daemon asks for one (jwt_issuer).")
@click.option("--audience", help="The `aud` claim, if the daemon asks for one (jwt_audience).")
@json_option
def token(
    *,
    tenant: str,
    key_file: Path,
    ttl: float,
    string: bool,
    claim: str,
    issuer: str | None,
    audience: str | None,
    as_json: bool,
) -> None:
    """Mint an HS256 bearer token for the config API.

    \b
    head -c 32 /dev/urandom | base64 > jwt.key
    webhookd serve --jwt-secret-file jwt.key &
    export WEBHOOKD_TOKEN=$(webhookd token --tenant 42 --key-file jwt.key --ttl 8h)
    webhookd hooks list
    """  # noqa: D301 - \b keeps click from wrapping the examples
    key = read_secret_file(key_file, "--key-file")
    now = math.floor(time.time())
    minted = mint(key, tenant if string else tenant_id(tenant), now, ttl, claim, iss=issuer, aud=audience)
    if as_json:
        show_json({"token": minted, "expiresAt": (now + int(ttl)) * 1000})
    else:
        show(minted)
