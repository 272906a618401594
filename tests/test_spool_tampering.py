"""Other processes at the spool's files: their locks delay, and what they remove or replace is brought back."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from test_publishers import MIB, a_message
from test_spool import names, publish, receipts, run, until

from webhookd.adapters import spool_commit, spool_db
from webhookd.adapters.spool import Spool, SpoolError, State
from webhookd.errors import Unpublished

FILES = ("spool.db", "spool.db-wal", "spool.db-shm")


@pytest.fixture
def path(tmp_path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder / "spool.db"


def found(path: Path, elsewhere: Path) -> list[str]:
    """What is on disk under the spool's names, as a start after a power cut would see it."""
    elsewhere.mkdir()
    for name in FILES[:2]:
        if path.with_name(name).exists():
            shutil.copy(path.with_name(name), elsewhere)
    with closing(sqlite3.connect(elsewhere / "spool.db")) as db:
        return [receipt for (receipt,) in db.execute("SELECT receipt FROM message ORDER BY seq")]


def remove_log(path: Path) -> None:
    path.with_name("spool.db-wal").unlink()


def replace_log(path: Path) -> None:
    log = path.with_name("spool.db-wal")
    old = log.read_bytes()
    log.unlink()
    log.write_bytes(old)


def remove_database(path: Path) -> None:
    path.unlink()


def move_database(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def remove_everything(path: Path) -> None:
    for name in FILES:
        path.with_name(name).unlink()


def restore_a_backup(path: Path) -> None:
    """Put an older copy of the database in the place of the one in use, as a restore does."""
    other = path.with_name("backup.db")
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE of_another_time (x)")
    other.rename(path)


TAMPERING = [remove_log, replace_log, remove_database, move_database, remove_everything, restore_a_backup]


@pytest.mark.parametrize("tamper", TAMPERING)
def test_what_was_confirmed_durable_stays_so(path, tmp_path, tamper: Callable[[Path], None]):
    """Whatever is taken away: at the next commit it is noticed, before that is answered."""

    async def scenario(spool: Spool) -> None:
        await publish(spool, *(a_message(n, bytes(5000)) for n in range(40)))
        with capture_logs() as logs:
            tamper(path)
            assert await publish(spool, a_message(40)) == ["spooled"]
        assert found(path, tmp_path / "copy") == names(*range(41))
        assert any("removed or replaced" in line["event"] for line in logs)
        held = [entry.seq for entry in await spool.entries(limit=100)]
        assert await spool.confirm(held[:20]) == 20
        assert await publish(spool, a_message(41)) == ["spooled"]
        assert spool.stats.failing is None
        assert await receipts(spool) == names(*range(20, 42))

    async def reopened(spool: Spool) -> None:
        assert await receipts(spool, bodies=True, max_bytes=MIB) == names(*range(20, 42))

    run(path, scenario, reopened)
    if tamper is restore_a_backup:
        (aside,) = path.parent.glob("spool.db.replaced-*[0-9]")
        with closing(sqlite3.connect(aside)) as db:
            db.execute("SELECT * FROM of_another_time")
    assert not path.with_name("spool.db.new").exists()
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_noticed_without_a_commit_too(path, tmp_path):
    async def scenario(spool: Spool) -> None:
        await publish(spool, a_message(1))
        with capture_logs() as logs:
            remove_everything(path)
            await until(lambda: any("opened again" in line["event"] for line in logs))
        assert found(path, tmp_path / "copy") == names(1)

    run(path, scenario)


def test_messages_are_refused_while_a_large_file_is_brought_back(path, monkeypatch):
    monkeypatch.setattr(spool_db, "COPIED", 10)

    async def scenario(spool: Spool) -> None:
        await publish(spool, *(a_message(n, bytes(100_000), hook=str(n)) for n in range(100)))
        with capture_logs() as logs:
            path.unlink()
            outcomes = await publish(spool, a_message(100), a_message(101, bytes(3 * MIB), hook="large"))
            assert all(isinstance(outcome, Unpublished) for outcome in outcomes)
            assert "removed or replaced" in str(outcomes[0])
            await until(lambda: any("opened again" in line["event"] for line in logs))
        assert await publish(spool, a_message(102)) == ["spooled"]
        assert set(names(*range(100), 102)) <= set(await receipts(spool))

    run(path, scenario)


def test_another_process_that_locks_the_file_only_delays(path):
    async def scenario(spool: Spool) -> None:
        await publish(spool, a_message(0))
        (entry,) = await spool.entries()
        with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
            other.execute("BEGIN IMMEDIATE")
            publishing = [spool.publish(a_message(n, hook=str(n % 2))) for n in range(1, 9)]
            publishing.append(spool.publish(a_message(9, bytes(3 * MIB))))
            confirming = asyncio.ensure_future(spool.confirm([entry.seq]))
            await until(lambda: any(line["event"] == "spool waits" for line in logs))
            assert spool.stats.failing is None
            assert not any(future.done() for future in publishing)
            other.execute("ROLLBACK")
            assert await asyncio.gather(*publishing) == ["spooled"] * 9
            assert await confirming == 1
        assert [line["event"] for line in logs] == ["spool waits", "spool goes on"]
        assert sorted(await receipts(spool)) == names(*range(1, 10))

    run(path, scenario)


def test_nobody_waits_for_a_lock_for_ever(path, monkeypatch):
    monkeypatch.setattr(spool_commit, "PATIENCE", 0.3)

    async def scenario(spool: Spool) -> None:
        await publish(spool, a_message(0))
        with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs():
            other.execute("BEGIN IMMEDIATE")
            outcomes = await publish(spool, a_message(1), a_message(2, bytes(3 * MIB)))
            assert ["another process" in str(outcome) for outcome in outcomes] == [True, True]
            with pytest.raises(SpoolError, match="another process"):
                await spool.mark([1], State.SET_ASIDE, None)
            other.execute("ROLLBACK")
        assert await publish(spool, a_message(3)) == ["spooled"]
        assert await receipts(spool) == names(0, 3)

    run(path, scenario)
