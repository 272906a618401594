"""Whose turn it is where there is one place: tenants take turns, however many ask and however long it goes on."""

import asyncio

import pytest

from webhookd.turns import Turns


def test_who_asks_on_and_on_has_one_turn_for_each_of_the_others():
    """As one tenant ask again whenever there is an answer, two for one; as another ask once in a while."""
    turns, served = Turns(), []

    async def ask(tenant: str) -> None:
        async with turns.of(tenant):
            served.append(tenant)
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as asked:

            async def on_and_on() -> None:
                await ask("many")
                if len(served) < 100:
                    for _ in range(2):
                        asked.create_task(on_and_on())

            asked.create_task(on_and_on())
            while len(served) < 100:
                await asyncio.sleep(0)
                before = len(served)
                await ask("one")
                assert served[before:].count("many") <= 2

    asyncio.run(all_of_them())
    assert served.count("one") > 20
    assert not turns


def test_who_gives_up_waiting_is_in_nobodys_way():
    async def scenario() -> None:
        turns = Turns()
        async with turns.of("a"):
            for tenant in ("a", "b"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01), turns.of(tenant):
                        raise AssertionError
            assert turns
        async with asyncio.timeout(20), turns.of("b"):
            pass
        assert not turns

    asyncio.run(scenario())
