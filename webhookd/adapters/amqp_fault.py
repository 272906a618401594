"""What keeps a link to the broker down, in words that name what to do, without secrets."""

from __future__ import annotations

from typing import Self

from webhookd.adapters.amqp_access import Address

ACCESS_REFUSED = 403
NOT_FOUND = 404
PRECONDITION_FAILED = 406
NOT_ALLOWED = 530
"""Reply codes of AMQP 0-9-1 (1.2)."""


class LinkFault(Exception):
    """There is no link now. `denied` where an operator has to act: trying again soon makes no sense.

    With `may_not_write` the user was refused to publish: that the broker can be reached says nothing.
    """

    def __init__(self, reason: str, *, denied: bool = False, may_not_write: bool = False) -> None:
        super().__init__(reason)
        self.denied = denied
        self.may_not_write = may_not_write

    @classmethod
    def of_connection(cls, code: int, text: str, address: Address) -> Self:
        """Return the fault behind a connection that the broker closed, with this code and text."""
        if code == ACCESS_REFUSED:
            reason = f"{address.shown}: user {address.user} is refused (compare its name and password): {text}"
        elif code == NOT_ALLOWED:
            reason = f"{address.shown}: the vhost is not there, or user {address.user} may do nothing in it: {text}"
        else:
            return cls(f"{address.shown}: the broker closed the connection: {code} {text}")
        return cls(reason, denied=True)

    @classmethod
    def of_publish(cls, code: int, text: str, address: Address, exchange: str) -> Self:
        """Return the fault behind a channel that the broker closed because of a publish to `exchange`."""
        if code == ACCESS_REFUSED:
            reason = f"{address.shown}: user {address.user} may not write to exchange {exchange}: {text}"
            return cls(reason, denied=True, may_not_write=True)
        if code == NOT_FOUND:
            return cls(f"{address.shown}: exchange {exchange} is gone: {text}")
        return cls(f"{address.shown}: the broker closed the channel: {code} {text}")
