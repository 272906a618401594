"""Sends one delivery again and again, as fast as it is answered or at a fixed rate: a process of its own.

What to send is JSON on stdin (`load.Load`), what became of it JSON on stdout (`load.Fate`). At a fixed rate the latency of
a delivery counts from when it was due, and one that finds no free connection waits for one: a server that stalls cannot
hide it by having fewer deliveries sent. `select` waits to the microsecond, where epoll waits to the millisecond.
"""

import gc
import itertools
import json
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

PATIENCE = 20.0
"""How long, in seconds, an answer may take."""
SELECTABLE = 512
"""More connections than that are not for `select`."""


class Sender:
    """All connections of one load."""

    def __init__(self, spec: dict[str, Any]) -> None:
        body = spec["body"].encode()
        lines = [f"Host: 127.0.0.1:{spec['port']}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in spec["headers"].items()]
        lines += ["Connection: close"] if spec["close"] else []
        rest = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
        self.requests = itertools.cycle(f"POST {path} HTTP/1.1\r\n".encode() + rest for path in spec["paths"])
        self.address = ("127.0.0.1", spec["port"])
        self.close: bool = spec["close"]
        self.selector = selectors.SelectSelector() if spec["senders"] <= SELECTABLE else selectors.DefaultSelector()
        self.free: deque[Connection] = deque(Connection(self) for _ in range(spec["senders"]))
        self.waiting: deque[float] = deque()
        """When the deliveries were due that no connection was free for."""
        self.busy = 0
        self.latencies: list[float] = []
        self.refused = self.failed = 0

    def send(self, due: float) -> None:
        if self.free:
            self.busy += 1
            self.free.popleft().send(due)
        else:
            self.waiting.append(due)

    def ended(self, connection: "Connection") -> None:
        """Take a connection back, and give it what waits."""
        self.busy -= 1
        self.free.append(connection)
        if self.waiting:
            self.send(self.waiting.popleft())

    def turn(self, until: float) -> None:
        """Do what there is to do until then."""
        for key, _ in self.selector.select(max(0.0, until - time.perf_counter())):
            ready: Callable[[], None] = key.data
            ready()

    def as_answered(self, seconds: float) -> None:
        """Send on every connection as soon as it is free."""
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            while self.free:
                self.send(now)
            self.turn(end)

    def at_rate(self, rate: float, seconds: float) -> None:
        """Send `rate` deliveries a second, evenly."""
        begun = time.perf_counter()
        for number in range(round(rate * seconds)):
            due = begun + number / rate
            while time.perf_counter() < due:
                self.turn(due)
            self.send(due)
            self.turn(0)

    def finish(self) -> None:
        """Wait for the answers that are still to come."""
        end = time.perf_counter() + PATIENCE
        while self.busy and time.perf_counter() < end:
            self.turn(end)
        self.failed += self.busy + len(self.waiting)


class Connection:
    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.socket: socket.socket | None = None
        self.due = 0.0
        self.read = b""
        self.left = memoryview(b"")

    def send(self, due: float) -> None:
        self.due, self.read, self.left = due, b"", memoryview(next(self.sender.requests))
        if self.socket is None:
            self.socket = socket.create_connection(self.sender.address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setblocking(False)
            self.sender.selector.register(self.socket, selectors.EVENT_READ, self.readable)
        self.writable()

    def writable(self) -> None:
        assert self.socket is not None
        try:
            self.left = self.left[self.socket.send(self.left) :]
        except BlockingIOError:
            pass
        except OSError:
            self.done(failed=True)
            return
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        events, ready = (both, self.either) if self.left else (selectors.EVENT_READ, self.readable)
        if self.sender.selector.get_key(self.socket).events != events:
            self.sender.selector.modify(self.socket, events, ready)

    def either(self) -> None:
        if self.left:
            self.writable()
        if self.socket is not None:
            self.readable()

    def readable(self) -> None:
        assert self.socket is not None
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.read += data
        if not self.due:  # the server is done with an idle connection
            self.drop()
        elif not data:
            self.done(failed=not complete(self.read))
        elif complete(self.read) and not self.sender.close:
            self.done(failed=False)

    def done(self, *, failed: bool) -> None:
        """Count the delivery; the connection goes on, unless it is over or said that it will be."""
        sender = self.sender
        if failed:
            sender.failed += 1
        else:
            sender.latencies.append(time.perf_counter() - self.due)
            sender.refused += not self.read.startswith(b"HTTP/1.1 2")
        if failed or sender.close or self.left or b"\r\nconnection: close\r\n" in self.read.lower():
            self.drop()
        self.due = 0.0
        sender.ended(self)

    def drop(self) -> None:
        assert self.socket is not None
        self.sender.selector.unregister(self.socket)
        self.socket.close()
        self.socket = None


def complete(answer: bytes) -> bool:
    """Return whether this is a whole answer."""
    head, end, rest = answer.partition(b"\r\n\r\n")
    _, there, length = head.lower().partition(b"\r\ncontent-length:")
    return bool(end) and (not there or len(rest) >= int(length.partition(b"\r\n")[0]))


def main() -> None:
    spec = json.load(sys.stdin)
    gc.disable()  # a pause of ours would be measured as one of the server's
    sender = Sender(spec)
    begun = time.perf_counter()
    if spec["rate"] is None:
        sender.as_answered(spec["seconds"])
    else:
        sender.at_rate(spec["rate"], spec["seconds"])
    seconds = time.perf_counter() - begun
    sender.finish()
    latencies = sorted(sender.latencies) or [0.0]
    p50, p99, p999 = (latencies[min(len(latencies) - 1, int(len(latencies) * p))] * 1000 for p in (0.5, 0.99, 0.999))
    fate = {"answered": len(sender.latencies), "refused": sender.refused, "failed": sender.failed, "seconds": seconds}
    print(json.dumps(fate | {"p50": p50, "p99": p99, "p999": p999}))


if __name__ == "__main__":
    main()
