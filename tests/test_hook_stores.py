"""The contract of HookStore over every adapter, read from the far side: what a second reader of the store finds."""

import asyncio
import contextlib
import math
import secrets
import sqlite3
import stat
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import PATIENCE
from structlog.testing import capture_logs

from webhookd.adapters import sqlite
from webhookd.adapters.etcd import EtcdStore
from webhookd.adapters.etcd_client import Access
from webhookd.adapters.memory import MemoryStore
from webhookd.adapters.remembered import Remembered
from webhookd.adapters.sqlite import SqliteStore
from webhookd.errors import Conflict, StoreError
from webhookd.forms import etcd_url
from webhookd.model import Hook, Rotation, Secret
from webhookd.ports import Change, Checked, Deleted, HookStore, Lost, Snapshot

STORES: dict[str, Callable[[Any], HookStore]] = {
    "memory": lambda where: MemoryStore(),
    "sqlite": lambda where: SqliteStore(where / "hooks.db"),
    "remembered": lambda where: Remembered(MemoryStore(), where / "remembered.db"),
    "etcd": lambda where: EtcdStore(*etcd_url(where), Access()),
}
"""How to open each store, from a folder or from the URL of a prefix in etcd."""
DURABLE = ["sqlite", "etcd"]
"""Those whose hooks outlive the process."""


def a_hook(event: str = "push", *, tenant: str = "42", **fields) -> Hook:
    given = {
        "token": secrets.token_hex(20),
        "api_token": str(uuid.uuid4()),
        "tenant": tenant,
        "datasource": "github",
        "event": event,
        "base_url": "https://webhook.example.org",
        "created_at": 1_700_000_000_000,
        **fields,
    }
    return Hook(**given)


class Follower:
    """Consumes `changes()` as the daemon does, and holds the hooks that they tell of, by their ids."""

    def __init__(self, store: HookStore) -> None:
        self.seen: list[Change] = []
        self.hooks: dict[str, Hook] = {}
        self.checked = -math.inf
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._follow(store.changes()))

    async def _follow(self, changes: AsyncIterator[Change]) -> None:
        async for change in changes:
            if isinstance(change, Checked):
                self.checked = change.at
            else:
                self.seen.append(change)
            match change:
                case Snapshot():
                    self.hooks = {hook.id: hook for hook in change.hooks}
                case Hook():
                    self.hooks[change.id] = change
                case Deleted():
                    self.hooks.pop(change.token, None)
            self._news.set()

    async def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                self._news.clear()
                await self._news.wait()

    @property
    def revisions(self) -> list[int]:
        return [change.revision for change in self.seen if not isinstance(change, Lost)]

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@contextlib.asynccontextmanager
async def following(store: HookStore) -> AsyncIterator[Follower]:
    follower = Follower(store)
    try:
        await follower.until(lambda: bool(follower.seen))
        yield follower
    finally:
        await follower.stop()


Scenario = Callable[[HookStore], Awaitable[None]]


def run(where: Path | str, name: str, *scenarios: Scenario) -> None:
    """Run each scenario on the store, which is opened anew for each."""

    async def one(scenario: Scenario) -> None:
        store = STORES[name](where)
        try:
            await scenario(store)
        finally:
            await store.close()

    for scenario in scenarios:
        asyncio.run(one(scenario))


def place(request) -> Path | str:
    return request.getfixturevalue("etcd_prefix" if request.param == "etcd" else "tmp_path")


@pytest.fixture(params=list(STORES))
def try_store(request) -> Callable[[Scenario], None]:
    return lambda scenario: run(place(request), request.param, scenario)


@pytest.fixture(params=DURABLE)
def try_durable(request) -> Callable[..., None]:
    return lambda *scenarios: run(place(request), request.param, *scenarios)


async def all_of(store: HookStore) -> dict[str, Hook]:
    async with following(store) as follower:
        return dict(follower.hooks)


def test_an_empty_store_begins_with_an_empty_snapshot(try_store):
    async def scenario(store):
        async with following(store) as follower:
            (snapshot,) = follower.seen
            assert (snapshot.hooks, snapshot.set_aside) == ((), {})

    try_store(scenario)


