import asyncio
import math

import msgspec
import pytest

from webhookd.errors import HooksNotCurrent, UnknownHook
from webhookd.hooks import HookTable
from webhookd.model import Hook, Rotation, Secret
from webhookd.ports import Checked, Deleted, Lost, SetAside, Snapshot


def hook(number: int, tenant: str = "42", **fields) -> Hook:
    return Hook(
        **{
            "token": f"{number:040x}",
            "api_token": f"api-{tenant}",
            "tenant": tenant,
            "datasource": "github",
            "event": f"event-{number}",
            "base_url": "https://webhook.example.org",
            "created_at": 1000 - number,
            "revision": number,
        }
        | fields
    )


def table(*hooks: Hook) -> HookTable:
    made = HookTable()
    made.apply(Snapshot(hooks, revision=10))
    return made


def test_before_the_first_snapshot_nothing_is_known_not_to_exist():
    empty = HookTable()
    assert not empty.loaded
    with pytest.raises(HooksNotCurrent):
        empty.find("api-42", hook(1).token)
    empty.apply(Snapshot((), revision=0))
    assert empty.loaded
    with pytest.raises(UnknownHook):
        empty.find("api-42", hook(1).token)


def test_a_known_hook_is_found_even_while_the_table_is_not_current():
    known = table(hook(1))
    known.apply(Snapshot((hook(1),), revision=10, checked=-math.inf))
    assert known.find("api-42", hook(1).token) == hook(1)
    with pytest.raises(HooksNotCurrent):
        known.find("api-42", hook(2).token)


def test_the_table_is_current_for_ten_seconds_after_the_store_was_checked():
    time = [100.0]
    known = HookTable(lambda: time[0])
    known.apply(Snapshot((hook(1),), revision=10, checked=95.0))
    assert known.current
    assert known.following
    known.apply(Lost("etcd is away"))
    assert known.current
    assert not known.following
    time[0] = 105.1
    assert not known.current
    known.apply(Checked(104.0))
    assert known.current
    assert known.following
    assert known.revision == 10


def test_a_store_of_one_writer_is_current_until_it_is_lost():
    time = [100.0]
    known = HookTable(lambda: time[0])
    known.apply(Snapshot((hook(1),), revision=10))
    time[0] = 1e9
    assert known.current
    known.apply(Lost("the disk is away"))
    assert known.current
    time[0] += 10.1
    assert not known.current


def test_a_hook_whose_record_cannot_be_read_is_not_known_to_be_none():
    known = table(hook(1), hook(2))
    known.apply(SetAside(hook(1).token, 11, "it is no JSON"))
    assert known.revision == 11
    assert known.by_key("42", "github", "event-1") is None
    with pytest.raises(HooksNotCurrent):
        known.find("api-42", hook(1).token)
    assert known.find("api-42", hook(2).token)
    known.apply(hook(1, revision=12))
    assert known.find("api-42", hook(1).token)
    known.apply(Snapshot((hook(2),), 13, set_aside={hook(1).token: "it is no JSON"}))
    with pytest.raises(HooksNotCurrent):
        known.find("api-42", hook(1).token)
    known.apply(Deleted(hook(1).token, 14))
    with pytest.raises(UnknownHook):
        known.find("api-42", hook(1).token)


@pytest.mark.parametrize("api_token", ["api-43", "", "é", "\udcff", "api-42 "])
def test_both_tokens_must_be_the_hooks(api_token):
    with pytest.raises(UnknownHook):
        table(hook(1)).find(api_token, hook(1).token)


def test_changes_are_taken_over():
    hooks = table(hook(1), hook(2), hook(3, "7"))
    assert (len(hooks), hooks.tenants, hooks.revision) == (3, 2, 10)
    hooks.apply(hook(1, ts_field="a.b", revision=11))
    assert hooks.get(hook(1).token).ts_field == "a.b"
    assert hooks.by_key("42", "github", "event-1").revision == 11
    hooks.apply(Deleted(hook(3).token, 12))
    assert (len(hooks), hooks.tenants, hooks.revision) == (2, 1, 12)
    hooks.apply(Deleted(hook(3).token, 13))
    assert hooks.by_key("7", "github", "event-3") is None
    hooks.apply(Snapshot((hook(9),), 20))
    assert [h.token for h in hooks.of_tenant("42")] == [hook(9).token]
    assert hooks.get(hook(1).token) is None


def test_a_tenants_hooks_are_listed_oldest_first():
    assert [h.created_at for h in table(hook(1), hook(3), hook(2)).of_tenant("42")] == [997, 998, 999]
    assert table().of_tenant("42") == []


