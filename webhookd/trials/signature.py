"""Why a delivery that was refused for its signature has the one that it has: found by trial, told without a secret."""

from __future__ import annotations

import contextlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from typing import NamedTuple

from webhookd.datasource import Datasource
from webhookd.model import Delivery, Hook
from webhookd.trials import marks
from webhookd.trials.bodies import MAX_BODY, Body, bodies
from webhookd.trials.diagnoses import DIAGNOSES, Diagnosis, capital, sender_of
from webhookd.trials.schemes import STANDARD_HEADERS, is_standard, mac_of, signing_headers
from webhookd.trials.secrets import Candidate, Key, base64_keys, candidates, text_keys

MOST_TRIALS = 1000
"""How many signatures are computed for one diagnosis by each of its two ways."""
MOST_BYTES = 64 * 1024 * 1024
"""How many bytes they may be over, together."""
MOST_MOMENTS = 3
"""How many moments that headers name are tried as the time of the delivery."""
SAME_MOMENT = 60
"""Seconds from the arrival within which a moment explains nothing."""

_MOMENT = re.compile(r"(?<![0-9])([0-9]{10})(?:[0-9]{3})?(?![0-9])")
_MILLISECONDS = re.compile(r"[0-9]{13}")


class _Spent(Exception):
    """As much was tried as may be."""


class _Effort:
    """Counts trials and the bytes they are over."""

    def __init__(self) -> None:
        self._trials = MOST_TRIALS
        self._bytes = MOST_BYTES

    def spend(self, size: int) -> None:
        """Count a trial over `size` bytes; raises `_Spent`."""
        self._trials -= 1
        self._bytes -= size
        if self._trials < 0 or self._bytes < 0:
            raise _Spent
        time.sleep(0)  # the event loop has its turn: this is a thread with much to do


class _Case(NamedTuple):
    hook: Hook
    source: Datasource
    delivery: Delivery
    now: int


def diagnose(
    hook: Hook, source: Datasource, delivery: Delivery, now: int, *, whole: bool = True
) -> tuple[Diagnosis, ...]:
    """Return what is wrong with the signature of `delivery`, as it was sent; nothing where no known mistake shows.

    `now` is in ms since the epoch. Where the body is not `whole`, only what needs none is told. Takes up to some 0.2 s
    for a body of 64 KiB, the largest that is tried: it is to be called in a thread. It reads nothing but its arguments,
    and what it returns holds no part of a secret or signature.
    """
    case = _Case(hook, source, delivery._replace(headers=marks.with_standard_names(delivery.headers)), now)
    if not hook.secrets:
        return (_told(case, "secret-removed"),)
    if not whole or len(delivery.body) > MAX_BODY:
        return _missing(case)
    for way in (_by_the_plugin, _by_urls, _by_macs, _by_standard, _missing):
        if found := way(case):
            return found
    return ()


# --- with the plugin's own verification, whatever its scheme ---------------------------------------------------------


def _by_the_plugin(case: _Case) -> tuple[Diagnosis, ...]:
    effort = _Effort()
    tried = [(body, secret) for body, secret in _pairs(case) if body.name is None or secret.name in _OWN]
    try:
        for shift in (None, *_moments(case)):
            received_at = case.delivery.received_at if shift is None else shift
            for body, secret in tried:
                effort.spend(len(body.value))
                if _verifies(case, case.delivery._replace(body=body.value, received_at=received_at), secret.value):
                    altered = _altered_names(body, secret, shift) or [_new(case, secret.value)]
                    return _named(case, altered, shift)
    except _Spent:
        pass
    return ()


_OWN = (None, "secret-expired")


def _pairs(case: _Case) -> list[tuple[Body, Candidate]]:
    secrets = candidates(case.hook, case.delivery.received_at)
    return sorted(product(bodies(case.delivery), secrets), key=lambda pair: sum(part.name is not None for part in pair))


def _verifies(case: _Case, delivery: Delivery, secret: str) -> bool:
    try:
        case.source.verify_signature(delivery, secret)
    except (Exception, SystemExit):  # noqa: BLE001 - `Unsigned`, or a bug on altered bytes: not this one
        return False
    return True


def _altered_names(body: Body, secret: Candidate, shift: int | None) -> list[str]:
    """Return the names of what was altered."""
    return [name for name in ("timestamp-outside" if shift is not None else None, secret.name, body.name) if name]


def _new(case: _Case, secret: str) -> str:
    """Return the name of what the hook has only since: the secret, or its URL where the scheme is over that too."""
    return "secret-new" if _verifies(case, case.delivery._replace(hook_url=""), secret) else "url-new"


def _moments(case: _Case) -> list[int]:
    """Return the moments (ms since the epoch) that the headers name, apart from that of the arrival."""
    found = dict.fromkeys(
        int(match[1]) * 1000 for value in case.delivery.headers.values() for match in _MOMENT.finditer(value[:1000])
    )
    return [m for m in found if abs(m - case.delivery.received_at) > SAME_MOMENT * 1000][:MOST_MOMENTS]


def _by_urls(case: _Case) -> tuple[Diagnosis, ...]:
    effort = _Effort()
    secrets = [secret.value for secret in candidates(case.hook, case.delivery.received_at) if secret.name in _OWN]
    with contextlib.suppress(_Spent):
        for (name, url), secret in product(_urls(case), secrets):
            effort.spend(len(case.delivery.body))
            if _verifies(case, case.delivery._replace(hook_url=url), secret):
                return _named(case, [name])
    return ()


