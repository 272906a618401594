"""Each fault of a real etcd is told once, got over without help, and costs no change."""

import asyncio
import contextlib
import dataclasses
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from certificates import Certificates
from harness import PATIENCE, need
from servers import Etcd
from test_etcd import followed, keys_of, opened
from test_hook_stores import Follower, a_hook, all_of, following

from webhookd.adapters import etcd as adapter
from webhookd.adapters import etcd_client, etcd_follow
from webhookd.adapters.etcd import EtcdStore
from webhookd.adapters.etcd_client import Access
from webhookd.adapters.etcd_rpc import rpc
from webhookd.errors import ConfigurationError, StoreError
from webhookd.model import Hook
from webhookd.ports import Lost, Snapshot


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Look, and try again, after tenths of the seconds that it takes in production."""
    monkeypatch.setattr(etcd_follow, "PROBE", 0.2)
    monkeypatch.setattr(adapter, "RETRY", (0.05, 0.3))


def lost(follower: Follower) -> list[str]:
    return [change.reason for change in follower.seen if isinstance(change, Lost)]


async def until_lost(follower: Follower, seconds: float = PATIENCE) -> str:
    await follower.until(lambda: isinstance(follower.seen[-1], Lost), seconds)
    return follower.seen[-1].reason


async def until_told(follower: Follower, *hooks: Hook, seconds: float = PATIENCE) -> None:
    expected = {hook.token: hook for hook in hooks}
    await follower.until(lambda: follower.hooks == expected and not isinstance(follower.seen[-1], Lost), seconds)


async def eventually(call: Callable[[], Awaitable[object]], seconds: float = PATIENCE) -> object:
    """Repeat a call of a store until it can be reached."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(StoreError):
                return await call()
            await asyncio.sleep(0.05)


def test_it_is_checked_all_the_time(etcd_prefix):
    async def main():
        began = time.monotonic()
        async with followed(etcd_prefix) as (_, follower):
            (snapshot,) = follower.seen
            assert began <= snapshot.checked <= time.monotonic()
            for _ in range(3):
                last = follower.checked
                await follower.until(lambda last=last: follower.checked > last)
                assert follower.checked <= time.monotonic()
            assert len(follower.seen) == 1

    asyncio.run(main())


@pytest.mark.parametrize("end", [Etcd.kill, Etcd.stop])
def test_what_changed_while_it_could_not_be_reached_is_told(own_etcd, end):
    server = own_etcd()

    async def main():
        async with followed(server.url()) as (store, follower), opened(server.url()) as other:
            kept, gone = await store.put(a_hook("kept")), await store.put(a_hook("gone"))
            await until_told(follower, kept, gone)
            await asyncio.to_thread(end, server)
            assert (await until_lost(follower)).startswith(f"etcd at 127.0.0.1:{server.port}: ")
            with pytest.raises(StoreError, match=rf"^etcd at 127\.0\.0\.1:{server.port}: .*refused"):
                await store.put(a_hook("no"))
            assert set(follower.hooks) == {kept.token, gone.token}
            await asyncio.to_thread(server.start)
            await eventually(lambda: other.delete(gone.token))
            new = await other.put(a_hook("new"))
            await asyncio.to_thread(server.ctl, "compact", str(new.revision))
            await until_told(follower, kept, new)
            last = await eventually(lambda: store.put(a_hook("last")))
            await until_told(follower, kept, new, last)

    asyncio.run(main())


def test_it_is_not_there_at_first(own_etcd):
    server = own_etcd()
    server.kill()

    async def main():
        async with followed(server.url()) as (store, follower):
            assert "refused" in await until_lost(follower)
            await asyncio.to_thread(server.start)
            await until_told(follower)
            hook = await store.put(a_hook())
            await until_told(follower, hook)

    asyncio.run(main())