def test_put_returns_and_tells_what_was_written(try_store):
    given = a_hook(
        ts_field="commits[0].timestamp",
        secrets=(Secret("n\u00e9w s\u00e9cret"), Secret("old secret", until=1_700_000_100_000)),
        validation="enforce",
        on_mismatch="reject",
        tenant_is_int=True,
    )

    async def scenario(store):
        async with following(store) as follower:
            written = await store.put(given)
            assert written == msgspec.structs.replace(given, revision=written.revision)
            assert written.revision > 0
            await follower.until(lambda: len(follower.seen) == 2)
            assert follower.seen[1] == written
        assert await all_of(store) == {given.token: written}

    try_store(scenario)


def test_revisions_grow_over_all_hooks_and_changes_come_in_order(try_store):
    async def scenario(store):
        async with following(store) as follower:
            written = [await store.put(a_hook(f"e{n}", tenant=f"t{n % 3}")) for n in range(20)]
            gone = await store.delete(written[3].token)
            again = await store.put(msgspec.structs.replace(written[5], ts_field="x"))
            await follower.until(lambda: len(follower.seen) == 23)
            assert follower.seen[1:] == [*written, Deleted(written[3].token, gone), again]
            assert follower.revisions == sorted(set(follower.revisions))
        expected = {hook.token: hook for hook in (*written, again) if hook.token != written[3].token}
        assert await all_of(store) == expected

    try_store(scenario)


def test_a_stale_revision_is_a_conflict_and_changes_nothing(try_store):
    async def scenario(store):
        first = await store.put(a_hook())
        second = await store.put(msgspec.structs.replace(first, ts_field="a"))
        for stale in (a_hook(), msgspec.structs.replace(first, ts_field="b"), a_hook(revision=second.revision)):
            with pytest.raises(Conflict) as caught:
                await store.put(stale)
            assert caught.value.current == second
        with pytest.raises(Conflict) as caught:
            await store.put(a_hook("other", revision=1))
        assert caught.value.current is None
        assert await all_of(store) == {second.token: second}

    try_store(scenario)


def test_an_update_of_what_is_gone_is_a_conflict(try_store):
    async def scenario(store):
        written = await store.put(a_hook())
        await store.delete(written.token)
        with pytest.raises(Conflict) as caught:
            await store.put(msgspec.structs.replace(written, ts_field="a"))
        assert caught.value.current is None
        assert await all_of(store) == {}

    try_store(scenario)


def test_fifty_concurrent_creations_end_in_one_hook(try_store):
    async def scenario(store):
        async with following(store) as follower:
            outcomes = await asyncio.gather(*(store.put(a_hook()) for _ in range(50)), return_exceptions=True)
            (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Hook)]
            losers = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert len(losers) == 49
            assert {loser.current for loser in losers} == {winner}
            await follower.until(lambda: len(follower.seen) == 2)
            assert follower.hooks == {winner.token: winner}

    try_store(scenario)


def test_concurrent_updates_of_one_revision_have_one_winner(try_store):
    async def scenario(store):
        first = await store.put(a_hook())
        updates = [store.put(msgspec.structs.replace(first, ts_field=f"f{n}")) for n in range(20)]
        outcomes = await asyncio.gather(*updates, return_exceptions=True)
        (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Hook)]
        assert await all_of(store) == {first.token: winner}

    try_store(scenario)


def with_token(hook: Hook, token: str, **left: Any) -> Hook:
    return msgspec.structs.replace(hook, token=token, rotation=Rotation(first=hook.id, **left))


def test_a_hook_with_another_token_is_the_same_hook(try_store):
    async def scenario(store):
        first = await store.put(a_hook())
        beside = await store.put(a_hook("beside"))
        async with following(store) as follower:
            second = await store.put(with_token(first, "b" * 40, previous=first.token, until=1_700_000_100_000))
            assert (second.id, second.token, second.api_token) == (first.id, "b" * 40, first.api_token)
            third = await store.put(with_token(second, "c" * 40))
            updated = await store.put(msgspec.structs.replace(third, ts_field="a.b"))
            await follower.until(lambda: len(follower.seen) == 4)
            assert follower.seen[1:] == [second, third, updated]
            assert follower.hooks == {first.id: updated, beside.id: beside}
            gone = await store.delete(first.id)
            await follower.until(lambda: len(follower.seen) == 5)
            assert follower.seen[4] == Deleted(first.id, gone)
        assert await all_of(store) == {beside.id: beside}
        again = await store.put(a_hook())
        assert (again.id, again.api_token) == (again.token, first.api_token)

    try_store(scenario)


