"""The spool at its limits: full, with large bodies on their way in and out, with changes all over the file."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from test_publishers import MIB, a_message
from test_spool import fill, names, on_disk, publish, receipts, run, until

from webhookd.adapters.spool import Spool, State
from webhookd.adapters.spool_db import SpoolDb
from webhookd.adapters.spool_layout import Sizes
from webhookd.adapters.spool_rows import Rows
from webhookd.adapters.spool_wal import Wal


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def logs(monkeypatch) -> list[int]:
    """The frames of the log behind each commit."""
    seen: list[int] = []
    measure = Wal.measure

    def watched(self: Wal) -> None:
        measure(self)
        seen.append(self.frames)

    monkeypatch.setattr(Wal, "measure", watched)
    return seen


@pytest.fixture
def commits(monkeypatch) -> list[float]:
    """When each transaction was begun."""
    seen: list[float] = []
    transaction = SpoolDb.transaction

    def watched(self: SpoolDb):
        seen.append(time.monotonic())
        return transaction(self)

    monkeypatch.setattr(SpoolDb, "transaction", watched)
    return seen


def places(entries: list) -> list[int]:
    return [entry.seq for entry in entries]


# --- large bodies ---------------------------------------------------------------------------------------------------


def test_small_messages_pass_while_large_bodies_are_deleted(path):
    """A body goes in parts: many commits, and messages in each of them."""

    async def scenario(spool: Spool) -> None:
        await publish(spool, *(a_message(n, bytes(25 * MIB), hook=f"{n:040x}") for n in range(4)))
        used = spool.stats.used
        dropping = asyncio.ensure_future(spool.drop(receipts=names(0, 1, 2, 3)))
        passed = 0
        while spool.stats.used > used // 10:
            await spool.publish(a_message(1000 + passed, hook="b" * 40))
            passed += 1
        assert passed > 10
        assert await dropping == 4

    run(path, scenario, max_bytes=256 * MIB)


def test_a_body_that_was_half_deleted_goes_after_a_restart(path, monkeypatch):
    async def dropped(spool: Spool) -> None:
        await publish(spool, a_message(1, bytes(25 * MIB)), a_message(2))
        assert await spool.drop(receipts=names(1)) == 1
        assert await receipts(spool) == names(2)

    async def reopened(spool: Spool) -> None:
        assert await receipts(spool) == names(2)
        await until(lambda: spool.stats.used < MIB)
        assert await receipts(spool) == names(2)

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "clear_doomed", lambda *_: None)
        run(path, dropped)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM body").fetchone()[0] > 2
    run(path, reopened)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM body").fetchone()[0] == 1
        assert db.execute("SELECT count(*) FROM unfinished").fetchone()[0] == 0


def test_room_that_is_on_its_way_is_waited_for(path):
    """A full spool that has just been emptied takes what fits into it, though its bodies are still being deleted."""

    async def scenario(spool: Spool) -> None:
        taken, _ = await fill(spool, 20 * MIB)
        for _ in range(3):
            assert await spool.drop() == taken
            outcomes = await publish(spool, *(a_message(n, bytes(20 * MIB)) for n in range(taken)))
            assert outcomes == ["spooled"] * taken

    run(path, scenario, max_bytes=96 * MIB)


def test_small_messages_behind_a_large_one_of_their_hook_share_commits(path, commits):
    async def scenario(spool: Spool) -> None:
        before = len(commits)
        large = a_message(0, bytes(4 * MIB))
        outcomes = await publish(spool, large, *(a_message(n) for n in range(1, 300)), large)
        assert outcomes == ["spooled"] * 301
        assert len(commits) - before < 25
        assert await receipts(spool) == [*names(*range(300)), large.receipt]

    run(path, scenario, max_bytes=64 * MIB)


# --- full -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [700, 3000])
def test_what_is_said_about_messages_needs_no_room(path, size):
    """Marks, retries and confirms on a full spool, of all that it holds, and again when it was filled up meanwhile."""
    reason = "a reason that is as long as a reason may be " * 5

    async def scenario(spool: Spool) -> None:
        for number in range(3):
            await fill(spool, size, hook=f"{number:040x}")
        held = places(await spool.entries(limit=50_000))
        rng = random.Random(size)
        for _ in range(2):
            assert await spool.mark(held, State.SET_ASIDE, reason) == len(held)
            await fill(spool, size)
            assert await spool.mark(rng.sample(held, 50), State.UNROUTABLE, reason) == 50
            assert await spool.retry() == len(held)
        assert await spool.mark(held, State.UNROUTABLE, reason) == len(held)
        assert await spool.confirm(held) == len(held)

    run(path, scenario, max_bytes=8 * MIB)


def test_where_there_is_room_reasons_and_attempts_are_kept(path):
    async def scenario(spool: Spool) -> None:
        await publish(spool, *(a_message(n) for n in range(500)))
        await spool.mark(places(await spool.entries()), State.SET_ASIDE, "x" * 300)
        assert {(entry.attempts, entry.reason) for entry in await spool.entries()} == {(1, "x" * 200)}

    run(path, scenario)


# --- the log --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [MIB, 8 * MIB, 64 * MIB])
def test_the_log_stays_within_its_part_whatever_is_changed(path, logs, max_bytes):
    """Messages of many hooks, marks and deletions far apart: each touches pages that no other does."""
    sizes = Sizes.of(max_bytes)
    rng = random.Random(max_bytes)
    numbers = iter(range(10**9))

    def some(count: int) -> Iterator:
        for _ in range(count):
            yield a_message(next(numbers), bytes(rng.choice([10, 500, 3000])), hook=f"{rng.randrange(5000):040x}")

    async def scenario(spool: Spool) -> None:
        for _ in range(min(12, max_bytes // MIB * 2)):
            await publish(spool, *some(1000))
        for _ in range(4):
            held = places(await spool.entries(limit=20_000))
            far = held[rng.randrange(7) :: 7]
            await asyncio.gather(
                spool.mark(far[::2], State.SET_ASIDE, "y" * 200), spool.confirm(far[1::2]), publish(spool, *some(500))
            )
            await asyncio.gather(spool.retry(), publish(spool, *some(500)))
            assert on_disk(path) <= max_bytes
        await spool.drop()

    run(path, scenario, max_bytes=max_bytes)
    assert max(logs) <= sizes.wal_frames


def test_the_log_is_as_long_as_sqlite_says(path, logs):
    async def scenario(spool: Spool) -> None:
        for number in range(40):
            await publish(spool, *(a_message(n, bytes(2000), hook=str(n)) for n in range(number)))
            with closing(sqlite3.connect(path)) as other:
                _, frames, _ = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            assert not logs or logs[-1] == frames
            await spool.drop(receipts=names(0))

    run(path, scenario)


def test_commits_do_not_write_the_log_back_each_time(path, monkeypatch):
    """What is written back is what was measured, not what could have been."""
    checkpoints: list[str] = []
    checkpoint = SpoolDb.checkpoint

    def watched(self: SpoolDb, mode: str) -> bool:
        checkpoints.append(mode)
        return checkpoint(self, mode)

    monkeypatch.setattr(SpoolDb, "checkpoint", watched)

    async def scenario(spool: Spool) -> None:
        for number in range(300):
            await spool.publish(a_message(number))
            await spool.confirm([number])

    run(path, scenario)
    assert len(checkpoints) < 10
