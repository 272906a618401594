import contextlib
import gzip
import json
import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.body import INFLATE_STEP, check_content_type, check_json, content_encoding, inflate, nested
from webhookd.errors import Malformed, UnsupportedContentEncoding, UnsupportedContentType

JSON_TYPES = [
    "application/json",
    "APPLICATION/JSON",
    "application/json; charset=utf-8",
    "foo/moo; application/sjson; charset-utf8",
    "application/vnd.github.v3+json",
    "application/cloudevents+json; charset=UTF-8",
    " application/json ",
    ";application/json",
    "text/plain ; application/x+json",
]
OTHER_TYPES = [
    "",
    "text/json",
    "application/jsonx",
    "application/+json",
    "application/x+jsonp",
    "application/json, text/plain",
    "application/json application/xml",
    "text/application/json",
    "multipart/form-data; boundary=x",
]


@pytest.mark.parametrize("value", JSON_TYPES)
def test_a_part_that_names_json_makes_it_json(value):
    check_content_type(value)


@pytest.mark.parametrize("value", OTHER_TYPES)
def test_anything_else_is_not(value):
    with pytest.raises(UnsupportedContentType, match="send application/json"):
        check_content_type(value)


def test_a_missing_type_and_a_form_are_told_what_to_do():
    with pytest.raises(UnsupportedContentType, match="is missing"):
        check_content_type(None)
    with pytest.raises(UnsupportedContentType, match="switch the sender to JSON"):
        check_content_type("application/x-www-form-urlencoded; charset=utf-8")


@pytest.mark.parametrize(
    ("value", "encoding"),
    [(None, None), ("", None), ("identity", None), ("gzip", "gzip"), ("X-GZip", "gzip"), (" deflate ", "deflate")],
)
def test_encodings(value, encoding):
    assert content_encoding(value) == encoding


@pytest.mark.parametrize(
    "value", ["br", "zstd", "gzip, gzip", "gzip,identity", "identity, identity", "gzip;q=1", "compress"]
)
def test_any_other_or_more_than_one_encoding_is_refused(value):
    with pytest.raises(UnsupportedContentEncoding):
        content_encoding(value)


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("compress", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate"), (raw_deflate, "deflate")]
)
@given(data=st.binary(max_size=2000), times=st.integers(1, 400))
def test_what_was_compressed_comes_back(compress, encoding, data, times):
    whole = data * times
    assert b"".join(inflate(compress(whole), encoding)) == whole


@pytest.mark.parametrize("data", [b"x" * INFLATE_STEP, b"x" * (INFLATE_STEP - 1), b"x" * (3 * INFLATE_STEP), b""])
def test_the_ends_of_steps_lose_nothing(data):
    steps = list(inflate(gzip.compress(data), "gzip"))
    assert b"".join(steps) == data
    assert all(len(step) <= INFLATE_STEP for step in steps)


def test_a_compressed_body_of_many_input_steps():
    import random

    data = random.Random(1).randbytes(5 * INFLATE_STEP)
    assert b"".join(inflate(gzip.compress(data), "gzip")) == data


def test_nothing_is_inflated_ahead():
    steps = inflate(gzip.compress(bytes(200_000_000)), "gzip")
    assert len(next(steps)) == INFLATE_STEP


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"no gzip at all",
        gzip.compress(b"{}" * 100, mtime=0)[:-1],
        gzip.compress(b"{}" * 100, mtime=0)[:-9],
        gzip.compress(b"{}", mtime=0) + b"x",
        gzip.compress(b"{}", mtime=0) + gzip.compress(b"{}", mtime=0),
        gzip.compress(b"x" * INFLATE_STEP, mtime=0) + bytes(2 * INFLATE_STEP),
        gzip.compress(b"{}", mtime=0)[:-8] + bytes(8),
    ],
)
def test_a_broken_or_trailing_stream_is_refused(broken):
    with pytest.raises(Malformed):
        list(inflate(broken, "gzip"))


