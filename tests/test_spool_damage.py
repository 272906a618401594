"""A damaged file never stops the daemon, never yields a body that was not published, and is never deleted."""

import asyncio
import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from test_publishers import MIB, a_message, random_body
from test_spool import names, publish, run, until

from webhookd.adapters.spool import Spool, SpoolError, State
from webhookd.errors import ConfigurationError

MESSAGES = [
    a_message(0, random_body(0, 900), tenant="t0", hook="0" * 40),
    a_message(1, random_body(1, 40_000), tenant="t1", hook="1" * 40),
    a_message(2, random_body(2, 2333), tenant="t0", hook="2" * 40),
]
BODIES = {message.receipt: message for message in MESSAGES}


async def write(spool: Spool) -> None:
    await publish(spool, *MESSAGES)


@pytest.fixture(scope="module")
def pristine_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pristine") / "spool.db"
    run(path, write, max_bytes=MIB)
    return path


@pytest.fixture(scope="module")
def pristine(pristine_file) -> bytes:
    return pristine_file.read_bytes()


def put_aside(folder: Path) -> list[Path]:
    return [path for path in folder.glob("spool.db.corrupt-*") if path.name[-1].isdigit()]


async def taken_over(folder: Path) -> None:
    """Wait until all that was put aside has been looked through."""
    asides = put_aside(folder)
    await until(lambda: all(path.with_name(f"{path.name}-salvaged").exists() for path in asides))


async def whole(spool: Spool, *, other: str | None = None) -> list[str]:
    """Return the receipts of what comes back; all of it is what was published, or said to be damaged."""
    found = []
    for entry in await spool.entries(bodies=True, max_bytes=MIB):
        if entry.receipt == other:
            continue
        if entry.body is None:
            assert entry.state is State.SET_ASIDE
            assert "damaged" in (entry.reason or "")
            continue
        message = BODIES[entry.receipt]
        told = (entry.hook, entry.tenant, entry.datasource, entry.event, entry.received_at, entry.headers, entry.body)
        assert told == (
            message.hook,
            message.tenant,
            message.datasource,
            message.event,
            message.received_at,
            message.headers,
            message.body,
        )
        found.append(entry.receipt)
    return found


def survives(folder: Path, content: bytes) -> list[str] | None:
    """Open a spool with this content and use it; return what came back whole, None where the start was refused."""
    folder.mkdir()
    path = folder / "spool.db"
    path.write_bytes(content)
    came: list[str] = []

    async def use(spool: Spool) -> None:
        try:
            came.extend(await whole(spool))
        except SpoolError as error:
            assert "spool" in str(error)  # noqa: PT017 - and the next call finds a new file
        after = a_message(77)
        for _ in range(3):  # an error that is met while writing puts the file aside; the next message is taken
            if await publish(spool, after) == ["spooled"]:
                break
        else:
            raise AssertionError("takes nothing any more")
        listed = [entry.receipt for entry in await spool.entries()]
        assert after.receipt in listed
        await taken_over(folder)
        with suppress(SpoolError):  # what is damaged may turn out to be so only now
            await whole(spool, other=after.receipt)
        with suppress(SpoolError):
            await spool.drop()

    refusal = None
    with capture_logs():
        try:
            run(path, use, max_bytes=MIB)
        except ConfigurationError as error:
            refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        assert str(path) in refusal
        assert path.read_bytes() == content
        return None
    for aside in folder.glob("spool.db.corrupt-*[0-9]"):
        assert aside.stat().st_size >= len(content) - len(content) % 8192
    return came


def flipped(content: bytes, position: int, mask: int) -> bytes:
    return content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]


def test_no_flipped_byte_goes_unnoticed_or_stops_the_start(pristine, tmp_path):
    """Of every byte that holds something; a few hundred of them, others with each seed."""
    rng = random.Random(3)
    meant = [position for position, byte in enumerate(pristine) if byte]
    refused = 0
    for number, position in enumerate(rng.sample(meant, 150)):
        refused += survives(tmp_path / str(number), flipped(pristine, position, 1 << rng.randrange(8))) is None
    assert refused <= 5  # the version number is all that may refuse the start