def test_reached_waits_for_the_revision():
    async def scenario():
        hooks = table()
        await hooks.reached(10)
        waiting = [asyncio.create_task(hooks.reached(revision)) for revision in (11, 12)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        hooks.apply(hook(1, revision=11))
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [True, False]
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        hooks.apply(hook(1, revision=12))
        await asyncio.wait_for(hooks.first_snapshot(), 1)

    asyncio.run(scenario())


def test_no_token_or_secret_is_shown():
    secretive = hook(1, secrets=(Secret("hush-hush"), Secret("old-hush", 5)))
    assert "hush" not in repr(secretive)
    assert secretive.token not in repr(secretive)
    assert msgspec.json.decode(msgspec.json.encode(secretive), type=Hook) == secretive


def test_an_old_secret_is_valid_until_its_end():
    rotated = hook(1, secrets=(Secret("new"), Secret("old", 100)))
    assert rotated.valid_secrets(99) == ("new", "old")
    assert rotated.valid_secrets(100) == ("new",)
    assert rotated.signed
    assert not hook(1).signed


FULL = hook(
    1,
    tenant_is_int=True,
    ts_field="a.b",
    secrets=(Secret("hush-hush"),),
    validation="enforce",
    on_mismatch="ignore",
)


def test_a_stored_hook_is_the_hook_in_every_field_but_its_revision():
    assert FULL.stored(7) == msgspec.structs.replace(FULL, revision=7)
    assert FULL.stored(7, hook(2)) == msgspec.structs.replace(FULL, revision=7)
    assert hook(1).stored(7, hook(2, "7")) == hook(1, revision=7)
    moved = hook(1, api_token="another")
    assert moved.stored(7, hook(2)) == msgspec.structs.replace(moved, revision=7)


def test_hooks_that_come_one_by_one_share_their_words():
    """As those of a snapshot do: a daemon that saw a million hooks come needs no more memory than one that read them."""

    def fresh(number: int) -> Hook:
        return msgspec.json.decode(msgspec.json.encode(hook(number, event="push", ts_field="a.b")), type=Hook)

    one, other = fresh(1), fresh(2)
    assert one.api_token is not other.api_token
    known = table(fresh(3))
    for each in (one, msgspec.structs.replace(other, datasource="circleci")):
        known.apply(each)
    one, other = known.get(one.token), known.get(other.token)
    assert (one.api_token is other.api_token, one.tenant is other.tenant) == (True, True)
    assert (one.event is other.event, one.ts_field is other.ts_field, one.base_url is other.base_url) == (True,) * 3


# --- other tokens -----------------------------------------------------------------------------------------------------


def rotated(number: int, token: str, previous: str | None = None, until: int = 0, **fields) -> Hook:
    tokens = Rotation(first=hook(number).token, previous=previous, until=until)
    return hook(number, token=token, rotation=tokens, **fields)


def table_at(time: list[float], *hooks: Hook) -> HookTable:
    made = HookTable(clock=lambda: time[0])
    made.apply(Snapshot(hooks, revision=10))
    return made


def found(known: HookTable, *tokens: str) -> list[bool]:
    """Say of each token whether the table has a hook for it, in both ways to ask."""
    held = []
    for token in tokens:
        try:
            known.find("api-42", token)
        except UnknownHook:
            assert known.get(token) is None
            held.append(False)
        else:
            assert known.get(token) is known.find("api-42", token)
            held.append(True)
    return held


@pytest.mark.parametrize("at_once", [True, False])
def test_a_previous_token_is_the_hooks_until_its_time_is_over(at_once):
    first, time = hook(1), [1.0]
    second = rotated(1, "b" * 40, first.token, 2000, revision=11)
    known = table_at(time, second if at_once else first)
    known.apply(second)
    assert known.find("api-42", first.token) == second
    assert found(known, first.token, second.token) == [True, True]
    for api_token in ("api-43", "", "\u00e9"):
        with pytest.raises(UnknownHook):
            known.find(api_token, first.token)
    assert (len(known), known.of_tenant("42"), known.by_key(*first.key)) == (1, [second], second)
    time[0] = 1.999
    assert found(known, first.token) == [True]
    time[0] = 2.0
    assert found(known, first.token, second.token) == [False, True]
    assert known.get(second.token) == second


def test_a_newer_token_ends_the_oldest_and_deleting_ends_all():
    known = table_at([1.0], hook(1), hook(2))
    first, second, third = hook(1).token, "b" * 40, "c" * 40
    known.apply(rotated(1, second, first, 2000, revision=11))
    known.apply(rotated(1, third, second, 2000, revision=12))
    assert found(known, first, second, third) == [False, True, True]
    known.apply(rotated(1, third, revision=13))
    assert found(known, first, second, third) == [False, False, True]
    known.apply(Snapshot((rotated(1, third, second, 2000), hook(2)), 14))
    assert found(known, first, second, third) == [False, True, True]
    known.apply(Deleted(first, 15))
    assert found(known, first, second, third, hook(2).token) == [False, False, False, True]
    assert (len(known), known.of_tenant("42")) == (1, [hook(2)])


def test_a_table_that_is_not_current_does_not_say_that_an_old_token_is_none():
    known = table_at([3.0])
    known.apply(Snapshot((rotated(1, "b" * 40, hook(1).token, 2000),), 11, checked=-math.inf))
    with pytest.raises(HooksNotCurrent):
        known.find("api-42", hook(1).token)


@pytest.mark.parametrize("by", ["change", "snapshot", "both"])
def test_the_tokens_of_a_hook_set_aside_are_not_known_to_be_none(by):
    first, second = hook(1), rotated(1, "b" * 40, hook(1).token, 2000)
    known = table_at([1.0], second, hook(2))
    if by != "snapshot":
        known.apply(SetAside(first.token, 11, "it is no JSON"))
    if by != "change":
        known.apply(Snapshot((hook(2),), 12, set_aside={first.token: "it is no JSON"}))
    assert len(known.set_aside) == 1
    for token in (first.token, second.token):
        assert known.get(token) is None
        with pytest.raises(HooksNotCurrent):
            known.find("api-42", token)
    assert found(known, hook(2).token, "e" * 40) == [True, False]
    known.apply(rotated(1, "c" * 40, revision=13))
    assert found(known, first.token, second.token, "c" * 40) == [False, False, True]
    known.apply(Snapshot((), 14))
    assert found(known, first.token, second.token, "c" * 40) == [False, False, False]