def test_it_hangs(own_etcd):
    """A watch says nothing of this for ever; the probe and the deadline of each call do."""
    server = own_etcd()

    async def main():
        async with followed(server.url()) as (store, follower):
            hook = await store.put(a_hook())
            server.pause()
            began = time.monotonic()
            with pytest.raises(StoreError, match="no answer within 3 s"):
                await store.put(a_hook("b"))
            assert time.monotonic() - began < 5
            assert "no answer within 3 s" in await until_lost(follower, 10)
            last = follower.checked
            server.resume()
            await follower.until(lambda: follower.checked > last, 30)
            found = await all_of(store)
            assert found[hook.token] == hook
            await until_told(follower, *found.values())

    asyncio.run(main())


@pytest.mark.parametrize("moment", ["while loading", "before watching"])
def test_compaction_in_the_middle_of_a_start(etcd, etcd_prefix, monkeypatch, moment):
    monkeypatch.setattr(etcd_follow, "PAGE", 3)
    compactions = []

    async def compact(store: EtcdStore) -> None:
        newest = [await store.put(a_hook(f"new{len(compactions)}{n}")) for n in range(2)][-1]
        compactions.append(newest.revision)
        await asyncio.to_thread(etcd.ctl, "compact", str(newest.revision))

    async def main():
        async with opened(etcd_prefix) as store, opened(etcd_prefix) as other:
            for n in range(7):
                await other.put(a_hook(f"e{n}"))
            load, watch = etcd_client.EtcdClient.range, etcd_client.EtcdClient.watch

            async def disturbed_range(self, request):
                if self is store._client and request.revision and moment == "while loading" and not compactions:
                    await compact(other)
                return await load(self, request)

            @contextlib.asynccontextmanager
            async def disturbed_watch(self, request):
                if self is store._client and moment == "before watching" and not compactions:
                    await compact(other)
                async with watch(self, request) as responses:
                    yield responses

            monkeypatch.setattr(etcd_client.EtcdClient, "range", disturbed_range)
            monkeypatch.setattr(etcd_client.EtcdClient, "watch", disturbed_watch)
            async with following(store) as follower:
                assert "compacted" in await until_lost(follower)
                await until_told(follower, *(await all_of(other)).values())
                assert len(follower.hooks) == 9
                assert len(compactions) == 1

    asyncio.run(main())


def test_it_was_wiped(own_etcd):
    server = own_etcd()

    async def main():
        async with followed(server.url()) as (store, follower):
            first = await store.put(a_hook())
            await until_told(follower, first)
            server.kill()
            server.wipe()
            await asyncio.to_thread(server.start)
            await until_told(follower)
            second = await eventually(lambda: store.put(a_hook()))
            assert second.revision <= first.revision
            await until_told(follower, second)

    asyncio.run(main())


def test_it_was_restored_from_a_backup(own_etcd, tmp_path):
    server = own_etcd()

    def restore() -> None:
        server.kill()
        server.wipe()
        peer = f"http://127.0.0.1:{server.peer_port}"
        name = server.folder.name
        server.ctl(
            *("snapshot", "restore", str(tmp_path / "backup"), f"--data-dir={server.folder / 'data'}"),
            *(f"--name={name}", f"--initial-cluster={name}={peer}", f"--initial-advertise-peer-urls={peer}"),
        )
        server.start()

    async def main():
        async with followed(server.url()) as (store, follower):
            kept = await store.put(a_hook("kept"))
            server.ctl("snapshot", "save", str(tmp_path / "backup"))
            lost = await store.put(a_hook("lost"))
            await until_told(follower, kept, lost)
            await asyncio.to_thread(restore)
            await until_told(follower, kept)
            new = await eventually(lambda: store.put(a_hook("new")))
            assert new.api_token == kept.api_token
            await until_told(follower, kept, new)

    asyncio.run(main())


