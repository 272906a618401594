"""Senders that keep account of every delivery, and what must be true of the spool after any fault."""

import hashlib
import json
import random
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from harness import PATIENCE, WEBHOOKD, Daemon

PAD = random.Random(0).randbytes(1 << 20).hex()
SIZES = (60, 200, 1000, 2000, 5000, 12_000)
LARGE = 40_000
VERY_LARGE = 1_500_000
"""Over a MiB: read in another process, and written to the spool in parts."""


class Cut(Exception):
    """The connection ended without an answer."""


class Broken(Exception):
    """The connection ended in the middle of an answer."""


@dataclass
class Delivery:
    """What became of one delivery: a status; or `refused`, `cut` or `broken` where there is none."""

    hook: int
    number: int
    digest: str
    fate: str = "in flight"
    status: int = 0
    receipt: str | None = None
    retry_after: str | None = None
    seconds: float = 0.0
    began: float = 0.0
    """When it was sent (`time.monotonic()`)."""


class Connection:
    """One HTTP connection of a sender, which tells the ways apart in which it can end."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.rest = b""

    def close(self) -> None:
        self.socket.close()

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, str]]:
        """Deliver, and return the answer's status and headers (their names in lower case)."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            self.socket.sendall(head.encode() + body)
        except OSError:
            if not self.rest:  # refused before its end: the answer may be there
                raise Cut from None
        return self.answer()

    def answer(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self.rest:
            self._receive()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self.rest) < length:
            self._receive(answering=True)
        self.rest = self.rest[length:]
        return int(first.split()[1]), headers

    def _receive(self, *, answering: bool = False) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise Broken(self.rest) if self.rest or answering else Cut
        self.rest += data


class Sender(threading.Thread):
    """Sends one delivery after the other to one hook, and begins anew whatever happens, until it is told to stop."""

    def __init__(self, traffic: "Traffic", index: int) -> None:
        super().__init__(daemon=True)
        self.traffic = traffic
        self.index = index
        self.path = urlsplit(traffic.hooks[index]["hookUrl"]).path
        self.rng = random.Random(f"{traffic.seed}/{index}")
        self.deliveries: list[Delivery] = []
        self.connection: Connection | None = None

    def run(self) -> None:
        period = 1 / self.traffic.rate if self.traffic.rate else 0.0
        due = time.monotonic() + self.rng.random() * period
        while not self.traffic.stopping.wait(max(0.0, due - time.monotonic()) if period else 0):
            self.send(self.body(len(self.deliveries)))
            due = max(due + period, time.monotonic() - 1)  # what a second of silence kept back is never made up for
        self.hang_up()

    def body(self, number: int) -> bytes:
        choice = self.rng.random()
        large = self.traffic.very_large
        if self.traffic.size:
            return b'{"hook": %d, "number": %d, "pad": "%s"}' % (self.index, number, b"x" * self.traffic.size)
        size = VERY_LARGE if choice < large else LARGE if choice < large + 0.02 else self.rng.choice(SIZES)
        start = self.rng.randrange(len(PAD) - size)
        return b'{"hook": %d, "number": %d, "pad": "%s"}' % (self.index, number, PAD[start : start + size].encode())

    def send(self, body: bytes) -> None:
        began = time.monotonic()
        delivery = Delivery(self.index, len(self.deliveries), hashlib.sha256(body).hexdigest(), began=began)
        self.deliveries.append(delivery)
        try:
            self.connection = self.connection or Connection(self.traffic.port)
            delivery.status, headers = self.connection.post(self.path, body)
            delivery.receipt = headers.get("x-webhookd-receipt")
            delivery.retry_after = headers.get("retry-after")
            delivery.fate = "answered"
        except (Cut, Broken) as end:
            delivery.fate = type(end).__name__.lower()
        except TimeoutError:
            delivery.fate = "hung"
        except OSError:
            delivery.fate = "refused"
        delivery.seconds = time.monotonic() - began
        if delivery.fate != "answered" or headers.get("connection") == "close":
            self.hang_up()
        if delivery.status != 204:
            self.traffic.stopping.wait(0.005)

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


