"""The lines of hooks, as whoever drains the spool sees them: counted, found by index, and told of when they change."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from test_publishers import MIB, a_message
from test_spool import fill, names, publish, run, until

from webhookd.adapters.spool import Spool, SpoolError, State

A, B, C = ("a" * 40, "b" * 40, "c" * 40)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spool.db"


def hook_rows(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {token for (token,) in db.execute("SELECT token FROM hook")}


def test_lines_are_counted_through_all_that_happens_to_them(path):
    async def scenario(spool: Spool) -> None:
        assert await spool.hooks_waiting() == {}
        await publish(spool, *(a_message(n, hook=(A, B, C)[n % 3]) for n in range(9)))
        assert await spool.hooks_waiting() == {A: 3, B: 3, C: 3}
        first, second, third = [entry.seq for entry in await spool.line(A)]
        await spool.mark([first], State.UNROUTABLE, "no queue")
        assert await spool.hooks_waiting() == {A: 3, B: 3, C: 3}
        await spool.mark([second], State.SET_ASIDE, "too large")
        assert await spool.hooks_waiting() == {A: 2, B: 3, C: 3}
        await spool.confirm([first, third])
        assert await spool.hooks_waiting() == {B: 3, C: 3}
        await spool.drop(receipts=names(1))

    async def reopened(spool: Spool) -> None:
        assert await spool.hooks_waiting() == {B: 2, C: 3}
        await spool.retry()
        assert await spool.hooks_waiting() == {A: 1, B: 2, C: 3}
        await spool.drop()
        assert await spool.hooks_waiting() == {}
        await spool.close()
        with pytest.raises(SpoolError, match="closed"):
            await spool.hooks_waiting()

    run(path, scenario, reopened)


def test_kept_messages_are_in_no_line(path):
    async def scenario(spool: Spool) -> None:
        await publish(spool, a_message(1), a_message(2))
        assert await spool.hooks_waiting() == {}

    run(path, scenario, scenario, keep=True)


def test_what_could_not_be_written_is_in_no_line(path):
    async def scenario(spool: Spool) -> None:
        taken, _ = await fill(spool, 9000, hook=A)
        await publish(spool, *(a_message(n, bytes(9000), hook=B) for n in range(3)))
        assert await spool.hooks_waiting() == {A: taken}
        assert hook_rows(path) == {A}

    run(path, scenario, max_bytes=MIB)


def test_a_hook_goes_with_its_last_message_and_comes_again(path):
    """However many hooks there were, the file knows those that it holds messages of."""

    async def scenario(spool: Spool) -> None:
        for number in range(0, 3000, 100):
            await publish(spool, *(a_message(n, hook=f"{n:040x}") for n in range(number, number + 100)))
            await spool.confirm([entry.seq for entry in await spool.entries(limit=100)])
        assert hook_rows(path) == set()
        used = spool.stats.used
        await publish(spool, a_message(1, hook=A), a_message(2, hook=A))
        assert hook_rows(path) == {A}
        (entry, _) = await spool.line(A)
        late = spool.publish(a_message(3, hook=A))
        await asyncio.gather(spool.confirm([entry.seq, entry.seq + 1]), late)
        assert [entry.receipt for entry in await spool.line(A)] == names(3)
        assert used <= 20 * 8192

    run(path, scenario)


@pytest.mark.parametrize("hooks", [1, 100])
def test_lines_are_found_without_a_look_at_the_rest(path, hooks):
    """The work of the database does not grow with what waits behind the first."""
    steps: list[int] = []

    async def scenario(spool: Spool) -> None:
        async def work(call: Callable[[], Awaitable[object]]) -> int:
            before = len(steps)
            await call()
            return len(steps) - before

        async def look() -> tuple[int, int]:
            return await work(lambda: spool.line(f"{0:040x}", limit=5)), await work(spool.next_waiting)

        await publish(spool, *(a_message(n, hook=f"{n % hooks:040x}") for n in range(3000)))
        await spool.entries(limit=1)
        assert spool._file.reading is not None
        spool._file.reading.set_progress_handler(lambda: steps.append(1), 1)
        few = await look()
        await publish(spool, *(a_message(n, hook=f"{n % hooks:040x}") for n in range(9000)))
        assert few[0] > 10
        assert all(many <= 1.1 * less for many, less in zip(await look(), few, strict=True))

    run(path, scenario)


def test_changes_behind_the_back_of_a_drain_are_told(path):
    told: list[str] = []

    async def scenario(spool: Spool) -> None:
        spool.on_change = lambda: told.append("changed")
        await publish(spool, *(a_message(n) for n in range(4)))
        seqs = [entry.seq for entry in await spool.entries()]
        await spool.confirm(seqs[:1])
        await spool.mark(seqs[1:2], State.SET_ASIDE, "too large")
        assert told == []
        await spool.retry()
        assert len(told) == 1
        dropping = asyncio.ensure_future(spool.drop(receipts=names(2)))
        await asyncio.sleep(0)
        dropping.cancel()
        await until(lambda: len(told) == 2)
        assert await spool.hooks_waiting() == {A: 2}

    run(path, scenario)


def test_a_message_that_turns_out_to_be_damaged_leaves_its_line_and_is_told(path):
    told: list[str] = []

    async def scenario(spool: Spool) -> None:
        await publish(spool, a_message(1), a_message(2))
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE body SET data = x'00' WHERE id = (SELECT min(id) FROM body)")
        spool.on_change = lambda: told.append("changed")
        with capture_logs():
            assert [entry.receipt for entry in await spool.line(A) if entry.body] == names(2)
        assert told == ["changed"]
        assert await spool.hooks_waiting() == {A: 1}

    run(path, scenario)


def test_a_file_that_was_opened_anew_is_told(path):
    told: list[str] = []

    async def scenario(spool: Spool) -> None:
        await spool.publish(a_message(1))
        spool.on_change = lambda: told.append("changed")
        with capture_logs():
            path.unlink()
            await until(lambda: told)
        assert await spool.hooks_waiting() == {A: 1}

    run(path, scenario)