@given(st.binary(max_size=300))
def test_inflating_anything_raises_nothing_else(data):
    for encoding in ("gzip", "deflate"):
        with contextlib.suppress(Malformed):
            list(inflate(data, encoding))


GOOD_JSON = [
    b"{}",
    b"[]",
    b' \t\r\n{"a": 1} \n',
    b'{"a":1,"a":2}',
    b"[" + b"9" * 5000 + b"]",
    b"[1e999]",
    b"[-0.0e-1]",
    b'["\\ud83d\\ude00"]',
    '["é😀"]'.encode(),
    b"[" * 512 + b"]" * 512,
    b'{"a":' * 512 + b"1" + b"}" * 512,
    b'["\x7f"]',
]
BAD_JSON = [
    b"",
    b" ",
    b"NaN",
    b"[NaN]",
    b"[Infinity]",
    b"\xef\xbb\xbf{}",
    b'["\\ud800"]',
    b'["\\ud800\\u0041"]',
    b'["\\udc00"]',
    b'{"\\ud800":1}',
    b'["\xff"]',
    b'{"\xc3\x28":1}',
    b'["\xed\xa0\x80"]',
    b"[1,]",
    b"[01]",
    b"['a']",
    b"{} {}",
    b"[]\x00",
    b'["\x01"]',
    b"{,}",
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    '["é"]'.encode("utf-16"),
    b"null",
    b'"text"',
    b"12",
    b"true",
    b"payload=%7B%7D",
]


@pytest.mark.parametrize("body", GOOD_JSON, ids=lambda b: repr(b[:20]))
def test_json_passes(body):
    check_json(body)


@pytest.mark.parametrize("body", BAD_JSON, ids=lambda b: repr(b[:20]))
def test_what_is_not_json_is_refused(body):
    with pytest.raises(Malformed):
        check_json(body)


def test_the_refusal_says_what_it_is():
    for body, words in [
        (b"", "empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'["\xff"]', "UTF-8"),
        (b"1", "neither an object nor an array"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{'", "byte 1"),
    ]:
        with pytest.raises(Malformed) as caught:
            check_json(body)
        assert words in caught.value.detail


def test_a_character_on_the_edge_of_a_slice_is_no_fault():
    for pad in range(64 * 1024 - 6, 64 * 1024 + 2):
        check_json(b'["' + b"a" * pad + '😀é"]'.encode())
        with pytest.raises(Malformed):
            check_json(b'["' + b"a" * pad + b'\xf0\x9f\x98"]')


def lenient_json():
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
    texts = st.text(st.characters(exclude_categories=["Cs"]))
    leaves = st.none() | st.booleans() | numbers | texts
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)


@given(lenient_json(), st.booleans())
def test_what_python_writes_as_json_passes(document, ascii_only):
    check_json(json.dumps([document], ensure_ascii=ascii_only).encode())


@given(st.binary(max_size=60) | st.text('[]{}",:01e.-\\ud8ntrue fals', max_size=40).map(str.encode))
def test_json_is_what_a_strict_reading_of_python_takes(body):
    def refuse(_):
        raise ValueError

    try:
        document = json.loads(body.decode("utf-8"), parse_constant=refuse)
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # a lone surrogate has no bytes
        expected = isinstance(document, dict | list)
    except (ValueError, RecursionError):
        expected = False
    try:
        check_json(body)
        passed = True
    except Malformed:
        passed = False
    assert passed == expected


@given(st.integers(0, 30), st.integers(1, 30))
def test_nesting_is_counted_outside_of_strings(depth, levels):
    body = b'{"[[[[{{{{\\"[[": ' * depth + b"1" + b"}" * depth
    assert nested(b"[" + body + b"," + body + b"]", levels) == (depth + 1 >= levels)


def test_numbers_are_not_read():
    check_json(b"[1e400, " + str(10**300).encode() + b"]")
    assert math.isinf(json.loads("1e400"))
