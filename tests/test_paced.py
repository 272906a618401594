"""A link for large bodies leaves the broker free between them."""

import asyncio
import time

import pytest
from links import ScriptedLink
from test_publishers import a_message

from webhookd.adapters.paced import LONGEST_REST, REST, TURN, PacedLink
from webhookd.errors import Nacked, NotSent, OutcomeUnknown
from webhookd.settings import Settings

HALF = bytes(TURN // 2)
WHOLE = bytes(TURN + 1)


class Setup:
    def __init__(self) -> None:
        self.link = ScriptedLink()
        self.paced = PacedLink(self.link)

    @property
    def sent(self) -> list[str]:
        return [message.receipt for message in self.link.published]

    def publish(self, *numbers: int, body: bytes = HALF) -> list[asyncio.Future[str]]:
        return [self.paced.publish(a_message(number, body)) for number in numbers]


def names(*numbers: int) -> list[str]:
    return [a_message(number).receipt for number in numbers]


async def until_sent(setup: Setup, count: int) -> None:
    async with asyncio.timeout(10):
        while len(setup.sent) < count:  # noqa: ASYNC110 - a rest has no event
            await asyncio.sleep(0.002)


@pytest.mark.gen_test
async def test_a_turn_is_as_many_bodies_as_fit():
    setup = Setup()
    answers = setup.publish(1)
    answers += setup.publish(2, 3, 4)
    assert setup.sent == names(1)
    setup.link.answer()
    await until_sent(setup, 3)
    assert setup.sent == names(1, 2, 3)
    setup.link.play(lambda _: None)
    assert await asyncio.gather(*answers) == ["confirmed"] * 4
    assert setup.sent == names(1, 2, 3, 4)


@pytest.mark.gen_test
async def test_a_body_that_fits_no_turn_goes_alone():
    setup = Setup()
    answers = setup.publish(1, 2, 3, body=WHOLE)
    assert setup.sent == names(1)
    setup.link.play(lambda _: None)
    assert await asyncio.gather(*answers) == ["confirmed"] * 3


@pytest.mark.gen_test
async def test_the_broker_rests_as_long_as_a_turn_asks():
    setup = Setup()
    setup.publish(1, 2, body=WHOLE)
    took = 0.05
    await asyncio.sleep(took)
    setup.link.answer()
    answered = time.monotonic()
    await until_sent(setup, 2)
    assert time.monotonic() - answered >= took * REST * 0.9


@pytest.mark.gen_test
async def test_a_slow_broker_gets_no_long_rest(monkeypatch):
    setup = Setup()
    first, second = setup.publish(1, 2, body=WHOLE)
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + 3600)
    setup.link.answer()
    await asyncio.sleep(0)
    monkeypatch.undo()
    assert setup.paced._rest.when() <= now + 3600 + LONGEST_REST
    assert first.done()
    assert not second.done()
    assert Settings().publish_timeout / 5 > LONGEST_REST


@pytest.mark.gen_test
async def test_each_gets_its_own_answer():
    setup = Setup()
    answers = setup.publish(1, 2, 3, 4)
    setup.link.play(lambda message: None if message.receipt in names(1, 4) else Nacked(message.receipt))
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert [str(result) for result in results] == ["confirmed", *names(2, 3), "confirmed"]


@pytest.mark.gen_test
async def test_what_is_cancelled_before_its_turn_is_never_sent():
    setup = Setup()
    answers = setup.publish(1, 2, 3, body=WHOLE)
    answers[1].cancel()
    setup.link.play(lambda _: None)
    assert [await answers[0], await answers[2]] == ["confirmed"] * 2
    assert setup.sent == names(1, 3)


@pytest.mark.gen_test
async def test_giving_up_what_is_in_flight_reaches_the_link_and_lets_the_next_one_go():
    setup = Setup()
    answer, following = setup.publish(1, 2, body=WHOLE)
    answer.cancel()
    setup.paced.give_up(answer)
    await asyncio.sleep(0)
    assert setup.link.waiting[0][1].cancelled()
    await until_sent(setup, 2)
    setup.link.answer(index=1)
    assert await following == "confirmed"


@pytest.mark.parametrize("state", ["down", "blocked"])
@pytest.mark.gen_test
async def test_what_waits_fails_at_once_when_the_link_takes_nothing(state):
    setup = Setup()
    first, second = setup.publish(1, 2, body=WHOLE)
    setup.link.become(state)
    with pytest.raises(NotSent):
        await second
    if state == "down":
        with pytest.raises(OutcomeUnknown):
            await first
    with pytest.raises(NotSent):
        await setup.paced.publish(a_message(3))
    assert setup.sent == names(1)
    assert setup.paced.state == state
    assert setup.paced.fault == "scripted"


@pytest.mark.gen_test
async def test_it_goes_on_when_the_link_comes_back():
    setup = Setup()
    first, second = setup.publish(1, 2, body=WHOLE)
    setup.link.become("down")
    await asyncio.gather(first, second, return_exceptions=True)
    told = []
    setup.paced.on_change(lambda: told.append(setup.paced.state))
    setup.link.become("up")
    setup.link.play(lambda _: None)
    assert await setup.paced.publish(a_message(3)) == "confirmed"
    assert told == ["up"]


@pytest.mark.gen_test
async def test_closing_leaves_nothing_waiting():
    setup = Setup()
    first, second = setup.publish(1, 2, body=WHOLE)
    await setup.paced.close()
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown, NotSent]
