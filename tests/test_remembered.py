"""What is remembered of a store: told while the store is away, kept up with it, and never taken for current."""

import asyncio
import contextlib
import math
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs
from test_hook_stores import Follower, a_hook

from webhookd.adapters import remembered
from webhookd.adapters.memory import MemoryStore
from webhookd.adapters.remembered import Remembered
from webhookd.adapters.sqlite import SqliteStore
from webhookd.model import Hook, Rotation
from webhookd.ports import Change, Checked, Deleted, Lost, SetAside, Snapshot


class Told(MemoryStore):
    """A store that tells what the test says."""

    def __init__(self, *changes: Change) -> None:
        super().__init__()
        self.news: asyncio.Queue[Change] = asyncio.Queue()
        self.tell(*changes)

    def tell(self, *changes: Change) -> None:
        for change in changes:
            self.news.put_nowait(change)

    async def changes(self) -> AsyncGenerator[Change, None]:
        while True:
            yield await self.news.get()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "remembered.db"


def session(path: Path, told: Told, scenario: Callable[[Follower], Awaitable[None]]) -> None:
    """Run `scenario` on a follower of what `told` tells; closing the store is part of it."""

    async def main() -> None:
        store = Remembered(told, path)
        follower = Follower(store)
        try:
            await scenario(follower)
        finally:
            await follower.stop()
            await store.close()

    asyncio.run(main())


def tell(path: Path, *changes: Change) -> None:
    async def scenario(follower: Follower) -> None:
        await follower.until(lambda: len(follower.seen) == sum(not isinstance(c, Checked) for c in changes))
        assert follower.seen == [change for change in changes if not isinstance(change, Checked)]

    session(path, Told(*changes), scenario)


def recalled(path: Path) -> Snapshot | None:
    """Return what a start without the store is told first."""
    found: list[Snapshot] = []

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda: follower.checked == 1.0)
        found.extend(change for change in follower.seen if isinstance(change, Snapshot))
        assert follower.seen == [Lost("away"), *found]

    session(path, Told(Lost("away"), Checked(1.0)), scenario)
    return found[0] if found else None


def test_without_anything_remembered_there_is_nothing_to_tell(path):
    assert recalled(path) is None
    assert recalled(path) is None


def test_what_was_told_last_is_told_while_the_store_is_away(path):
    a, b, c, d = (a_hook(name, revision=number) for number, name in enumerate("abcd", 1))
    newer = a_hook("a", token=a.token, revision=7)
    tell(path, Snapshot((a, b, c), 5), d, newer, Deleted(b.token, 8), SetAside(c.token, 9, "no JSON"), Checked(1.0))
    snapshot = recalled(path)
    assert {hook.token: hook for hook in snapshot.hooks} == {a.token: newer, d.token: d}
    assert (snapshot.revision, snapshot.checked) == (9, -math.inf)


def test_a_snapshot_of_the_store_replaces_all_that_was_remembered(path):
    a, b, c = (a_hook(name, revision=number) for number, name in enumerate("abc", 1))
    tell(path, Snapshot((a, b), 5))
    other = a_hook("b", token=b.token, revision=2, ts_field="of the same revision, after a restored backup")
    tell(path, Snapshot((other, c), 3))
    snapshot = recalled(path)
    assert {hook.token: hook for hook in snapshot.hooks} == {other.token: other, c.token: c}
    assert snapshot.revision == 3


def test_what_came_before_a_snapshot_is_over(path):
    hook = a_hook(revision=1)
    tell(path, Snapshot((hook,), 1), Deleted(hook.token, 2), Snapshot((hook,), 3))
    assert recalled(path).hooks == (hook,)


def test_a_key_that_changed_hands_is_remembered_for_its_last_hook(path):
    first, second = a_hook("push", revision=1), a_hook("push", revision=3)
    tell(path, Snapshot((first,), 1))
    tell(path, Snapshot((first,), 1), Deleted(first.token, 2), second)
    assert recalled(path).hooks == (second,)


def test_a_hook_with_another_token_is_remembered_as_the_one_it_is(path):
    first, other = a_hook("a", revision=1), a_hook("b", revision=2)
    tokens = Rotation(first=first.token, previous=first.token, until=5)
    second = msgspec.structs.replace(first, token="b" * 40, rotation=tokens, revision=3)
    third = msgspec.structs.replace(second, token="c" * 40, rotation=Rotation(first=first.token), revision=4)
    tell(path, Snapshot((first, other), 2), second)
    assert set(recalled(path).hooks) == {second, other}
    tell(path, Snapshot((third, other), 4))
    assert set(recalled(path).hooks) == {third, other}
    tell(path, Snapshot((third, other), 4), Deleted(first.token, 5))
    assert set(recalled(path).hooks) == {other}


