"""What is readable of a spool that was put aside comes into the new one, once, and is what was published."""

import asyncio
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from test_publishers import MIB, a_message, random_body
from test_spool import names, publish, run
from test_spool_damage import put_aside, taken_over

from webhookd.adapters.spool import Entry, Spool, State
from webhookd.adapters.spool_layout import PAGE

COUNT = 2000


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spool.db"


def message(number: int):
    size = 3 * MIB + 5 if number == 1000 else 400 + number % 700
    return a_message(number, random_body(number, size), hook=f"{number % 20:040x}", tenant=f"t{number % 3}")


async def filled(spool: Spool) -> None:
    for start in range(0, COUNT, 500):
        await publish(spool, *(message(number) for number in range(start, start + 500)))
    places = {int(entry.receipt[-12:], 16): entry.seq for entry in await spool.entries(limit=COUNT)}
    await spool.mark([places[number] for number in range(0, COUNT, 10)], State.SET_ASIDE, "too large")
    await spool.mark([places[number] for number in range(5, COUNT, 10)], State.UNROUTABLE, "no queue")


def scramble(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE + 8)
            file.write(b"\xff" * 3000)


async def everything(spool: Spool) -> list[Entry]:
    found: list[Entry] = []
    while page := await spool.entries(after=found[-1].seq if found else 0, bodies=True, max_bytes=8 * MIB):
        found += page
    return found


def test_what_is_not_hit_is_taken_over_in_its_state_and_order(path):
    told: list[str] = []

    async def damaged(spool: Spool) -> None:
        spool.on_change = lambda: told.append("changed")
        await publish(spool, a_message(5000))
        await taken_over(path.parent)
        found = await everything(spool)
        numbers = [int(entry.receipt[-12:], 16) for entry in found]
        there = [number for number in numbers if number != 5000]
        assert len(there) == len(set(there))
        for hook in range(20):
            line = [number for number in there if number % 20 == hook]
            assert line == sorted(line)
        assert COUNT - 400 < len(there) < COUNT
        assert 1000 in there
        for entry, number in zip(found, numbers, strict=True):
            if number == 5000:
                continue
            published = message(number)
            assert (entry.hook, entry.tenant, entry.body) == (published.hook, published.tenant, published.body)
            assert entry.headers == published.headers
            assert entry.state is (State.WAITING if number % 10 else State.SET_ASIDE)
        assert told
        assert sum((await spool.hooks_waiting()).values()) == spool.stats.messages[State.WAITING]
        assert len(spool.stats.damaged) == 1

    async def again(spool: Spool) -> None:
        await asyncio.sleep(0.05)
        assert sum(spool.stats.messages.values()) == before[0]

    run(path, filled)
    scramble(path, *range(40, 60))
    content = path.read_bytes()
    with capture_logs() as logs:
        run(path, damaged)
    (line,) = [line for line in logs if "taken over" in line["event"]]
    before = [line["messages"] + 1]
    assert line["unreadable"] > 0
    (aside,) = put_aside(path.parent)
    assert aside.read_bytes() == content
    run(path, again)


def test_what_was_in_the_log_is_taken_over_too(path, tmp_path):
    """Of a daemon that was killed: the last messages are in the WAL alone."""
    copy = tmp_path / "killed" / "spool.db"
    copy.parent.mkdir()

    async def killed(spool: Spool) -> None:
        await publish(spool, *(message(number) for number in range(100)))
        await publish(spool, *(message(number) for number in range(100, 110)))
        for suffix in ("", "-wal"):
            shutil.copy(path.with_name(f"spool.db{suffix}"), copy.parent)

    async def opened(spool: Spool) -> None:
        await taken_over(copy.parent)
        assert [entry.receipt for entry in await spool.entries()] == names(*range(110))

    run(path, killed)
    shutil.copytree(copy.parent, tmp_path / "aside")
    aside = tmp_path / "aside" / "spool.db"
    for suffix in ("", "-wal"):
        aside.with_name(f"spool.db{suffix}").rename(copy.with_name(f"spool.db.corrupt-20240501T120000{suffix}"))
        copy.with_name(f"spool.db{suffix}").unlink()
    run(copy, opened)


def test_a_full_spool_takes_over_what_fits_and_the_rest_when_there_is_room(path, monkeypatch):
    monkeypatch.setattr("webhookd.adapters.spool_takeover.RETRY", 0.02)

    async def small(spool: Spool) -> None:
        seen: set[str] = set()
        async with asyncio.timeout(50):
            while not path.with_name("spool.db.corrupt-20240501T120000-salvaged").exists():
                page = await spool.entries(limit=100)
                seen |= {entry.receipt for entry in page}
                await spool.confirm([entry.seq for entry in page])
                await asyncio.sleep(0)
        seen |= {entry.receipt for entry in await spool.entries(limit=COUNT)}
        assert seen == set(names(*(number for number in range(COUNT) if number != 1000)))

    async def without_the_large_one(spool: Spool) -> None:
        await filled(spool)
        await spool.drop(receipts=names(1000))

    run(path, without_the_large_one)
    path.rename(path.with_name("spool.db.corrupt-20240501T120000"))
    run(path, small, max_bytes=MIB)


def test_what_was_no_database_is_looked_at_once(path):
    path.with_name("spool.db.corrupt-20240501T120000").write_bytes(b"nothing of ours" * 1000)

    async def scenario(spool: Spool) -> None:
        await taken_over(path.parent)
        assert await spool.entries() == []

    with capture_logs() as logs:
        run(path, scenario, scenario)
    assert [line["messages"] for line in logs if "taken over" in line["event"]] == [0]