def _urls(case: _Case) -> list[tuple[str, str]]:
    """Return the URLs that the sender may have signed in place of the one that the delivery came to."""
    came, hook, headers = case.delivery.hook_url, case.hook, case.delivery.headers
    path = came.removeprefix(hook.base_url)
    hosts = dict.fromkeys(headers.get(name, "").partition(",")[0].strip() for name in _HOSTS)
    found = [("url-host", f"{scheme}://{host}{path}") for host in hosts if host for scheme in ("https", "http")]
    rotation = hook.rotation
    tokens = (hook.token,) if rotation is None else (hook.token, rotation.previous, rotation.first)
    found += [("url-token", hook.url(token)) for token in tokens if token is not None]
    return [(name, url) for name, url in found if url != came]


_HOSTS = ("host", "x-forwarded-host")
"""The headers that say what host the sender, or a proxy, was asked for."""


# --- with HMAC, where the scheme is known ----------------------------------------------------------------------------


def _by_macs(case: _Case) -> tuple[Diagnosis, ...]:
    mac = mac_of(case.source)
    if mac is None:
        return ()
    keys = text_keys(candidates(case.hook, case.delivery.received_at))
    return _by_hmac(case, marks.macs(case.delivery.headers, mac), [Body(None, b"")], keys)


def _by_standard(case: _Case) -> tuple[Diagnosis, ...]:
    if not is_standard(case.source):
        return ()
    if marks.only_asymmetric(case.delivery.headers):
        return (_told(case, "asymmetric"),)
    keys = base64_keys(candidates(case.hook, case.delivery.received_at))
    heads = [Body(name, text.encode("utf-8", "surrogateescape")) for name, text in _heads(case)]
    found = _by_hmac(case, marks.standard(case.delivery.headers), heads, keys)
    if not found and _MILLISECONDS.fullmatch(case.delivery.headers.get(STANDARD_HEADERS[1], "")):
        return (_told(case, "timestamp-form"),)
    return found


def _heads(case: _Case) -> Iterator[tuple[str | None, str]]:
    """Yield what may have been signed before the body in place of `id.timestamp.`."""
    message_id, timestamp = (case.delivery.headers.get(name, "") for name in STANDARD_HEADERS[:2])
    yield "timestamp-form" if _MILLISECONDS.fullmatch(timestamp) else None, f"{message_id}.{timestamp}."
    yield "signed-body-only", ""
    for other in ("", message_id.removeprefix("msg_"), f"msg_{message_id}", *_ids_in(case.delivery.body)):
        if other != message_id:
            yield "id-other", f"{other}.{timestamp}."
    yield "id-other", f"{timestamp}."


def _ids_in(body: bytes) -> Iterator[str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        ids = [document.get(name) for name in ("id", "event_id", "eventId", "messageId")]
        yield from (found for found in ids if isinstance(found, str) and found.isprintable())


def _by_hmac(case: _Case, given: list[marks.Mark], heads: list[Body], keys: list[Key]) -> tuple[Diagnosis, ...]:
    """Try each key over each body behind each head, with at most two of the three altered, the fewest first."""
    effort = _Effort()
    algorithms = dict.fromkeys(mark.algorithm for mark in given)
    tried = sorted(product(heads, bodies(case.delivery), keys), key=_altered)
    try:
        for head, body, key in tried:
            if _altered((head, body, key)) > 2:  # noqa: PLR2004 - as above
                break
            for algorithm in algorithms:
                effort.spend(len(body.value))
                digest = hmac.digest(key.value, head.value + body.value, algorithm)
                for mark in given:
                    if mark.algorithm == algorithm and hmac.compare_digest(mark.digest, digest):
                        return _named(case, [*mark.names, *(part.name for part in (head, key, body) if part.name)])
    except _Spent:
        pass
    return ()


def _altered(parts: tuple[Body, Body, Key]) -> int:
    return sum(part.name is not None for part in parts)


# --- what needs no trial ---------------------------------------------------------------------------------------------


def _missing(case: _Case) -> tuple[Diagnosis, ...]:
    missing = [name for name in signing_headers(case.source) if not case.delivery.headers.get(name)]
    return (_told(case, "signature-missing", missing=", ".join(missing)),) if missing else ()


# --- in words --------------------------------------------------------------------------------------------------------


def _named(case: _Case, names: list[str], moment: int | None = None) -> tuple[Diagnosis, ...]:
    if set(names) - {"signature-list"}:
        names = [name for name in names if name != "signature-list"]  # some senders may send several
    return tuple(_told(case, name, moment=moment) for name in dict.fromkeys(names))


def _told(case: _Case, name: str, *, missing: str = "", moment: int | None = None) -> Diagnosis:
    known = DIAGNOSES[name]
    apart = 0 if moment is None else moment - case.delivery.received_at
    facts = {
        "sender": sender_of(case.source),
        "missing": missing,
        "until": _last_end(case),
        "seconds": f"{abs(apart) // 1000:,}",
        "side": "before" if apart < 0 else "after",
    }
    return Diagnosis(name, capital(known.text.format(**facts)), known.remedy.format(**facts), known.by_setting)


def _last_end(case: _Case) -> str:
    """Return when the grace of the newest secret that is no longer valid ended (RFC 3339)."""
    ends = [s.until for s in case.hook.secrets if s.until is not None and s.until <= case.delivery.received_at]
    return datetime.fromtimestamp(max(ends, default=case.now) / 1000, UTC).isoformat(timespec="seconds")