def test_a_watch_that_is_silent(etcd_prefix, monkeypatch):
    """etcd takes a watch from a revision that it has not reached, and tells nothing of what comes before that."""
    monkeypatch.setattr(etcd_follow, "SILENT", 0.3)
    ahead = [10**6]

    def create(**fields):
        fields["start_revision"] += ahead.pop() if ahead else 0
        return request(**fields)

    request = rpc.WatchCreateRequest
    monkeypatch.setattr(rpc, "WatchCreateRequest", create)

    async def main():
        async with followed(etcd_prefix) as (store, follower):
            hook = await store.put(a_hook())
            assert "the watch tells nothing" in await until_lost(follower)
            await until_told(follower, hook)
            assert len(lost(follower)) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: setattr(header, "revision", header.revision - 1), "went back"),
        (lambda header: setattr(header, "cluster_id", 7), "another cluster"),
    ],
)
def test_a_probe_that_finds_another_past(etcd_prefix, monkeypatch, change, words):
    """As behind an address that stands for several members: no connection ends, and yet it is another store."""
    load = etcd_client.EtcdClient.range
    probes = []

    async def disturbed(self, request):
        answer = await load(self, request)
        if request.key == keys_of(etcd_prefix).revision:
            probes.append(answer)
            if len(probes) == 3:
                change(answer.header)
        return answer

    monkeypatch.setattr(etcd_client.EtcdClient, "range", disturbed)

    async def main():
        async with followed(etcd_prefix) as (store, follower):
            hook = await store.put(a_hook())
            assert words in await until_lost(follower)
            await until_told(follower, hook)
            await follower.until(lambda: len(probes) > 5)
            assert len(lost(follower)) == 1

    asyncio.run(main())


def test_a_quota_that_is_used_up_refuses_what_is_written_and_nothing_else(own_etcd):
    server = own_etcd(f"--quota-backend-bytes={1 << 20}")

    async def main():
        async with followed(server.url()) as (store, follower):
            written = []
            with contextlib.suppress(StoreError):
                while len(written) < 1000:
                    written.append(await store.put(a_hook(f"e{len(written)}", base_url="https://" + "x" * 100_000)))
            assert written
            with pytest.raises(StoreError, match="database space exceeded"):
                await store.put(a_hook())
            tokens = {hook.token for hook in written}  # the first that is refused is written all the same
            await follower.until(lambda: tokens <= follower.hooks.keys())
            checked = follower.checked
            await follower.until(lambda: follower.checked > checked)
            assert lost(follower) == []

    asyncio.run(main())


# --- several members --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Etcd.kill, Etcd.pause])
def test_another_member_takes_over(tmp_path, end):
    members = Etcd.cluster(tmp_path, 3)
    url = f"etcd://{','.join(f'127.0.0.1:{member.port}' for member in members)}/test"
    try:

        async def main():
            async with followed(url) as (store, follower):
                first = await store.put(a_hook("first"))
                await until_told(follower, first)
                port = int(store._client._endpoints[0].rpartition(":")[2])
                (used,) = [member for member in members if member.port == port]
                end(used)
                began = time.monotonic()
                second = await eventually(lambda: store.put(a_hook("second")))
                await until_told(follower, first, second)
                assert time.monotonic() - began < 15
                assert port != int(store._client._endpoints[0].rpartition(":")[2])

        asyncio.run(main())
    finally:
        for member in members:
            member.close()


def test_a_member_that_lost_its_cluster_is_left(tmp_path):
    """Its connections stay open, and it answers, if only that there is no leader."""
    members = Etcd.cluster(tmp_path, 3)
    url = f"etcd://{','.join(f'127.0.0.1:{member.port}' for member in members)}/test"
    try:

        async def main():
            async with followed(url) as (store, follower):
                first = await store.put(a_hook("first"))
                port = int(store._client._endpoints[0].rpartition(":")[2])
                for member in members:
                    if member.port != port:
                        member.kill()
                await until_lost(follower)
                for member in members:
                    if member.port != port:
                        member.launch()
                second = await eventually(lambda: store.put(a_hook("second")))
                await until_told(follower, first, second)

        asyncio.run(main())
    finally:
        for member in members:
            member.close()