def test_of_two_rotations_over_one_revision_one_wins(try_store):
    async def scenario(store):
        first = await store.put(a_hook())
        tokens = [f"{n:x}" * 40 for n in range(16)]
        puts = [store.put(with_token(first, token, previous=first.token, until=2)) for token in tokens]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Hook)]
        losers = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
        assert len(losers) == len(tokens) - 1
        assert {loser.current for loser in losers} == {winner}
        for stale in (first, with_token(first, "f" * 40), a_hook(revision=winner.revision), a_hook()):
            with pytest.raises(Conflict) as caught:
                await store.put(stale)
            assert caught.value.current == winner
        assert await all_of(store) == {first.id: winner}

    try_store(scenario)


def test_one_api_token_for_each_tenant_even_after_its_hooks_are_gone(try_store):
    async def scenario(store):
        first = await store.put(a_hook("a", tenant="t1"))
        assert (await store.put(a_hook("b", tenant="t1"))).api_token == first.api_token
        other = await store.put(a_hook("a", tenant="t2"))
        assert other.api_token != first.api_token
        for token in await all_of(store):
            await store.delete(token)
        assert await all_of(store) == {}
        assert (await store.put(a_hook("c", tenant="t1"))).api_token == first.api_token

    try_store(scenario)


def test_deleting_what_is_not_there_is_no_error_and_tells_nothing(try_store):
    async def scenario(store):
        written = await store.put(a_hook())
        async with following(store) as follower:
            assert await store.delete("0" * 40) == written.revision
            gone = await store.delete(written.token)
            assert gone > written.revision
            assert await store.delete(written.token) == gone
            marker = await store.put(a_hook("marker"))
            await follower.until(lambda: marker in follower.seen)
            assert follower.seen[1:] == [Deleted(written.token, gone), marker]

    try_store(scenario)


def test_a_key_is_free_again_after_its_hook_is_gone(try_store):
    async def scenario(store):
        first = await store.put(a_hook())
        await store.delete(first.token)
        second = await store.put(a_hook())
        assert await all_of(store) == {second.token: second}
        assert second.token != first.token

    try_store(scenario)


def test_a_follower_that_comes_late_or_again_misses_nothing(try_store):
    async def scenario(store):
        kept = [await store.put(a_hook(f"e{n}")) for n in range(5)]
        for _ in range(3):
            async with following(store) as follower:
                assert isinstance(follower.seen[0], Snapshot)
                assert set(follower.seen[0].hooks) == set(kept)
                kept.append(await store.put(a_hook(secrets.token_hex(4))))
                await follower.until(lambda: follower.seen[-1] == kept[-1])
            await store.delete(kept.pop(0).token)  # while nobody follows
        assert set((await all_of(store)).values()) == set(kept)

    try_store(scenario)


def test_following_while_hooks_are_written_misses_nothing(try_store):
    async def scenario(store):
        async def write():
            for n in range(100):
                written = await store.put(a_hook(f"e{n}"))
                if n % 3 == 0:
                    await store.delete(written.token)

        writing = asyncio.create_task(write())
        for _ in range(10):
            async with following(store):
                await asyncio.sleep(0.002)
        async with following(store) as follower:
            await writing
            marker = await store.put(a_hook("marker"))
            await follower.until(lambda: marker in follower.seen)
            assert follower.revisions == sorted(follower.revisions)
            assert isinstance(follower.seen[0], Snapshot)
            live = dict(follower.hooks)
        assert await all_of(store) == live
        assert len(live) == 67

    try_store(scenario)


# --- stores that outlive the process --------------------------------------------------------------------------------


