"""The hooks in memory follow the store; its operator is told once when they do not, and once when they do again."""

import asyncio
import math
import sys
from types import SimpleNamespace

from structlog.testing import capture_logs
from test_hooks import hook
from test_remembered import Told, eventually

from webhookd import following
from webhookd.hooks import HookTable
from webhookd.logs import hook_id
from webhookd.ports import Change, Checked, Deleted, Lost, SetAside, Snapshot


def follow(*changes: Change) -> tuple[HookTable, str | None, list[dict]]:
    """Return what the table holds after `changes`, what readiness says of the store, and the log."""
    table, vitals = HookTable(), SimpleNamespace(store_fault=None)

    async def main() -> None:
        told = Told(*changes)
        async with following.following(told, table, vitals):
            await eventually(told.news.empty)

    with capture_logs() as logs:
        asyncio.run(main())
    return table, vitals.store_fault, logs


def test_changes_arrive_and_nothing_is_said():
    table, fault, logs = follow(Snapshot((hook(1), hook(2)), 2), hook(3), Deleted(hook(1).token, 4), Checked(1.0))
    assert {table.get(hook(n).token) for n in (1, 2, 3)} == {None, hook(2), hook(3)}
    assert (fault, logs) == (None, [])


def test_a_snapshot_is_let_go_of_once_it_is_taken_over():
    hooks = tuple(hook(number) for number in range(3))

    class Quiet:
        async def changes(self):
            yield Snapshot(hooks, 1)
            await asyncio.Event().wait()

    async def main():
        before = sys.getrefcount(hooks)
        async with following.following(Quiet(), HookTable(), SimpleNamespace(store_fault=None)):
            assert sys.getrefcount(hooks) == before

    with capture_logs():
        asyncio.run(main())


def test_an_outage_is_told_once_and_its_end_once():
    known = Snapshot((hook(1),), 1, checked=1.0)
    _, fault, logs = follow(known, Lost("first"), Lost("second"), known, Checked(2.0), Lost("third"))
    assert fault == "third"
    assert [(line["event"], line.get("error")) for line in logs] == [
        ("the hooks in memory no longer follow the store", "first"),
        ("the hooks in memory follow the store again", None),
        ("the hooks in memory no longer follow the store", "third"),
    ]
    assert logs[1]["seconds"] >= 0


def test_what_is_remembered_ends_no_outage():
    remembered = Snapshot((hook(1),), 1, checked=-math.inf)
    table, fault, logs = follow(Lost("away"), remembered)
    assert table.get(hook(1).token) == hook(1)
    assert fault == "away"
    assert len(logs) == 1


def test_a_store_that_says_nothing_is_an_outage_too():
    _, fault, logs = follow(Snapshot((hook(1),), 1, checked=-math.inf))
    assert "no answer yet" in fault
    assert [line["event"] for line in logs] == ["the hooks in memory no longer follow the store"]


def test_hooks_set_aside_are_told_by_their_hash_and_not_again():
    bad = {hook(n).token: "no JSON" for n in range(following.SHOWN + 3)}
    changes = (Snapshot((), 1, bad), Snapshot((), 2, bad), SetAside(hook(0).token, 3, "no JSON"))
    _, fault, logs = follow(*changes, SetAside(hook(0).token, 4, "another fault"))
    assert fault is None
    assert [line.get("hook") for line in logs] == [
        *(hook_id(token) for token in list(bad)[: following.SHOWN]),
        None,
        hook_id(hook(0).token),
    ]
    assert logs[following.SHOWN]["count"] == 3
    assert logs[-1]["reason"] == "another fault"
    assert not any(token in str(logs) for token in bad)
