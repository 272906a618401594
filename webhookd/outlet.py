"""Where accepted messages go, as the settings say: to the broker with the spool behind it, or to the spool alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, Metric

from webhookd.adapters.spool import Spool
from webhookd.errors import ConfigurationError
from webhookd.metrics import gauge
from webhookd.ports import LinkState, Publisher
from webhookd.settings import Settings, read_secret_file

if TYPE_CHECKING:  # a daemon without a broker does without their libraries
    from webhookd.adapters.amqp import AmqpLink
    from webhookd.adapters.amqp_access import Access
    from webhookd.adapters.fallback import Fallback

CONNECT_TIMEOUT = 2.0
"""How long a start waits, in seconds, for the broker, before what comes goes to the spool."""
LINKS = ("live", "large", "drain")


@dataclass(frozen=True, slots=True)
class Outlet:
    """The publisher of accepted messages, and how it does."""

    publisher: Publisher
    fallback: Fallback | None = None

    @classmethod
    async def open(cls, settings: Settings, spool: Spool, stack: AsyncExitStack) -> Outlet:
        """Connect to the broker in the background, if there is one. What it opens, `stack` closes before the spool.

        Raises `ConfigurationError` where the settings do not fit together.
        """
        if settings.broker == "spool:":
            return cls(spool)
        from webhookd.adapters.fallback import Fallback  # noqa: PLC0415 - see above
        from webhookd.adapters.paced import PacedLink  # noqa: PLC0415

        live, large, drain = (_link(settings, purpose, stack) for purpose in LINKS)
        fallback = await Fallback.open(
            spool,
            live,
            PacedLink(large),
            drain,
            publish_timeout=settings.publish_timeout,
            publish_window=settings.publish_window,
        )
        stack.push_async_callback(fallback.close)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_up(live), CONNECT_TIMEOUT)
        return cls(fallback, fallback)

    @property
    def state(self) -> LinkState | None:
        """How the broker is; None where there is none."""
        return None if self.fallback is None else self.fallback.state

    @property
    def fault(self) -> str | None:
        """Why the broker is not up, in words; None where it is, or there is none."""
        return None if self.fallback is None else self.fallback.fault

    def collect(self) -> Iterator[Metric]:
        """Yield how the broker does in Prometheus form; all is 0 where there is none."""
        stats = None if self.fallback is None else self.fallback.stats
        yield gauge("webhookd_broker_up", "1 while the broker takes messages.", float(self.state == "up"))
        waiting = stats.waiting if stats else 0
        yield gauge("webhookd_broker_waiting", "Messages that wait for the broker's confirm.", waiting)
        spooled = CounterMetricFamily(
            "webhookd_spooled", "Messages that went to the spool instead of the broker, by reason.", labels=["reason"]
        )
        for reason, count in sorted(stats.spooled.items()) if stats else ():
            spooled.add_metric([reason], count)
        yield spooled
        for name, documentation, count in (
            ("webhookd_drained", "Messages of the spool that the broker has confirmed.", stats.drained if stats else 0),
            ("webhookd_republished", "Messages sent again after an unknown outcome.", stats.repeated if stats else 0),
            ("webhookd_set_aside", "Messages that the broker refuses for themselves.", stats.set_aside if stats else 0),
        ):
            yield CounterMetricFamily(name, documentation, value=count)
        behind = stats.hooks_behind if stats else 0
        yield gauge("webhookd_hooks_behind", "Hooks with messages in the spool, which new ones go behind.", behind)
        unroutable = stats.hooks_unroutable if stats else 0
        yield gauge("webhookd_hooks_unroutable", "Hooks whose oldest message no queue takes.", unroutable)


def broker_access(settings: Settings) -> Access:
    """Return how to reach the broker; raises `ConfigurationError` where the settings do not fit together."""
    from webhookd.adapters.amqp_access import Access  # noqa: PLC0415 - see above

    if settings.broker_keyfile and not settings.broker_certfile:
        raise ConfigurationError("broker_keyfile and broker_certfile go together: set broker_certfile too")
    password_file = settings.broker_password_file
    return Access(
        urls=settings.broker,
        password=partial(read_secret_file, password_file, "broker_password_file") if password_file else None,
        cafile=settings.broker_cafile,
        certfile=settings.broker_certfile,
        keyfile=settings.broker_keyfile,
    )


def _link(settings: Settings, purpose: str, stack: AsyncExitStack) -> AmqpLink:
    from webhookd.adapters.amqp import HEARTBEAT, AmqpLink  # noqa: PLC0415 - see above

    access = broker_access(settings)
    access.addresses(HEARTBEAT)
    access.tls()
    link = AmqpLink(access, settings.exchange, purpose=purpose)
    stack.push_async_callback(link.close)
    link.start()
    return link


async def _up(link: AmqpLink) -> None:
    """Return once the link is up."""
    changed = asyncio.Event()
    link.on_change(changed.set)
    while link.state != "up":
        changed.clear()
        await changed.wait()
