"""The keys that bearer tokens are checked with, read from the files that the settings name."""

from __future__ import annotations

import warnings

import structlog
from jwt import InsecureKeyLengthWarning

from webhookd.auth import SHORTEST_SECRET, JsonWebTokens, Key, PublishedKeys, public_key, secret_key
from webhookd.settings import Settings, read_secret_file

log = structlog.get_logger(__name__)


def json_web_tokens(settings: Settings, published: PublishedKeys | None = None) -> JsonWebTokens:
    """Return the rules for JSON Web Tokens; raises `ConfigurationError` for a file that holds no such key.

    `published` are the keys of `jwks_url`, where it is set.
    """
    warnings.simplefilter("ignore", InsecureKeyLengthWarning)  # said once, below, and not again for each token
    keys: list[Key] = []
    if settings.jwt_secret_file is not None:
        secret = read_secret_file(settings.jwt_secret_file, "jwt_secret_file")
        keys.append(secret_key(secret, settings.jwt_algorithms))
        if len(secret) < SHORTEST_SECRET:
            log.warning("the key in jwt_secret_file is short: make one with `openssl rand -hex 32`", bytes=len(secret))
    if settings.jwt_public_key_file is not None:
        pem = read_secret_file(settings.jwt_public_key_file, "jwt_public_key_file")
        keys.append(public_key(pem, settings.jwt_algorithms))
    return JsonWebTokens(
        keys=tuple(keys),
        published=published,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        tenant_claim=settings.jwt_tenant_claim,
        require_exp=settings.jwt_require_exp,
    )
