"""Bearer tokens of our own: HS256 JSON Web Tokens (RFC 7519) for the config API."""

from __future__ import annotations

import re
import warnings

import click

from webhookd.model import NAME


def checked_tenant(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return `value` if a tenant can be called so; a callback of options."""
    if not NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not 1 to 64 letters, digits, _ or -", ctx, parameter)
    return value


def tenant_id(text: str) -> int | str:
    """Return the tenant that `text` names: an integer where it is written as JSON writes one."""
    return int(text) if re.fullmatch(r"0|-?[1-9][0-9]*", text) else text


def mint(key: bytes, tenant: float | str, now: int, ttl: float, claim: str = "tenantId", **more: str | None) -> str:
    """Return a token for `tenant`, valid for `ttl` seconds from `now`; `more` claims are left out where None."""
    import jwt  # noqa: PLC0415 - `--help` needs no cryptography

    claims = {claim: tenant, "iat": now, "exp": now + int(ttl), **{k: v for k, v in more.items() if v is not None}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)  # the daemon says it where it reads the key
        return jwt.encode(claims, key, "HS256")
