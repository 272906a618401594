"""How values look to people: times, sizes, the last hour as a small picture, JSON that can be read."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from webhookd.model import Outcome, Record

DONE = {
    "created": "The hook is there. Give its URL to the sender, or send a sample.",
    "created-signed": "The hook is there. Give its URL and its secret to the sender, or send a sample.",
    "changed": "The hook is changed.",
    "deleted": "The hook is deleted: deliveries to it are refused from now on.",
    "rotated": "The hook has a new URL. Give it to the sender.",
    "sent": "The sample was sent. It is the delivery on top of the list.",
    "replay": "This is the replay: the same delivery, checked again and published anew.",
    "replay-ignored": "This is the replay: the same delivery, checked again. It is ignored as the hook is now.",
    "replay-refused": "This is the replay: the same delivery, checked again and refused again.",
    "replayed": "The refused deliveries were replayed, up to 50 at a time. What became of them is on top of the list.",
}
"""What a page says once something was done."""

HOUR = 60
"""How many minutes the small picture shows."""
MOST_INDENTED = 40
"""Nesting beyond this is not indented further."""
MOST_TOKENS = 10_000
"""JSON of more than so many tokens is shown as it came: all that is made of it is made on the event loop."""

_CODE = re.compile("`([^`]+)`")
_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:(?P<string>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<number>-?\d[\d.eE+-]*)|(?P<word>true|false|null)"""
    r"""|(?P<mark>[\[\]{},:])|(?P<end>\Z))""",
    re.DOTALL,
)


def moment(ms: int) -> str:
    """Return a time (ms since the epoch) as HTML that the page's script turns into local words."""
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return f'<time datetime="{at.isoformat(timespec="milliseconds")}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'


def words(text: str) -> str:
    """Return a sentence as HTML; what stands in backticks is set as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def size(count: int) -> str:
    """Return a number of bytes as a person would say it."""
    if count < 1024:  # noqa: PLR2004 - a KiB
        return f"{count} B"
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """Return a short time as a person would say it."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def received(record: Record) -> str:
    """Return how large the body was, also where it was refused unread and the sender had told its length."""
    told = record.headers.get("content-length", "")
    if not record.size and told.isdecimal() and int(told[:19]):
        return f"{size(int(told[:19]))}, not read"
    return size(record.size)


def path(ts_field: str) -> str:
    """Return the path of a time field as HTML that breaks behind its dots and underscores."""
    return re.sub(r"([._])", r"\1<wbr>", escape(ts_field))


def age(seconds: float) -> str:
    """Return a long time in its largest unit."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = round(seconds / unit)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{seconds:.0f} seconds"


def hour(outcomes: Sequence[tuple[int, Outcome]], kept: int, now: float | None = None) -> str:
    """Return the last hour as bars, one a minute, as SVG; what it says in words is its label.

    `outcomes` are when (ms since the epoch) and how the last deliveries of a hook ended, newest first, of which at most
    `kept` are remembered: the minutes that they do not reach back to are shown as unknown.
    """
    end = int(time.time() if now is None else now) // 60
    good, refused = [0] * HOUR, [0] * HOUR
    for received_at, outcome in outcomes:
        index = _minute(received_at, end)
        if 0 <= index < HOUR:
            (refused if outcome == "refused" else good)[index] += 1
    unknown = max(0, _minute(outcomes[-1][0], end)) if outcomes and len(outcomes) >= kept else 0
    total = sum(good) + sum(refused)
    words = f"{total} deliveries in the last {HOUR - unknown} minutes, {sum(refused)} of them refused"
    most = max(1, *(sum(both) for both in zip(good, refused, strict=True)))
    bars = "".join(_bar(index, good[index], refused[index], most) for index in range(HOUR))
    hidden = f'<rect class="unknown" x="0" y="0" width="{unknown * 4 - 1}" height="31"/>' if unknown else ""
    return (
        f'<svg class="spark" viewBox="0 0 {HOUR * 4} 32" preserveAspectRatio="none" role="img" aria-label="{words}"'
        f' data-end="{end}"><title>{words}</title><path class="spark-line" d="M0 31.5H{HOUR * 4}"/>{hidden}{bars}</svg>'
    )


def _minute(received_at: int, end: int) -> int:
    return HOUR - 1 - (end - received_at // 60_000)


def _bar(index: int, good: int, refused: int, most: int) -> str:
    rects, top = [], 31.0
    for count, kind in ((good, "good"), (refused, "bad")):
        if count:
            height = max(2.0, 30 * count / most)
            top = max(0.0, top - height)
            rects.append(f'<rect class="{kind}" x="{index * 4}" y="{top:.1f}" width="3" height="{height:.1f}"/>')
    return "".join(rects)


def payload(body: bytes) -> str:
    """Return a body as HTML: JSON indented and coloured, token by token as it was sent; anything else as its text."""
    text = body.decode("utf-8", "replace")
    tokens = _tokens(text)
    return escape(text) if tokens is None else "".join(_indented(tokens))


def _tokens(text: str) -> list[tuple[str, str]] | None:
    """Return kind and text of each token; None where there are too many, or something that JSON does not have."""
    tokens: list[tuple[str, str]] = []
    found = _TOKEN.match(text)
    while found is not None and found.lastgroup != "end" and len(tokens) < MOST_TOKENS:
        kind = str(found.lastgroup)
        tokens.append((kind, found[kind]))
        found = _TOKEN.match(text, found.end())
    return tokens if found is not None and found.lastgroup == "end" else None


def _indented(tokens: Sequence[tuple[str, str]]) -> Iterator[str]:
    depth = 0
    for index, (kind, text) in enumerate(tokens):
        following = tokens[index + 1][1] if index + 1 < len(tokens) else ""
        if text in ("{", "["):
            depth += 1
            yield text if following in ("}", "]") else text + _line(depth)
        elif text in ("}", "]"):
            depth = max(0, depth - 1)
            yield text if index and tokens[index - 1][1] in ("{", "[") else _line(depth) + text
        elif text == ",":
            yield "," + _line(depth)
        elif text == ":":
            yield ": "
        else:
            shown = "key" if kind == "string" and following == ":" else kind
            yield f'<span class="j-{shown}">{escape(text, quote=False)}</span>'


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, MOST_INDENTED)
