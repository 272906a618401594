"""What is in the spool, as `webhookd tail` and `webhookd spool` show and change it, beside a daemon and without one."""

import io
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from commands import call, fill, mark, on_a_terminal, running, script, with_spool
from harness import WEBHOOKD, Daemon, until
from msgspec.structs import replace

from webhookd.adapters.spool import Spool, SpoolError, SpoolStats, State
from webhookd.cli import spool as spool_command
from webhookd.cli import spool_access
from webhookd.control_client import ControlError, DaemonSpool, NoDaemonError
from webhookd.control_protocol import Page, Wanted
from webhookd.statedir import StateDir

NOBODY = 65534


pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def state_dir(tmp_path) -> Path:
    return tmp_path / "webhookd-data"


# --- tail ------------------------------------------------------------------------------------------------------------

BODIES = [b'{"a": 1.10, "a": "\xc3\xa4\\u00e4"}', b" [\n] ", '{"emoji": "🐘\u2028"}'.encode()]


def test_messages_are_shown_byte_for_byte_beside_a_daemon_and_without_one(daemon):
    hook = daemon.hook("my-service", "order.paid", tenant=42, tsField="a")
    receipts = [daemon.deliver(hook, body).headers["X-Webhookd-Receipt"] for body in BODIES]
    beside = script(daemon.folder, "tail", "--json", "--state-dir", "state")
    assert (beside.status, beside.err) == (0, "")
    assert daemon.stop() == 0
    without = script(daemon.folder, "tail", "--json", "--state-dir", "state")
    assert (without.status, without.err, without.out) == (0, "", beside.out)
    assert [d["receipt"] for d in beside.documents] == receipts
    assert [d["body"].encode() for d in beside.documents] == BODIES
    first = beside.documents[0]
    assert [*first] == ["receipt", "routingKey", "tenant", "datasource", "event", "receivedAt", "headers", "body"]
    assert first["routingKey"] == "event.42.my-service.order.paid"
    assert (first["tenant"], first["datasource"], first["event"]) == ("42", "my-service", "order.paid")
    assert first["headers"] == {"tsField": "a", "receivedAt": first["receivedAt"]}
    assert abs(first["receivedAt"] / 1000 - time.time()) < 60


def test_messages_are_shown_to_people(state_dir):
    fill(state_dir, [1], body=b'{"esc": "\x1b[2J", "long": "' + b"x" * 3000 + b'"}', headers={"deliveryId": "\x07"})
    lines = call("tail").out.splitlines()
    assert lines[0] == (
        "2023-11-14T22:13:20.001Z  event.42.github.push  3026 bytes  00000000-0000-0007-0000-000000000001"
    ) or lines[0].startswith("2023-11-14T22:13:20.001Z  event.42.github.push  ")
    assert lines[1] == "  deliveryId: \\x07"
    assert lines[2].startswith('  {"esc": "\\x1b[2J", "long": "xxx')
    assert lines[2].endswith(" more characters: --json has all)")
    assert len(lines) == 3


def test_a_message_without_more_headers_has_no_line_for_them(state_dir):
    fill(state_dir, [1], headers={"receivedAt": 1})
    assert call("tail").out.splitlines()[1:] == ["  {}"]


def test_only_one_tenants_messages(state_dir):
    fill(state_dir, range(3), tenant="a")
    (mine,) = fill(state_dir, [3], tenant="b")
    assert [d["receipt"] for d in call("tail", "--tenant", "b", "--json").documents] == [mine]
    assert call("tail", "--tenant", "c").out == ""


def test_more_than_one_page(state_dir):
    receipts = fill(state_dir, range(1203))
    assert [d["receipt"] for d in call("tail", "--json").documents] == receipts
    assert len(call("spool", "list").out.splitlines()) == 1204


def test_a_spool_that_grows_while_it_is_read_has_an_end(state_dir):
    """For each message that is read another one comes; only what was there at first is shown."""
    fill(state_dir, range(3))

    async def entries(spool):
        return await spool.entries()

    there = with_spool(state_dir, entries)

    class Growing:
        def page(self, wanted):
            seen = [entry for entry in there if entry.seq > wanted.after][:1]
            there.append(replace(there[-1], seq=there[-1].seq + 1))
            return Page(entries=seen, after=seen[-1].seq, newest=there[-2].seq)

    assert len([*spool_access.pages(Growing(), Wanted())]) == 3


