"""Every refusal in plain words: what is wrong, and what to do, wherever that is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Remedy(NamedTuple):
    """What a refusal means and what ends it, each in sentences; `{sender}` and other facts in braces are put in."""

    problem: str
    remedy: str


BUG = "bug"
"""The word for what is no refusal but a fault of webhookd's or of a plugin's."""

REMEDIES: Mapping[str, Remedy] = {
    "malformed": Remedy(
        "The body cannot be read: {detail}.",
        "Have {sender} send JSON (RFC 8259) in UTF-8, one object or one array and nothing behind it; where it"
        " compresses, one whole gzip or deflate stream.",
    ),
    "invalid_input": Remedy(
        "The request to the config API has fields or headers of the wrong form.",
        "Right the fields that `errors` names.",
    ),
    "signature": Remedy(
        "The hook has a secret, and the delivery no signature that fits it: {detail}.",
        "Give {sender} and the hook the same secret, and let nothing between them change the body.",
    ),
    "unauthenticated": Remedy(
        "The request to the config API has no bearer token, or none that is valid.",
        "Get a new token; the operator compares key, issuer, audience and clock.",
    ),
    "forbidden": Remedy(
        "The bearer token is valid and names no tenant.",
        "Have the token issuer put the tenant into the claim that `jwt_tenant_claim` names.",
    ),
    "unknown_hook": Remedy(
        "No hook has this address.", "Compare the URL with `hookUrl`; create the hook again where it was deleted."
    ),
    "not_found": Remedy(
        "Nothing is there, or it is another tenant's.", "List the tenant's hooks: the token is none of theirs."
    ),
    "method": Remedy(
        "The address is there, but not for this method: {detail}.",
        "Use a method that `Allow` names. Deliveries are a POST: where one comes as a GET, a browser has opened the"
        " URL, or {sender} was redirected (from http to https, say) and needs the very URL, as `hookUrl` has it.",
    ),
    "too_large": Remedy(
        "The body is too large: {detail}.",
        "Have {sender} send less at a time, or the operator raise `max_body` ({limit}).",
    ),
    "content_type": Remedy(
        "{sender} sent {content_type}, and a hook takes JSON only.",
        "Switch {sender} to the content type `application/json`.",
    ),
    "content_encoding": Remedy(
        "{sender} sent {content_encoding}, which is not inflated here.",
        "Have {sender} compress with gzip or deflate, once, or not at all.",
    ),
    "schema": Remedy(
        "The hook checks the schema of its event, `{event}`, and the body does not fit it.",
        "Look at what does not fit; to have such bodies taken, set the hook's `validation` to `report` or `off`.",
    ),
    "event_mismatch": Remedy(
        "{sender} names the event {named}; this hook is for `{event}` and rejects all others.",
        "Have {sender} send `{event}` only, create a hook for the other event, or set this hook's `onMismatch` to"
        " `ignore` or `publish`.",
    ),
    "overloaded": Remedy(
        "The daemon had as much in work as it may; the delivery itself was not looked at.",
        "Nothing, where it is rare: have it sent again. Else the operator raises `max_in_flight` or"
        " `max_in_flight_bytes`, or finds what is slow.",
    ),
    "tenant_share": Remedy(
        "The tenant had as much in work, or in the spool, as its share allows: {detail}.",
        "Have {sender} send less at a time, and this again; the operator can raise `tenant_share` or what it is a share"
        " of (`max_in_flight`, `max_in_flight_bytes`, `spool_max_bytes`).",
    ),
    "unavailable": Remedy(
        "The delivery could not be made safe: {detail}.",
        "Have it sent again; the operator frees disk space, raises `spool_max_bytes` or lowers `spool_retention`, and"
        " sees to the broker.",
    ),
    "hooks_not_current": Remedy(
        "The hooks in memory were not known to be those of the store: the address may be that of a new one.",
        "Have it sent again; if it lasts, the operator looks at the store, and at the hooks that are set aside.",
    ),
    "stopping": Remedy("The daemon was about to stop.", "Nothing is wrong: have it sent again."),
    "not_replayable": Remedy(
        "The body of the delivery is not kept, or another replay of its hook is under way.",
        "Have the sender send it again; the operator can set `keep_accepted`.",
    ),
    "store_unavailable": Remedy(
        "The store of hooks could not be reached or written.",
        "Repeat the request, which is safe; the operator looks at the store (permissions, disk, etcd).",
    ),
    "tokens_unavailable": Remedy(
        "What is needed to check the bearer token could not be reached.",
        "Repeat the request, which is safe; the operator looks at what `sts_url` and `jwks_url` name.",
    ),
    BUG: Remedy(
        "A fault of webhookd, or of the plugin for {sender}: the sender was told 500.",
        "Have the operator look for `a delivery failed by a bug` in the log: the traceback says where it is.",
    ),
}
"""By the refusal's own word, which metrics and logs have too."""

PARTICULAR: Mapping[tuple[str, str], str] = {
    ("tenant_share", "publish"): (
        "Have it sent again later: the spool gets room as the broker takes messages, or as `spool_retention` ends where"
        " there is none. The operator sees to the broker, or raises `tenant_share` or `spool_max_bytes`."
    ),
    ("unavailable", "json"): (
        "Have it sent again; if it lasts, have {sender} send smaller bodies: those over 64 KiB are checked one at a"
        " time."
    ),
}
"""What to do where the check that failed tells more than the reason: by both."""

CONFIG_API = frozenset(
    {
        *(
            "invalid_input",
            "unauthenticated",
            "forbidden",
            "not_found",
            "not_replayable",
            "method",
            "store_unavailable",
        ),
        "tokens_unavailable",
    }
)
"""The refusals that only callers of the config API meet; of `method`, senders too."""

REPLAY = "As the hook is now the delivery would pass: replay it, or have it sent again."
"""What is said beside the remedy where nothing is in the way any more."""

OLD_URL = "It came to the URL that the hook had before, which works until {until}: give {sender} the one it has now."
ENDED_URL = "It came to a URL that the hook has no more: give {sender} the one it has now."
"""What is said beside the remedy where the hook's token was replaced."""

GENERAL_FACTS: Mapping[str, str] = {
    "sender": "the sender",
    "detail": "the answer says how",
    "limit": "25 MiB, if it is not set",
    "content_type": "a Content-Type that names no JSON, or none",
    "content_encoding": "a Content-Encoding other than gzip, deflate and identity",
    "event": "push",
    "named": "`issues`, say",
}
"""What stands for the facts where no single delivery is meant: in documents."""


def general(text: str) -> str:
    """Return a text of the table as documents have it."""
    told = text.format(**GENERAL_FACTS)
    return told[0].upper() + told[1:]