def test_what_is_not_hit_comes_back(pristine, tmp_path):
    """A hit in one body costs that body alone."""
    for message in (MESSAGES[0], MESSAGES[2]):
        part = message.body[100:200]
        came = survives(tmp_path / message.receipt, pristine.replace(part, flipped(part, 50, 4)))
        assert sorted(came or ()) == [other.receipt for other in MESSAGES if other is not message]


EDIT = st.tuples(
    st.sampled_from(["cut", "zeros", "noise", "repeat"]),
    st.floats(0, 1),
    st.sampled_from([1, 4, 16, 100, 8192, 20_000]),
    st.integers(0, 999),
)


@settings(max_examples=50, deadline=None)
@example([("noise", 0.060546875, 1, 0)])  # a name in the schema
@example([("zeros", 0.4375, 8192, 0)])  # a leaf of bodies
@example([("zeros", 0.75, 8192, 0)])  # the middle of a long one
@given(st.lists(EDIT, min_size=1, max_size=4))
def test_cut_filled_and_scrambled_files(pristine_file, tmp_path_factory, edits):
    content = bytearray(pristine_file.read_bytes())
    for kind, where, length, seed in edits:
        start = int(where * len(content))
        size = len(content[start : start + length])
        match kind:
            case "cut":
                del content[start:]
            case "zeros":
                content[start : start + size] = bytes(size)
            case "noise":
                content[start : start + size] = random_body(seed, size)
            case "repeat":
                content[start:start] = content[max(0, start - length) : start]
    survives(tmp_path_factory.mktemp("cut") / "state", bytes(content))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8192, b"not a database at all\n" * 500, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_what_never_was_a_spool(tmp_path, content):
    assert survives(tmp_path / "state", content) == []


def test_a_damaged_message_is_set_aside_and_said(tmp_path):
    path = tmp_path / "spool.db"
    run(path, write)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE body SET data = CAST(zeroblob(length(data)) AS BLOB) WHERE id >> 16 = 1")
        db.execute("DELETE FROM body WHERE id >> 16 = 3")

    async def scenario(spool):
        with capture_logs() as logs:
            assert await whole(spool) == names(1)
            assert await whole(spool) == names(1)
        assert [line["log_level"] for line in logs] == ["error", "error"]
        assert sorted(logs[0]["receipts"]) == names(0, 2)
        assert spool.stats.messages[State.SET_ASIDE] == 2
        assert [entry.reason for entry in await spool.entries(states=[State.SET_ASIDE])] == ["damaged on disk"] * 2
        assert [entry.receipt for entry in await spool.line(MESSAGES[0].hook)] == []
        assert await spool.drop(states=[State.SET_ASIDE]) == 2
        assert await whole(spool) == names(1)

    run(path, scenario)


def test_a_file_that_is_damaged_while_it_is_open_is_put_aside(tmp_path):
    path = tmp_path / "spool.db"

    async def scenario(spool):
        await publish(spool, *(a_message(n, random_body(n, 3000)) for n in range(2000)))
        await spool.confirm([])
        page = 8192
        with path.open("r+b") as file:
            for number in range(2, path.stat().st_size // page):
                file.seek(number * page)
                file.write(b"\xff" * 64)
        with capture_logs() as logs:
            with pytest.raises(SpoolError, match="cannot be read"):
                await spool.entries(limit=2000)
            await until(lambda: spool.stats.damaged)
            assert [await publish(spool, a_message(9)) for _ in range(3)] == [["spooled"]] * 3
        assert any("put aside" in line["event"] for line in logs)
        assert spool.stats.failing is None
        assert len(spool.stats.damaged) == 1
        await taken_over(tmp_path)
        listed = [entry.receipt for entry in await spool.entries(limit=5000)]
        assert [receipt for receipt in listed if receipt in names(9)][:3] == names(9) * 3
        assert (tmp_path / spool.stats.damaged[0]).stat().st_size > 1000 * 3000
        assert await spool.confirm(range(2001)) == 0  # what was in the other file is no other message here

    run(path, scenario)


def test_a_file_of_another_version_stops_the_start_and_is_not_touched(tmp_path):
    path = tmp_path / "spool.db"
    run(path, write)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"another version of webhookd \(its format is 99\)"):
        asyncio.run(Spool.open(path, max_bytes=MIB, retention=1, keep=False))
    assert path.read_bytes() == before
