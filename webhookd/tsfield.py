"""The path grammar of `tsField`: where in a body the moment of the event is written."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MAX_LENGTH = 256
"""How many characters a path may have."""

_NAME = r"[^.\[\]\x00-\x1f\x7f-\x9f]+"
_INDEX = r"\[[0-9]+\]"
PATTERN = rf"(?:{_NAME}|{_INDEX})(?:{_INDEX})*(?:\.{_NAME}(?:{_INDEX})*)*"
"""The grammar as a regular expression, of Python's as of ECMA-262."""
_PATH = re.compile(PATTERN)
_STEP = re.compile(rf"\[([0-9]+)\]|({_NAME})")


@lru_cache(maxsize=1024)
def parse(path: str) -> tuple[str | int, ...]:
    """Return the steps of `path`: `commits[0].timestamp` is `("commits", 0, "timestamp")`.

    Names have any characters but `.`, `[`, `]` and control characters (Unicode category Cc); they are joined by `.`,
    each followed by any number of `[index]` in ASCII digits; an index may also come first. Raises `ValueError`, in
    words for the one who wrote the path, for anything else and for more than 256 characters.
    """
    if len(path) > MAX_LENGTH:
        raise ValueError(f"a path has at most {MAX_LENGTH} characters, this one has {len(path)}")
    if not _PATH.fullmatch(path):
        raise ValueError("not a path: names joined by '.', each followed by any number of [index]")
    return tuple(int(index) if index else name for index, name in _STEP.findall(path))


def resolve(path: str, document: Any) -> Any:
    """Return what `path` leads to in the parsed `document`, None where it leads nowhere (or to null).

    A name is looked up in objects only, an index in arrays only. Raises `ValueError` as `parse` does.
    """
    value = document
    for step in parse(path):
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and step < len(value) else None
        if value is None:
            return None
    return value
