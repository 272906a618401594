"""Holds records on disk to what they promise: there after a restart, bounded, and never in a delivery's way."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from disks import disk
from harness import Daemon, until

from webhookd.adapters import records_file
from webhookd.adapters.records_file import RecordsFile
from webhookd.model import Record
from webhookd.settings import KEYS

TENANT = "42"
TOKEN = "a" * 40


def a_record(number: int, *, size: int = 2) -> Record:
    return Record(
        id=f"id-{number:08}",
        received_at=number,
        outcome="refused",
        reason="signature",
        status=401,
        detail="it is wrong",
        size=size,
        duration=0.25,
        headers={"x-name": "véry"},
        has_body=True,
    )


def stored(state_dir: Path) -> int:
    try:
        with closing(sqlite3.connect(f"{(state_dir / 'records.db').as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("SELECT count(*) FROM record").fetchone()[0]
    except sqlite3.Error:
        return 0


def seen(daemon: Daemon, hook, **caller) -> list[dict]:
    return daemon.config("GET", f"/wh/config/{hook['token']}/deliveries", **caller).json["deliveries"]


def body_of(daemon: Daemon, hook, id_: str, **caller) -> str | None:
    return daemon.config("GET", f"/wh/config/{hook['token']}/deliveries/{id_}", **caller).json.get("body")


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    file = RecordsFile(tmp_path / "records.db", per_hook=5, max_bytes=16 << 20)
    yield file
    file.close()


def test_what_is_written_is_read(file):
    file.write(
        [], [(TENANT, TOKEN, [(a_record(1), b"[1]"), (a_record(2), None)]), (TENANT, "b" * 40, [(a_record(3), b"")])]
    )
    file.write([], [(TENANT, TOKEN, [(a_record(4), b"[4]")])])
    file.close()
    assert file.load() == [(TENANT, "b" * 40, [a_record(3)]), (TENANT, TOKEN, [a_record(1), a_record(2), a_record(4)])]
    assert [file.body(a_record(n).id) for n in (1, 2, 3, 4, 5)] == [b"[1]", None, b"", b"[4]", None]


def test_the_last_of_each_hook_stay(file):
    for start in (0, 4, 8):
        file.write([], [(TENANT, TOKEN, [(a_record(n), b"x") for n in range(start, start + 4)])])
    assert file.load() == [(TENANT, TOKEN, [a_record(n) for n in range(7, 12)])]


def test_what_is_gone_goes_before_what_is_new_comes(file):
    file.write([], [(TENANT, TOKEN, [(a_record(1), None)]), (TENANT, "b" * 40, [(a_record(2), None)])])
    file.write([TOKEN, "c" * 40], [(TENANT, TOKEN, [(a_record(3), None)])])
    assert file.load() == [(TENANT, "b" * 40, [a_record(2)]), (TENANT, TOKEN, [a_record(3)])]


def test_nothing_of_what_is_gone_stays_on_disk(file, tmp_path):
    def on_disk() -> bool:
        return any(b"a canary" in path.read_bytes() for path in tmp_path.iterdir())

    body = b"a canary" * 5000
    file.write([], [(TENANT, TOKEN, [(a_record(1), body)]), (TENANT, "b" * 40, [(a_record(2), None)])])
    assert on_disk()
    with closing(sqlite3.connect(tmp_path / "records.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM record").fetchone()
        file.write([TOKEN], [])
    file.write([], [(TENANT, "b" * 40, [(a_record(3), None)])])
    assert not on_disk()
    assert file.load() == [(TENANT, "b" * 40, [a_record(2), a_record(3)])]


def test_the_file_is_bounded_and_the_oldest_go(file, tmp_path):
    body = b"x" * 60_000
    for number in range(600):
        file.write([], [(TENANT, f"{number:040}", [(a_record(number), body)])])
        assert (tmp_path / "records.db").stat().st_size <= 16 << 20
    numbers = [records[0].received_at for *_, records in file.load()]
    assert numbers == list(range(600 - len(numbers), 600))
    assert 50 < len(numbers) < 280
    assert file.body(a_record(599).id) == body


def test_a_tenant_that_has_much_pushes_out_nothing_of_those_that_have_little(file):
    little = [(f"tenant-{n}", f"{n:040}", [(a_record(n * 10 + m), b"x" * 10_000) for m in range(3)]) for n in range(20)]
    file.write([], little)
    for number in range(1000, 1300):
        file.write(
            [], [("noisy", f"{number:040}", [(a_record(number * 2), b"x" * 60_000), (a_record(number * 2 + 1), None)])]
        )
    kept = {tenant: [] for tenant in ("noisy", *(tenant for tenant, *_ in little))}
    for tenant, _, records in file.load():
        kept[tenant] += records
    assert {tenant: len(records) for tenant, records in kept.items() if tenant != "noisy"} == {
        tenant: len(records) for tenant, _, records in little
    }
    assert file.body(a_record(0).id) == b"x" * 10_000
    assert 200 < len(kept["noisy"]) < 400
    assert a_record(1299 * 2 + 1) in kept["noisy"]


def test_tenants_that_have_much_get_the_same_on_disk(file, monkeypatch):
    monkeypatch.setattr(records_file, "LARGEST", 2)  # so that there are more than are looked up at a time
    tenants = [f"tenant-{n}" for n in range(5)]
    for number in range(400):
        some = tenants[: 1 + number % 5]  # the first has most deliveries, the last has fewest
        file.write([], [(t, f"{t}-{number}", [(a_record(number * 5 + n), b"x" * 50_000)]) for n, t in enumerate(some)])
    counts = dict.fromkeys(tenants, 0)
    for tenant, _, records in file.load():
        counts[tenant] += len(records)
    assert max(counts.values()) - min(counts.values()) <= 5, counts
    assert sum(counts.values()) > 100


def test_more_than_the_file_takes_at_once(file):
    many = [(a_record(number), b"x" * 65_536) for number in range(600)]
    file.write([], [(TENANT, f"{number:040}", [one]) for number, one in enumerate(many)])
    assert file.load()
    assert (len(file.body(many[-1][0].id) or b"")) == 0


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_begun_anew(file, tmp_path, content):
    (tmp_path / "records.db").write_bytes(content)
    with pytest.raises(OSError, match="database"):
        file.load()
    file.write([], [(TENANT, TOKEN, [(a_record(1), None)])])
    assert file.load() == [(TENANT, TOKEN, [a_record(1)])]


def test_a_database_of_another_kind_is_begun_anew(file, tmp_path):
    with closing(sqlite3.connect(tmp_path / "records.db")) as db:
        db.execute("CREATE TABLE record (other TEXT, hook TEXT, seq INTEGER)")
    with pytest.raises(OSError, match="no such column"):
        file.load()
    file.write([], [(TENANT, TOKEN, [(a_record(1), None)])])
    assert file.load() == [(TENANT, TOKEN, [a_record(1)])]


def test_a_file_that_asks_for_more_is_begun_anew(file, tmp_path):
    file.write([], [(TENANT, TOKEN, [(a_record(1), None)])])
    file.close()
    with closing(sqlite3.connect(tmp_path / "records.db")) as db, db:
        db.execute("DROP TABLE record")
        db.execute(
            "CREATE TABLE record (seq INTEGER PRIMARY KEY, tenant TEXT, hook TEXT, id TEXT, record BLOB, body BLOB, bytes, more NOT NULL)"
        )
    with pytest.raises(OSError, match="NOT NULL"):
        file.write([], [(TENANT, TOKEN, [(a_record(2), None)])])
    file.write([], [(TENANT, TOKEN, [(a_record(2), b"body")])])
    assert file.load() == [(TENANT, TOKEN, [a_record(2)])]


def test_a_file_that_was_deleted_meanwhile_is_begun_anew(file, tmp_path):
    file.write([], [(TENANT, TOKEN, [(a_record(1), b"body")])])
    (tmp_path / "records.db").unlink()
    file.write([], [(TENANT, TOKEN, [(a_record(2), b"body")])])
    file.close()
    assert file.load() == [(TENANT, TOKEN, [a_record(2)])]
    assert (file.body(a_record(1).id), file.body(a_record(2).id)) == (None, b"body")


def test_records_of_another_version_are_passed_over(file, tmp_path):
    file.write([], [(TENANT, TOKEN, [(a_record(1), None), (a_record(2), None)])])
    file.close()
    with closing(sqlite3.connect(tmp_path / "records.db")) as db, db:
        db.execute("UPDATE record SET record = x'93010203' WHERE seq = 1")
    assert file.load() == [(TENANT, TOKEN, [a_record(2)])]


# --- the daemon ------------------------------------------------------------------------------------------------------


def test_records_are_there_after_a_restart(daemon):
    hook, other = daemon.hook("some", "thing"), daemon.hook("other", "thing")
    for number in range(3):
        daemon.deliver(hook, b"[%d]" % number)
    daemon.deliver(other, b"{ no JSON, and long enough")
    before = [seen(daemon, hook), seen(daemon, other)]
    daemon.stop()
    daemon.start()
    assert [seen(daemon, hook), seen(daemon, other)] == before
    assert body_of(daemon, other, before[1][0]["id"]) == "{ no JSON, and long enough"
    daemon.config("DELETE", f"/wh/config/{other['token']}")
    daemon.stop()
    assert stored(daemon.state_dir) == 3
    daemon.start()
    assert seen(daemon, hook) == before[0]


def test_a_crash_loses_no_more_than_the_last_seconds(daemon):
    hook = daemon.hook()
    daemon.deliver(hook, b"{ no JSON, and long enough")
    (before,) = seen(daemon, hook)
    until(lambda: stored(daemon.state_dir) == 1)
    assert body_of(daemon, hook, before["id"]) == "{ no JSON, and long enough"  # of the disk now
    daemon.kill()
    daemon.start()
    assert seen(daemon, hook) == [before]
    assert body_of(daemon, hook, before["id"]) == "{ no JSON, and long enough"


def test_records_of_a_hook_deleted_meanwhile_do_not_come_back(daemon):
    hook = daemon.hook()
    daemon.deliver(hook, b"{}")
    until(lambda: stored(daemon.state_dir) == 1)
    daemon.config("DELETE", f"/wh/config/{hook['token']}")
    daemon.kill()
    daemon.start()
    until(lambda: stored(daemon.state_dir) == 0)


def test_a_damaged_file_disturbs_nothing(daemon):
    hook = daemon.hook()
    daemon.deliver(hook, b"{}")
    daemon.stop()
    (daemon.state_dir / "records.db").write_bytes(b"\xff" * 100_000)
    daemon.start()
    assert seen(daemon, hook) == []
    assert daemon.deliver(hook, b"{}").status == 204
    until(lambda: stored(daemon.state_dir) == 1)
    daemon.stop()
    assert daemon.log.count("the records of earlier deliveries cannot be read") == 1
    daemon.start()
    assert len(seen(daemon, hook)) == 1


def test_a_disk_with_little_room_is_left_to_the_spool(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    with (
        disk(mount, "32m") as small,
        Daemon(tmp_path, wrapper=small.wrapper, state_dir=str(mount / "state"), spool_max_bytes="8MiB") as daemon,
    ):
        hook = daemon.hook()
        assert daemon.deliver(hook, b"{").status == 400
        until(lambda: "records of deliveries cannot be written" in daemon.log)
        assert daemon.deliver(hook, b"{}").status == 204
        assert len(seen(daemon, hook)) == 2
        assert daemon.stop() == 0
        assert daemon.log.count("records of deliveries cannot be written") == 1


def test_a_flood_to_one_tenant_leaves_the_records_of_another(tmp_path):
    body, flood = b"{ no JSON, and long enough", b"{" + b"x" * 60_000
    with Daemon(tmp_path, records_max_bytes="48MiB", records_max_disk="16MiB") as daemon:
        quiet = daemon.hook(tenant="quiet")
        noisy = [daemon.hook(event=f"event-{number}", tenant="noisy") for number in range(4)]
        daemon.deliver(quiet, body)
        (before,) = seen(daemon, quiet, tenant="quiet")
        for number in range(300):
            daemon.deliver(noisy[number % 4], flood)
        daemon.stop()
        assert stored(daemon.state_dir) < 200, "the flood has filled no file"
        daemon.flags["records_max_bytes"] = "1MiB"
        daemon.start()
        assert seen(daemon, quiet, tenant="quiet") == [before]
        assert body_of(daemon, quiet, before["id"], tenant="quiet") == body.decode()
        for number in range(40):
            daemon.deliver(noisy[number % 4], flood)
        assert sum(len(seen(daemon, hook, tenant="noisy")) for hook in noisy) < 200
        assert seen(daemon, quiet, tenant="quiet") == [before]


def test_none_are_on_disk_where_none_are_wanted(daemon):
    hook = daemon.hook()
    daemon.deliver(hook, b"{}")
    daemon.stop()
    assert stored(daemon.state_dir) == 1
    daemon.flags["records_per_hook"] = "0"
    daemon.start()
    assert not list(daemon.state_dir.glob("records.db*"))
    assert KEYS["records_per_hook"].default == "100"
