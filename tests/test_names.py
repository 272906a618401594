"""Looking names up, where it is the machine that fails and not the name server."""

import asyncio
import threading

import pytest

from webhookd.adapters.names import LOOKUPS_AT_A_TIME, Names


def test_a_thread_that_cannot_be_started_takes_no_turn_from_later_lookups(monkeypatch):
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> str:
        names = Names()
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", no_more)
            for _ in range(LOOKUPS_AT_A_TIME):
                with pytest.raises(OSError, match="no thread"):
                    await names.connected("127.0.0.1", 80, reached)
        async with asyncio.timeout(5):
            return await names.connected("127.0.0.1", 80, reached)

    async def reached(_family: int, address: tuple[str, int]) -> str:
        return address[0]

    assert asyncio.run(scenario()) == "127.0.0.1"