def test_a_silent_store_is_waited_for_only_so_long(path, monkeypatch):
    monkeypatch.setattr(remembered, "PATIENCE", 0.05)
    hook = a_hook(revision=1)
    tell(path, Snapshot((hook,), 1))
    told = Told()

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda: bool(follower.seen))
        assert follower.seen == [Snapshot((hook,), 1, checked=-math.inf)]
        told.tell(Snapshot((), 2, checked=5.0))
        await follower.until(lambda: len(follower.seen) == 2)
        assert follower.seen[1] == Snapshot((), 2, checked=5.0)

    session(path, told, scenario)
    assert recalled(path).hooks == ()


def test_a_store_that_answers_at_once_is_told_alone(path):
    tell(path, Snapshot((a_hook(revision=1),), 1))
    tell(path, Snapshot((), 2), Lost("later"))


def test_once_loaded_a_lost_store_brings_nothing_back(path):
    hook = a_hook(revision=1)

    async def main() -> None:
        told = Told(Snapshot((hook,), 1), Deleted(hook.token, 2))
        store = Remembered(told, path)
        first = Follower(store)
        await first.until(lambda: len(first.seen) == 2)
        await first.stop()
        told.tell(Lost("away"))
        second = Follower(store)
        await second.until(lambda: bool(second.seen))
        assert second.seen == [Lost("away")]
        await second.stop()
        await store.close()

    asyncio.run(main())


def test_a_burst_is_written_in_few_transactions(path, monkeypatch):
    writes = 0

    async def counted(self: SqliteStore, *arguments: object) -> None:
        nonlocal writes
        writes += 1
        await replace(self, *arguments)

    replace = SqliteStore.replace
    monkeypatch.setattr(SqliteStore, "replace", counted)
    hooks = [a_hook(f"e{number}", revision=number) for number in range(1, 2001)]
    tell(path, Snapshot((), 0), *hooks)
    assert writes < 200
    assert set(recalled(path).hooks) == set(hooks)


@pytest.mark.parametrize("content", [b"this is no database" * 1000, None])
def test_a_damaged_file_costs_what_it_held_and_nothing_else(path, monkeypatch, content):
    monkeypatch.setattr(remembered, "RETRY", 0.05)
    hooks = tuple(a_hook(f"e{number}", revision=number) for number in range(1, 200))
    tell(path, Snapshot(hooks, 200))
    if content is None:  # the head of the file is well, its pages are not
        whole = path.read_bytes()
        content = whole[:4096] + b"\xa5" * (len(whole) - 4096)
    path.write_bytes(content)
    with capture_logs() as logs:
        assert recalled(path) is None
        session(path, Told(Snapshot(hooks, 201)), lambda _: written(path, *hooks))
    assert [line["event"] for line in logs] == ["the hooks remembered cannot be read", "the hooks cannot be remembered"]
    assert set(recalled(path).hooks) == set(hooks)


def test_what_cannot_be_written_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(remembered, "RETRY", 0.05)
    path = tmp_path / "gone" / "remembered.db"
    kept, gone, new = a_hook("kept", revision=1), a_hook("gone", revision=2), a_hook("new", revision=4)
    told = Told(Snapshot((kept, gone), 2), Deleted(gone.token, 3))

    async def scenario(follower: Follower) -> None:
        with capture_logs() as logs:
            await follower.until(lambda: len(follower.seen) == 2)
            await eventually(lambda: bool(logs))
            told.tell(new)
            await follower.until(lambda: len(follower.seen) == 3)
            await asyncio.sleep(0.2)  # it fails again and again
            path.parent.mkdir()
            await written(path, kept, new)
        assert [line["event"] for line in logs] == ["the hooks cannot be remembered"]

    session(path, told, scenario)
    assert set(recalled(path).hooks) == {kept, new}


def test_a_file_that_cannot_be_written_does_not_hold_up_the_end(tmp_path):
    path = tmp_path / "gone" / "remembered.db"
    began = time.monotonic()
    with capture_logs() as logs:

        async def scenario(follower: Follower) -> None:
            await follower.until(lambda: bool(follower.seen))
            await eventually(lambda: bool(logs))

        session(path, Told(Snapshot((), 2)), scenario)
    assert time.monotonic() - began < remembered.LAST_WRITE


def reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


async def written(path: Path, *hooks: Hook) -> None:
    """Return once the file holds these hooks and no other."""
    tokens = {(hook.token,) for hook in hooks}

    def holds() -> bool:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(reader(path)) as db:
            return set(db.execute("SELECT token FROM hook")) == tokens
        return False

    await eventually(holds)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - of what nobody tells
            await asyncio.sleep(0.01)