def test_everything_is_there_after_reopening(try_durable):
    written = []

    async def before(store):
        written.extend([await store.put(a_hook(f"e{n}", secrets=(Secret("a secret"),))) for n in range(10)])
        await store.delete(written.pop().token)

    async def after(store):
        assert await all_of(store) == {hook.token: hook for hook in written}
        fresh = await store.put(a_hook("new"))
        assert fresh.revision > written[-1].revision + 1
        assert fresh.api_token == written[0].api_token

    try_durable(before, after)


def test_a_rotated_hook_is_there_after_reopening_and_goes_when_it_is_deleted(try_durable):
    written = []

    async def before(store):
        first = await store.put(a_hook())
        written.append(await store.put(with_token(first, "b" * 40, previous=first.token, until=1_700_000_100_000)))

    async def between(store):
        assert await all_of(store) == {written[0].id: written[0]}
        written.append(await store.put(with_token(written[0], "c" * 40)))
        with pytest.raises(Conflict):
            await store.put(with_token(written[0], "d" * 40))
        assert await all_of(store) == {written[0].id: written[1]}
        await store.delete(written[0].id)

    async def after(store):
        assert await all_of(store) == {}
        again = await store.put(a_hook())
        assert await all_of(store) == {again.id: again}

    try_durable(before, between, after)


def test_after_close_every_call_says_so(try_durable):
    async def scenario(store):
        written = await store.put(a_hook())
        await store.close()
        for call in (store.put(a_hook("b")), store.delete(written.token)):
            with pytest.raises(StoreError, match="closed"):
                await call

    try_durable(scenario)


# --- the SQLite file --------------------------------------------------------------------------------------------------


def test_the_file_is_the_owners_alone_and_synced(tmp_path):
    async def scenario(store):
        await store.put(a_hook())
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert files == dict.fromkeys(("hooks.db", "hooks.db-wal", "hooks.db-shm"), 0o600)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)

    run(tmp_path, "sqlite", scenario)


def test_no_secret_stays_on_disk_when_it_is_removed(tmp_path):
    def on_disk(secret: bytes) -> bool:
        return any(secret in path.read_bytes() for path in tmp_path.iterdir())

    async def before(store):
        written = await store.put(a_hook(secrets=(Secret("hunter2 hunter2 hunter2"),)))
        other = await store.put(a_hook("b", secrets=(Secret("hunter3 hunter3 hunter3"),)))
        assert on_disk(b"hunter2")
        assert on_disk(b"hunter3")
        await store.put(msgspec.structs.replace(written, secrets=()))
        assert not on_disk(b"hunter2")
        with contextlib.closing(sqlite3.connect(tmp_path / "hooks.db")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM hook").fetchall()
            await store.delete(other.token)  # its time to wait is not that of a writer
        last = await store.put(a_hook("c"))
        await store.delete(last.token)
        assert not on_disk(b"hunter3")

    run(tmp_path, "sqlite", before)
    assert not on_disk(b"hunter")


def test_a_record_that_cannot_be_read_harms_no_other(tmp_path):
    hooks = [a_hook("a"), a_hook("b"), a_hook("c")]

    async def before(store):
        for hook in hooks:
            await store.put(hook)

    run(tmp_path, "sqlite", before)
    with contextlib.closing(sqlite3.connect(tmp_path / "hooks.db")) as db, db:
        db.execute("UPDATE hook SET record = ? WHERE event = 'b'", (b'{"token": "' + b"\xff" * 9,))
        db.execute("UPDATE hook SET record = 7 WHERE event = 'c'")

    async def after(store):
        with capture_logs() as logs:
            assert set(await all_of(store)) == {hooks[0].token}
        told = [line for line in logs if line["log_level"] == "warning"]
        assert sorted((line["tenant"], line["datasource"], line["_event"]) for line in told) == [
            ("42", "github", "b"),
            ("42", "github", "c"),
        ]
        assert not any(hook.token in str(logs) or hook.api_token in str(logs) for hook in hooks)
        assert (await store.put(a_hook("d"))).revision == 4
        with pytest.raises(StoreError, match="cannot be decoded"):
            await store.put(a_hook("b"))

    run(tmp_path, "sqlite", after)


def test_a_token_that_another_hook_has_is_refused(tmp_path):
    async def scenario(store):
        first = await store.put(a_hook("a", tenant="t1"))
        with pytest.raises(StoreError):
            await store.put(a_hook("b", tenant="t2", token=first.token))
        assert await all_of(store) == {first.token: first}

    run(tmp_path, "sqlite", scenario)


def test_a_file_that_is_none_is_said_and_healed_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY", 0.02)
    path = tmp_path / "hooks.db"
    path.write_bytes(b"this is no database" * 1000)

    async def scenario(store):
        with capture_logs() as logs:
            follower = Follower(store)
            with pytest.raises(StoreError, match="not a database"):
                await store.put(a_hook())
            await asyncio.sleep(0.1)
            assert follower.seen == []
            path.unlink()
            await follower.until(lambda: bool(follower.seen))
        assert follower.seen == [Snapshot((), 0)]
        assert "not a database" in logs[0]["reason"]
        await follower.stop()

    run(tmp_path, "sqlite", scenario)


def test_a_write_that_failed_is_followed_by_a_new_snapshot(tmp_path):
    """Whether it is in the file is not known: the follower must learn what the file holds."""

    async def scenario(store):
        first = await store.put(a_hook("a"))
        async with following(store) as follower:
            with contextlib.closing(sqlite3.connect(tmp_path / "hooks.db")) as other, other:
                other.execute("DROP TABLE tenant")
            with pytest.raises(StoreError, match="no such table"):
                await store.put(a_hook("b"))
            await follower.until(lambda: len(follower.seen) == 2)
            assert follower.seen[1] == Snapshot((first,), 1)

    run(tmp_path, "sqlite", scenario)


def test_a_file_of_another_version_is_not_touched(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "hooks.db")) as db:
        db.execute("PRAGMA user_version = 7")

    async def scenario(store):
        with pytest.raises(StoreError, match="another version"):
            await store.put(a_hook())

    run(tmp_path, "sqlite", scenario)
    with contextlib.closing(sqlite3.connect(tmp_path / "hooks.db")) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_folder_that_is_gone_is_a_store_that_cannot_be_reached(tmp_path):
    async def scenario(store):
        with pytest.raises(StoreError, match="No such file"):
            await store.put(a_hook())

    async def main():
        store = SqliteStore(tmp_path / "gone" / "hooks.db")
        await scenario(store)
        await store.close()
        await store.close()

    asyncio.run(main())


