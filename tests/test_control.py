"""Asks a spool through a control socket as commands do: both ends are the real ones."""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from commands import MIB
from test_publishers import a_message
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from webhookd import control
from webhookd.adapters.spool import Spool, State
from webhookd.control import control_app
from webhookd.control_client import ControlError, DaemonSpool, NoDaemonError, UnixConnection
from webhookd.control_protocol import PAGE_BYTES, Condition, Page, Wanted, page_of, short_socket_path

AGES = 36500 * 86400.0
Scenario = Callable[[Spool, DaemonSpool], Awaitable[None]]


async def nothing() -> None:
    """Do nothing."""


def serve(
    folder: Path, scenario: Scenario, *, keep: bool = True, after: Callable[[], Awaitable[None]] = nothing
) -> None:
    """Run `scenario` with a spool, and a client of the server that answers for it; then, with neither, `after`."""

    async def one() -> None:
        spool = await Spool.open(folder / "spool.db", max_bytes=64 * MIB, retention=AGES, keep=keep)
        server = HTTPServer(control_app(spool))
        with short_socket_path(folder / "control.sock") as path:
            server.add_socket(bind_unix_socket(path))
        try:
            await asyncio.wait_for(scenario(spool, DaemonSpool(folder / "control.sock")), 30)
        finally:
            server.stop()
            await server.close_all_connections()
            await spool.close()
        await after()

    asyncio.run(one())


def test_numbers(tmp_path):
    async def scenario(spool, daemon):
        await spool.publish(a_message(1))
        stats = await asyncio.to_thread(daemon.stats)
        assert stats.messages[State.KEPT] == 1
        assert stats == spool.stats

    serve(tmp_path, scenario)


def test_a_page_is_what_the_spool_has_bodies_as_they_are(tmp_path):
    bodies = [b'{"a": "\xc3\xa4\xf0\x9f\x90\x98"}', b"[]", b'"' + b"x" * MIB + b'"']

    async def scenario(spool, daemon):
        await asyncio.gather(*(spool.publish(a_message(n, body)) for n, body in enumerate(bodies)))
        page = await asyncio.to_thread(daemon.page, Wanted(bodies=True))
        assert [entry.body for entry in page.entries] == bodies
        assert page == await page_of(spool, Wanted(bodies=True))
        assert (page.after, page.newest) == (page.entries[-1].seq,) * 2
        bare = await asyncio.to_thread(daemon.page, Wanted(limit=2, after=page.entries[0].seq))
        assert [entry.receipt for entry in bare.entries] == [entry.receipt for entry in page.entries[1:]]
        assert {entry.body for entry in bare.entries} == {None}

    serve(tmp_path, scenario)


def test_a_page_has_a_bound_and_the_next_goes_on(tmp_path):
    size = PAGE_BYTES // 2 - 1000

    async def scenario(spool, daemon):
        for number in range(5):
            await spool.publish(a_message(number, b"x" * size))
        seen, after = [], 0
        while (page := await asyncio.to_thread(daemon.page, Wanted(after=after, bodies=True))).entries:
            assert len(page.entries) <= 2
            seen += [entry.receipt for entry in page.entries]
            after = page.after
        assert seen == [a_message(number).receipt for number in range(5)]

    serve(tmp_path, scenario)


def test_a_question_waits_for_the_next_message(tmp_path):
    async def scenario(spool, daemon):
        asking = asyncio.ensure_future(asyncio.to_thread(daemon.page, Wanted(wait=20.0)))
        await asyncio.sleep(0.1)
        assert not asking.done()
        await spool.publish(a_message(1))
        assert [entry.receipt for entry in (await asking).entries] == [a_message(1).receipt]

    serve(tmp_path, scenario)


def test_a_question_that_waits_in_vain_is_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "MAX_WAIT", 0.1)

    async def scenario(spool, daemon):
        assert await asyncio.to_thread(daemon.page, Wanted(wait=20.0)) == Page(entries=[], after=0, newest=0)

    serve(tmp_path, scenario)


def test_messages_of_others_do_not_end_a_wait_and_are_passed_by(tmp_path):
    """A follower of a quiet tenant beside a loud one neither spins nor looks at the same messages again."""

    async def scenario(spool, daemon):
        questions = 0
        entries = spool.entries

        async def counted(**wanted):
            nonlocal questions
            questions += wanted.get("tenant") == "quiet"
            return await entries(**wanted)

        spool.entries = counted
        asking = asyncio.ensure_future(asyncio.to_thread(daemon.page, Wanted(tenant="quiet", wait=20.0)))
        for number in range(5):
            await spool.publish(a_message(number, tenant="loud"))
            await asyncio.sleep(0.05)
        assert not asking.done()
        assert questions <= 8
        await spool.publish(a_message(5, tenant="quiet"))
        page = await asking
        assert [entry.tenant for entry in page.entries] == ["quiet"]
        nothing = await asyncio.to_thread(daemon.page, Wanted(tenant="nobody"))
        assert (nothing.entries, nothing.after) == ([], page.after)

    serve(tmp_path, scenario)


