"""The contract of a datasource plugin: what webhookd asks about one kind of sender."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from webhookd.errors import Unsigned
from webhookd.model import Delivery, Verified


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of event of a datasource.

    `ts_field` is the path of the moment of the event inside the body (`commits[0].timestamp`), None where bodies have
    none. `schema` is a JSON Schema (draft 2020-12) that every real body fits; None where there is none. `sample` is a
    body as the sender would send it, for `webhookd send` and for tests.
    """

    ts_field: str | None = None
    schema: Mapping[str, Any] | None = field(default=None, repr=False)
    sample: Any = field(default=None, repr=False)


_MUST_RAISE = "must raise webhookd.Unsigned where the signature does not fit, and return nothing where it does"


class Datasource:
    """One kind of sender. Subclass it, set the attributes, override what the sender does its own way.

    Everything here is pure: it reads the delivery and answers, and may be called in another thread or process. What a
    method raises other than `Unsigned` is taken for a bug of the plugin: the delivery is answered 500 and not lost by
    a well-behaved sender, the log has the traceback.
    """

    name: ClassVar[str] = ""
    """The name in URLs, routing keys and the config API: `[A-Za-z0-9_-]{1,64}`."""
    title: ClassVar[str] = ""
    """The name for people."""
    events: ClassVar[Mapping[str, EventType]] = {}
    """The known events by the sender's own names. Hooks for others are possible; they have no default and no schema."""
    signs: ClassVar[bool] = False
    """Whether the sender signs its deliveries; if so, override `verify_signature` and `sign`."""
    handshakes: ClassVar[frozenset[str]] = frozenset()
    """Event types that only greet: answered 204, not published unless the hook is for that very event."""
    advice: ClassVar[Mapping[str, str]] = {}
    """Where at the sender a refusal is mended: a sentence by the reason of the refusal (`signature`, ...)."""

    def verify(self, delivery: Delivery, secrets: Sequence[str]) -> Verified:
        """Prove that the sender sent this delivery: with any of `secrets`, or at once where there are none.

        Raises `Unsigned` with the words of the last secret tried, TypeError where the plugin answers with a value. Not
        to be overridden: it is what makes a `Verified`.
        """
        refusal: Unsigned | None = None
        for secret in secrets:
            try:
                answer: object = self.verify_signature(delivery, secret)  # type: ignore[func-returns-value]
            except Unsigned as error:
                refusal = error
            else:
                if answer is not None:  # a plugin that answers True or False, or is async: False must verify nothing
                    raise TypeError(f"verify_signature() {_MUST_RAISE} (it returned {type(answer).__name__})")
                return Verified(delivery)
        if refusal is not None:
            raise refusal
        return Verified(delivery)

    def verify_signature(self, delivery: Delivery, secret: str) -> None:
        """Return if `delivery` is signed with `secret` over the raw body; else raise `Unsigned` that says why not.

        Compare in constant time (`webhookd.same`), and never name the expected value in the error.
        """
        del delivery, secret
        raise Unsigned(f"{self.title or self.name} does not sign its deliveries")

    def signed_at(self, headers: Mapping[str, str]) -> int | None:
        """Return when the sender says it signed (ms since the epoch), None where signatures are good at any time.

        A replay is verified as of then: what `verify_signature` says of the time would be said of every replay.
        """
        del headers
        return None

    def sign(self, body: bytes, secret: str, now: float) -> dict[str, str]:
        """Return the headers with which the sender would sign `body` at `now` (seconds since the epoch).

        Those that another secret would change are shown to nobody where deliveries are looked at.
        """
        del body, secret, now
        return {}

    def secret_fault(self, secret: str) -> str | None:
        """Say why `secret` cannot be a secret of this datasource, or None: asked when a hook is created or updated."""
        del secret
        return None

    def event_type(self, delivery: Verified) -> str | None:
        """Return what the sender calls the event, None where it does not say."""
        del delivery
        return None

    def delivery_id(self, delivery: Verified) -> str | None:
        """Return what the sender calls the delivery (the same on a redelivery, if it can be had), None without one."""
        del delivery
        return None

    def sample_headers(self, event: str) -> dict[str, str]:
        """Return the headers, signature and Content-Type aside, that the sender adds to a delivery of `event`."""
        del event
        return {}


def hmac_sha256(secret: str | bytes, *parts: bytes) -> bytes:
    """Return the HMAC-SHA256 (RFC 2104) of the concatenated `parts`; a `str` secret is its UTF-8 bytes."""
    mac = _keyed(secret).copy()
    for part in parts:
        mac.update(part)
    return mac.digest()


@functools.lru_cache(maxsize=1024)
def _keyed(secret: str | bytes) -> hmac.HMAC:
    """Return the HMAC of nothing yet: to have OpenSSL look SHA-256 up and take the key costs more than to copy it."""
    return hmac.new(secret.encode() if isinstance(secret, str) else secret, digestmod=hashlib.sha256)


def same(given: str, expected: str) -> bool:
    """Compare two texts in constant time; any text may be given (`hmac.compare_digest` alone raises on non-ASCII)."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