def test_a_message_that_is_damaged_on_disk_is_told_and_hides_no_other(state_dir, tmp_path):
    first, second = fill(state_dir, [1, 2], body=b'{"a": "of this"}')
    with closing(sqlite3.connect(state_dir / "spool.db")) as db:
        db.execute(
            "UPDATE body SET data = CAST(replace(data, 'this', 'that') AS BLOB) WHERE rowid = (SELECT min(rowid) FROM body)"
        )
        db.commit()
    done = script(tmp_path, "tail", "--json")
    assert done.status == 0
    assert [(d["receipt"], d["body"]) for d in done.documents] == [(first, None), (second, '{"a": "of this"}')]
    assert "damaged" in done.err
    assert "damaged on disk" in call("tail").out


def test_reading_lets_nothing_expire(state_dir):
    """How long messages are kept is said by the daemon's settings, which this command may not know."""
    receipts = fill(state_dir, [1, 2])
    assert [d["receipt"] for d in call("tail", "--json").documents] == receipts
    time.sleep(1.1)
    assert [d["receipt"] for d in call("tail", "--json").documents] == receipts


def test_a_reader_that_has_had_enough(state_dir, tmp_path):
    fill(state_dir, range(2000), body=b'"' + b"x" * 1000 + b'"')
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{WEBHOOKD} tail --json | head -n 1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    """Collect the lines of a running command as they come."""
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in iter(process.stdout.readline, ""):
            lines.append(line)  # noqa: PERF402 - each at once

    threading.Thread(target=read, daemon=True).start()
    return lines