# --- who may do what --------------------------------------------------------------------------------------------------


def secure(server: Etcd, prefix: str = "/test/") -> None:
    """Let the user webhookd do what docs/rabbitmq-and-etcd.md grants it, and nobody else anything."""
    server.ctl("user", "add", "root:root")
    server.ctl("user", "grant-role", "root", "root")
    server.ctl("role", "add", "webhookd")
    server.ctl("role", "grant-permission", "webhookd", "readwrite", "--prefix=true", prefix)
    server.ctl("user", "add", "webhookd:hunter2 hunter2")
    server.ctl("user", "grant-role", "webhookd", "webhookd")
    server.ctl("auth", "enable")


ROOT = ("--user=root:root",)
ACCESS = Access(user="webhookd", password=lambda: b"hunter2 hunter2")


def test_the_least_privileges_are_enough(own_etcd):
    server = own_etcd()
    secure(server)

    async def main():
        async with followed(server.url(), ACCESS) as (store, follower):
            hooks = [await store.put(a_hook(f"e{n}")) for n in range(3)]
            await store.delete(hooks.pop().token)
            await until_told(follower, *hooks)
            await follower.until(lambda: follower.checked > time.monotonic() - 5)
            assert lost(follower) == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (Access(), "user name is empty"),
        (Access(user="webhookd", password=lambda: b"wrong"), "authentication failed"),
        (Access(user="nobody", password=lambda: b"hunter2"), "authentication failed"),
        (Access(user="webhookd", password=lambda: b"hunter2 \xff"), "the password is not UTF-8"),
    ],
)
def test_who_may_not_in_is_told_so_and_no_password(own_etcd, access, words):
    server = own_etcd()
    secure(server)

    async def main():
        async with followed(server.url(), access) as (store, follower):
            assert words in await until_lost(follower)
            with pytest.raises(StoreError, match=words):
                await store.put(a_hook())
            assert "hunter2" not in str(follower.seen)
            assert "wrong" not in str(follower.seen)
            assert "ff" not in follower.seen[-1].reason.partition(": ")[2]

    asyncio.run(main())


def test_privileges_that_are_taken_and_given_back(own_etcd):
    server = own_etcd()
    secure(server)

    async def main():
        async with followed(server.url(), ACCESS) as (store, follower):
            hook = await store.put(a_hook())
            await until_told(follower, hook)
            await asyncio.to_thread(server.ctl, *ROOT, "user", "revoke-role", "webhookd", "webhookd")
            assert "permission denied" in await until_lost(follower)
            with pytest.raises(StoreError, match="permission denied"):
                await store.delete(hook.token)
            await asyncio.to_thread(server.ctl, *ROOT, "user", "grant-role", "webhookd", "webhookd")
            await until_told(follower, hook)

    asyncio.run(main())


def test_a_watch_that_is_denied(own_etcd):
    """etcd says so by the number of the watch alone."""
    server = own_etcd()
    secure(server, "/test/hooks/")
    server.ctl(*ROOT, "role", "grant-permission", "webhookd", "readwrite", "/test/revision")

    async def main():
        async with followed(server.url(), ACCESS) as (_, follower):
            reason = await until_lost(follower)
            assert "the watch was refused: " in reason
            assert "permission denied" in reason
            await asyncio.to_thread(
                server.ctl, *ROOT, "role", "grant-permission", "webhookd", "readwrite", "--prefix=true", "/test/"
            )
            await until_told(follower)

    asyncio.run(main())


def test_a_token_that_ran_out_is_renewed(own_etcd):
    server = own_etcd("--auth-token-ttl=1")
    secure(server)

    async def main():
        async with opened(server.url(), ACCESS) as store:
            first = await store.put(a_hook("first"))
            token = store._client._token
            await asyncio.sleep(3)  # a question would renew it
            assert (await store.put(a_hook("second"))).api_token == first.api_token
            assert token not in (None, store._client._token)

    asyncio.run(main())


