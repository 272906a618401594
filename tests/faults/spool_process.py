"""A process of its own that publishes through the Spool, to be killed or to be run on a disk that fails.

`load`: prints `b N` before it publishes message N, `d N` when that is durable, `f N` when it is refused, `c N` before N
is confirmed away. The others print one JSON document about what they saw.
"""

import asyncio
import errno
import itertools
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from test_publishers import MIB, a_message, random_body

from webhookd.adapters import spool_writer
from webhookd.adapters.spool import Spool, SpoolError, State
from webhookd.errors import Unpublished

SIZES = [100, 900, 2333, 2333, 2333, 10_000, 60_000]


def message(number: int):
    rng = random.Random(number)
    size = 1_500_000 + number if rng.random() < 0.02 else rng.choice(SIZES)
    return a_message(number, random_body(number, size), hook=f"{number % 7:040x}")


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def attempt(spool: Spool, number: int, size: int = 1000) -> str:
    try:
        await asyncio.wait_for(spool.publish(a_message(number, random_body(number, size))), 10)
    except Unpublished as error:
        return str(error)
    return "durable"


async def load(path: Path, first: str) -> None:
    spool = await Spool.open(path, max_bytes=512 * MIB, retention=1e9, keep=False)
    numbers = itertools.count(int(first))

    async def publish() -> None:
        while True:
            number = next(numbers)
            say("b", number)
            try:
                await spool.publish(message(number))
            except Unpublished as error:
                say("f", number, error)
            else:
                say("d", number)

    async def drain() -> None:
        while True:
            page = await spool.entries(limit=40)
            for entry in page[:30]:
                say("c", int(entry.receipt[-12:], 16))
            await spool.confirm([entry.seq for entry in page[:30]])
            await spool.mark([entry.seq for entry in page[30:35]], State.SET_ASIDE, "for a while")
            await spool.retry()
            await asyncio.sleep(0.01)

    await asyncio.gather(drain(), *(publish() for _ in range(16)))


async def eio(path: Path) -> dict[str, Any]:
    """Publish on while some fsyncs fail."""
    spool_writer.TICK = 0.1
    spool = await Spool.open(path, max_bytes=64 * MIB, retention=1e9, keep=False)
    outcomes = []
    for number in range(60):
        outcomes.append(await attempt(spool, number))
        await asyncio.sleep(0.02)
    failing = spool.stats.failing
    await spool.close()
    return {"outcomes": outcomes, "failing": failing}


async def slow(path: Path) -> dict[str, Any]:
    """Publish while each fsync takes long; the loop must not notice."""
    spool = await Spool.open(path, max_bytes=64 * MIB, retention=1e9, keep=False)
    lags, running = [], True

    async def beat() -> None:
        while running:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            lags.append(time.perf_counter() - due)

    beating = asyncio.create_task(beat())
    began = time.perf_counter()
    await asyncio.gather(*(attempt(spool, number) for number in range(200)))
    seconds = time.perf_counter() - began
    running = False
    await beating
    await spool.close()
    return {"worst lag": max(lags), "seconds": seconds}


async def full(path: Path) -> dict[str, Any]:
    """Have somebody else fill the disk; drain, restart and recover."""
    spool_writer.TICK = 0.05
    filler = path.with_name("filler")
    saw: dict[str, Any] = {}
    options = {"max_bytes": 16 * MIB, "retention": 1e9, "keep": False}
    spool = await Spool.open(path, **options)
    saw["before"] = [await attempt(spool, number, 20_000) for number in range(60)]
    fill(filler)
    saw["full"] = [await attempt(spool, number, 20_000) for number in range(100, 400)]
    saw["failing"] = spool.stats.failing
    saw["large"] = await attempt(spool, 400, 3 * MIB)
    entries = await spool.entries(limit=1000)
    saw["there"] = [entry.receipt for entry in entries]
    places = [entry.seq for entry in entries]
    saw["marked"] = await spool.mark(places[:40], State.SET_ASIDE, "whatever the reason is")
    fill(filler)
    saw["retried"] = await spool.retry()
    saw["confirmed"] = await spool.confirm(places[:20])
    await spool.close()
    spool = await Spool.open(path, **options)  # with what little room closing has left
    saw["after restart"] = [await attempt(spool, 401), spool.stats.failing]
    saw["confirmed after restart"] = await spool.confirm(places[20:30])
    await spool.close()
    fill(filler)
    spool = await Spool.open(path, **options)  # with no room for anything
    saw["without any room"] = [await attempt(spool, 402), spool.stats.failing]
    saw["confirmed without any room"] = await spool.confirm(places[30:35])
    filler.unlink()
    began = time.monotonic()
    for number in itertools.count(1000):
        if await attempt(spool, number) == "durable":
            break
        await asyncio.sleep(0.01)
    saw["recovered in"] = time.monotonic() - began
    saw["failing at last"] = spool.stats.failing
    saw["left"] = [entry.receipt for entry in await spool.entries(limit=1000, bodies=True, max_bytes=64 * MIB)][:-1]
    saw["reserve"] = path.with_name("spool.reserve").stat().st_size
    await spool.close()
    return saw


async def drained(path: Path) -> dict[str, Any]:
    """Drain a large backlog to nothing on a full disk, a page at a time; somebody takes all its room in between.

    Not while the writer is at work: who takes what the reserve has just given free, before it is used, has it.
    """
    spool_writer.TICK = 0.05
    filler = path.with_name("filler")
    options = {"max_bytes": 16 * MIB, "retention": 1e9, "keep": False}
    spool = await Spool.open(path, **options)
    count = 0
    while await attempt(spool, count, 3000) == "durable" and count < 3500:
        count += 1
        if count % 50 == 0:
            await asyncio.gather(*(attempt(spool, number, 3000) for number in range(count, count + 50)))
            count += 50
    await spool.retry()  # it is answered once all that was answered before is written back
    fill(filler)
    await attempt(spool, 99_999)
    gone, errors = 0, []
    while page := await spool.entries(limit=50):
        await spool.retry()
        fill(filler)
        try:
            gone += await spool.confirm([entry.seq for entry in page])
        except SpoolError as error:
            errors.append(str(error))
            assert len(errors) < 50, errors
    left = sum(spool.stats.messages.values())
    await spool.close()
    return {"count": count, "gone": gone, "errors": errors, "left": left}


def fill(filler: Path) -> None:
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for size in (1 << 16, 1 << 12):
            while True:
                try:
                    os.write(descriptor, bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    mode, place, *rest = sys.argv[1:]
    result = asyncio.run(globals()[mode](Path(place), *rest))
    print(json.dumps(result))
