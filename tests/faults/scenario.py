"""One fault scenario: a daemon that publishes to a vhost of its own, senders, a consumer, and the account at the end."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from faults.checker import Account, Row, Window
from faults.collector import Collector, declare
from faults.proxy import Proxy
from harness import PATIENCE, Daemon, request, until
from servers import RabbitMQ
from traffic import Traffic, hooks_of

USER = "ingest"
PASSWORD = "nobody-reads-this-in-a-log"
DRAIN_TIMEOUT = 90.0
"""How long a spool may take to drain once all is well, in seconds: these spools are small, and machines slow."""


class Scenario:
    """From entering on the daemon takes deliveries at full rate; `end` stops them, and holds the account to be true.

    `proxied`: a fault proxy stands before the broker. `rate` and `very_large` are those of `Traffic`. `declared`: what
    consumers declare is there from the start. Further options are flags of the daemon.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        broker: RabbitMQ,
        record: Callable[[Row], None],
        *,
        seed: str = "0",
        senders: int = 8,
        tenants: int = 2,
        rate: float = 25.0,
        very_large: float = 0.0,
        proxied: bool = False,
        declared: bool = True,
        queue_arguments: dict[str, Any] | None = None,
        wrapper: list[str] | None = None,
        **flags: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.folder = folder
        self.broker = broker
        self.windows: list[Window] = []
        self._record = record
        self._seed, self._senders, self._tenants = seed, senders, tenants
        self._rate, self._very_large = rate, very_large
        self._declared, self._queue_arguments = declared, queue_arguments
        self.vhost = broker.vhost()
        broker.user(USER, PASSWORD, self.vhost, ".*", ".*", ".*")
        self.proxy = Proxy(broker.port) if proxied else None
        self._stack = contextlib.ExitStack()
        self._flags, self._wrapper = flags, wrapper or []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._declared:
                declare(self.url, arguments=self._queue_arguments)
            self.collector = stack.enter_context(Collector(self.url))
            if self.proxy is not None:
                stack.enter_context(self.proxy)
            port = self.broker.port if self.proxy is None else self.proxy.port
            url = self.broker.url(self.vhost, user=USER, password=PASSWORD, port=port)
            self.daemon = Daemon(self.folder, wrapper=self._wrapper, broker=url, **self._flags)
            self.daemon.canaries.add(PASSWORD)
            stack.enter_context(self.daemon)
            hooks = hooks_of(self.daemon, self._senders, self._tenants)
            self.traffic = Traffic(self.daemon.port, hooks, self._seed, self._very_large, self._rate)
            stack.enter_context(self.traffic)
            self.traffic.wait_for("204", 20)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the daemon and all that belongs to it; nothing more happens the second time."""
        self._stack.close()
        if self.broker.running:
            self.broker.forget_vhost(self.vhost)

    @property
    def url(self) -> str:
        """Return the vhost's URL for consumers, who see no proxy."""
        return self.broker.url(self.vhost)

    @contextlib.contextmanager
    def fault(self) -> Iterator[None]:
        """Count what happens inside as one fault: it begins when a delivery is in flight."""
        until(lambda: self.traffic.in_flight > 0, pause=0.001)
        window = Window(time.monotonic(), 0.0, self.traffic.in_flight)
        self.windows.append(window)
        try:
            yield
        finally:
            window.ended = time.monotonic()

    def counted(self, outcome: str) -> float:
        """Return how many deliveries the daemon that runs has answered 204 with this first outcome."""
        return self.daemon.metrics().get(f'webhookd_deliveries_total{{outcome="{outcome}"}}', 0.0)

    def wait_for(self, outcome: str, count: int = 50, timeout: float = PATIENCE) -> None:
        """Return once `count` more deliveries are `confirmed` or `spooled`."""
        goal = self.counted(outcome) + count
        until(lambda: self.counted(outcome) >= goal, timeout)

    def reasons(self) -> str:
        """Return what readiness says."""
        answer = request(self.daemon.admin_port, "GET", "/readyz")
        return " / ".join([answer.json["status"], *answer.json["reasons"]])

    def in_spool(self, *states: str) -> int:
        """Return how many messages are in the spool: in these states, or in any."""
        metrics = self.daemon.metrics()
        names = states or ("waiting", "unroutable", "set aside", "kept")
        return int(sum(metrics[f'webhookd_spool_messages{{state="{name}"}}'] for name in names))

    def live_again(self, within: float = DRAIN_TIMEOUT) -> None:
        """Return once all is drained, `within` seconds, and deliveries are confirmed by the broker."""
        until(lambda: self.in_spool("waiting", "unroutable") == 0, within)
        self.wait_for("confirmed")

    def end(self, remark: str = "", **holds: Any) -> Account:
        """Stop the senders, wait until the spool is drained, and check; `holds` are `Account.check`'s."""
        self.traffic.__exit__()
        until(lambda: self.in_spool("waiting", "unroutable") == 0, DRAIN_TIMEOUT)
        accepted = self.traffic.accepted().keys()
        spool = self.spooled()
        with contextlib.suppress(AssertionError):  # what is missing after all the check tells
            until(lambda: accepted <= self.collector.receipts | spool, 20)
        until(lambda: time.monotonic() - self.collector.last > 0.5)
        events = {hook["event"] for hook in self.traffic.hooks}
        queue = [message for message in list(self.collector.messages) if message.event in events]
        account = Account(self.name, self.traffic, queue, spool, self.windows)
        self._record(account.row(remark))
        account.check(**holds)
        assert not self.collector.faults, self.collector.faults[:5]
        assert all(window.in_flight for window in self.windows)
        assert "Traceback" not in self.daemon.log
        return account

    def spooled(self) -> set[str]:
        """Return the receipts of what is in the spool."""
        done = self.daemon.run("spool", "list", "--json", "--state-dir", str(self.daemon.state_dir))
        assert done.returncode == 0, done.stderr
        return {json.loads(line)["receipt"] for line in done.stdout.splitlines()}
