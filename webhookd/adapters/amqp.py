"""A Link to RabbitMQ: comes back by itself whenever it is lost, and says what became of each message."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable

import structlog

from webhookd.adapters.amqp_access import Access, Address
from webhookd.adapters.amqp_connection import CONNECT_TIMEOUT, Opened, connected, faults
from webhookd.adapters.amqp_fault import ACCESS_REFUSED, LinkFault
from webhookd.adapters.amqp_session import Session
from webhookd.adapters.amqp_topology import ensure_exchange, may_write
from webhookd.adapters.names import Names
from webhookd.errors import ConfigurationError, NotSent
from webhookd.model import Message
from webhookd.ports import Answer, Link, LinkState

HEARTBEAT = 5
"""Seconds between heartbeats: aiormq gives up a broker that is silent for 3 * (HEARTBEAT + 1) of them."""
CLOSE_TIMEOUT = 2.0
"""Seconds that `close` waits for what is in flight."""
RETRY = (0.2, 4.0)
"""The first and the longest wait between two attempts, in seconds: the spool is drained within 5 s of a return."""
RETRY_DENIED = (1.0, 30.0)
"""The same where an operator has to act first."""
LASTING = 10.0
"""Seconds after which a connection was good even if it had nothing to confirm."""
CLOSED = "the link is closed"

log = structlog.get_logger(__name__)


class AmqpLink(Link):
    """A Link to the brokers of `access`, tried in turn; `purpose` tells it from others in logs and on the broker."""

    def __init__(self, access: Access, exchange: str, *, purpose: str) -> None:
        self._access = access
        self._exchange = exchange
        self._purpose = purpose
        self._names = Names()
        self._session: Session | None = None
        self._fault = "not connected yet"
        self._state: LinkState = "down"
        self._callbacks: list[Callable[[], None]] = []
        self._ask_first = False
        """Whether to ask, once connected, if the user may publish: it was refused before."""
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._log = log.bind(link=purpose)

    def start(self) -> None:
        """Connect in the background, and stay connected until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"amqp {self._purpose}")

    @property
    def state(self) -> LinkState:
        """As the port promises."""
        if self._session is None or self._session.ended.done():
            return "down"
        return "up" if self._session.blocked is None else "blocked"

    @property
    def fault(self) -> str | None:
        """As the port promises."""
        if self._session is None:
            return self._fault
        if self._session.ended.done():
            return str(self._session.ended.result())
        blocked = self._session.blocked
        return None if blocked is None else f"{self._session.address.shown}: the broker reads nothing: {blocked}"

    @property
    def in_flight(self) -> int:
        """How many messages the broker has still to answer for, those whose caller gave up included."""
        return 0 if self._session is None else self._session.in_flight

    def on_change(self, changed: Callable[[], None]) -> None:
        """As the port promises."""
        self._callbacks.append(changed)

    def send(self, message: Message, answer: Answer) -> None:
        """As the port promises."""
        session = self._session
        if session is not None and session.writable:
            session.send(message, answer)
        else:
            fault = NotSent(self.fault or "the link is down")
            asyncio.get_running_loop().call_soon(_refuse, answer, fault)

    def give_up(self, answer: Answer) -> None:
        """As the port promises: what is to be sent asks its answer whether it is done."""

    async def close(self) -> None:
        """Wait CLOSE_TIMEOUT for what is in flight, then let go; publishing fails with NotSent from the call on."""
        session, self._session = self._session, None
        self._closed, self._fault = True, CLOSED
        self._tell()
        if session is not None and session.writable:
            await session.finish(CLOSE_TIMEOUT)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    # --- the supervisor ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Serve by each URL in turn; wait longer after each round in which none was any good."""
        urls = len(self._access.urls.split(","))
        wait, tried = 0.0, 0
        for at in itertools.count():
            good, fault = await self._serve(at % urls)
            wait, tried = (0.0, 1) if good else (wait, tried + 1)
            if tried >= urls:
                first, longest = RETRY_DENIED if fault.denied else RETRY
                wait, tried = min(max(first, wait * 2), longest), 0
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  not for secrets

    async def _serve(self, at: int) -> tuple[bool, LinkFault]:
        """Publish by one connection until it ends; return whether it was any good, and why it ended."""
        try:
            session = Session(await self._address(at), self._exchange, self._tell)
            async with connected(session, self._access, self._names, f"webhookd/{self._purpose}") as opened:
                with faults(session):
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        await self._prepare(session, opened)
                begun = time.monotonic()
                await self._publish_until_the_end(session)
                lasted = time.monotonic() - begun
            return bool(session.confirms.confirmed) or lasted > LASTING, session.ended.result()
        except LinkFault as error:
            fault = error
        except Exception as error:  # noqa: BLE001 - the outermost edge: a link that a bug ended would never come back
            self._log.error("the link failed by a bug", exc_info=True)
            fault = LinkFault(f"a bug of webhookd: {type(error).__name__}, see the log")
        self._down(fault)
        return False, fault

    async def _address(self, at: int) -> Address:
        try:
            return (await asyncio.to_thread(self._access.addresses, HEARTBEAT))[at]
        except ConfigurationError as error:
            raise LinkFault(str(error), denied=True) from error

    async def _publish_until_the_end(self, session: Session) -> None:
        self._session = session
        self._fault = ""
        self._tell()
        try:
            await asyncio.wait({session.ended})
        finally:
            session.end(LinkFault(CLOSED))
            self._session = None
            self._down(session.ended.result())

    async def _prepare(self, session: Session, opened: Opened) -> None:
        """See to exchange and permission, each on a channel of its own, and open the channel for publishing."""
        if self._closed:
            raise LinkFault(CLOSED)
        await ensure_exchange(opened.connection, session.address, self._exchange)
        if self._ask_first and not await may_write(opened.connection, self._exchange):
            raise LinkFault.of_publish(ACCESS_REFUSED, "still refused", session.address, self._exchange)
        channel = await opened.connection.channel()
        session.opened(opened.tap.write, channel.number, opened.connection.connection_tune.frame_max)

    def _down(self, fault: LinkFault) -> None:
        self._ask_first |= fault.may_not_write
        if self._closed:
            return
        if str(fault) != self._fault:
            self._log.warning("broker down", reason=str(fault))
        self._fault = str(fault)
        self._tell()

    def _tell(self) -> None:
        """Tell of the state if it is another than was told last."""
        state = self.state
        if state == self._state:
            return
        self._state = state
        if state == "up":
            self._log.info("broker up", broker=self._session.address.shown if self._session else None)
        elif state == "blocked":
            self._log.warning("broker blocked", reason=self.fault)
        for changed in self._callbacks:
            changed()


def _refuse(answer: Answer, fault: NotSent) -> None:
    if not answer.done():
        answer.set_exception(fault)
