"""The process that examines large bodies: real ones, also when they are killed, slow, or out of memory."""

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time

import msgspec
import pytest

from webhookd.errors import EventMismatch, Malformed, SchemaMismatch, Unavailable
from webhookd.examiner import Examiner, Job, PluginError, Plugins
from webhookd.model import Delivery, Event, Hook, Verified

JSON = {"content-type": "application/json"}

ODD = """
import os, sys, time
import webhookd

class Odd(webhookd.Datasource):
    name = "odd"
    title = "Odd"
    events = {"x": webhookd.EventType(schema={"type": "object"})}

    def event_type(self, delivery):
        match delivery.headers.get("do"):
            case "raise":
                raise KeyError("odd")
            case "print":
                print("this is no verdict", flush=True)
            case "exit":
                os._exit(3)
            case "leave":
                sys.exit("leaving")
            case "sleep":
                time.sleep(60)
            case "memory":
                bytearray(2 << 30)
        return delivery.headers.get("event")

    def delivery_id(self, delivery):
        return delivery.hook_url

@webhookd.hookimpl
def register_datasources():
    return [Odd()]
"""

BEFORE = "http://h/wh/a/before"
"""The URL of a delivery that came to the one which its hook had before."""


@pytest.fixture
def plugins(tmp_path) -> Plugins:
    (tmp_path / "odd.py").write_text(ODD)
    return Plugins(str(tmp_path), ())


def hook(**fields) -> Hook:
    base = {"token": "t", "api_token": "a", "tenant": "1", "datasource": "odd", "event": "x", "base_url": "http://h"}
    return Hook(**base | {"created_at": 0} | fields)


def delivery(body: bytes = b"{}", **headers: str) -> Verified:
    return Verified(Delivery(JSON | headers, body, 1, BEFORE))


def run(plugins: Plugins, scenario, time_limit: float = 5.0):
    async def whole():
        examiner = Examiner(plugins, time_limit)
        try:
            return await asyncio.wait_for(scenario(examiner), 60)
        finally:
            await examiner.close()

    return asyncio.run(whole())


def test_it_says_what_the_daemon_itself_would_say(plugins):
    async def scenario(examiner):
        event = await examiner.examine(hook(), delivery(event="x"))
        assert event == Event(type="x", id=BEFORE)
        with pytest.raises(Malformed, match="not JSON"):
            await examiner.examine(hook(), delivery(b"{"))
        with pytest.raises(EventMismatch):
            await examiner.examine(hook(on_mismatch="reject"), delivery(event="y"))
        with pytest.raises(SchemaMismatch) as caught:
            await examiner.examine(hook(validation="enforce"), delivery(b"[]", event="x"))
        assert caught.value.errors[0]["pointer"] == ""
        reported = await examiner.examine(hook(validation="report"), delivery(b"[]"))
        assert reported.faults[0].message

    run(plugins, scenario)


def test_a_large_body_crosses_whole(plugins):
    async def scenario(examiner):
        body = b'["' + b"x" * (25 * 1024 * 1024) + b'"]'
        assert (await examiner.examine(hook(), delivery(body))).id
        with pytest.raises(Malformed):
            await examiner.examine(hook(), delivery(body[:-1]))

    run(plugins, scenario)


def test_what_a_plugin_raises_is_a_bug_and_not_the_end(plugins):
    async def scenario(examiner):
        with pytest.raises(PluginError, match="KeyError: 'odd'"):
            await examiner.examine(hook(), delivery(do="raise"))
        with pytest.raises(PluginError, match="SystemExit: leaving"):
            await examiner.examine(hook(), delivery(do="leave"))
        assert await examiner.examine(hook(), delivery(do="print"))

    run(plugins, scenario)


def test_a_process_that_dies_is_replaced(plugins):
    async def scenario(examiner):
        with pytest.raises(Unavailable) as refused:
            await examiner.examine(hook(), delivery(do="exit"))
        assert refused.value.check == "json"
        assert await examiner.examine(hook(), delivery())
        os.kill(examiner._process.pid, signal.SIGKILL)
        assert await examiner.examine(hook(), delivery())
        os.kill(examiner._process.pid, signal.SIGTERM)
        assert await examiner.examine(hook(), delivery())

    run(plugins, scenario)


def test_a_check_that_takes_too_long_is_a_fault_of_the_body_where_a_schema_is_asked_for(plugins):
    async def scenario(examiner):
        await examiner.examine(hook(), delivery())
        started = time.monotonic()
        with pytest.raises(SchemaMismatch) as caught:
            await examiner.examine(hook(validation="enforce"), delivery(do="sleep"))
        assert "longer than" in caught.value.errors[0]["message"]
        reported = await examiner.examine(hook(validation="report"), delivery(do="sleep"))
        assert "longer than" in reported.faults[0].message
        with pytest.raises(Unavailable) as refused:
            await examiner.examine(hook(), delivery(do="sleep"))
        assert refused.value.check == "json"
        assert time.monotonic() - started < 20
        assert await examiner.examine(hook(), delivery())

    run(plugins, scenario, time_limit=0.5)