def test_retry_and_drop(tmp_path):
    async def scenario(spool, daemon):
        messages = [a_message(number) for number in range(4)]
        await asyncio.gather(*(spool.publish(message) for message in messages))
        seqs = [entry.seq for entry in await spool.entries()]
        await spool.mark(seqs[:3], State.SET_ASIDE, "too large")
        assert await asyncio.to_thread(daemon.retry, Condition(receipts=[messages[0].receipt])) == 1
        assert await asyncio.to_thread(daemon.retry, Condition()) == 2
        await spool.mark(seqs[:3], State.SET_ASIDE, "too large")
        assert await asyncio.to_thread(daemon.drop, Condition(states=[State.WAITING], older_than=3600.0)) in (0, 1)
        receipts = [message.receipt for message in messages]
        assert await asyncio.to_thread(daemon.drop, Condition(states=[State.SET_ASIDE], receipts=receipts[1:])) == 2
        left = await asyncio.to_thread(daemon.page, Wanted(states=[State.SET_ASIDE]))
        assert [(e.receipt, e.reason, e.attempts) for e in left.entries] == [(receipts[0], "too large", 1)]

    serve(tmp_path, scenario, keep=False)


def test_what_the_spool_cannot_do_is_told_in_its_words_and_not_logged(tmp_path, caplog):
    async def scenario(spool, daemon):
        await spool.close()
        for ask in (lambda: daemon.page(Wanted()), lambda: daemon.retry(Condition()), lambda: daemon.drop(Condition())):
            with pytest.raises(ControlError, match=r"^the spool is closed$"):
                await asyncio.to_thread(ask)
        assert (await asyncio.to_thread(daemon.stats)).failing == "the spool is closed"

    serve(tmp_path, scenario)
    assert caplog.records == []


def ask_by_hand(path: Path, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = UnixConnection(path, 5)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_what_is_no_question_is_refused(tmp_path, caplog):
    path = tmp_path / "control.sock"

    async def scenario(spool, daemon):
        for method, target, body, status in (
            ("POST", "/entries", b"{}", 400),
            ("POST", "/drop", msgspec.msgpack.encode({"states": ["lost"]}), 400),
            ("GET", "/drop", b"", 405),
            ("GET", "/nothing", b"", 404),
        ):
            told = (status, f"the daemon answered {status}".encode())
            if target != "/nothing":
                assert await asyncio.to_thread(ask_by_hand, path, method, target, body) == told
            else:
                assert (await asyncio.to_thread(ask_by_hand, path, method, target, body))[0] == status

    caplog.set_level(logging.ERROR)
    serve(tmp_path, scenario)
    assert caplog.records == []


def test_a_bug_is_logged_and_not_shown(tmp_path, caplog):
    async def scenario(spool, daemon):
        async def broken(receipts):
            raise ZeroDivisionError("a secret of the inside")

        spool.retry = broken
        with pytest.raises(ControlError, match=r"^the daemon answered 500$"):
            await asyncio.to_thread(daemon.retry, Condition())

    serve(tmp_path, scenario)
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_nobody_at_the_socket(tmp_path):
    with pytest.raises(NoDaemonError):
        DaemonSpool(tmp_path / "control.sock").stats()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoDaemonError):
        DaemonSpool(tmp_path / "control.sock").stats()


def test_a_daemon_that_goes_while_it_is_asked(tmp_path, caplog):
    asking = []

    async def scenario(spool, daemon):
        asking.append(asyncio.ensure_future(asyncio.to_thread(daemon.page, Wanted(wait=20.0))))
        await asyncio.sleep(0.1)

    async def told():
        with pytest.raises(NoDaemonError):
            await asking[0]

    serve(tmp_path, scenario, after=told)
    assert caplog.records == []


def test_a_daemon_that_does_not_answer(tmp_path):
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "control.sock"))
        deaf.listen()
        with pytest.raises(ControlError, match="the daemon does not answer"):
            DaemonSpool(tmp_path / "control.sock", 0.1).stats()


def test_a_socket_that_is_not_for_this_user(tmp_path, monkeypatch):
    def connect(self):
        raise PermissionError(errno.EACCES, "Permission denied")  # root, as which tests may run, is never refused

    monkeypatch.setattr(UnixConnection, "connect", connect)
    with pytest.raises(
        ControlError, match=r"control\.sock is not for this user: run this as the daemon's user or root"
    ):
        DaemonSpool(tmp_path / "control.sock").stats()


def test_an_answer_of_another_version(tmp_path, monkeypatch):
    monkeypatch.setattr(Spool, "stats", {"messages": "many"})

    async def scenario(spool, daemon):
        with pytest.raises(ControlError, match="of another version"):
            await asyncio.to_thread(daemon.stats)

    serve(tmp_path, scenario)


def test_a_path_that_is_too_long_for_a_socket(tmp_path):
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)

    async def scenario(spool, daemon):
        assert (await asyncio.to_thread(daemon.stats)).messages[State.KEPT] == 0

    serve(folder, scenario)
    with short_socket_path(folder / "control.sock") as name:
        assert len(name) < 108
    with short_socket_path(Path("/run/w.sock")) as name:
        assert name == "/run/w.sock"