def test_a_restart_that_forgets_all_tokens(own_etcd):
    server = own_etcd()
    secure(server)
    password = [b"hunter2 hunter2"]
    access = dataclasses.replace(ACCESS, password=lambda: password[0])

    async def main():
        async with followed(server.url(), access) as (store, follower):
            first = await store.put(a_hook("first"))
            await asyncio.to_thread(server.ctl, *ROOT, "user", "passwd", "webhookd", "--interactive=false", stdin="new")
            password[0] = b"new"
            server.kill()
            await until_lost(follower)
            await asyncio.to_thread(server.launch)
            second = await eventually(lambda: store.put(a_hook("second")))
            await until_told(follower, first, second)

    asyncio.run(main())


def test_json_web_tokens_of_etcd_run_out_under_way(own_etcd, tmp_path):
    for arguments in (["genrsa", "-out", "key", "2048"], ["rsa", "-in", "key", "-pubout", "-out", "public"]):
        subprocess.run([need("openssl"), *arguments], cwd=tmp_path, check=True, capture_output=True)
    keys = f"pub-key={tmp_path}/public,priv-key={tmp_path}/key"
    server = own_etcd(f"--auth-token=jwt,{keys},sign-method=RS256,ttl=2s")
    secure(server)

    async def main():
        async with followed(server.url(), ACCESS) as (store, follower):
            await store.put(a_hook("first"))
            tokens = set()
            while len(tokens) < 3:
                tokens.add(store._client._token)
                checked = follower.checked
                await follower.until(lambda checked=checked: follower.checked > checked)
            await asyncio.to_thread(server.ctl, *ROOT, "role", "add", "another")  # makes every token old
            await store.put(a_hook("second"))
            await follower.until(lambda: len(follower.hooks) == 2)
            assert lost(follower) == []

    asyncio.run(main())


def test_a_password_that_cannot_be_read_is_told(own_etcd):
    server = own_etcd()
    secure(server)

    def gone() -> bytes:
        raise ConfigurationError("store_password_file: /x cannot be read")

    async def main():
        async with followed(server.url(), Access(user="webhookd", password=gone)) as (_, follower):
            assert "store_password_file: /x cannot be read" in await until_lost(follower)

    asyncio.run(main())


# --- TLS ----------------------------------------------------------------------------------------------------------------


def test_tls_with_a_client_certificate(own_etcd, tmp_path):
    certificates = Certificates(tmp_path / "certificates")
    stranger = Certificates(tmp_path / "stranger")
    server = own_etcd(certificates=certificates)
    certfile, keyfile = certificates.client()
    good = Access(cafile=certificates.cafile, certfile=certfile, keyfile=keyfile)
    bad = {
        "no TLS": Access(),
        "another authority": dataclasses.replace(good, cafile=stranger.cafile),
        "no certificate": Access(cafile=certificates.cafile),
        "a file that is gone": dataclasses.replace(good, cafile=Path("/nowhere/ca.pem")),
        "a file that is none": dataclasses.replace(good, certfile=Path(__file__)),
    }

    async def main():
        for host in ("127.0.0.1", "localhost"):
            async with followed(server.url().replace("127.0.0.1", host), good) as (store, follower):
                hook = await store.put(a_hook(host.replace(".", "_")))
                await follower.until(lambda hook=hook: hook.token in follower.hooks)
        for access in bad.values():
            async with followed(server.url(), access) as (store, follower):
                words = "cannot be read" if access.cafile == Path("/nowhere/ca.pem") else f"127.0.0.1:{server.port}"
                assert words in await until_lost(follower)
                assert not any(isinstance(change, Snapshot) for change in follower.seen)

    asyncio.run(main())
