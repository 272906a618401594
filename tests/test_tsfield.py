"""The path grammar of tsField, against an independent reading of it."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd import tsfield

names = st.text(st.characters(exclude_characters=".[]", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
steps = st.lists(names | st.integers(0, 10**6), min_size=1, max_size=8)


def written(path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def nested(path, value):
    for step in reversed(path):
        value = {step: value} if isinstance(step, str) else [None] * step + [value]
    return value


@given(steps)
def test_what_is_written_by_the_rules_parses_to_its_steps(path):
    if len(written(path)) <= tsfield.MAX_LENGTH:
        assert tsfield.parse(written(path)) == tuple(path)
    else:
        with pytest.raises(ValueError, match="at most 256 characters"):
            tsfield.parse(written(path))


@given(st.lists(names | st.integers(0, 5), min_size=1, max_size=6), st.integers() | st.text())
def test_a_path_leads_to_what_is_there(path, value):
    assert tsfield.resolve(written(path), nested(path, value)) == value


@given(st.text(st.sampled_from("ab.[]0\t \u0085\u00e9"), max_size=12))
def test_anything_else_is_refused(text):
    """Accept exactly what a reader of the contract, character by character, accepts."""
    if _by_hand(text):
        assert written(tsfield.parse(text)) == re.sub(r"\[0+(?=0)", "[", text)
    else:
        with pytest.raises(ValueError, match="not a path"):
            tsfield.parse(text)


def _by_hand(text: str) -> bool:
    for position, part in enumerate(text.split(".")):
        name, bracket, rest = part.partition("[")
        if (not name and (position or not bracket)) or "]" in name:
            return False
        if any(unicodedata.category(character) == "Cc" for character in name):
            return False
        if bracket and not (rest.endswith("]") and all(i.isascii() and i.isdigit() for i in rest[:-1].split("]["))):
            return False
    return True


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("commits[0].timestamp", ("commits", 0, "timestamp")),
        ("[0]", (0,)),
        ("[0][12].at", (0, 12, "at")),
        ("a b.c-d.0", ("a b", "c-d", "0")),
        ("[007]", (7,)),
        ("\u00fcber.\U0001f554", ("\u00fcber", "\U0001f554")),
        ("a" * 256, ("a" * 256,)),
    ],
)
def test_paths(path, steps):
    assert tsfield.parse(path) == steps


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a.",
        "a[x]",
        "a[]",
        "a[-1]",
        "a[0",
        "a]",
        "a[0]b",
        "a.[0]",
        "[0]a",
        "a[\u0661]",
        "a\nb",
        "a\x7f",
        "a" * 257,
    ],
)
def test_no_paths(path):
    with pytest.raises(ValueError, match="path"):
        tsfield.parse(path)


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("a.b", {"a": {}}),
        ("a.b", {"a": None}),
        ("a.b", {"a": "b"}),
        ("a", ["a"]),
        ("a[0]", {"a": []}),
        ("a[0]", {"a": {"0": 1}}),
        ("a[0]", {"a": "text"}),
        ("[1]", [1]),
        ("0", [1]),
        ("a.b", 7),
    ],
)
def test_paths_that_lead_nowhere(path, document):
    assert tsfield.resolve(path, document) is None


def test_falsy_values_are_found():
    assert tsfield.resolve("a[0]", {"a": [0]}) == 0
    assert tsfield.resolve("a", {"a": ""}) == ""
