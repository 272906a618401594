"""The nouns of webhookd: values only, none of which knows HTTP, AMQP, a store or a plugin."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Literal, NamedTuple, NewType

import msgspec

Validation = Literal["off", "report", "enforce"]
OnMismatch = Literal["publish", "ignore", "reject"]
Outcome = Literal["accepted", "ignored", "refused"]
HeaderValue = str | int

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a tenant or a datasource can be called: a segment of the routing key."""
EVENT_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
"""What an event can be called."""
VALIDATIONS: tuple[Validation, ...] = ("off", "report", "enforce")
ON_MISMATCH: tuple[OnMismatch, ...] = ("publish", "ignore", "reject")
OUTCOMES: tuple[Outcome, ...] = ("accepted", "ignored", "refused")
MAX_SECRETS = 3
"""How many secrets of one hook may be valid at a time: the current one and two that it replaced."""


class Secret(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A shared secret of a hook; `until` is the end of its validity in ms since the epoch, None for the current one."""

    value: str
    until: int | None = None

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"Secret(until={self.until})"


class Rotation(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What is left of the tokens that a hook had before its current one.

    `first` is the one with which it was created. `previous` is the one that the current one replaced, if it was left
    valid then: until `until`, in ms since the epoch.
    """

    first: str
    previous: str | None = None
    until: int = 0

    def __repr__(self) -> str:
        """Keep tokens out of logs and tracebacks."""
        return f"Rotation(until={self.until})"


class Hook(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One tenant's address for one datasource and event.

    `tenant` is the text form of the tenant id; `tenant_is_int` says how the bearer token spelt it, so that an integer
    is answered as an integer. `base_url` is scheme and host of the hook's URL. `created_at` is in ms since the epoch.
    `revision` is the store's: 0 until the store has written the hook. `rotation` is None until the token was replaced.
    """

    token: str
    api_token: str
    tenant: str
    tenant_is_int: bool = False
    datasource: str
    event: str
    ts_field: str | None = None
    secrets: tuple[Secret, ...] = ()
    validation: Validation = "off"
    on_mismatch: OnMismatch = "publish"
    base_url: str
    created_at: int
    revision: int = 0
    rotation: Rotation | None = None

    def __repr__(self) -> str:
        """Keep tokens and secrets out of logs and tracebacks."""
        return f"Hook(tenant={self.tenant!r}, datasource={self.datasource!r}, event={self.event!r})"

    @property
    def id(self) -> str:
        """What the hook is known by for as long as it is there, whatever its token: the token of its creation."""
        return self.token if self.rotation is None else self.rotation.first

    @property
    def hook_url(self) -> str:
        """The URL that the sender is given."""
        return self.url(self.token)

    def url(self, token: str) -> str:
        """Return the URL of the hook with `token`, one of its own."""
        return f"{self.base_url}/wh/{self.api_token}/{token}"

    def url_of(self, record: Record) -> str:
        """Return the URL that a delivery came to, whether its token is still valid or not: senders may sign it."""
        return self.url(record.token or self.id)

    def previous(self, now_ms: int) -> str | None:
        """Return the token that the current one replaced, if it is valid at `now_ms` (ms since the epoch)."""
        rotation = self.rotation
        return rotation.previous if rotation is not None and rotation.until > now_ms else None

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is at most one hook for."""
        return (self.tenant, self.datasource, self.event)

    @property
    def signed(self) -> bool:
        """Whether deliveries must carry a valid signature."""
        return bool(self.secrets)

    def stored(self, revision: int, like: Hook | None = None) -> Hook:
        """Return this hook as of the store's `revision`, to be held among very many.

        What is equal in many hooks is one string in all that this returns, and what is equal in all hooks of a tenant
        is one string in this and in `like`, another hook of the tenant: that halves the memory of a million hooks.
        """
        alike = like is not None and (like.tenant, like.api_token) == (self.tenant, self.api_token)
        tenants = like if like is not None and alike else self
        return msgspec.structs.replace(
            self,
            api_token=tenants.api_token,
            tenant=tenants.tenant,
            datasource=sys.intern(self.datasource),
            event=sys.intern(self.event),
            ts_field=None if self.ts_field is None else sys.intern(self.ts_field),
            base_url=sys.intern(self.base_url),
            revision=revision,
        )

    def valid_secrets(self, now_ms: int) -> tuple[str, ...]:
        """Return the secrets that are valid at `now_ms` (ms since the epoch), newest first."""
        if not self.secrets:
            return ()
        return tuple(s.value for s in self.secrets if s.until is None or s.until > now_ms)


class Delivery(NamedTuple):
    """One POST of a sender to a hook's URL, as it arrived.

    `headers` has lower-case names; a header sent twice has its values joined by `,`. `body` is the bytes as received
    (before `verify`) or inflated (after it). `received_at` is in ms since the epoch. `hook_url` is the address as the
    sender knows it: some senders sign it.
    """

    headers: Mapping[str, str]
    body: bytes
    received_at: int
    hook_url: str = ""

    def __repr__(self) -> str:
        """Keep headers, body and the hook's URL out of logs and tracebacks."""
        return f"Delivery(received_at={self.received_at}, {len(self.body)} bytes)"


Verified = NewType("Verified", Delivery)
"""A delivery that its datasource has proved: only `Datasource.verify` makes one, only reading takes one."""


class Fault(msgspec.Struct, frozen=True, gc=False):
    """Where (`pointer`, RFC 6901) and how (`message`) a body does not fit its schema."""

    pointer: str
    message: str


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a verified delivery says happened.

    `type` and `id` are the sender's own words for the event and the delivery, None where it has none. `ignored` names
    the reason for which nothing is published (`handshake`, `mismatch`), None where it is. `faults` are the schema's
    objections when the hook wants them reported.
    """

    type: str | None = None
    id: str | None = None
    ignored: str | None = None
    faults: tuple[Fault, ...] = ()


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """How one delivery ended.

    `id` is a UUIDv7: the receipt of an accepted delivery. `received_at` is in ms since the epoch, `size` the bytes of
    the body as received, `duration` in seconds, `status` what was answered. `reason` is the refusal's own word, or why
    an ignored delivery was (`handshake`, `mismatch`); `detail` what a refused sender was told. `headers` has lower-case
    names and is as received, signatures and secrets included: whoever shows it leaves those out (`shown_headers`).
    `token` is that of the URL it came to, None for the first one of the hook.
    `check` is the check that refused it (`webhookd.checks`), None where none did or that is not known.
    `replay_of` is the id of the record that was replayed. `has_body` says that the body was kept.
    """

    id: str
    received_at: int
    outcome: Outcome
    reason: str | None = None
    status: int
    detail: str | None = None
    check: str | None = None
    size: int
    duration: float
    delivery_id: str | None = None
    provider_event: str | None = None
    headers: Mapping[str, str] = {}
    token: str | None = None
    replay_of: str | None = None
    has_body: bool = False

    def __repr__(self) -> str:
        """Keep headers and token out of logs and tracebacks."""
        return f"Record(id={self.id!r}, outcome={self.outcome!r}, reason={self.reason!r})"


class Message(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is published for one accepted delivery: broker-neutral.

    `receipt` is the UUIDv7 that the sender was told; `hook` the id of the hook (messages of one hook keep their order,
    whichever of its tokens they came with); `received_at` in ms since the epoch; `body` the received bytes, inflated,
    never re-encoded.
    """

    receipt: str
    hook: str
    tenant: str
    datasource: str
    event: str
    received_at: int
    headers: dict[str, HeaderValue]
    body: bytes

    def __repr__(self) -> str:
        """Keep the hook's id, which may be its token, and the body out of logs and tracebacks."""
        return f"Message(receipt={self.receipt!r}, routing_key={self.routing_key!r}, {len(self.body)} bytes)"

    @property
    def routing_key(self) -> str:
        """`event.TENANT.DATASOURCE.EVENT`."""
        return f"event.{self.tenant}.{self.datasource}.{self.event}"