def test_following_outlives_restarts_of_the_daemon(tmp_path):
    """What was there, what comes, and what comes after a restart, once each and in order; a kill is a restart too."""
    with Daemon(tmp_path) as daemon:
        hook = daemon.hook()
        sent = [daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"]]
        with running(tmp_path, "tail", "-f", "--json", "--state-dir", "state") as following:
            lines = lines_of(following)
            until(lambda: len(lines) == 1)
            sent.append(daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"])
            until(lambda: len(lines) == 2)
            daemon.stop()
            time.sleep(0.5)
            daemon.start()
            sent.append(daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"])
            until(lambda: len(lines) == 3)
            daemon.kill()
            daemon.start()
            sent.append(daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"])
            until(lambda: len(lines) == 4)
            assert [json.loads(line)["receipt"] for line in lines] == sent
            following.send_signal(signal.SIGINT)
            assert following.wait(5) == 0
            assert following.stderr is not None
            assert following.stderr.read() == ""
        assert "error" not in daemon.log.lower()


def test_following_before_there_is_a_daemon(tmp_path):
    daemon = Daemon(tmp_path)
    daemon.state_dir.mkdir(mode=0o700)
    with running(tmp_path, "tail", "--follow", "--tenant", "42", "--state-dir", "state") as following:
        lines = lines_of(following)
        time.sleep(0.5)
        with daemon:
            daemon.deliver(daemon.hook(tenant=7), b'{"of": "another"}')
            daemon.deliver(daemon.hook(tenant=42), b'{"of": "mine"}')
            until(lambda: len(lines) == 2)
            assert lines[1] == '  {"of": "mine"}\n'


def test_following_ends_with_its_reader(daemon):
    hook = daemon.hook()
    with running(daemon.folder, "tail", "-f", "--state-dir", "state") as following:
        assert following.stdout is not None
        daemon.deliver(hook, b"{}")
        assert following.stdout.readline()
        following.stdout.close()
        daemon.deliver(hook, b"{}")
        assert following.wait(10) == 0
        assert following.stderr is not None
        assert following.stderr.read() == ""
        following.stdout = None


def test_following_tells_each_fault_of_the_daemon_once(state_dir, monkeypatch):
    state_dir.mkdir(mode=0o700)
    faults = [ControlError("no"), ControlError("no"), NoDaemonError(), ControlError("never")]

    def page(self, wanted):
        if not faults:
            raise KeyboardInterrupt
        raise faults.pop(0)

    monkeypatch.setattr(DaemonSpool, "page", page)
    monkeypatch.setattr(spool_access, "RETRY", 0)
    done = call("tail", "--follow")
    assert (done.status, done.out, done.err) == (0, "", "webhookd: no\nwebhookd: never\n")


def test_ctrl_c_ends_a_tail_that_does_not_follow_as_a_failure(state_dir, monkeypatch):
    fill(state_dir, [1])

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(spool_access, "pages", interrupted)
    done = call("tail")
    assert (done.status, done.line) == (1, "stopped")


# --- whose spool it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["tail"], ["tail", "-f"], ["spool", "status"], ["spool", "list"]])
def test_no_state_directory(tmp_path, command):
    done = call(*command)
    assert (done.status, done.line) == (
        1,
        f"there is no state directory {tmp_path / 'webhookd-data'}: name the daemon's with --state-dir or --config",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_state_directory(tmp_path):
    tmp_path.chmod(0o755)
    done = call("spool", "list", "--state-dir", ".")
    assert done.status == 1
    assert done.line == f"there is no spool in {tmp_path}: name the daemon's state directory with --state-dir"
    assert list(tmp_path.iterdir()) == []


def test_the_state_directory_of_a_settings_file(tmp_path):
    (receipt,) = fill(tmp_path / "elsewhere", [1])
    (tmp_path / "w.toml").write_text(f'state_dir = "{tmp_path}/elsewhere"')
    assert [d["receipt"] for d in call("tail", "--json", "--config", "w.toml").documents] == [receipt]


def test_a_directory_that_is_open_to_others_is_refused(state_dir):
    fill(state_dir, [1])
    state_dir.chmod(0o755)
    done = call("tail")
    assert (done.status, done.line) == (
        2,
        f"{state_dir} can be reached by group or others: run `chmod go= {state_dir}`",
    )


def test_a_directory_in_use_by_who_does_not_answer(state_dir, monkeypatch):
    fill(state_dir, [1])
    monkeypatch.setattr(spool_access, "PATIENCE", 0.3)
    with StateDir.claim(state_dir):
        start = time.monotonic()
        done = call("tail")
        assert time.monotonic() - start >= 0.3
    assert done.status == 1
    assert f"{state_dir} is in use by pid {os.getpid()}" in done.line


def test_a_daemon_that_is_starting_is_waited_for(state_dir, monkeypatch):
    """It has the directory already, and answers a moment later."""
    fill(state_dir, [1])
    answers = [NoDaemonError(), NoDaemonError(), SpoolStats(messages={}, bytes=1, used=1, max_bytes=2)]

    def stats(self):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(DaemonSpool, "stats", stats)
    with StateDir.claim(state_dir):
        assert call("spool", "status", "--json").documents[0]["bytes"] == 1


def test_a_daemon_that_goes_in_the_middle(state_dir, monkeypatch):
    state_dir.mkdir(mode=0o700)

    def gone(self, *_):
        raise NoDaemonError

    monkeypatch.setattr(DaemonSpool, "stats", lambda self: None)
    monkeypatch.setattr(DaemonSpool, "page", gone)
    done = call("tail")
    assert (done.status, done.line) == (1, "the daemon has just stopped: try again")


def test_a_daemon_that_cannot_do_it(state_dir, monkeypatch):
    state_dir.mkdir(mode=0o700)

    def cannot(self, *_):
        raise ControlError("the spool cannot be read: disk I/O error")

    monkeypatch.setattr(DaemonSpool, "stats", cannot)
    done = call("spool", "list")
    assert (done.status, done.line) == (1, "the spool cannot be read: disk I/O error")


def test_a_spool_of_ours_that_cannot_be_read(state_dir, monkeypatch):
    fill(state_dir, [1])

    async def cannot(self, **_):
        raise SpoolError("the spool cannot be read: disk I/O error")

    monkeypatch.setattr(Spool, "entries", cannot)
    done = call("tail")
    assert (done.status, done.line) == (1, "the spool cannot be read: disk I/O error")


def test_a_directory_that_is_not_for_this_user(state_dir, monkeypatch):
    def is_dir(self):
        raise PermissionError

    monkeypatch.setattr(Path, "is_dir", is_dir)  # root, as which tests may run, is never refused
    done = call("tail")
    assert done.status == 1
    assert done.line == f"{state_dir} is not for this user: run this as the daemon's user or root"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_no_file_that_the_daemons_user_cannot_open(state_dir, tmp_path):
    fill(state_dir, [1])
    for path in (state_dir, *state_dir.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    (state_dir / "spool.reserve").unlink()
    assert script(tmp_path, "tail").status == 0
    made = {path.name: path.stat().st_uid for path in state_dir.iterdir()}
    assert "spool.reserve" in made
    assert set(made.values()) == {NOBODY}


def test_what_is_made_is_private(state_dir, tmp_path):
    fill(state_dir, [1])
    assert script(tmp_path, "spool", "status").status == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in state_dir.iterdir()} == {0o600}


def test_two_commands_at_a_time(state_dir, tmp_path):
    fill(state_dir, range(50))
    commands = [
        subprocess.Popen([WEBHOOKD, "tail", "--json"], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(3)
    ]
    assert {len(command.communicate(timeout=20)[0].splitlines()) for command in commands} == {50}
    assert {command.returncode for command in commands} == {0}


# --- spool -----------------------------------------------------------------------------------------------------------


def test_a_list_for_programs_has_exactly_what_the_contract_says(state_dir):
    (kept,) = fill(state_dir, [1], body=b"[1, 2]")
    (waiting, refused) = fill(state_dir, [2, 3], keep=False)
    mark(state_dir, [refused], State.SET_ASIDE, "too large for the broker")
    assert call("spool", "list", "--json").documents == [
        {
            "receipt": kept,
            "tenant": "42",
            "datasource": "github",
            "event": "push",
            "state": "kept",
            "attempts": 0,
            "receivedAt": 1_700_000_000_001,
            "bytes": 6,
            "reason": None,
        },
        {
            "receipt": waiting,
            "tenant": "42",
            "datasource": "github",
            "event": "push",
            "state": "waiting",
            "attempts": 0,
            "receivedAt": 1_700_000_000_002,
            "bytes": 2,
            "reason": None,
        },
        {
            "receipt": refused,
            "tenant": "42",
            "datasource": "github",
            "event": "push",
            "state": "set aside",
            "attempts": 1,
            "receivedAt": 1_700_000_000_003,
            "bytes": 2,
            "reason": "too large for the broker",
        },
    ]
    for written in ("set aside", "set-aside"):
        (only,) = call("spool", "list", "--json", "--state", written).documents
        assert only["receipt"] == refused
    assert len(call("spool", "list", "--json", "--state", "kept", "--state", "waiting").documents) == 2
    assert call("spool", "list", "--json", "--tenant", "1").out == ""


def test_a_list_for_people(state_dir):
    (receipt,) = fill(state_dir, [1])
    header, row = call("spool", "list").out.splitlines()
    assert header.split() == [*spool_command.HEADER]
    assert row.split("  ") == [receipt, *row.split("  ")[1:]]
    assert row.endswith("  2023-11-14T22:13:20.001Z  2      -")
    (alone,) = call("spool", "list", "--tenant", "1").out.splitlines()
    assert alone.split() == [*spool_command.HEADER]


def test_status_of_a_spool(state_dir):
    fill(state_dir, [1, 2])
    fill(state_dir, [3], keep=False)
    (document,) = call("spool", "status", "--json").documents
    assert document["messages"] == {"waiting": 1, "unroutable": 0, "set aside": 0, "kept": 2}
    assert document["maxBytes"] == 4 << 30
    assert 0 < document["bytes"] < 1 << 30
    assert document["oldestReceivedAt"] == 1_700_000_000_003
    assert (document["full"], document["failing"], document["damaged"]) == (False, None, [])
    assert [*document] == [
        *("messages", "bytes", "used", "maxBytes", "oldestReceivedAt", "oldestKeptReceivedAt"),
        *("full", "failing", "damaged"),
    ]
    lines = call("spool", "status", "--state-dir", "webhookd-data").out.splitlines()
    assert lines[:4] == ["waiting      1", "unroutable   0", "set aside    0", "kept         2"]
    assert re.fullmatch(r"on disk      \d+\.\d MiB of 4GiB \(0\.\d %\)", lines[4])
    assert lines[5] == "oldest       2023-11-14T22:13:20.003Z"
    assert len(lines) == 7


def test_status_of_a_spool_that_is_not_well(capsys):
    spool_command._show_numbers(
        SpoolStats(
            messages={}, bytes=5, used=5, max_bytes=6, full=True, failing="disk full", damaged=("spool.db.corrupt-1",)
        )
    )
    assert capsys.readouterr().out.splitlines()[4:] == [
        "on disk      0.0 MiB of 6 (83.3 %)",
        "oldest       -",
        "oldest kept  -",
        "full: there is room for no message",
        "failing: disk full",
        "damaged: spool.db.corrupt-1 could not be read and was put aside",
    ]


def test_retry(state_dir):
    receipts = fill(state_dir, range(4), keep=False)
    mark(state_dir, receipts[:3], State.SET_ASIDE, "too large")
    done = call("spool", "retry", receipts[0], receipts[3])
    assert (done.status, done.out) == (1, "retried 1 message\n")
    assert done.err == "webhookd: 1 of the receipts named no such message: `webhookd spool list` shows what there is\n"
    done = call("spool", "retry", "--json")
    assert (done.status, done.documents) == (0, [{"retried": 2}])
    assert {d["state"] for d in call("spool", "list", "--json").documents} == {"waiting"}
    assert call("spool", "retry").out == "retried 0 messages\n"


def test_drop_by_each_condition(state_dir):
    def left() -> list[str]:
        return [d["receipt"] for d in call("spool", "list", "--json").documents]

    receipts = fill(state_dir, range(6), keep=False)
    (young,) = fill(state_dir, [6], keep=False, received_at=round(time.time() * 1000))
    mark(state_dir, receipts[:2], State.SET_ASIDE, "too large")
    assert call("spool", "drop", "--state", "set-aside", "--yes").out == "dropped 2 messages\n"
    assert left() == [*receipts[2:], young]
    done = call("spool", "drop", receipts[2], receipts[0], "-y", "--json")
    assert (done.status, done.documents) == (1, [{"dropped": 1}])
    assert call("spool", "drop", receipts[3], "--state", "kept", "--yes").status == 1
    assert call("spool", "drop", "--older-than", "1h", "--yes").out == "dropped 3 messages\n"
    assert left() == [young]
    assert call("spool", "drop", "--all", "--yes").out == "dropped 1 message\n"
    assert left() == []


def test_changes_go_through_the_daemon_where_there_is_one(daemon):
    hook = daemon.hook()
    receipts = [daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"] for _ in range(3)]
    place = ["--state-dir", str(daemon.state_dir)]
    assert call("spool", "drop", receipts[1], "--yes", *place).out == "dropped 1 message\n"
    assert [d["receipt"] for d in call("spool", "list", "--json", *place).documents] == [receipts[0], receipts[2]]
    assert call("spool", "status", "--json", *place).documents[0]["messages"]["kept"] == 2
    assert call("spool", "retry", *place).out == "retried 0 messages\n"
    assert call("spool", "drop", "--older-than", "1h", "--yes", *place).out == "dropped 0 messages\n"
    assert daemon.metrics()['webhookd_spool_messages{state="kept"}'] == 2
    assert daemon.deliver(hook, b"{}").status == 204


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["--all"], "Drop all messages?"),
        (["--state", "kept", "--state", "waiting"], "Drop the messages that are kept or waiting?"),
        (["--older-than", "1h", "--state", "kept"], "Drop the messages that are kept and that are so old?"),
        (["r1", "r2"], "Drop the messages with 2 receipts?"),
    ],
)
def test_drop_asks_on_a_terminal(state_dir, monkeypatch, arguments, question):
    fill(state_dir, [1])

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    done = call("spool", "drop", *arguments)
    assert done.status == 1
    assert done.err.startswith(f"{question} They were accepted, and nobody will get them. [y/N]: ")
    assert done.err.endswith("webhookd: stopped\n")
    assert len(call("spool", "list", "--json").documents) == 1


def test_drop_does_what_is_answered_on_a_real_terminal(state_dir, tmp_path):
    fill(state_dir, [1, 2])
    status, seen = on_a_terminal(tmp_path, "spool", "drop", "--all", typed=b"n\n")
    assert status == 1
    assert "stopped" in seen
    assert len(call("spool", "list", "--json").documents) == 2
    status, seen = on_a_terminal(tmp_path, "spool", "drop", "--all", typed=b"y\n")
    assert status == 0
    assert "dropped 2 messages" in seen
    assert call("spool", "list", "--json").out == ""


def test_what_takes_long_shows_a_bar_on_a_terminal(state_dir, tmp_path):
    receipts = fill(state_dir, range(1200), keep=False)
    mark(state_dir, receipts, State.SET_ASIDE, "too large")
    status, seen = on_a_terminal(tmp_path, "spool", "retry")
    assert status == 0
    assert "retrying  [" in seen
    assert "500/1200" in seen
    assert "1200/1200" in seen
    assert seen.endswith("retried 1200 messages\r\n")
    file = tmp_path / "messages"
    status, seen = on_a_terminal(tmp_path, "tail", "--json", into=file)
    assert status == 0
    assert "reading  [" in seen
    assert "1200/1200" in seen
    assert [json.loads(line)["receipt"] for line in file.read_text().splitlines()] == receipts


def test_no_bar_is_between_what_is_read_nor_where_nobody_looks(state_dir, tmp_path):
    (receipt,) = fill(state_dir, [1], keep=False)
    mark(state_dir, [receipt], State.UNROUTABLE, "no queue")
    status, seen = on_a_terminal(tmp_path, "tail", "--json")
    assert (status, json.loads(seen)["receipt"]) == (0, receipt)
    assert script(tmp_path, "tail", "--json").err == ""
    done = script(tmp_path, "spool", "retry")
    assert (done.out, done.err) == ("retried 1 message\n", "")