def test_what_hooks_have_in_common_is_in_memory_once(try_durable):
    async def write(store):
        for event in ("push", "ping"):
            for tenant in ("42", "7"):
                await store.put(a_hook(event, tenant=tenant, ts_field="a.b"))

    async def read(store):
        hooks = sorted((await all_of(store)).values(), key=lambda hook: hook.key)
        one, two, other, _ = hooks
        assert (one.event, two.event, other.tenant) == ("ping", "push", "7")
        assert one.tenant is two.tenant
        assert one.api_token is two.api_token
        for word in ("datasource", "ts_field", "base_url"):
            assert len({id(getattr(hook, word)) for hook in hooks}) == 1
        assert one.event is other.event

    try_durable(write, read)


def test_a_hundred_thousand_hooks_load_in_time(tmp_path):
    hooks = tuple(a_hook(f"e{n}", tenant=f"t{n % 1000}", revision=n + 1) for n in range(100_000))

    async def write(store):
        await store.replace_all(Snapshot(hooks, 100_000))

    async def read(store):
        began = time.perf_counter()
        loaded = await all_of(store)
        assert time.perf_counter() - began < 2
        assert len(loaded) == 100_000
        assert loaded[hooks[-1].token] == hooks[-1]
        assert (await store.put(a_hook("new"))).revision == 100_001

    run(tmp_path, "sqlite", write, read)


def test_a_snapshot_replaces_everything(tmp_path):
    async def scenario(store):
        await store.put(a_hook("a"))
        async with following(store) as follower:
            kept = a_hook("b", tenant="t9", revision=70)
            await store.replace_all(Snapshot((kept,), 77))
            await follower.until(lambda: len(follower.seen) == 2)
            assert follower.seen[1] == Snapshot((kept,), 77)
        assert await all_of(store) == {kept.token: kept}
        assert (await store.put(a_hook("c", tenant="t9"))).api_token == kept.api_token

    run(tmp_path, "sqlite", scenario)
