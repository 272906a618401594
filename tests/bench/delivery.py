"""What one delivery costs this process in CPU, sockets and kernel left out: `python tests/bench/delivery.py [--profile]`.

With records of deliveries and without, by turns; `--hooks` says to how many hooks in turn: records of one busy hook push
each other out unseen, those of many stay.

Whole requests of GitHub's shape are given to real connections of the hooks' server in bursts, as an event loop does
that finds many sockets readable; what they publish goes through the fallback and the frames of AMQP, and is confirmed
the next time the loop turns. Nothing is read or written but memory, so that figures compare across machines and loads.
"""

import argparse
import asyncio
import contextlib
import cProfile
import gc
import itertools
import operator
import pstats
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop
from ingest_delivery import BODY, HEADERS, a_hook

from webhookd import logs
from webhookd.adapters.amqp_access import Address
from webhookd.adapters.amqp_session import Session
from webhookd.adapters.fallback import Fallback
from webhookd.adapters.spool import Spool
from webhookd.examiner import Examiner, Plugins
from webhookd.following import COLLECT
from webhookd.hooks import HookTable
from webhookd.http1 import Connection
from webhookd.http1_server import Server
from webhookd.http_front import Front
from webhookd.http_intake import Intake
from webhookd.ingest import Ingest
from webhookd.limits import Budget
from webhookd.metrics import DeliveryMetrics
from webhookd.model import Hook, Message
from webhookd.ports import Answer, Link, Snapshot
from webhookd.records import Records
from webhookd.registry import load
from webhookd.schema import Schemas

ROUNDS = 9
DELIVERIES = 20_000


class Transport(asyncio.Transport):
    """Takes what is written, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


class LoopbackLink(Link):
    """A Link whose broker confirms all that was written since the loop turned last, in one frame."""

    state = "up"
    fault = None

    def __init__(self) -> None:
        self.session = Session(
            Address("amqp://127.0.0.1", "127.0.0.1", 1, "/", "guest", "loopback", tls=False),
            "events-to-enrich",
            lambda: None,
        )
        self.session.opened(self._write, 1, 131072)
        self._loop = asyncio.get_running_loop()
        self._scheduled = False

    def send(self, message: Message, answer: Answer) -> None:
        self.session.send(message, answer)

    async def close(self) -> None:
        pass

    def on_change(self, changed: Callable[[], None]) -> None:
        pass

    def _write(self, data: bytes) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._confirm)

    def _confirm(self) -> None:
        self._scheduled = False
        payload = b"\x00\x3c\x00\x50" + struct.pack(">QB", 0, 1)
        self.session.received(struct.pack(">BHI", 1, 1, len(payload)) + payload + b"\xce")


async def burst(connections: list[Connection], requests: Iterator[bytes]) -> None:
    for one in connections:
        one.data_received(next(requests))
    while any(one.in_work() for one in connections):  # noqa: ASYNC110 - this is what is measured: turns of the loop
        await asyncio.sleep(0)


def request(hook: Hook) -> bytes:
    lines = [f"POST /wh/{hook.api_token}/{hook.token} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items() if name != "content-length"]
    return ("\r\n".join(lines) + f"\r\nContent-Length: {len(BODY)}\r\n\r\n").encode() + BODY


async def main(senders: int, hooks: int, profiled: bool) -> None:
    table = HookTable()
    table.apply(Snapshot(tuple(map(a_hook, range(1, 1001))), 1))
    registry = load()
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        spool = await Spool.open(Path(folder) / "spool.db", max_bytes=1 << 26, retention=1e9, keep=False)
        stack.push_async_callback(spool.close)
        link = LoopbackLink()
        fallback = await Fallback.open(spool, link, link, link, publish_timeout=1.5, publish_window=1024)
        stack.push_async_callback(fallback.close)
        intake = Intake(
            ingest=Ingest(table, registry, Schemas(registry, checked=True), 25 << 20),
            publisher=fallback,
            examiner=Examiner(Plugins(None, None), 1.5),
            budget=Budget(1024, 1 << 28, lambda: 0.5, 0.5),
            metrics=DeliveryMetrics(),
            refusals=logs.RefusalLog(None, time.monotonic),
            log_accepted=False,
            log_refused=True,
        )
        records = Records(table, registry, per_hook=100, max_bytes=1 << 28)
        front = Front(intake, None)
        server = Server(front, front, drain_limit=front.intake.drain_limit)
        server.serve([])
        connections = []
        for _ in range(senders):
            one = Connection(server.shared, server._watch)
            one.connection_made(Transport())
            connections.append(one)
        requests = itertools.cycle([request(a_hook(number)) for number in range(1, hooks + 1)])
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT)
        await burst(connections, requests)
        assert connections[0].transport.writes == 1, "the first delivery was not answered"
        profile = cProfile.Profile()
        times: dict[bool, list[float]] = {False: [], True: []}
        for recorded in [False, True] * ROUNDS:
            intake.records = records if recorded else None
            if profiled and recorded:
                profile.enable()
            began = time.process_time()
            for _ in range(DELIVERIES // senders):
                await burst(connections, requests)
            times[recorded].append((time.process_time() - began) / (DELIVERIES // senders * senders) * 1e6)
            profile.disable()
        assert intake.metrics.outcomes["confirmed"] == senders * (1 + 2 * ROUNDS * (DELIVERIES // senders))
        assert len(records) == min(100 * hooks, ROUNDS * (DELIVERIES // senders * senders)), "records are missing"
        median, least = statistics.median(times[False]), min(times[False])
        print(f"{senders} senders: {median:.1f} us of CPU a delivery, at least {least:.1f}")
        more = statistics.median(map(operator.sub, times[True], times[False]))
        print(f"records of {hooks} hooks: {more:.1f} us more, at least {min(times[True]) - least:.1f}")
        if profiled:
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        await server.close(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--senders", type=int, default=64)
    parser.add_argument("--hooks", type=int, default=1, choices=range(1, 1001), metavar="1..1000")
    parser.add_argument("--profile", action="store_true", help="print which functions take the time")
    given = parser.parse_args()
    uvloop.run(main(given.senders, given.hooks, given.profile))
