"""The frames of a publish are what pamqp reads as the message, and the broker's stream is cut where its frames end."""

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, header
from pamqp.heartbeat import Heartbeat
from test_publishers import a_message, random_body

from webhookd.adapters.amqp_frames import HEARTBEAT_FRAME, FrameError, Incoming, PublishFrames, close_reason, parse

NAMES = st.text(min_size=1, max_size=60).filter(lambda name: len(name.encode()) <= 128)
TEXTS = st.text(max_size=400)
INT64 = st.integers(-(2**63), 2**63 - 1)


def read(data: bytes) -> list[tuple[int, object]]:
    """Return the frames in `data` as pamqp reads them, with their channels."""
    frames = []
    while data:
        size, channel, frame = pamqp.frame.unmarshal(data)
        frames.append((channel, frame))
        data = data[size:]
    return frames


@given(
    headers=st.dictionaries(NAMES, TEXTS | INT64, max_size=8),
    tenant=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    event=st.from_regex(r"[A-Za-z0-9_.:-]{1,100}", fullmatch=True),
    received_at=st.integers(0, 1000 * 2**32 - 1),  # pamqp takes larger timestamps for milliseconds
    receipt=st.uuids().map(str),
    channel=st.integers(1, 65535),
    size=st.integers(0, 2**40),
)
def test_a_head_is_what_pamqp_reads_as_the_message(headers, tenant, event, received_at, receipt, channel, size):
    class Sized(bytes):
        def __len__(self) -> int:
            return size

    message = a_message(
        1, Sized(), tenant=tenant, event=event, headers=headers, received_at=received_at, receipt=receipt
    )
    frames = PublishFrames(channel, "events-to-enrich", 131072)
    for _ in range(2):  # the second time its route is remembered
        head, routing_key = frames.head(message)
        (on_one, publish), (on_other, content) = read(head)
        assert (on_one, on_other) == (channel, channel)
        assert isinstance(publish, commands.Basic.Publish)
        assert publish.exchange == "events-to-enrich"
        assert publish.routing_key == routing_key == message.routing_key
        assert (publish.mandatory, publish.immediate) == (True, False)
        assert isinstance(content, header.ContentHeader)
        assert content.body_size == size
        found = {name: value for name, value in content.properties if value not in (None, "")}
        assert found.pop("timestamp").timestamp() == received_at // 1000
        assert found.pop("headers", {}) == headers
        assert found == {
            "content_type": "application/json",
            "delivery_mode": 2,
            "message_id": receipt,
            "message_type": event,
            "app_id": "webhookd",
        }


@given(headers=st.dictionaries(NAMES, TEXTS | INT64, max_size=8))
def test_header_values_keep_their_types_on_the_wire(headers):
    """pamqp itself would say a small number in fewer bytes: every number is signed 64 bits here, every text long."""
    head, _ = PublishFrames(1, "e", 131072).head(a_message(headers=headers))
    for name, value in headers.items():
        said = name.encode()
        if isinstance(value, str):
            data = value.encode()
            field = bytes((len(said),)) + said + b"S" + len(data).to_bytes(4, "big") + data
        else:
            field = bytes((len(said),)) + said + b"l" + value.to_bytes(8, "big", signed=True)
        assert field in head


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"n": 2**63}},
        {"headers": {"x" * 256: "long name"}},
        {"headers": {"surrogate": "\ud800"}},
        {"receipt": "r" * 256},
        {"event": "e" * 300},
        {"received_at": -1000},
    ],
)
def test_what_amqp_cannot_hold_is_refused_by_an_error_that_is_expected(fields):
    with pytest.raises((ValueError, pamqp.frame.struct.error)):
        PublishFrames(1, "events-to-enrich", 131072).head(a_message(**fields))


@given(size=st.integers(0, 20_000), frame_max=st.sampled_from([4096, 4097, 8192, 131072]))
def test_a_body_is_cut_into_full_frames_and_a_rest(size, frame_max):
    frames = PublishFrames(3, "e", frame_max)
    data = random_body(size, size)
    if size and size <= frames.payload_max:
        said = frames.body_start(size) + data + b"\xce"
        assert b"".join(frames.body(data)) == said
    found = read(b"".join(frames.body(data)))
    assert b"".join(frame.value for _, frame in found) == data
    assert all(len(frame.value) == frame_max - 8 for _, frame in found[:-1])


def test_a_large_body_comes_in_pieces_of_whole_frames():
    data = random_body(1, 3_000_000)
    pieces = list(PublishFrames(3, "e", 4096).body(data))
    assert max(map(len, pieces)) < 300_000
    assert b"".join(frame.value for piece in pieces for _, frame in read(piece)) == data


def test_remembered_routes_are_bounded():
    frames = PublishFrames(1, "e", 131072)
    for number in range(10_000):
        frames.head(a_message(tenant=str(number)))
    assert len(frames._routes) <= 4096


STREAM = b"".join(
    (
        pamqp.frame.marshal(commands.Basic.Ack(1, False), 1),
        HEARTBEAT_FRAME,
        pamqp.frame.marshal(commands.Basic.Return(312, "NO_ROUTE", "e", "k"), 1),
        pamqp.frame.marshal(header.ContentHeader(0, 3, commands.Basic.Properties(message_id="m")), 1),
        pamqp.frame.marshal(body.ContentBody(b"\xce\xce\xce"), 1),
        pamqp.frame.marshal(commands.Basic.Nack(2, True), 1),
    )
)


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_frames_are_whole_wherever_the_stream_is_cut(at):
    incoming = Incoming()
    assert incoming.feed(STREAM[:at]) + incoming.feed(STREAM[at:]) == Incoming().feed(STREAM)


def test_frames_are_whole_when_they_come_byte_by_byte():
    incoming = Incoming()
    frames = [frame for at in range(len(STREAM)) for frame in incoming.feed(STREAM[at : at + 1])]
    assert b"".join(frames) == STREAM
    assert len(frames) == 6


@given(data=st.binary(max_size=300))
def test_garbage_is_frames_or_an_error(data):
    try:
        frames = Incoming().feed(data)
    except FrameError:
        return
    assert data.startswith(b"".join(frames))


@given(
    data=st.binary(max_size=60), method=st.sampled_from([b"\x00\x0a\x00\x32", b"\x00\x14\x00\x28", b"\x00\x3c\x00\x32"])
)
def test_a_method_that_cannot_be_read_is_an_error(data, method):
    payload = method + data
    frame = b"\x01\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"
    for kind in (commands.Connection.Close, commands.Channel.Close, commands.Basic.Return):
        try:
            parsed = parse(frame, kind)
        except FrameError:
            continue
        assert isinstance(parsed, kind)


def test_the_reason_of_a_close_is_read():
    close = pamqp.frame.marshal(commands.Channel.Close(404, "NOT_FOUND", 60, 40), 1)
    assert close_reason(close, commands.Channel.Close) == (404, "NOT_FOUND")
    with pytest.raises(FrameError):
        close_reason(close, commands.Connection.Close)


def test_the_heartbeat_is_one():
    assert isinstance(pamqp.frame.unmarshal(HEARTBEAT_FRAME)[2], Heartbeat)


@pytest.mark.parametrize(("frame_max", "fits"), [(4096, True), (4095, False)])
def test_a_frame_over_what_was_agreed_is_an_error(frame_max, fits):
    incoming = Incoming()
    incoming.frame_max = frame_max
    frame = pamqp.frame.marshal(body.ContentBody(b"x" * 4088), 1)
    if fits:
        assert incoming.feed(frame) == [frame]
    else:
        with pytest.raises(FrameError):
            incoming.feed(frame[:7])
