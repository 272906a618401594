"""What the fallback alone costs a delivery, in CPU: `python tests/bench/fallback_publish.py`.

The link confirms everything the next time the loop turns; what that link and a loop cost without the fallback is
measured in the same run and taken off.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_publishers import a_message

from webhookd.adapters.fallback import Fallback
from webhookd.adapters.spool import Spool
from webhookd.model import Message
from webhookd.ports import Answer, Durable, Link

MESSAGES = 20_000
ROUNDS = 7


class InstantLink(Link):
    """A Link that confirms all that was published since the loop turned last, in one go."""

    state = "up"
    fault = None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Answer] = []

    def send(self, message: Message, answer: Answer) -> None:
        if not self._waiting:
            self._loop.call_soon(self._confirm)
        self._waiting.append(answer)

    def on_change(self, changed: Callable[[], None]) -> None:
        pass

    async def close(self) -> None:
        pass

    def _confirm(self) -> None:
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.set_result("confirmed")


async def cost(publish: Callable[[Message], asyncio.Future[Durable]], in_flight: int) -> float:
    """Return the CPU of one message, in µs: the caller only notes in a callback that it is done."""
    done = asyncio.Event()
    left = 0

    def settled(_: asyncio.Future[Durable]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    messages = [a_message(n, b"{}" * 1000, hook=f"{n % 1000:040x}") for n in range(in_flight)]
    began = time.process_time()
    for _ in range(MESSAGES // in_flight):
        left = in_flight
        done.clear()
        for message in messages:
            publish(message).add_done_callback(settled)
        await done.wait()
    return (time.process_time() - began) / MESSAGES * 1e6


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = await Spool.open(Path(folder) / "spool.db", max_bytes=1 << 26, retention=1e9, keep=False)
        link = InstantLink()
        fallback = await Fallback.open(spool, link, link, link, publish_timeout=1.5, publish_window=1024)
        for in_flight in (1, 16, 256):
            alone = [await cost(link.publish, in_flight) for _ in range(ROUNDS)]
            behind = [await cost(fallback.publish, in_flight) for _ in range(ROUNDS)]
            extra = statistics.median(behind) - statistics.median(alone)
            print(
                f"{in_flight:4} in flight: link {min(alone):.2f} µs, with fallback {min(behind):.2f} µs, extra {extra:.2f} µs"
            )
        await fallback.close()
        await spool.close()


if __name__ == "__main__":
    asyncio.run(main())