@dataclass
class Traffic:
    """One sender to each hook, from entering to leaving."""

    port: int
    hooks: Sequence[Mapping[str, Any]]
    seed: str = "0"
    very_large: float = 0.003
    """The part of the bodies that is over a MiB."""
    rate: float = 0.0
    """Deliveries per second of each sender; 0: as soon as the one before is answered."""
    size: int = 0
    """About how large every body is; 0: of many sizes."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.senders = [Sender(self, index) for index in range(len(self.hooks))]
        for sender in self.senders:
            sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for sender in self.senders:
            sender.join(60)
            assert not sender.is_alive()

    @property
    def deliveries(self) -> list[Delivery]:
        return [delivery for sender in self.senders for delivery in list(sender.deliveries)]

    @property
    def in_flight(self) -> int:
        """How many deliveries are sent and not answered."""
        return sum(sender.deliveries[-1].fate == "in flight" for sender in self.senders if sender.deliveries)

    def slowest(self) -> float:
        """Return how long the slowest answer took, in seconds."""
        return max((one.seconds for one in self.deliveries if one.fate != "in flight"), default=0.0)

    def fates(self) -> Counter[str]:
        """Count what became of the deliveries: by status where there was an answer."""
        return Counter(str(one.status) if one.fate == "answered" else one.fate for one in self.deliveries)

    def accepted(self) -> dict[str, Delivery]:
        found = {one.receipt: one for one in self.deliveries if one.status == 204}
        assert None not in found
        assert len(found) == self.fates()["204"], "a receipt was given twice"
        return {receipt: one for receipt, one in found.items() if receipt}

    def wait_for(self, fate: str, count: int, seconds: float = PATIENCE) -> None:
        """Return once `count` more deliveries have had this fate."""
        until = self.fates()[fate] + count
        deadline = time.monotonic() + seconds
        while self.fates()[fate] < until:
            assert time.monotonic() < deadline, self.fates()
            time.sleep(0.005)


def hooks_of(daemon: Daemon, count: int, tenants: int = 2) -> list[dict[str, Any]]:
    return [daemon.hook(event=f"e{n}", tenant=f"t{n % tenants}") for n in range(count)]


@dataclass
class Kept:
    """One message as a consumer finds it."""

    receipt: str
    tenant: str
    datasource: str
    event: str
    digest: str
    size: int
    number: int
    redelivered: bool = False


def kept(state_dir: Path) -> Iterator[Kept]:
    """Yield every message in the spool, in order, as `webhookd tail` shows it."""
    command = [WEBHOOKD, "tail", "--json", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        for line in tail.stdout:
            shown = json.loads(line)
            assert shown["body"] is not None, shown
            body = shown["body"].encode()
            yield Kept(
                receipt=shown["receipt"],
                tenant=shown["tenant"],
                datasource=shown["datasource"],
                event=shown["event"],
                digest=hashlib.sha256(body).hexdigest(),
                size=len(body),
                number=json.loads(body)["number"],
            )
    assert tail.returncode == 0


def check_nothing_is_lost(traffic: Traffic, messages: Sequence[Kept]) -> None:
    """Hold what was answered against what is there: whole, once, in its place, in the order of each hook."""
    accepted = traffic.accepted()
    by_receipt = {message.receipt: message for message in messages}
    assert len(by_receipt) == len(messages), "a receipt is there twice"
    lost = accepted.keys() - by_receipt.keys()
    assert not lost, f"{len(lost)} of {len(accepted)} deliveries answered 204 are lost: {sorted(lost)[:5]}"
    sent = {(one.hook, one.number): one for one in traffic.deliveries}
    events = {hook["event"]: (index, hook) for index, hook in enumerate(traffic.hooks)}
    last: dict[int, int] = {}
    for message in messages:
        index, hook = events[message.event]
        assert (message.tenant, message.datasource) == (hook["tenantId"], hook["datasource"])
        one = sent[index, message.number]
        assert one.digest == message.digest
        assert one.receipt in {None, message.receipt}
        assert message.number > last.get(index, -1), "out of order"
        last[index] = message.number
