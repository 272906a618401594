"""HTTP/1.1 on the wire: one table of raw exchanges for both parsers, and what only our own promises."""

import asyncio
import contextlib
import os
import re
import resource
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tornado import httputil
from wire import HOOK, KINDS, MAX_BODY, PATH, STATUS, Client, World, chunked, post, serving

from webhookd.http1 import Connection
from webhookd.http1_head import MAX_FIELDS, MAX_HEAD
from webhookd.http1_limits import Limits, Watch
from webhookd.http1_server import Server

HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
GOOD = post()
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
OPEN, CLOSED, RESET = "open", "closed", "reset"
"""What becomes of a connection. A reset may overtake the answer."""

try:
    import uvloop
except ImportError:
    LOOPS = [asyncio.new_event_loop]
else:
    LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.003)


def run(scenario, loop_factory=LOOPS[-1]):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(asyncio.wait_for(scenario, 60))


# what is sent; the statuses that come back; what becomes of the connection
GOOD_EXCHANGES = {
    "a delivery": (GOOD, [204], OPEN),
    "two, pipelined": (GOOD + GOOD, [204, 204], OPEN),
    "many, pipelined, of all kinds": (
        (GOOD + chunked(b'{"a": [1, 2, 3]}') + b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n" + post(b"{")) * 5,
        [204, 204, 200, 400] * 5,
        OPEN,
    ),
    "chunked": (chunked(b'{"a": "bcdefghijklmnopqrstuvwxyz"}'), [204], OPEN),
    "chunked in capitals": (CHUNKS.replace(b"chunked", b"CHUNKED") + b"2\r\n{}\r\n0\r\n\r\n", [204], OPEN),
    "chunk sizes in hex": (CHUNKS + b"A\r\n[       ]\r\n".replace(b"[ ", b"[  ") + b"0\r\n\r\n", [204], OPEN),
    "an empty line before it": (b"\r\n" + GOOD, [204], OPEN),
    "an unknown hook": (post(path="/wh/a/b") + GOOD, [404, 204], OPEN),
    "close": (post(b"{}", PATH, "Connection: close"), [204], CLOSED),
    "close among others": (post(b"{}", PATH, "Connection: foo, Close"), [204], CLOSED),
    "nothing after a close": (post(b"{}", PATH, "Connection: close") + GOOD, [204], CLOSED),
    "1.0": (post(version="1.0"), [204], CLOSED),
    "1.0 without a Host": (post(version="1.0").replace(b"Host: x\r\n", b""), [204], CLOSED),
    "1.0, kept alive": (post(b"{}", PATH, "Connection: keep-alive", version="1.0"), [204], OPEN),
    "HEAD": (f"HEAD {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + GOOD, [200, 204], OPEN),
    "HEAD of an application": (b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n" + GOOD, [200, 204], OPEN),
    "another method": (
        f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode() + GOOD,
        [405, 204],
        OPEN,
    ),
    "a method nobody knows": (f"BREW {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + GOOD, [405, 204], OPEN),
    "CONNECT": (f"CONNECT {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + GOOD, [405, 204], OPEN),
    "an upgrade that is not followed": (
        post(b"{}", PATH, "Connection: upgrade", "Upgrade: h2c") + GOOD,
        [204, 204],
        OPEN,
    ),
    "a chunked upgrade": (chunked(b"{}", 1, "Connection: upgrade", "Upgrade: h2c") + GOOD, [204, 204], OPEN),
    "an upgrade without a body": (
        b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + GOOD,
        [200, 204],
        OPEN,
    ),
    "absolute form": (post(path=f"http://other{PATH}"), [204], OPEN),
    "a query": (post(path=f"{PATH}?a=/b"), [204], OPEN),
    "no body": (HEAD + b"\r\n", [400], OPEN),
    "an early refusal, then the rest": (
        HEAD.replace(b"application/json", b"text/plain") + b"Content-Length: 5000\r\n\r\n" + b"x" * 5000 + GOOD,
        [415, 204],
        OPEN,
    ),
    "chunks beyond the limit": (chunked(b"x" * (MAX_BODY + 1), 1000) + GOOD, [413, 204], OPEN),
    "a length beyond the limit": (
        HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1) + GOOD,
        [413, 204],
        OPEN,
    ),
    "a length of no use to read": (HEAD + b"Content-Length: 99999999\r\n\r\n" + b"x" * (3 * MAX_BODY), [413], CLOSED),
    "a length beyond numbers": (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}", [413], CLOSED),
    "repeated fields are joined": (post(b"{}", PATH, "X-A: 1", "x-a: 2", "X-A: 3"), [204], OPEN),
    "values of any bytes": (GOOD.replace(b"Host: x", b"Host: x\r\nX-A: \xe9\xff\t~"), [204], OPEN),
    "a field that is empty": (post(b"{}", PATH, "X-A:", "X-B:  "), [204], OPEN),
    "an application": (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", [200], OPEN),
    "an application that fails": (b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n" + GOOD, [500, 204], OPEN),
    "pieces": (b"GET /pieces?count=3&size=10 HTTP/1.1\r\nHost: x\r\n\r\n" + GOOD, [200, 204], OPEN),
    "pieces for 1.0": (b"GET /pieces?count=3&size=10 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [200], CLOSED),
    "an answer in the middle of which the sender is told to wait": (
        post(b"{}", PATH, "Expect: 100-continue"),
        [100, 204],
        OPEN,
    ),
    "Expect in 1.0 is ignored": (post(b"{}", PATH, "Expect: 100-continue", version="1.0"), [204], CLOSED),
    "asked first, refused": (HEAD + b"Expect: 100-continue\r\nContent-Length: 999999\r\n\r\n", [413], CLOSED),
    "asked first, without a body": (HEAD + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", [400], OPEN),
}


def body_of(fields: bytes, body: bytes = b"") -> bytes:
    return HEAD + fields + b"\r\n\r\n" + body


BAD_EXCHANGES = {
    "length and coding": body_of(b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "coding and length": body_of(b"Transfer-Encoding: chunked\r\nContent-Length: 2", b"0\r\n\r\n"),
    "two lengths": body_of(b"Content-Length: 2\r\nContent-Length: 3", b"{}"),
    "one length twice": body_of(b"Content-Length: 2\r\nContent-Length: 2", b"{}"),
    "one length twice in another spelling": body_of(b"Content-Length: 2\r\ncontent-length: 2", b"{}"),
    "a list of lengths": body_of(b"Content-Length: 2, 2", b"{}"),
    "a length with a sign": body_of(b"Content-Length: +2", b"{}"),
    "a negative length": body_of(b"Content-Length: -2", b"{}"),
    "a length in hex": body_of(b"Content-Length: 0x2", b"{}"),
    "a length with an underscore": body_of(b"Content-Length: 0_2", b"{}"),
    "a length in other digits": body_of("Content-Length: \u0662".encode(), b"{}"),
    "a length of nothing": body_of(b"Content-Length:", b"{}"),
    "a length in two words": body_of(b"Content-Length: 1 2", b"{}"),
    "an unknown coding": body_of(b"Transfer-Encoding: xchunked", b"0\r\n\r\n"),
    "identity": body_of(b"Transfer-Encoding: identity", b""),
    "a quoted coding": body_of(b'Transfer-Encoding: "chunked"', b"0\r\n\r\n"),
    "chunked is not the last coding": body_of(b"Transfer-Encoding: chunked, gzip", b"0\r\n\r\n"),
    "chunked twice": body_of(b"Transfer-Encoding: chunked, chunked", b"0\r\n\r\n"),
    "chunked twice in two fields": body_of(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "a coding of nothing": body_of(b"Transfer-Encoding:", b"0\r\n\r\n"),
    "a vertical tab before the coding": body_of(b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n"),
    "a space before the colon": body_of(b"X-A : b"),
    "a tab before the colon": body_of(b"X-A\t: b"),
    "a folded line": body_of(b"X-A: b\r\n c"),
    "a folded first line": HEAD.replace(b"Host", b" Host") + b"\r\n",
    "a bare CR in a value": body_of(b"X-A: b\rc"),
    "a bare CR at the end of a line": body_of(b"X-A: b\r\r\nX-B: c"),
    "a bare LF in the head": body_of(b"X-A: b\nX-B: c"),
    "a bare LF after the request line": HEAD.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n") + b"\r\n",
    "a bare LF as the last line": HEAD + b"\n",
    "bare LF alone": HEAD.replace(b"\r\n", b"\n") + b"\n",
    "NUL in a value": body_of(b"X-A: b\0c"),
    "NUL in a name": body_of(b"X-\0A: b"),
    "a control character in a value": body_of(b"X-A: b\x01c"),
    "DEL in a value": body_of(b"X-A: b\x7fc"),
    "no colon": body_of(b"X-A"),
    "no name": body_of(b": b"),
    "a name that is no token": body_of(b"X(A): b"),
    "a name that is no ASCII": body_of(b"X-\xe9: b"),
    "two Hosts": body_of(b"Host: y"),
    "two Hosts alike": body_of(b"host: x"),
    "no Host": HEAD.replace(b"Host: x\r\n", b"") + b"\r\n",
    "a Host with a blank": HEAD.replace(b"Host: x", b"Host: x y") + b"\r\n",
    "a Host with a slash": HEAD.replace(b"Host: x", b"Host: x/y") + b"\r\n",
    "a Host with an @": HEAD.replace(b"Host: x", b"Host: a@b") + b"\r\n",
    "HTTP/2.0": HEAD.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n",
    "HTTP/1.9": HEAD.replace(b"HTTP/1.1", b"HTTP/1.9") + b"\r\n",
    "HTTP/0.9": HEAD.replace(b"HTTP/1.1", b"HTTP/0.9") + b"\r\n",
    "no version": b"POST /\r\n\r\n",
    "HTTP/1.10": HEAD.replace(b"HTTP/1.1", b"HTTP/1.10") + b"\r\n",
    "http/1.1": HEAD.replace(b"HTTP/1.1", b"http/1.1") + b"\r\n",
    "two blanks before the target": HEAD.replace(b"POST ", b"POST  ") + b"\r\n",
    "two blanks after the target": HEAD.replace(b" HTTP/", b"  HTTP/") + b"\r\n",
    "a tab in the request line": HEAD.replace(b"POST ", b"POST\t") + b"\r\n",
    "a blank after the version": HEAD.replace(b"HTTP/1.1", b"HTTP/1.1 ") + b"\r\n",
    "a blank before the method": b" " + HEAD + b"\r\n",
    "a target that is not ASCII": HEAD.replace(b"/wh/", b"/wh\xe9/") + b"\r\n",
    "a control character in the target": HEAD.replace(b"/wh/", b"/wh\x01/") + b"\r\n",
    "a fragment": HEAD.replace(b" HTTP/", b"#a HTTP/") + b"\r\n",
    "a target of no form": HEAD.replace(b"POST /", b"POST ") + b"\r\n",
    "a method that is no token": HEAD.replace(b"POST", b"PO(T") + b"\r\n",
    "two empty lines before it": b"\r\n\r\n" + GOOD,
    "an LF before it": b"\n" + GOOD,
    "coding in 1.0": HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk size with a sign": CHUNKS + b"+2\r\n{}\r\n0\r\n\r\n",
    "a chunk size with a prefix": CHUNKS + b"0x2\r\n{}\r\n0\r\n\r\n",
    "no chunk size": CHUNKS + b"\r\n{}\r\n0\r\n\r\n",
    "a blank after the chunk size": CHUNKS + b"2 \r\n{}\r\n0\r\n\r\n",
    "a blank before the chunk size": CHUNKS + b" 2\r\n{}\r\n0\r\n\r\n",
    "a chunk size with an underscore": CHUNKS + b"0_2\r\n{}\r\n0\r\n\r\n",
    "a chunk size beyond numbers": CHUNKS + b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n",
    "LF after a chunk size": CHUNKS + b"2\n{}\r\n0\r\n\r\n",
    "LF after a chunk": CHUNKS + b"2\r\n{}\n0\r\n\r\n",
    "a chunk that is too long": CHUNKS + b"2\r\n{} \r\n0\r\n\r\n",
    "a chunk that is too short": CHUNKS + b"3\r\n{}\r\n0\r\n\r\n",
    "an LF at the end": CHUNKS + b"2\r\n{}\r\n0\r\n\n",
    "a CR in an extension": CHUNKS + b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    "a trailer that is none": CHUNKS + b"2\r\n{}\r\n0\r\nX A: b\r\n\r\n",
    "a length in the trailer": CHUNKS + b"2\r\n{}\r\n0\r\nContent-Length: 2\r\n\r\n",
    "a coding in the trailer": CHUNKS + b"2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
}
# what is sent in GOOD_EXCHANGES, or in BAD_EXCHANGES with a good delivery behind it, and what becomes of it
BY_TORNADO = {
    # answered at once, and closed with more to be read: which the sender may see as a reset alone
    "a length of no use to read": ([413], RESET),
    # the rest of the connection is read as a request
    "a length beyond numbers": ([413, 400], CLOSED),
    # RFC 9112, section 9.6: `close` may stand among others, and nothing after it is to be processed
    "close among others": ([204], OPEN),
    "nothing after a close": ([204], CLOSED),
    # section 9.3: a 1.0 sender sees the end of these pieces by the connection's end alone
    "pieces for 1.0": ([200], OPEN),
    # RFC 9110, section 10.1.1: no 1.0 sender expects a 100; of a body that is empty it may be left out
    "Expect in 1.0 is ignored": ([100, 204], CLOSED),
    "asked first, without a body": ([100, 400], OPEN),
    # RFC 9112, section 6.3: a length that is repeated may be taken once, or refused
    "one length twice": ([204, 204], OPEN),
    "one length twice in another spelling": ([204, 204], OPEN),
    "a list of lengths": ([204, 204], OPEN),
    # section 2.2: a bare LF may be taken for the end of a line. (What has no body is no JSON: 400, and goes on.)
    "a bare LF in the head": ([400, 204], OPEN),
    "a bare LF after the request line": ([400, 204], OPEN),
    "a bare LF as the last line": ([400, 204], OPEN),
    "bare LF alone": ([400, 204], OPEN),
    "an LF before it": ([204, 204], OPEN),
    # section 3.2: these must be refused, and are taken
    "two Hosts": ([400, 204], OPEN),
    "two Hosts alike": ([400, 204], OPEN),
    "no Host": ([400, 204], OPEN),
    "a Host with a blank": ([400, 204], OPEN),
    "a Host with a slash": ([400, 204], OPEN),
    "a Host with an @": ([400, 204], OPEN),
    # section 3: these are no targets, and are looked up
    "a target that is not ASCII": ([404, 204], OPEN),
    "a fragment": ([404, 204], OPEN),
    "a target of no form": ([404, 204], OPEN),
    # RFC 9110, section 2.5 lets 1.9 pass for 1.1, and llhttp does not: there is no 1.9. Tornado takes it for 1.0, which
    # closes. RFC 9112, section 6.1: a coding in 1.0 is faulty; Tornado reads it
    "HTTP/1.9": ([400], CLOSED),
    "coding in 1.0": ([400], CLOSED),
}
"""What Tornado's own parser does otherwise. It is there for comparison: senders and tenants are served by ours."""
UNANSWERED_BY_TORNADO = {"nothing after a close", "HTTP/1.9", "coding in 1.0"}
"""After which it closes, and yet takes the delivery behind, and answers nobody."""
OURS = KINDS[:2]
"""The ways to run our own parser: with deliveries taken at the request line, and with everything by delegates."""


async def _exchange(kind, sent, count, end):
    world = World()
    async with serving(kind, world.front) as (port, _), Client.to(port) as client:
        with contextlib.suppress(*[ConnectionError] * (end == RESET)):
            client.send(sent)
            await client.statuses(count)
            if end == OPEN:
                client.send(GOOD)
                await client.statuses(count + 1)
            else:
                await client.rest()
        assert world.intake.budget.deliveries == world.intake.budget.bytes == 0
        assert not world.intake.open
        return [int(status) for status in STATUS.findall(client.seen)], client.seen, world


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GOOD_EXCHANGES)
def test_what_is_well_formed(kind, name):
    sent, expected, end = GOOD_EXCHANGES[name]
    if kind not in OURS:
        expected, end = BY_TORNADO.get(name, (expected, end))
    seen, _, world = run(_exchange(kind, sent, len(expected), end))
    assert seen == expected + [204] * (end == OPEN) or (end == RESET and seen == [])
    unanswered = kind not in OURS and name in UNANSWERED_BY_TORNADO
    assert len(world.publisher.messages) == seen.count(204) + unanswered


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD_EXCHANGES)
def test_what_is_malformed(kind, name):
    """It is 400 and a closed connection, and what follows it is never taken for a request."""
    expected, end = [400], CLOSED
    if kind not in OURS:
        expected, end = BY_TORNADO.get(name, (expected, end))
    seen, text, world = run(_exchange(kind, BAD_EXCHANGES[name] + GOOD, len(expected), end))
    assert seen == expected + [204] * (end == OPEN)
    unanswered = kind not in OURS and name in UNANSWERED_BY_TORNADO
    assert len(world.publisher.messages) == seen.count(204) + unanswered
    if kind in OURS:
        head, _, body = text.partition(b"\r\n\r\n")
        assert (b"Connection: close" in head, body) == (True, b"")


def test_every_row_of_tornados_is_of_an_exchange():
    assert BY_TORNADO.keys() <= GOOD_EXCHANGES.keys() | BAD_EXCHANGES.keys()
    assert BY_TORNADO.keys() >= UNANSWERED_BY_TORNADO
    assert not GOOD_EXCHANGES.keys() & BAD_EXCHANGES.keys()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"{}", PATH, "Expect: 200-maybe"), 417),
        (post(b"{}", PATH, "Expect: 100-continue, 100-continue"), 417),
        (body_of(b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"), 501),
        (body_of(b"\r\n".join(b"X-%d: y" % n for n in range(99))), 431),
        (body_of(b"X: " + b"y" * 32_768), 431),
        (b"POST /" + b"x" * 40_000, 431),
        (b"x" * 40_000, 431),
        (CHUNKS + b"2;" + b"x" * 2_000 + b"\r\n{}\r\n0\r\n\r\n", 400),
        (CHUNKS + (b"1;" + b"x" * 900 + b"\r\n \r\n") * 20, 400),
        (CHUNKS + b"0\r\n" + b"X: y\r\n" * 4000 + b"\r\n", 400),
        (CHUNKS + b"1\r\n \r\n" * 20_000, 400),
    ],
)
@pytest.mark.parametrize("kind", OURS)
def test_what_is_refused_for_its_size_or_its_wishes(kind, sent, status, loop):
    seen, _, world = run(_exchange(kind, sent, 1, CLOSED), loop)
    assert seen == [status]
    assert not world.publisher.messages


def test_what_is_at_the_limit_passes():
    fields = [f"X-{n}: y" for n in range(97)]
    head = post(b"{}", PATH, *fields)
    longest = post(b"{}", PATH, "X: " + "y" * (32_768 - len(post(b"{}", PATH, "X: ")) + 2))
    extended = CHUNKS + b"2;a=b\r\n{}\r\n0\r\nX-Trailer: y\r\n\r\n"
    seen, _, world = run(_exchange("llhttp", head + longest + extended, 3, OPEN))
    assert seen == [204] * 4
    assert [message.body for message in world.publisher.messages] == [b"{}"] * 4


def test_the_limits_are_those_that_operators_are_told():
    text = (Path(__file__).parents[1] / "docs" / "operating.md").read_text()
    section = text.partition("### What is refused before that")[2].partition("\n## ")[0]
    table = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| ")][1:]
    told = {what.strip(): (much.strip(), beyond.strip()) for what, much, beyond in table}
    limits = Limits()
    expected = {
        "header, with the request line": (f"{MAX_HEAD // 1024} KiB", "431"),
        "header fields": (f"{MAX_FIELDS}", "431"),
        "time for a header, from its first byte": (f"{limits.head:g} s", "408"),
        "time for a body to keep up with the next line": (f"{limits.body_grace:g} s", "408"),
        "bytes of a body per second, on average": (f"{limits.body_rate // 1024} KiB", "408"),
        "time for any body": (f"{limits.body:g} s", "408"),
        "time between two requests of a connection": (f"{limits.idle:g} s", "closed"),
        "time for the rest of a refused body, which is read so that the answer is seen": (
            f"{limits.drain:g} s",
            "closed",
        ),
        "time in which a client reads nothing of its answers": (f"{limits.write:g} s", "closed"),
    }
    assert told.items() >= expected.items()
    assert told["connections"][0].startswith(f"{limits.connections:,},")
    assert f"idle for longest, {limits.spare:g} s and more" in section


# --- whatever the network does to the bytes ------------------------------------------------------------------------------

STREAMS = [
    *(sent for sent, _, _ in GOOD_EXCHANGES.values() if len(sent) < 5_000),
    *BAD_EXCHANGES.values(),
    body_of(b"X: " + b"y" * 300),
]


async def _fed(pieces):
    """Return what comes of bytes that arrive in these pieces: answers and messages."""
    world = World()
    server = Server(world.front, world.front, drain_limit=2 * MAX_BODY)
    watch = Watch(Limits(linger=0.05), server.shared.accepted.refresh)
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    theirs.setblocking(False)
    ours.setblocking(False)
    connection = Connection(server.shared, watch)
    transport, _ = await loop.connect_accepted_socket(lambda: connection, ours)
    seen = b""
    with theirs:
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        await until(lambda: not connection.in_work())
        for _ in range(5):
            await asyncio.sleep(0)
        transport.abort()
        while data := await loop.sock_recv(theirs, 65536):
            seen += data
    watch.stop()
    bodies = [message.body for message in world.publisher.messages]
    return re.sub(rb"(Date|X-Webhookd-Receipt): [^\r]*", rb"\1", seen), bodies


@given(st.data(), st.lists(st.sampled_from(STREAMS), min_size=1, max_size=3), st.booleans())
def test_any_split_of_the_same_bytes_gives_the_same_answers(data, streams, bytewise):
    stream = b"".join(streams)
    cuts = st.lists(st.integers(0, len(stream)), max_size=20)
    at = range(len(stream) + 1) if bytewise and len(stream) < 1500 else sorted({0, *data.draw(cuts), len(stream)})
    pieces = [stream[a:b] for a, b in zip(at, [*at[1:], len(stream)], strict=True) if a < b]

    async def both():
        return await _fed([stream]), await _fed(pieces)

    whole, split = run(both(), asyncio.new_event_loop)
    assert whole == split


@given(
    st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from([GOOD, CHUNKS, b"2\r\n{}\r\n", b"0\r\n\r\n", b"\r\n"])),
        max_size=8,
    )
)
@example([CHUNKS, b"2\r\n{}\r\n", b"0\r\n\r\n", GOOD])
def test_no_bytes_are_a_bug(pieces):
    seen, _ = run(_fed(pieces), asyncio.new_event_loop)
    assert b"HTTP/1.1 500" not in seen


# --- a real application ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_application_of_tornados(kind):
    """It gets every request as Tornado's own server gives it, and answers in any way that it knows."""

    async def scenario():
        app = World().app
        async with serving(kind, app) as (port, _), Client.to(port) as client:
            client.send(b"POST /echo?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
            seen = await client.until(lambda seen: seen.endswith(b"hello"))
            assert b"X-Got: POST /echo?a=b HTTP/1.1\r\n" in seen
            for size in (1, 70_000):
                client.seen = b""
                body = b"".join(b"%x\r\n%b\r\n" % (size, b"y" * size) for _ in range(20))
                client.send(
                    b"POST /slowly HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
                )
                seen = await client.until(lambda seen, size=size: seen.endswith(b"y" * 20 * size))
                assert b"Content-Length: %d\r\n" % (20 * size) in seen
            client.seen = b""
            client.send(b"GET /pieces?count=3&size=5 HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = await client.until(lambda seen: seen.endswith(b"0\r\n\r\n"))
            assert b"Transfer-Encoding: chunked" in seen
            assert seen.endswith(b"\r\n\r\n" + b"5\r\nxxxxx\r\n" * 3 + b"0\r\n\r\n")
            client.seen = b""
            client.send(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\nGET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await client.statuses(2) == [200, 500]
            client.send(b"GET /pieces?count=3&size=5 HTTP/1.0\r\n\r\n")
            seen = await client.rest()
            assert seen.endswith(b"\r\n\r\n" + b"x" * 15)

    run(scenario())


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("length", ["10", "20"])
def test_an_application_that_miscounts_is_cut_off(kind, length, caplog):
    async def scenario():
        async with serving(kind, World().app) as (port, _), Client.to(port) as client:
            client.send(f"GET /pieces?count=3&size=5&length={length} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + GOOD)
            with contextlib.suppress(ConnectionError):
                await client.rest()
            assert STATUS.findall(client.seen) in ([b"200"], [])

    run(scenario())


class Failing(httputil.HTTPServerConnectionDelegate, httputil.HTTPMessageDelegate):
    """Fails at one step of a request."""

    def __init__(self, step):
        self.step = step

    def start_request(self, server_conn, request_conn):
        self.connection = request_conn
        return self.at("start_request") or self

    def headers_received(self, start_line, headers):
        if self.step == "input":
            raise httputil.HTTPInputError("as asked for")
        return self.later() if self.step == "later" else self.at("headers_received")

    def data_received(self, chunk):
        return self.at("data_received")

    def finish(self):
        self.at("finish")

    async def later(self):
        await asyncio.sleep(0.01)
        raise RuntimeError("as asked for")

    def at(self, step):
        if step == self.step:
            raise RuntimeError("as asked for")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("step", ["start_request", "headers_received", "data_received", "finish", "later", "input"])
def test_a_delegate_that_fails_costs_its_own_connection(step, loop):
    async def scenario():
        async with serving("llhttp", Failing(step)) as (port, server), Client.to(port) as client:
            client.send(GOOD + GOOD)
            seen = await client.rest()
            assert STATUS.findall(seen) == [b"400" if step == "input" else b"500"]
            assert b"as asked for" not in seen
            client.writer.close()
            await until(lambda: not server.connections)

    with capture_logs() as lines:
        run(scenario(), loop)
    assert [line["event"] for line in lines].count("a connection failed by a bug") == (step != "input")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_does_not_read_is_not_written_to(loop):
    """An answer waits for its client, what waits is bounded, and who reads nothing at all is cut off."""

    async def scenario():
        world = World()
        async with serving("llhttp", world.app, Limits(write=0.3, tick=0.1)) as (port, server):
            async with Client.to(port, limit=1024) as slow:
                slow.send(b"GET /pieces?count=3000&size=10000 HTTP/1.1\r\nHost: x\r\n\r\n")
                await slow.until(lambda seen: len(seen) > 100_000)
                (connection,) = server._watch.connections
                assert connection.transport.get_write_buffer_size() < 1_000_000
                assert connection.writable is not None
                slow.writer.transport.pause_reading()
                await asyncio.wait_for(world.app.settings["gone"].wait(), 10)
            await until(lambda: not server.connections)

    run(scenario(), loop)


def test_pipelined_requests_of_a_client_that_does_not_read():
    async def scenario():
        world = World()
        async with serving("llhttp", world.app) as (port, server), Client.to(port, limit=1024) as client:
            asked = 500
            request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + b"z" * 20_000
            client.send(request * asked)
            await client.until(lambda seen: len(seen) > 1000)
            await asyncio.sleep(0.3)
            (connection,) = server._watch.connections
            assert connection.transport.get_write_buffer_size() < 200_000
            await client.until(lambda seen: len(STATUS.findall(seen)) == asked, 40)

    run(scenario())


# --- senders that are slow -------------------------------------------------------------------------------------------------

QUICK = Limits(idle=0.4, head=0.4, body_grace=0.4, body_rate=1000, body=1.5, drain=0.4, linger=0.3, tick=0.05)


@pytest.mark.parametrize(
    ("pieces", "pause", "status"),
    [
        ([b""], 0, None),
        ([HEAD[:20]], 0, 408),
        ([HEAD[at : at + 1] for at in range(40)], 0.03, 408),
        ([HEAD + b"Content-Length: 90000\r\n\r\n"], 0, 408),
        ([HEAD + b"Content-Length: 90000\r\n\r\n", *[b"x"] * 40], 0.03, 408),
        ([HEAD + b"Content-Length: 90000\r\n\r\n", *[b"x" * 100] * 40], 0.05, 408),
        ([CHUNKS, *[b"1\r\nx\r\n"] * 40], 0.03, 408),
        ([post(path="/wh/a/b").replace(b"Length: 2", b"Length: 900")], 0, 404),
        ([GOOD], 0, 204),
    ],
)
@pytest.mark.parametrize("kind", OURS)
def test_senders_that_take_too_long(kind, pieces, pause, status):
    """They are told so, their connection ends, and nothing of them is left."""

    async def scenario():
        world = World()
        async with serving(kind, world.front, QUICK) as (port, server), Client.to(port) as client:
            ending = asyncio.create_task(client.rest())
            for piece in pieces:
                if not ending.done():
                    client.send(piece)
                    await asyncio.sleep(pause)
            seen = await ending
            assert [int(one) for one in STATUS.findall(seen)] == [status] * (status is not None)
            await until(lambda: not server.connections)
            assert world.intake.budget.deliveries == 0
            assert not world.intake.open

    run(scenario())


def test_a_sender_that_keeps_up_may_take_its_time():
    async def scenario():
        world = World()
        async with serving("llhttp", world.front, QUICK) as (port, _), Client.to(port) as client:
            client.send(HEAD + b"Content-Length: 4000\r\n\r\n")
            for _ in range(10):
                client.send(b" " * 399 + b"[")
                await asyncio.sleep(0.1)
            assert await client.statuses(1) == [400]

    run(scenario())


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("length", [MAX_BODY * 1.5, MAX_BODY * 100])
def test_a_sender_that_only_writes_sees_its_refusal(kind, length):
    """It reads nothing before it has written everything, or cannot any more."""

    async def scenario():
        async with serving(kind, World().front) as (port, _):
            return await asyncio.to_thread(blast, port, int(length))

    def blast(port, length):
        with socket.create_connection(("127.0.0.1", port), 10) as sender:
            sender.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % length)
            with contextlib.suppress(OSError):
                for _ in range(0, min(length, 3 * MAX_BODY), 10_000):
                    sender.sendall(b"x" * 10_000)
            return sender.recv(1000)

    assert run(scenario()).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_is_done_sending_still_gets_its_answers(loop):
    async def scenario():
        world = World()
        world.app.settings["go"].set()
        async with serving("llhttp", world.front) as (port, _), Client.to(port) as client:
            client.send(GOOD + b"GET /waiting HTTP/1.1\r\nHost: x\r\n\r\n" + GOOD)
            client.writer.write_eof()
            assert [int(one) for one in STATUS.findall(await client.rest())] == [204, 200, 204]

    run(scenario(), loop)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sender_that_goes_away_leaves_nothing_behind(kind):
    async def scenario():
        world = World()
        async with serving(kind, world.front) as (port, _):
            async with Client.to(port) as client:
                client.send(HEAD + b"Content-Length: 9000\r\n\r\n" + b"x" * 5000)
                await until(lambda: world.intake.budget.bytes == 5000)
            async with Client.to(port) as client:
                client.send(b"GET /waiting HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.wait_for(world.app.settings["asked"].wait(), 10)
                reset = struct.pack("ii", 1, 0)
                client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            await asyncio.wait_for(world.app.settings["gone"].wait(), 10)
            await until(lambda: not (world.intake.open or world.intake.budget.deliveries))
            world.app.settings["go"].set()

    run(scenario())


# --- too many, and the end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_more_connections_than_may_be_wait_for_room(loop):
    async def scenario():
        limits = Limits(connections=4, spare=0.2, tick=0.05)
        async with serving("llhttp", World().front, limits) as (port, server), contextlib.AsyncExitStack() as stack:
            first = [await stack.enter_async_context(Client.to(port)) for _ in range(4)]
            for client in first:
                client.send(GOOD)
                await client.statuses(1)
            more = [await stack.enter_async_context(Client.to(port)) for _ in range(3)]
            for client in more:
                client.send(GOOD)
            assert server.connections == 4
            for client in more:  # one after the other, in the place of those that have been idle for longest
                assert await client.statuses(1) == [204]
                assert server.connections <= 4

    run(scenario(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_wait_while_there_is_no_descriptor(loop):
    async def scenario():
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with serving("llhttp", World().front) as (port, server):
            with contextlib.ExitStack() as stack, socket.create_connection(("127.0.0.1", port), 10) as waiting:
                resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 20, before[1]))
                stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
                with contextlib.suppress(OSError):
                    while True:
                        stack.callback(os.close, os.dup(0))
                await asyncio.sleep(0.5)
                assert server.connections == 0
                stack.close()
                waiting.setblocking(False)
                await asyncio.get_running_loop().sock_sendall(waiting, GOOD)
                answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(waiting, 1000), 10)
                assert answer.startswith(b"HTTP/1.1 204 ")

    with capture_logs() as lines:
        run(scenario(), loop)
    assert 1 <= [line["event"] for line in lines].count("no connection can be accepted now: those that come wait") <= 4


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stop_in_the_middle_of_accepting(loop):
    async def scenario():
        async with serving("llhttp", World().front) as (port, server):
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                while not server.connections:  # noqa: ASYNC110 - in the very turn in which it is accepted
                    await asyncio.sleep(0)
                await server.close(5)
                assert server.connections == 0
                client.settimeout(5)
                with contextlib.suppress(ConnectionError):
                    assert client.recv(100) == b""

    run(scenario(), loop)


class Held:
    """A publisher that confirms when it is told to."""

    def __init__(self):
        self.waiting = []

    def send(self, message, answer):
        self.waiting.append(answer)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", OURS)
def test_a_stop_answers_what_is_in_work(kind, loop):
    async def scenario():
        world = World()
        world.intake.publisher = Held()
        async with (
            serving(kind, world.front, Limits(linger=0.2, tick=0.1)) as (port, server),
            contextlib.AsyncExitStack() as stack,
        ):
            idle, half, *busy = [await stack.enter_async_context(Client.to(port)) for _ in range(6)]
            for client in busy:
                client.send(GOOD * 2)
            half.send(HEAD[:30])
            await until(lambda: len(world.intake.publisher.waiting) == len(busy))
            server.stop()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            closing = asyncio.create_task(server.close(10))
            await idle.rest()
            await half.rest()
            assert not closing.done()
            for future in world.intake.publisher.waiting:
                future.set_result("confirmed")
            for client in busy:  # what was pipelined behind is not begun
                seen = await client.rest()
                assert STATUS.findall(seen) == [b"204"]
                assert b"Connection: close" in seen
            await closing
            assert len(world.intake.publisher.waiting) == len(busy)

    run(scenario(), loop)


def test_a_stop_does_not_wait_for_ever():
    async def scenario():
        world = World()
        world.intake.publisher = Held()
        async with serving("llhttp", world.front) as (port, server), Client.to(port) as client:
            client.send(GOOD)
            await until(lambda: bool(world.intake.publisher.waiting))
            await server.close(0.1)
            with contextlib.suppress(ConnectionError):
                assert await client.rest() == b""
            world.intake.publisher.waiting[0].set_result("confirmed")
            await asyncio.sleep(0.01)
            assert not world.intake.open

    run(scenario())


def test_the_hook_is_the_one_that_was_published_for():
    seen, text, world = run(_exchange("llhttp", GOOD, 1, OPEN))
    assert seen == [204, 204]
    first, second = world.publisher.messages
    assert (first.hook, first.tenant) == (HOOK.token, HOOK.tenant)
    assert re.findall(rb"X-Webhookd-Receipt: (\S+)", text) == [first.receipt.encode(), second.receipt.encode()]
    assert world.intake.metrics.outcomes["confirmed"] == 2
