"""Every way to be refused, each with the HTTP status that it suggests: the subclasses of `Rejected` are the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from webhookd.model import Fault, Hook


class Rejected(Exception):
    """A request or delivery that is refused. `detail` is said to the sender: it never holds a secret or a token."""

    status: ClassVar[int]
    title: ClassVar[str]
    reason: ClassVar[str]
    """The word for it in metrics and logs."""
    headers: ClassVar[Mapping[str, str]] = {}
    check: str | None = None
    """The check of a delivery that refuses so (`webhookd.checks`); None where no delivery is refused so.

    Where that is another than the class says, `check` is given.
    """

    def __init__(self, detail: str, errors: Sequence[Mapping[str, str]] = (), *, check: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        if check is not None:
            self.check = check


# --- what a sender can be told -------------------------------------------------------------------------------------


class UnknownHook(Rejected):
    """No hook has this address: an unknown or deleted token, or an apiToken that is not the hook's."""

    status = 404
    title = "No such hook"
    reason = "unknown_hook"
    check = "hook"


class BodyTooLarge(Rejected):
    """The body, as sent or inflated, is over the limit."""

    status = 413
    title = "Body too large"
    reason = "too_large"
    check = "size"


class UnsupportedContentType(Rejected):
    """The Content-Type is missing or names no JSON."""

    status = 415
    title = "Content-Type is not JSON"
    reason = "content_type"
    check = "content_type"


class UnsupportedContentEncoding(Rejected):
    """The Content-Encoding is none that webhookd inflates."""

    status = 415
    title = "Unsupported Content-Encoding"
    reason = "content_encoding"
    check = "content_encoding"


class Unsigned(Rejected):
    """The hook has a secret and the delivery no valid signature."""

    status = 401
    title = "No valid signature"
    reason = "signature"
    check = "signature"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Signature"}


class Malformed(Rejected):
    """The body is not what it says it is: a broken stream, no JSON, or neither object nor array."""

    status = 400
    title = "Malformed body"
    reason = "malformed"
    check = "json"


class SchemaMismatch(Rejected):
    """The hook enforces the event's schema and the body does not fit it."""

    status = 422
    title = "Body does not fit the schema"
    reason = "schema"
    check = "schema"

    def __init__(self, detail: str, faults: Sequence[Fault]) -> None:
        super().__init__(detail, [{"pointer": f.pointer, "message": f.message} for f in faults])


class EventMismatch(Rejected):
    """The sender names another event than the hook's, and the hook rejects those."""

    status = 422
    title = "Another event than the hook's"
    reason = "event_mismatch"
    check = "event"


class Overloaded(Rejected):
    """The daemon has as much in work as it may; the sender should come back."""

    status = 503
    title = "Overloaded"
    reason = "overloaded"
    check = "load"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class TenantOverShare(Overloaded):
    """One tenant has as much in work or in the spool as its share allows; others are not affected."""

    title = "Over the tenant's share"
    reason = "tenant_share"


class Unavailable(Rejected):
    """Neither broker nor spool can take the message now."""

    status = 503
    title = "Cannot be taken now"
    reason = "unavailable"
    check = "publish"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class HooksNotCurrent(Rejected):
    """The hooks in memory are not known to be current: an unknown token may be a new one."""

    status = 503
    title = "Hooks not current"
    reason = "hooks_not_current"
    check = "hook"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class Stopping(Rejected):
    """The daemon is about to stop."""

    status = 503
    title = "Stopping"
    reason = "stopping"
    check = "load"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}


# --- what a caller of the config API can be told as well -------------------------------------------------------------


class InvalidInput(Rejected):
    """Fields or headers of the wrong form: all of them, in `errors`."""

    status = 400
    title = "Invalid input"
    reason = "invalid_input"


class Unauthenticated(Rejected):
    """No bearer token, or none that is valid."""

    status = 401
    title = "No valid bearer token"
    reason = "unauthenticated"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(Rejected):
    """A valid bearer token that names no tenant."""

    status = 403
    title = "No tenant"
    reason = "forbidden"


class NotFound(Rejected):
    """Nothing is there, or it is another tenant's: the two are alike."""

    status = 404
    title = "Not found"
    reason = "not_found"


class NotReplayable(Rejected):
    """The delivery cannot be replayed: its body is not kept, or another replay of its hook is under way."""

    status = 409
    title = "Cannot be replayed"
    reason = "not_replayable"


class MethodNotAllowed(Rejected):
    """The resource is there for other methods than the one that was `sent`; `allow` lists them."""

    status = 405
    title = "Method not allowed"
    reason = "method"
    check = "method"

    def __init__(self, allow: Sequence[str], sent: str = "") -> None:
        came = f"{sent[:20]} was sent; " if sent else ""
        super().__init__(f"{came}allowed here: {', '.join(allow)}")
        self.allow = ", ".join(allow)


class StoreUnavailable(Rejected):
    """The store of hooks cannot be reached or written; repeating the request is safe."""

    status = 503
    title = "Store unavailable"
    reason = "store_unavailable"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TokensUnavailable(Rejected):
    """What is needed to check a bearer token cannot be reached."""

    status = 503
    title = "Bearer tokens cannot be checked now"
    reason = "tokens_unavailable"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


# --- what the ports say --------------------------------------------------------------------------------------------


class Unpublished(Exception):
    """A Publisher could not make the message durable; the text says why, in words for a log line."""


class ShareExceeded(Unpublished):
    """The Publisher has room, but not for this tenant."""


class NotSent(Unpublished):
    """The broker is down or blocked, or enough waits for it: nothing of the message was sent."""


class OutcomeUnknown(Unpublished):
    """The message was sent, in part or whole, and no answer came: it may be published or not."""


class Nacked(Unpublished):
    """The broker could not take charge of the message now (`basic.nack`)."""


class Unroutable(Unpublished):
    """No queue takes the message (`basic.return`)."""


class Unacceptable(Unpublished):
    """The broker refuses the message for itself; it takes none of `limit` bytes or more (None: for another reason)."""

    def __init__(self, reason: str, limit: int | None = None) -> None:
        super().__init__(reason)
        self.limit = limit


class Conflict(Exception):
    """A HookStore holds something newer than the caller knew; `current` is what it holds, None if it is gone."""

    def __init__(self, current: Hook | None) -> None:
        super().__init__("the store holds a newer revision")
        self.current = current


class StoreError(Exception):
    """A HookStore could not do what was asked; the text says why, in words for a log line."""


class ConfigurationError(Exception):
    """A start that must not happen; the text is one line that names what is wrong and what to do."""


class StartError(Exception):
    """A start that failed for a reason outside the settings; the text is one line that says what to do."""


class StateDirInUse(StartError):
    """Another process owns the state directory."""


def refusal_of(error: Unpublished, then: str) -> Rejected:
    """Return what is said where a message could not be kept; `then` is what to do about it, later."""
    if isinstance(error, ShareExceeded):
        return TenantOverShare("this tenant has as much in the spool as its share allows", check="publish")
    return Unavailable(f"the message cannot be kept now; {then}")
