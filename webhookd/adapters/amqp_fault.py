"""What keeps a link to the broker down, in words that name what to do, without secrets."""

from __future__ import annotations

from typing import Self

from webhookd.adapters.amqp_address import Address

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
            reason = f"{address} does not let user {address.user!r} in (see to user and password): {text}"
        elif code == NOT_ALLOWED:
            reason = f"user {address.user!r} may not use vhost {address.vhost!r} of {address}: {text}"
        else:
            return cls(f"{address} closed the connection: {code} {text}")
        return cls(reason, denied=True)

    @classmethod
    def of_publish(cls, code: int, text: str, address: Address, exchange: str) -> Self:
        """Return the fault behind a channel that the broker closed because of a publish to `exchange`."""
        if code == ACCESS_REFUSED:
            reason = f"user {address.user!r} may not write to exchange {exchange!r} of {address}: {text}"
            return cls(reason, denied=True, may_not_write=True)
        if code == NOT_FOUND:
            return cls(f"exchange {exchange!r} is gone from {address}: {text}")
        return cls(f"{address} closed the channel: {code} {text}")
