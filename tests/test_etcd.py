"""The store in etcd beyond what every store promises: each fault of a real etcd is told, got over, and costs no change."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from structlog.testing import capture_logs
from test_hook_stores import Follower, a_hook, all_of, following

from webhookd.adapters.etcd import EtcdStore
from webhookd.adapters.etcd_client import Access
from webhookd.adapters.etcd_keys import Keys, encoded
from webhookd.adapters.etcd_rpc import rpc
from webhookd.errors import Conflict, StoreError
from webhookd.forms import etcd_url
from webhookd.model import Hook, Secret
from webhookd.ports import Deleted

OTHER = "0123456789abcdef" * 2 + "01234567"
"""A token that no hook of these tests has."""


def open_store(url: str, access: Access | None = None) -> EtcdStore:
    return EtcdStore(*etcd_url(url), access or Access())


def keys_of(url: str) -> Keys:
    return Keys(etcd_url(url)[1])


@contextlib.asynccontextmanager
async def opened(url: str, access: Access | None = None) -> AsyncIterator[EtcdStore]:
    store = open_store(url, access)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def followed(url: str, access: Access | None = None) -> AsyncIterator[tuple[EtcdStore, Follower]]:
    async with opened(url, access) as store, following(store) as follower:
        yield store, follower


def test_no_two_things_share_a_key():
    keys, other = Keys("/a"), Keys("/a/")
    hooks = [a_hook(tenant="t", datasource="d", event=event) for event in ("e", "d", "e.f", "e:f")]
    hooks += [a_hook(tenant="hooks", datasource="d", event="e"), a_hook(tenant="d", datasource="t", event="e")]
    made = [keys.revision, keys.all, keys.hooks]
    for hook in hooks:
        made += [keys.hook(hook.token), keys.index(hook), keys.tenant(hook.tenant + hook.token)]
    assert len(set(made)) == len(made)
    assert all(key.startswith(b"/a/") for key in made)
    assert other.hook(OTHER) == keys.hook(OTHER)
    assert keys.token(keys.hook(OTHER)) == OTHER
    for stranger in (keys.revision, keys.hooks, keys.hook(OTHER[1:]), keys.hook(OTHER.upper()), keys.hook(OTHER + "/")):
        assert keys.token(stranger) is None


def test_a_prefix_is_a_store_of_its_own(etcd_prefix):
    async def main():
        written = []
        for url in (etcd_prefix, f"{etcd_prefix}0", f"{etcd_prefix}/deeper"):
            async with opened(url) as store:
                written.append(await store.put(a_hook()))
        for url, hook in zip((etcd_prefix, f"{etcd_prefix}0", f"{etcd_prefix}/deeper"), written, strict=True):
            async with opened(url) as store:
                assert await all_of(store) == {hook.token: hook}

    asyncio.run(main())


# --- several daemons --------------------------------------------------------------------------------------------------


def test_what_one_writes_the_other_is_told(etcd_prefix):
    """Within a second where nothing else keeps the machine busy."""

    async def main():
        async with followed(etcd_prefix) as (one, _), followed(etcd_prefix) as (_, other):
            written = await one.put(a_hook())
            await other.until(lambda: other.hooks == {written.token: written})
            await one.delete(written.token)
            await other.until(lambda: other.hooks == {})

    asyncio.run(main())


def test_concurrent_creations_on_two_end_in_one_hook_and_one_api_token(etcd_prefix):
    async def main():
        async with opened(etcd_prefix) as one, opened(etcd_prefix) as other:
            puts = [store.put(a_hook()) for store in (one, other) for _ in range(25)]
            puts += [store.put(a_hook(f"e{n}")) for store in (one, other) for n in range(10)]
            outcomes = await asyncio.gather(*puts, return_exceptions=True)
            written = [outcome for outcome in outcomes if isinstance(outcome, Hook)]
            conflicts = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert len(written) + len(conflicts) == len(outcomes)
            assert len({hook.key for hook in written}) == len(written) == 11
            assert {conflict.current for conflict in conflicts} <= set(written)
            assert len({hook.api_token for hook in written}) == 1
            assert await all_of(one) == await all_of(other) == {hook.token: hook for hook in written}

    asyncio.run(main())


def test_a_delete_and_an_update_at_once_leave_all_of_the_hook_or_nothing(etcd, etcd_prefix):
    async def main():
        async with opened(etcd_prefix) as one, opened(etcd_prefix) as other:
            for n in range(20):
                hook = await one.put(a_hook(f"e{n}"))
                update = one.put(msgspec.structs.replace(hook, ts_field="a"))
                await asyncio.gather(update, other.delete(hook.token), return_exceptions=True)
            assert await all_of(one) == {}

    asyncio.run(main())
    keys = etcd.ctl("get", "--prefix", "--keys-only", etcd_url(etcd_prefix)[1]).split()
    assert sorted(key.rsplit("/", 1)[1] for key in keys) == ["42", "revision"]


def test_two_deletes_at_once_name_a_revision_that_is_told(etcd_prefix):
    """Whoever deletes waits until that revision is there."""

    async def main():
        async with followed(etcd_prefix) as (one, follower), opened(etcd_prefix) as other:
            for n in range(10):
                hook = await one.put(a_hook(f"e{n}"))
                gone = await asyncio.gather(*(store.delete(hook.token) for store in (one, other, one, other)))
                await follower.until(lambda hook=hook: Deleted(hook.token, follower.revisions[-1]) in follower.seen)
                assert set(gone) == {follower.revisions[-1]}

    asyncio.run(main())


# --- what others put under the prefix -----------------------------------------------------------------------------------


BAD_RECORDS = {
    "no JSON": b"{",
    "no UTF-8": b'{"token": "\xff"}',
    "another type": b"[]",
    "a member missing": b'{"token": "x"}',
    "nested too deeply": b"[" * 100_000,
    "of another hook": encoded(a_hook()),
    "a tenant of the wrong form": encoded(a_hook(token=OTHER, tenant="a.b")),
    "an event of the wrong form": encoded(a_hook("#", token=OTHER)),
    "an unknown choice": encoded(a_hook(token=OTHER)).replace(b'"event"', b'"validation":"maybe","event"'),
}


@pytest.mark.parametrize("record", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_record_that_cannot_be_read_is_set_aside_and_harms_no_other(etcd_prefix, record):
    async def main():
        async with followed(etcd_prefix) as (store, follower):
            hook = await store.put(a_hook("good"))
            revision = await put_raw(store, keys_of(etcd_prefix).hook(OTHER), record)
            after = await store.put(a_hook("after"))
            await follower.until(lambda: after in follower.seen)
            _, told, aside, _ = follower.seen
            assert told == hook
            assert (aside.token, aside.revision) == (OTHER, revision)
            assert aside.reason
            async with opened(etcd_prefix) as late, following(late) as second:
                (snapshot,) = second.seen
                assert set(snapshot.hooks) == {hook, after}
                assert snapshot.set_aside == {OTHER: aside.reason}

    asyncio.run(main())


def test_keys_that_are_no_hooks_are_passed_over_and_said(etcd_prefix):
    async def main():
        keys = keys_of(etcd_prefix)
        strange = [keys.hooks + b"\xff\xfe", keys.hooks + b"x/" + OTHER.encode(), keys.hooks, keys.all + b"readme"]
        with capture_logs() as logs:
            async with followed(etcd_prefix) as (store, follower):
                for key in strange:
                    await put_raw(store, key, b"not ours")
                hook = await store.put(a_hook())
                await follower.until(lambda: hook in follower.seen)
                assert follower.seen[1:] == [hook]
            assert sum(line["count"] for line in logs) == 3
            logs.clear()
            async with opened(etcd_prefix) as late:
                assert await all_of(late) == {hook.token: hook}
            assert [line["count"] for line in logs] == [3]

    asyncio.run(main())


def test_a_hook_set_aside_is_replaced_once_its_key_is_deleted(etcd, etcd_prefix):
    async def main():
        keys = keys_of(etcd_prefix)
        async with followed(etcd_prefix) as (store, follower):
            broken = await store.put(a_hook())
            await put_raw(store, keys.hook(broken.token), b"junk")
            for again in (a_hook(), msgspec.structs.replace(broken, ts_field="a")):
                with pytest.raises(StoreError, match="cannot be decoded"):
                    await store.put(again)
            await asyncio.to_thread(etcd.ctl, "del", keys.hook(broken.token).decode())
            await follower.until(lambda: isinstance(follower.seen[-1], Deleted))
            fresh = await store.put(a_hook())
            assert fresh.api_token == broken.api_token
            with pytest.raises(Conflict) as caught:
                await store.put(a_hook())
            assert caught.value.current == fresh
            await put_raw(store, keys.hook(fresh.token), b"junk")
            await store.delete(fresh.token)
            last = await store.put(a_hook())
            await follower.until(lambda: follower.hooks == {last.token: last})

    asyncio.run(main())


def test_an_index_that_names_another_hook_is_left_to_it(etcd_prefix):
    async def main():
        keys = keys_of(etcd_prefix)
        async with opened(etcd_prefix) as store:
            first, second = await store.put(a_hook("a")), await store.put(a_hook("b"))
            await put_raw(store, keys.index(first), second.token.encode())
            with pytest.raises(Conflict) as caught:
                await store.put(msgspec.structs.replace(first, ts_field="a"))
            assert caught.value.current == second
            await store.delete(first.token)
            assert await all_of(store) == {second.token: second}
            with pytest.raises(Conflict) as caught:
                await store.put(a_hook("a"))
            assert caught.value.current == second

    asyncio.run(main())


def test_a_token_that_another_hook_has_is_refused(etcd_prefix):
    async def main():
        async with opened(etcd_prefix) as store:
            first = await store.put(a_hook("a", tenant="t1"))
            with pytest.raises(StoreError, match="another hook has this token"):
                await store.put(a_hook("b", tenant="t2", token=first.token))
            assert await all_of(store) == {first.token: first}

    asyncio.run(main())


def test_a_creation_that_is_repeated_finds_itself(etcd_prefix):
    async def main():
        async with opened(etcd_prefix) as store:
            hook = a_hook()
            written = await store.put(hook)
            with pytest.raises(Conflict) as caught:
                await store.put(hook)
            assert caught.value.current == written

    asyncio.run(main())


def test_a_record_that_etcd_finds_too_large_is_refused(etcd_prefix):
    async def main():
        async with opened(etcd_prefix) as store:
            with pytest.raises(StoreError, match="too large"):
                await store.put(a_hook(base_url="https://" + "x" * 2_000_000))
            assert await all_of(store) == {}

    asyncio.run(main())


async def put_raw(store: EtcdStore, key: bytes, value: bytes) -> int:
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
    return (await store._client.txn(rpc.TxnRequest(success=[put]))).header.revision


# --- size ---------------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_hooks_load_in_time(etcd_prefix):
    hooks = [
        a_hook(
            f"e{n}",
            tenant=f"t{n % 1000}",
            secrets=(Secret("a secret of some length"),),
            ts_field="commits[0].timestamp",
        )
        for n in range(100_000)
    ]

    async def main():
        async with opened(etcd_prefix) as store, opened(etcd_prefix) as reader:
            await put_many(store, keys_of(etcd_prefix), hooks)
            began = time.perf_counter()
            follower = Follower(reader)
            await follower.until(lambda: bool(follower.seen), 60)
            print(f"\n100,000 hooks loaded in {time.perf_counter() - began:.2f} s")
            assert len(follower.hooks) == 100_000
            assert msgspec.structs.replace(follower.hooks[hooks[-1].token], revision=0) == hooks[-1]
            await follower.stop()

    asyncio.run(main())


def test_pages_may_be_larger_than_grpc_takes_by_itself(etcd_prefix):
    async def main():
        async with opened(etcd_prefix) as store:
            for n in range(6):
                await store.put(a_hook(f"e{n}", base_url="https://" + "x" * 1_000_000))
            assert len(await all_of(store)) == 6

    asyncio.run(main())


def test_a_burst_of_changes_is_followed(etcd_prefix):
    hooks = [a_hook(f"e{n}") for n in range(20_000)]

    async def main():
        async with opened(etcd_prefix) as store, followed(etcd_prefix) as (_, follower):
            await put_many(store, keys_of(etcd_prefix), hooks)
            await follower.until(lambda: len(follower.hooks) == len(hooks), 60)
            assert len(follower.seen) == len(hooks) + 1

    asyncio.run(main())


async def put_many(store: EtcdStore, keys: Keys, hooks: list[Hook]) -> None:
    """Write records alone, as many in a transaction as etcd takes."""
    for first in range(0, len(hooks), 128):
        puts = [(keys.hook(hook.token), encoded(hook)) for hook in hooks[first : first + 128]]
        requests = [rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value)) for key, value in puts]
        await store._client.txn(rpc.TxnRequest(success=requests))


# --- in the process -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [None, "ERROR"])
def test_grpc_keeps_off_standard_error_and_the_environment_is_left_as_it_was(level):
    script = """if True:
        import asyncio, os
        from webhookd.adapters.etcd import EtcdStore
        from webhookd.adapters.etcd_client import Access
        from webhookd.errors import StoreError
        async def main(ca):
            store = EtcdStore(["127.0.0.1:1"], "/x", Access(cafile=ca))
            try:
                await store.delete("x")
            except StoreError as error:
                print(error)
            await store.close()
        import pathlib
        pathlib.Path("ca").write_text("no certificate")
        for ca in (None, pathlib.Path("ca")):
            asyncio.run(main(ca))
        print(os.environ.get("GRPC_VERBOSITY"))
    """
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if level:
        environ["GRPC_VERBOSITY"] = level
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
        cwd=os.environ.get("TMPDIR", "/tmp"),
    )
    refused, untrusted, left = done.stdout.splitlines()
    assert refused.startswith("etcd at 127.0.0.1:1: ")
    assert untrusted.startswith("etcd at 127.0.0.1:1: ")
    assert left == str(level)
    assert (done.stderr == "") == (level is None)
