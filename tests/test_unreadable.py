"""Each way in which a body cannot be read has a delivery that is refused, and that it, and nothing else, is told of."""

import gzip
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.body import check_json, content_encoding, inflate
from webhookd.errors import Malformed
from webhookd.model import Delivery
from webhookd.registry import load
from webhookd.trials.diagnoses import GENERAL_FACTS, capital
from webhookd.trials.unreadable import MAX_LOOKED_AT, UNREADABLE, unreadable

REGISTRY = load()
GZIP, DEFLATE = {"content-encoding": "gzip"}, {"content-encoding": "deflate"}
WORD = "canary"
ZIPPED = gzip.compress(b'{"ref": "canary"}' * 20)

REFUSED: dict[str, tuple[bytes, dict[str, str]]] = {
    "empty": (b"", {}),
    "empty: blanks": (b" \n", {}),
    "empty: when inflated": (gzip.compress(b""), GZIP),
    "not-compressed": (b'{"ref": "canary"}', GZIP),
    "compressed-cut": (ZIPPED[:-5], GZIP),
    "compressed-followed": (ZIPPED + b"\n", GZIP),
    "compressed-followed: deflate": (zlib.compress(b"{}") + b"canary", DEFLATE),
    "compressed-broken": (ZIPPED[:20] + b"canary" + ZIPPED[26:], GZIP),
    "compressed-broken: another way": (ZIPPED, DEFLATE),
    "compression-unnamed": (ZIPPED, {}),
    "compression-unnamed: identity": (ZIPPED, {"content-encoding": "identity"}),
    "byte-order-mark-first": (b'\xef\xbb\xbf{"ref": "canary"}', {}),
    "utf-16": ('{"ref": "canary"}'.encode("utf-16"), {}),
    "utf-16: without a mark": ('{"ref": "canary"}'.encode("utf-16-be"), {}),
    "utf-16: of 32 bits": ('{"ref": "canary"}'.encode("utf-32"), {}),
    "form": (b"payload=%7B%22ref%22%3A%22canary%22%7D", {}),
    "form: as curl -d sends it": (b'payload={"ref": "canary"}', {}),
    "markup": (b"<?xml version='1.0'?><canary/>", {}),
    "json-in-json": (json.dumps('{"ref": "canary"}').encode(), {}),
    "single-value": (b'"canary"', {}),
    "single-value: a number": (b"42", {}),
    "several-values": (b'{"ref": "canary"}\n{"ref": 2}\n', {}),
    "several-values: twice": (b"{}{}", {}),
    "not-utf-8": ('{"ref": "canary \xe9"}'.encode("latin-1"), {}),
    "nested": (b"[" * 10_000 + b"]" * 10_000, {}),
    "not-a-number": (b'{"canary": NaN}', {}),
    "not-a-number: infinity": (b'{"canary": [-Infinity]}', {}),
    "raw-line-break": (b'{"canary": "one\ntwo"}', {}),
    "raw-line-break: a tab": (b'{"canary": "one\ttwo"}', {}),
    "trailing-comma": (b'{"ref": "canary", "commits": [1, 2,],}', {}),
    "single-quotes": (b"{'ref': 'canary', 'deleted': False}", {}),
    "single-quotes: inside": (b"{\"ref\": 'canary'}", {}),
    "lone-surrogate": (b'{"ref": "canary \\ud83d"}', {}),
    "lone-surrogate: in the middle": (b'{"ref": "canary \\ud83d, and more"}', {}),
    "lone-surrogate: the second half": (b'{"ref": "canary \\ude00"}', {}),
    "quotes-missing": (b"{canary:1}", {}),
    "quotes-missing: in an array": (b"[{ canary : true }]", {}),
    "cut-off": (b'{"ref": "canary', {}),
    "cut-off: when inflated": (gzip.compress(b'{"canary": ['), GZIP),
}


def names(body: bytes, headers: dict[str, str], source: str = "github") -> list[str]:
    return [found.name for found in unreadable(REGISTRY.get(source), Delivery(headers, body, 0))]


@pytest.mark.parametrize("title", REFUSED)
def test_a_mistake_is_named(title: str) -> None:
    assert names(*REFUSED[title]) == [title.partition(":")[0]]


@pytest.mark.parametrize("title", REFUSED)
def test_the_delivery_is_one_that_is_refused(title: str) -> None:
    body, headers = REFUSED[title]
    encoding = content_encoding(headers.get("content-encoding"))
    with pytest.raises(Malformed) as refusal:
        check_json(body if encoding is None else b"".join(inflate(body, encoding)))
    assert WORD not in refusal.value.detail
    assert "truncated" not in refusal.value.detail


def test_every_mistake_has_a_delivery() -> None:
    assert {title.partition(":")[0] for title in REFUSED} == UNREADABLE.keys()


@pytest.mark.parametrize("title", REFUSED)
def test_what_is_told_holds_no_value_of_the_body(title: str) -> None:
    for source in ("github", "anything"):
        (found,) = unreadable(REGISTRY.get(source), Delivery(REFUSED[title][1], REFUSED[title][0], 0))
        assert WORD not in repr(found)
        assert found.text[0].isupper()
        assert found.remedy[0].isupper()
        assert "{sender}" not in found.remedy


@pytest.mark.parametrize("body", [b'{"ref": "a "quoted" word"}', b"{}x", b'{"ref": 01}', b"canary"])
def test_what_is_wrong_in_another_way_is_not_named(body: bytes) -> None:
    assert names(body, {}) == []


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"a":' * 12_000, b"1" * 64 * 1024, b", " * 30_000, b"{'" * 30_000, b'"\\' * 30_000]
)
def test_hostile_bodies_break_nothing(body: bytes) -> None:
    for headers in ({}, GZIP, DEFLATE):
        assert len(names(body, headers)) <= 1


def test_a_bomb_is_not_inflated() -> None:
    assert names(gzip.compress(b"[" + b" " * 20 * MAX_LOOKED_AT), GZIP) == []


@given(st.binary(max_size=200), st.sampled_from([{}, GZIP, DEFLATE, {"content-encoding": "br"}]))
def test_noise_breaks_nothing(body: bytes, headers: dict[str, str]) -> None:
    assert len(names(body, headers)) <= 1


def test_the_page_lists_every_mistake() -> None:
    page = (Path(__file__).parents[1] / "docs" / "refusals.md").read_text()
    part = page.split("\n| name | how the body is | what to do |\n")[1].split("\n\n")[0]
    assert [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines()[1:]] == [
        [f"`{name}`", *(capital(words.format(**GENERAL_FACTS)) for words in (known.text, known.remedy))]
        for name, known in UNREADABLE.items()
    ]