def test_memory_is_bounded(plugins):
    async def scenario(examiner):
        with pytest.raises(SchemaMismatch) as caught:
            await examiner.examine(hook(validation="enforce"), delivery(do="memory"))
        assert "MiB of memory" in caught.value.errors[0]["message"]
        assert await examiner.examine(hook(), delivery())

    run(plugins, scenario)


def test_one_that_has_grown_large_is_replaced_by_a_small_one(plugins):
    async def scenario(examiner):
        await examiner.examine(hook(), delivery())
        first = examiner._process.pid
        body = b"[" + b"[]," * 3_000_000 + b"[]]"
        await examiner.examine(hook(validation="report"), delivery(body))
        await examiner.examine(hook(), delivery())
        assert examiner._process.pid != first

    run(plugins, scenario, time_limit=20)


def test_tenants_take_turns(plugins):
    async def scenario(examiner):
        await examiner.examine(hook(), delivery())
        done: list[str] = []

        async def ask(tenant):
            await examiner.examine(hook(tenant=tenant), delivery())
            done.append(tenant)

        await asyncio.gather(*(ask("busy") for _ in range(20)), ask("quiet"))
        assert done.index("quiet") <= 2
        assert len(done) == 21
        assert not examiner._turns

    run(plugins, scenario, time_limit=50)


def test_who_waits_too_long_is_sent_away(plugins):
    async def scenario(examiner):
        async with examiner._turns.of("another"):  # as another tenant's job has it
            with pytest.raises(Unavailable, match="waiting"):
                await examiner.examine(hook(), delivery())
        assert await examiner.examine(hook(), delivery())

    run(plugins, scenario, time_limit=0.5)


def test_a_plugin_that_cannot_be_loaded(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")

    async def scenario(examiner):
        with pytest.raises(Unavailable):
            await examiner.examine(hook(), delivery())

    run(Plugins(str(tmp_path), ()), scenario)


def test_it_ends_when_it_is_closed_and_when_nobody_waits(plugins):
    async def scenario(examiner):
        await examiner.examine(hook(), delivery())
        task = asyncio.create_task(examiner.examine(hook(), delivery(do="sleep")))
        await asyncio.sleep(0.1)
        pid = examiner._process.pid
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(plugins, scenario)


def test_a_daemon_that_is_killed_leaves_no_traceback(tmp_path):
    """What the daemon had written of a job, and whom its verdict was for, is gone in the middle."""
    command = [sys.executable, "-m", "webhookd.examiner", '{"plugins_dir":null,"load_plugins":[]}']
    job = msgspec.msgpack.encode(Job(hook(), JSON, 1, BEFORE, 1000))
    whole = struct.pack(">I", len(job)) + job + b"[" + b" " * 998 + b"]"
    for sent in (whole[:2], whole[:-1], whole):
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as child:
            assert child.stdout.read(5) == b"ready"
            child.stdout.close()
            child.stdin.write(sent)
            child.stdin.close()
            assert child.stderr.read() == b""


def test_one_is_as_good_when_its_daemon_has_grown_large(plugins):
    async def scenario(examiner):
        ballast = bytearray(400 * 1024 * 1024)
        ballast[::4096] = bytes(len(ballast[::4096]))
        first = await examiner.examine(hook(), delivery())
        pid = examiner._process.pid
        assert await examiner.examine(hook(), delivery()) == first
        assert examiner._process.pid == pid

    run(plugins, scenario)


def test_a_slow_start_is_no_fault_of_the_body(tmp_path, monkeypatch):
    monkeypatch.setattr("webhookd.examiner._START_LIMIT", 0.2)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(5)\n" + ODD)

    async def scenario(examiner):
        with pytest.raises(Unavailable):
            await examiner.examine(hook(validation="enforce"), delivery())

    run(Plugins(str(tmp_path), ()), scenario)


def test_a_restart_takes_nothing_from_the_time_of_a_check(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\n" + ODD)

    async def scenario(examiner):
        assert await examiner.examine(hook(validation="enforce"), delivery())
        # it is gone, and the daemon has not been told yet
        os.kill(examiner._process.pid, signal.SIGKILL)
        assert await examiner.examine(hook(validation="enforce"), delivery())

    run(Plugins(str(tmp_path), ()), scenario, time_limit=0.8)
